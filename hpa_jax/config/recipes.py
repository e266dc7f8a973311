"""What recipes share: variants on the command line, and `smoke`, which makes any recipe tiny.

    def get_config(arg: str = ""):                # --config=configs/NAME.py:smoke,as_run
        chosen = recipes.variants(arg, "as_run")
        config = base.default().unlock()
        ...
        if "smoke" in chosen:
            recipes.smoke(config)
        return config.lock()

A smoke run has every part of the recipe (models, phases, heads, losses, augmentations, schedules,
folds, averages, views, thresholds, stack, leak) on a few synthetic images, in minutes on a laptop.
Its score says that the parts fit together, not how good the recipe is.
"""

import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as base
from hpa_jax.core.errors import InputError, near

SMOKE = "smoke"
WIDTH, DEPTH = 0.125, 0.01  # of every network: the fewest blocks, an eighth of the channels
# A transformer's features are a multiple of 64, those of one attention head.
TINY_VIT = {"vit_small": 64 / 384, "vit_base": 64 / 768, "vit_large": 64 / 1024,
            "vit_giant": 64 / 1536}  # fmt: skip
# Each block of Xception a depth group: with one block in the middle, not eight, that is 18.
TINY_GROUPS = {("xception", 25): 18}
BATCH = 16  # images; what the network sees at once (BatchNorm needs some)
IMAGES = dict(train=320, test=80, external=80, min_per_class=8)
FOLDS = 2
PCA = 4  # components of a model's embeddings


def variants(arg: str, *known: str) -> frozenset[str]:
    """The variants that a recipe was asked for: `arg` is a comma list of `known` and "smoke".

    Raises:
        InputError: another word; the message names the near ones.
    """
    known = (SMOKE, *known)
    chosen = frozenset(word for word in arg.split(",") if word)
    for word in sorted(chosen - set(known)):
        raise InputError(f"recipe variant {word!r}{near(word, known)}; known: {', '.join(known)}")
    return chosen


def smoke(
    config: ConfigDict, *, models: Sequence[str] | None = None, phases: int | None = None
) -> None:
    """Makes an unlocked recipe tiny, in place; its structure stays.

    Args:
        config: a whole configuration.
        models: names of the models that are kept; None keeps all.
        phases: how many phases of each model are kept, the first ones and the last; None: all.

    Raises:
        InputError: `models` names one that the recipe lacks.
    """
    for name in models or ():
        if name not in config.models:
            raise InputError(f"smoke: no model {name!r}{near(name, config.models)}")
    kept = config.models if models is None else models
    config.models = {name: tiny(config.models[name], phases) for name in kept}
    config.retrieval.model = tiny(config.retrieval.model)
    config.adversarial.model = tiny(config.adversarial.model)
    config.adversarial.folds = FOLDS
    weights = config.ensemble.weights.to_dict()
    config.ensemble.weights = {name: weights[name] for name in weights if name in config.models}
    pca = config.embeddings.pca.to_dict()
    config.embeddings.pca = {name: min(pca[name], PCA) for name in pca if name in config.models}
    if config.retrieval.embeddings_of not in config.models:
        config.retrieval.embeddings_of = ""
    largest = max(side(pixels) for pixels in (config.records.image_size, *config.records.also))
    config.data.update(source="synthetic", root="", sources=(), truth="")
    config.data.synthetic.update(IMAGES, image_size=largest)
    config.split.update(exclude="", force_valid="", force_train="")
    if config.split.scheme == "folds":
        config.split.update(folds=FOLDS, trained_folds=())
    config.records.update(
        image_size=side(config.records.image_size),
        also=tuple(side(pixels) for pixels in config.records.also),
        encoding="raw",
    )
    config.train.tensorboard = False
    config.predict.batch_size = BATCH
    config.thresholds.repeats = 2
    if config.stack.protocol == "by_frequency":  # its table of repeats knows no smaller form
        config.stack.protocol = "talk"
    config.stack.update(repeats=1, outer=3, inner_repeats=1, inner=2)
    if config.stack.rare_repeats:
        config.stack.rare_repeats = 1
    for own in config.stack.of_class.values():
        if "rare_repeats" in own:
            own.rare_repeats = 1
    config.report.examples = 8


