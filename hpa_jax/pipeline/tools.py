"""Verbs that inspect or prepare and are no step of `run`: classes, lr_find, import_weights,
label_noise (adversarial and preview have files of their own).  Each reads a workdir in which the
steps before it have run.
"""

import base64
import functools
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import report, tables
from hpa_jax.pipeline.context import opened
from hpa_jax.pipeline.train import rows_to_fit, share_compiled

SHOWN = 60  # images in label_noise.html


def classes(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Counts, pairs, matrices and graphs of the classes, by source and as submitted -> classes/."""
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


def lr_find(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Learning-rate sweep of each model -> models/NAME/lr_find.{json,png}."""
    from hpa_jax.training import lr_finder

    options = {
        key: number(flags[key], kind, key)
        for key, kind in (("iterations", int), ("low", float), ("high", float))
    }
    context = opened(config, flags)
    share_compiled(context)
    for name, model, fold, folder in context.fits():
        found = lr_finder.find(
            model,
            name=name,
            directory=folder,
            **rows_to_fit(context, model, fold),
            settings=config.train,
            seed=config.seed,
            phase=number(flags["phase"], int, "phase"),
            which=flags["checkpoint"],
            **options,
        )
        print(
            f"{name}: steepest {found['steepest']:.2g}, a tenth of the lowest's "
            f"{found['minimum_tenth']:.2g} -> {folder / 'lr_find.png'}"
        )


def number(text: str, kind: type, flag: str) -> Any:
    """The number of a flag.

    Raises:
        InputError: it is none.
    """
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"--{flag}={text}: must be a number") from None


def import_weights(config: ConfigDict, flags: dict[str, Any]) -> None:
    """A published weight file -> an Orbax folder that a model's `init_from` takes.

    Raises:
        InputError: a flag is missing, or the file does not fit the model.
    """
    from hpa_jax.models import pretrained

    for name in ("backbone", "weights", "out"):
        if not flags.get(name):
            raise InputError(f"import_weights: --{name} is missing")
    report = pretrained.import_weights(flags["backbone"], flags["weights"], flags["out"])
    print(f"{report.text()} -> {flags['out']}")


def label_noise(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Likely label errors among the validation images -> label_noise.csv, label_noise.html."""
    from hpa_jax.report import errors, page

    context = opened(config, flags)
    found = report.label_errors(context)
    with artifacts.atomic(context.path("label_noise.csv")) as temporary:
        found.table.to_csv(temporary, index=False)
    images = functools.partial(tables.images, context)
    section = errors.label_errors(found, config.classes, images, SHOWN)
    about = f"the {SHOWN} least trusted of label_noise.csv"
    page.write(context.path("label_noise.html"), section.title, about, [section])
    for row in found.table.head(10).itertuples():
        print(f"{row.id}: {row.given or 'nothing'} -> {row.suggested or 'nothing'}, "
              f"trust {row.trust:.3f}")  # fmt: skip
    expected = f", {found.table['evidence'].sum():.1f} of them expected to be wrong"
    print(
        f"{len(found.table)} of {found.rows} images{expected if len(found.table) else ''} -> "
        f"{context.path('label_noise.csv')}, .html"
    )
