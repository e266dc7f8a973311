"""Which images of a run a published model was trained on before: what that does to its scores.

A model that begins with published weights (init_from="published:NAME", or another model of the
recipe that does) has seen what those were trained on.  Scores on such labelled images are in
sample; where it may have seen the test images, they are transductive.  A frozen network without
weights (no init_from) is marked here, too: its embeddings are those of random weights.
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
# Sources of rows by the kind of their source of data; images of a folder are the user's own.
_COMPETITION = {"train", "external", "test"}
_PARTS = {"kaggle": _COMPETITION, "synthetic": _COMPETITION, "atlas": {"external"}}


def parts(context: Context) -> dict[str, set[str]]:
    """{model: which of train, external, test it has or may have seen}; the others are absent."""
    data = context.config.data
    kinds = [source.get("source") for source in data.sources] or [data.source]
    here: set[str] = set()
    if not context.draws:
        here = here.union(*(_PARTS.get(kind, set()) for kind in kinds))
    found = {}
    for name in context.config.models:
        begun_with = origin(context.config, name).removeprefix(weight_files.PUBLISHED)
        if begun_with and (seen := published.find(begun_with).seen & here):
            found[name] = set(seen)
    return found


def notes(context: Context, test: bool = False) -> dict[str, str]:
    """{method: what stands beside its score}; "" for those that saw none of the rows scored and
    have weights.

    test: the rows are test images, else labelled ones.  Blends and the stack read every model.
    """
    rows = {"test"} if test else {"train", "external"}
    seeing = {name for name, seen in parts(context).items() if seen & rows}
    note = TRANSDUCTIVE if test else IN_SAMPLE
    weightless = random_weights(context)

    def joined(seen: bool, random: str) -> str:
        return "; ".join(filter(None, (note if seen else "", random)))

    known = {
        name: joined(name in seeing, RANDOM if name in weightless else "")
        for name in context.config.models
    }
    of_all = f"{RANDOM} in {', '.join(weightless)}" if weightless else ""
    return known | dict.fromkeys(configs.METHODS, joined(bool(seeing), of_all))


def random_weights(context: Context) -> list[str]:
    """Models whose frozen network has no weights but random ones."""
    models = context.config.models.items()
    return [name for name, model in models if model.frozen.head and not model.init_from]


def marked(
    context: Context, scores: Mapping[str, dict[str, Any]], test: bool = False
) -> dict[str, dict[str, Any]]:
    """Scores by method, each with its note under "seen" where there is one."""
    known = notes(context, test)
    return {
        name: {**score, "seen": known[name]} if known.get(name) else score
        for name, score in scores.items()
    }


def settings(context: Context) -> dict[str, Any]:
    """What a task that scores has in its key: which rows were seen by which model."""
    found = {name: sorted(seen) for name, seen in parts(context).items()}
    return {"seen": found} if found else {}


def check(context: Context) -> None:
    """Before thresholds or the stack are fitted on rows that a model has seen.

    Raises:
        InputError: one has, and --allow-seen does not say that this is known.
    """
    for name, seen in parts(context).items():
        labelled = sorted(seen - {"test"})
        if labelled and not context.flags.get("allow-seen"):
            raise InputError(
                f"config.models.{name}: begins with {origin(context.config, name)}, "
                f"trained on images of this run ({', '.join(labelled)}): its scores there "
                "would be in sample, and thresholds and stack fitted on them; take it out, or add "
                "--allow-seen (every score then says so)"
            )


def origin(config: ConfigDict, name: str) -> str:
    """What a model, or the one that it goes on from, began with: published:NAME, or nothing."""
    visited: set[str] = set()
    while name in config.models and name not in visited:
        visited.add(name)
        given = str(config.models[name].init_from)
        if given.startswith(weight_files.PUBLISHED):
            return given
        name = configs.started_from(config.models[name]) or ""
    return ""
