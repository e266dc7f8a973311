"""Notes on scores of models whose published weights were trained on images of the run.

A model that starts from published weights (init_from="published:NAME", or another model of the
recipe that does) was trained on their images.  Scores on such labelled images are in sample; if the
test images were possibly among them, scores are transductive.  Frozen networks with random weights
(no init_from) are marked, too.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.models import published, weight_files
from hpa_jax.pipeline.context import Context

IN_SAMPLE, TRANSDUCTIVE = "in sample", "transductive"
RANDOM = "random weights"
# Sources of rows by kind of data source; images of a folder cannot have been published.
_COMPETITION = {"train", "external", "test"}
_PARTS = {"kaggle": _COMPETITION, "synthetic": _COMPETITION, "atlas": {"external"}}


def parts(context: Context) -> dict[str, set[str]]:
    """Return {model: the sources (train, external, test) its weights may have been trained on}."""
    data = context.config.data
    kinds = [source.get("source") for source in data.sources] or [data.source]
    present: set[str] = set()
    if not context.draws:
        present = present.union(*(_PARTS.get(kind, set()) for kind in kinds))
    result = {}
    for name in context.config.models:
        begun_with = origin(context.config, name).removeprefix(weight_files.PUBLISHED)
        if begun_with and (seen := published.find(begun_with).seen & present):
            result[name] = set(seen)
    return result


def notes(context: Context, test: bool = False) -> dict[str, str]:
    """Return {method: note on its score, "" if none}.

    test: the rows are test images, else labelled ones.  Blends and the stack depend on all models.
    """
    rows = {"test"} if test else {"train", "external"}
    exposed = {name for name, seen in parts(context).items() if seen & rows}
    note = TRANSDUCTIVE if test else IN_SAMPLE
    weightless = random_weights(context)

    def joined(seen: bool, random: str) -> str:
        return "; ".join(filter(None, (note if seen else "", random)))

    by_model = {
        name: joined(name in exposed, RANDOM if name in weightless else "")
        for name in context.config.models
    }
    joint = f"{RANDOM} in {', '.join(weightless)}" if weightless else ""
    return by_model | dict.fromkeys(configs.METHODS, joined(bool(exposed), joint))


def random_weights(context: Context) -> list[str]:
    """Return the models whose frozen network has random weights."""
    models = context.config.models.items()
    return [name for name, model in models if model.frozen.head and not model.init_from]


def marked(
    context: Context, scores: Mapping[str, dict[str, Any]], test: bool = False
) -> dict[str, dict[str, Any]]:
    """Add notes to scores by method, under "seen"."""
    notes_by_method = notes(context, test)
    return {
        name: {**score, "seen": notes_by_method[name]} if notes_by_method.get(name) else score
        for name, score in scores.items()
    }


def settings(context: Context) -> dict[str, Any]:
    """Return the part of a scoring task's key: sources seen by each model."""
    by_model = {name: sorted(seen) for name, seen in parts(context).items()}
    return {"seen": by_model} if by_model else {}


def check(context: Context) -> None:
    """Refuse to fit thresholds or the stack on rows that a model was trained on.

    Raises:
        InputError: such a model without --allow-seen.
    """
    for name, seen in parts(context).items():
        labelled = sorted(seen - {"test"})
        if labelled and not context.flags.get("allow-seen"):
            raise InputError(
                f"config.models.{name}: starts from {origin(context.config, name)}, "
                f"trained on images of this run ({', '.join(labelled)}): its scores there "
                "would be in sample, and thresholds and stack fitted on them; remove it, or add "
                "--allow-seen (its scores are then marked)"
            )


def origin(config: ConfigDict, name: str) -> str:
    """Return "published:NAME" if a model, or the one it continues from, starts from it, else ""."""
    visited: set[str] = set()
    while name in config.models and name not in visited:
        visited.add(name)
        init_from = str(config.models[name].init_from)
        if init_from.startswith(weight_files.PUBLISHED):
            return init_from
        name = configs.started_from(config.models[name]) or ""
    return ""
