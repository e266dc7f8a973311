"""The verb `label_noise`: list likely label errors among the validation images."""

import functools
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.pipeline import report, tables
from hpa_jax.pipeline.context import opened

SHOWN = 60  # images in label_noise.html


def label_noise(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Write likely label errors of the validation images -> label_noise.csv, label_noise.html."""
    from hpa_jax.report import errors, page

    context = opened(config, flags)
    suspects = report.label_errors(context)
    with artifacts.atomic(context.path("label_noise.csv")) as temporary:
        suspects.table.to_csv(temporary, index=False)
    images = functools.partial(tables.images, context)
    section = errors.label_errors(suspects, config.classes, images, SHOWN)
    about = f"the {SHOWN} least trusted of label_noise.csv"
    page.write(context.path("label_noise.html"), section.title, about, [section])
    for row in suspects.table.head(10).itertuples():
        print(f"{row.id}: {row.given or 'nothing'} -> {row.suggested or 'nothing'}, "
              f"trust {row.trust:.3f}")  # fmt: skip
    expected = f", {suspects.table['evidence'].sum():.1f} of them expected to be wrong"
    print(
        f"{len(suspects.table)} of {suspects.rows} images{expected if len(suspects.table) else ''} "
        f"-> {context.path('label_noise.csv')}, .html"
    )
