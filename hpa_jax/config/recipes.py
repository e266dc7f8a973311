"""Functions shared by recipes: `variants` of the command line, and `smoke`, a tiny recipe.

    def get_config(arg: str = ""):                # --config=configs/NAME.py:smoke,as_run
        chosen = recipes.variants(arg, "as_run")
        config = base.default().unlock()
        ...
        if "smoke" in chosen:
            recipes.smoke(config)
        return config.lock()

A smoke run executes every part of the recipe (models, phases, heads, losses, augmentations,
schedules, folds, averages, views, thresholds, stack, leak) on a few synthetic images, in minutes on
a laptop.  It tests that the parts work together; its score is meaningless.
"""

import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as base
from hpa_jax.core.errors import InputError, near

SMOKE = "smoke"
WIDTH, DEPTH = 0.125, 0.01  # of every network: an eighth of the channels, the fewest blocks
# The features of a transformer are a multiple of 64, the size of an attention head.
TINY_VIT = {"vit_small": 64 / 384, "vit_base": 64 / 768, "vit_large": 64 / 1024,
            "vit_giant": 64 / 1536}  # fmt: skip
# One depth group per block of Xception: 18 with one middle block instead of eight.
TINY_GROUPS = {("xception", 25): 18}
BATCH = 16  # images per micro-batch; BatchNorm needs several
IMAGES = dict(train=320, test=80, external=80, min_per_class=8)
FOLDS = 2
PCA = 4  # principal components of a model's embeddings


def variants(arg: str, *known: str) -> frozenset[str]:
    """Parse the variants of a recipe: `arg` is a comma-separated list of `known` and "smoke".

    Raises:
        InputError: an unknown variant; the message suggests near ones.
    """
    known = (SMOKE, *known)
    chosen = frozenset(word for word in arg.split(",") if word)
    for word in sorted(chosen - set(known)):
        raise InputError(
            f"unknown recipe variant {word!r}{near(word, known)}; known: {', '.join(known)}"
        )
    return chosen


def smoke(
    config: ConfigDict, *, models: Sequence[str] | None = None, phases: int | None = None
) -> None:
    """Make an unlocked recipe tiny in place, with the same structure.

    Args:
        config: a whole configuration.
        models: names of the models to keep; None: all.
        phases: number of phases to keep of each model, the first ones and the last; None: all.

    Raises:
        InputError: an unknown name in `models`.
    """
    for name in models or ():
        if name not in config.models:
            raise InputError(f"smoke: unknown model {name!r}{near(name, config.models)}")
    names = config.models if models is None else models
    config.models = {name: tiny(config.models[name], phases) for name in names}
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
    if config.stack.protocol == "by_frequency":  # its table of repeats cannot be reduced
        config.stack.protocol = "talk"
    config.stack.update(repeats=1, outer=3, inner_repeats=1, inner=2)
    if config.stack.rare_repeats:
        config.stack.rare_repeats = 1
    for class_settings in config.stack.of_class.values():
        if "rare_repeats" in class_settings:
            class_settings.rare_repeats = 1
    config.report.examples = 8


def tiny(model: ConfigDict, phases: int | None = None) -> ConfigDict:
    """Return a small version of a model's config, with the same parts."""
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
    """Return keep_epochs and checkpoint for the kept phases and number of epochs."""
    keep_epochs, checkpoint = (epochs,) if model.keep_epochs else (), model.checkpoint
    kind, _, number = checkpoint.partition(":")
    if kind == "epoch":
        checkpoint = f"epoch:{epochs}"
    elif kind == "phase":
        left = kept.index(int(number)) if int(number) in kept else len(kept) - 1
        checkpoint = f"phase:{left}"
    return keep_epochs, checkpoint


def side(pixels: int) -> int:
    """Map an image side to a small one, preserving the order of sides."""
    return next(small for limit, small in ((512, 80), (1024, 96), (10**9, 112)) if pixels <= limit)


def _short(options: Any, kept: list[int], batch_size: int, epochs: int) -> ConfigDict:
    """Return a phase of few epochs, with adapted restart and step table."""
    phase = base.phase(**dict(options))
    before, phase.epochs = phase.epochs, max(epochs, phase.cycles)
    phase.warmup = phase.warmup * phase.epochs / before
    if ":" in phase.schedule:
        phase.schedule = re.sub(
            r"([\d.]+)(?=\s*:)",
            lambda match: f"{float(match[0]) * phase.epochs / before:.6g}",
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


def _augment(augment: Any) -> Any:
    if isinstance(augment, str):
        return augment
    options = dict(augment)
    return {**options, "output_size": side(options["output_size"])} if _sized(options) else options


def _views(views: Any) -> Any:
    if isinstance(views, str):
        return views
    options = dict(views)
    fewer = {key: 1 for key in ("rounds", "count") if key in options}
    if _sized(options):
        fewer["output_size"] = side(options["output_size"])
    return {**options, **fewer}


def _sized(options: dict[str, Any]) -> bool:
    return bool(options.get("output_size"))
