"""The verb `classes`: counts, pairs and graphs of the classes by source and as submitted."""

import base64
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.pipeline import report, tables
from hpa_jax.pipeline.context import opened


def classes(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Write counts, pairs, matrices and graphs of the classes, by source and as submitted."""
    from hpa_jax.data import statistics
    from hpa_jax.report import dataset

    context, names = opened(config, flags), config.classes
    parts = report.labels_of_parts(context)
    labelled = tables.labelled_rows(context).labels
    counts, pairs = statistics.frequencies(parts, names), statistics.strongest(labelled, names)
    for name, table in (("counts", counts), ("pairs", pairs)):
        with artifacts.atomic(context.path("classes", f"{name}.csv")) as temporary:
            table.to_csv(temporary, index=False)
    for kind in dataset.LAYOUTS:
        uri = dataset.class_graphs(parts, names, kind)
        with artifacts.atomic(context.path("classes", f"graph_{kind}.svg")) as temporary:
            temporary.write_bytes(base64.b64decode(uri.split(",")[1]))
    files = {part.replace(", ", "_"): labels for part, labels in parts.items()}
    statistics.write(context.path("classes"), files, names)
    print(counts.to_string(index=False, float_format=lambda share: f"{share:.3f}"))
    print(f"-> {context.path('classes')}")
