"""The model card of an export: README.md as Hugging Face reads it."""

from typing import TYPE_CHECKING

import numpy as np

from hpa_jax import __version__
from hpa_jax.core import artifacts
from hpa_jax.pipeline import scores, tables
from hpa_jax.pipeline.context import Context

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle

LICENCE = {
    "synthetic": "the images are the program's own",
    "kaggle": "the competition's images are for research and education (its rules)",
    "atlas": "images of the Human Protein Atlas: Creative Commons Attribution-ShareAlike",
}


def text(context: Context, packed: "Bundle", use: str = "") -> str:
    """Return the card: what the model is for, what it learned from, how good it is and on what.

    use: lines of code that use the export.
    """
    data = context.config.data
    kinds = [source.get("source", data.source) for source in data.sources] or [data.source]
    train, valid = (tables.split_rows(context, part) for part in ("train", "valid"))
    names = ", ".join(f"{m.name} ({m.config.backbone}, {m.config.image_size} px)"
                      for m in packed.members)  # fmt: skip
    synthetic = context.draws
    lines = [
        "---",
        "library_name: hpa_jax",
        "license: other",
        "tags: [image-classification, multi-label, microscopy, protein-localisation, jax]",
        "---",
        "# Protein localisation in fluorescence images of cells",
        "",
        f"Networks: {names}. Exported by hpa_jax {__version__}.",
        "",
        "## Intended use",
        "",
        "From an image of cells with four stains (microtubules, the protein, nucleus, endoplasmic "
        f"reticulum) it scores {len(packed.class_names)} compartments; several can hold. For "
        "research. Not for diagnosis. Images of other stains, cells, microscopes or scales than "
        "the training's may be scored wrongly without a sign.",
        *(["It was trained on synthetic cells: it shows the procedure and names no real protein's "
           "place."] if synthetic else []),
        "",
        "## Training data",
        "",
        f"{len(train.ids):,} training and {len(valid.ids):,} validation images of the source "
        f"{' and '.join(dict.fromkeys(kinds))}. Licence: "
        + "; ".join(LICENCE.get(kind, "the data owner's terms") for kind in dict.fromkeys(kinds))
        + ". Weights take their licence from the data and from weights that training began with.",
        "",
        "| class | training images | threshold | F1 | validation images |",
        "|---|---|---|---|---|",
        *_class_rows(packed, train.labels),
        "",
        "## Scores",
        "",
        *_score_rows(context),
    ]  # fmt: skip
    if use:
        lines += ["", "## Use", "", use.strip("\n")]
    return "\n".join(lines) + "\n"


def _class_rows(packed: "Bundle", labels: np.ndarray) -> list[str]:
    counts = labels.sum(axis=0)
    thresholds = [
        f"{threshold:.3f}" if np.isfinite(threshold) else "never" for threshold in packed.thresholds
    ]
    known = packed.validated  # None: of a run of an earlier version
    blank = [""] * len(thresholds)
    f1 = blank if known is None else [f"{own:.3f}" for own in known.f1]
    support = blank if known is None else known.support.tolist()
    rows = zip(packed.class_names, counts, thresholds, f1, support, strict=True)
    return [
        f"| {name.replace('|', '/')} | {int(n)} | {threshold} | {own} | {positives} |"
        for name, n, threshold, own, positives in rows
    ]


def _score_rows(context: Context) -> list[str]:
    """Macro-F1 with its interval and its rows, of every set of rows that is scored."""
    metrics = artifacts.read_json(context.path("metrics.json"))
    method = scores.chosen_method(context)
    rows = [_row("validation", metrics["scores"][method], f"{method}; {metrics['rows']}")]
    path = context.path("evaluation.json")
    if path.is_file():
        stored = artifacts.read_json(path)
        rows.append(_row("test", stored["submission"], stored["rows"]))
    return ["| rows | macro-F1 | 95 % | what these rows are |", "|---|---|---|---|", *rows]


def _row(name: str, score: dict, about: str) -> str:
    low, high = score["macro_f1_interval"]
    return f"| {name} | {score['macro_f1']:.3f} | {low:.3f} to {high:.3f} | {about} |"