def tiny(model: ConfigDict, phases: int | None = None) -> ConfigDict:
    """A small form of one model's config, with the same parts."""
    total = len(model.phases)
    kept = list(range(total))
    if phases is not None and phases < total:
        kept = [*range(phases - 1), total - 1]
    epochs = 2 if len(kept) == 1 else 1
    short = tuple(_short(model.phases[i], kept, model.batch_size, epochs) for i in kept)
    epochs = sum(phase.epochs for phase in short)
    average = model.average.to_dict()
    average["count"] = min(average["count"], epochs)
    if average["epochs"]:
        average["epochs"] = (epochs,)
    keep_epochs, checkpoint = _ends(model, kept, epochs)
    accumulate = min(model.accumulate, 2)
    weights_of_this_run = str(model.init_from).startswith(base.OF_THIS_RUN)
    changed = dict(
        width=TINY_VIT.get(model.backbone.rpartition("_")[0], WIDTH),
        depth=DEPTH,
        depth_groups=TINY_GROUPS.get((model.backbone, model.depth_groups), model.depth_groups),
        image_size=side(model.image_size),
        batch_size=BATCH * accumulate,
        accumulate=accumulate,
        average=average,
        phases=short,
        keep_epochs=keep_epochs,
        checkpoint=checkpoint,
        augment=_augment(model.augment),
        views=_views(model.views),
        init_from=model.init_from if weights_of_this_run else "",
    )
    return base.model(**{**dict(model.items()), **changed})


def _ends(model: ConfigDict, kept: list[int], epochs: int) -> tuple[tuple[int, ...], str]:
    """keep_epochs and checkpoint of the phases and epochs that are left."""
    known, which = (epochs,) if model.keep_epochs else (), model.checkpoint
    what, _, number = which.partition(":")
    if what == "epoch":
        which = f"epoch:{epochs}"
    elif what == "phase":
        left = kept.index(int(number)) if int(number) in kept else len(kept) - 1
        which = f"phase:{left}"
    return known, which


def side(pixels: int) -> int:
    """A small side in the place of a large one; larger sides stay larger."""
    return next(small for limit, small in ((512, 80), (1024, 96), (10**9, 112)) if pixels <= limit)


def _short(given: Any, kept: list[int], batch_size: int, epochs: int) -> ConfigDict:
    """A phase of few epochs; its restart and its step table follow what is left."""
    phase = base.phase(**dict(given))
    before, phase.epochs = phase.epochs, max(epochs, phase.cycles)
    phase.warmup = phase.warmup * phase.epochs / before
    if ":" in phase.schedule:
        phase.schedule = re.sub(
            r"([\d.]+)(?=\s*:)",
            lambda until: f"{float(until[0]) * phase.epochs / before:.6g}",
            phase.schedule,
        )
    source = str(phase.start_from)
    if source.isdigit():
        phase.start_from = str(kept.index(int(source))) if int(source) in kept else ""
    if phase.batch_size:
        phase.batch_size = max(2, round(BATCH * phase.batch_size / batch_size))
    if phase.augment is not None:
        phase = base.phase(**{**dict(phase.items()), "augment": _augment(phase.augment)})
    return phase


def _augment(given: Any) -> Any:
    if isinstance(given, str):
        return given
    options = dict(given)
    return {**options, "output_size": side(options["output_size"])} if _sized(options) else options


def _views(given: Any) -> Any:
    if isinstance(given, str):
        return given
    options = dict(given)
    fewer = {key: 1 for key in ("rounds", "count") if key in options}
    if _sized(options):
        fewer["output_size"] = side(options["output_size"])
    return {**options, **fewer}


def _sized(options: dict[str, Any]) -> bool:
    return bool(options.get("output_size"))
