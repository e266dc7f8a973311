"""What One More Layer's 14 networks share, and the frame around a single one of them.

Source: the team's published scripts (folder one_more_layer_of_stacking) and fastai 1.0.22, which
they pinned.  Variants of every recipe here: `as_run`, what their scripts did by accident (binary
cross-entropy everywhere, inputs of BN-Inception and layers of Xception as listed in
docs/one_more_layer.md); `smoke`, tiny on synthetic images.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from hpa_jax.config import defaults as base
from hpa_jax.config import recipes

# Files of the published ImageNet weights, to be put into weights/.
WEIGHTS = dict(
    se_resnext50_32x4d="weights/se_resnext50_32x4d-a260b3a4.pth",
    bn_inception="weights/bn_inception-52deb4733.pth",
    xception="weights/xception-43020ad28.pth",
    inception_v4="weights/inceptionv4-8e4777a0.pth",
)
STEM_TO_HEAD = 16.0  # lr of the head over that of the stem, log-spaced; their usual base
HIDDEN = dict(hidden=512)  # fastai's default head: two dense layers
FOCAL = dict(focal=dict(gamma=2.0))  # as intended; summed over classes
BCE = dict(bce_mean=1.0)  # what trained: fastai ignored the attribute that the scripts set

Model = Callable[[bool], ConfigDict]


def network(backbone: str, bce: bool, *, rounds: int = 4, **differences) -> ConfigDict:
    """One of their networks.

    bce: trained on binary cross-entropy in every phase, as it was run.
    rounds: calls of fastai's TTA.
    """
    shared = dict(
        backbone=backbone,
        channels=("red", "green", "blue"),
        image_size=512,
        normalize="imagenet",
        init_from=WEIGHTS[backbone],
        loss=FOCAL,
        # fastai's Adam: b2 .99, decoupled decay .01 of all parameters
        optimizer=dict(
            name="adamw",
            b1=0.9,
            b2=0.99,
            eps=1e-8,
            momentum=0.9,
            nesterov=True,
            weight_decay=0.01,
            decay_norm_and_bias=True,
            clip_norm=0.0,
        ),
        checkpoint="last",  # a phase's end, where one-cycle has come to rest
    )
    model = base.model(**{**shared, **differences, "views": _views(rounds, **differences)})
    if bce:
        model.loss = ConfigDict(BCE)
        model.phases = tuple(base.phase(**{**dict(s.items()), "loss": None}) for s in model.phases)
    return model


def constant(epochs: int, lr: float, **differences) -> ConfigDict:
    """fastai's `fit` with a number: frozen, one constant rate for all depth groups.

    Learner.lr_range gives groups different rates for a slice only, and one-cycle's calls hand over
    the whole vector of rates.
    """
    return frozen(epochs, lr, **{"schedule": "constant", "lr_decay": 1.0, **differences})


def frozen(epochs: int, lr: float, **differences) -> ConfigDict:
    """Only the last depth group and all BatchNorms train."""
    return unfrozen(epochs, lr, **{"freeze": "backbone", **differences})


def unfrozen(epochs: int, lr: float, **differences) -> ConfigDict:
    """One cycle over the whole network."""
    return base.phase(**{"epochs": epochs, "lr": lr, "lr_decay": STEM_TO_HEAD, **differences})


def augmented(zoom: float, lighting: float, warp: float, p_lighting: float, **more) -> dict:
    """Their augmentation (D4, rotation by any angle) with the numbers that differ."""
    return dict(
        name="oml",
        zoom=(1.0, zoom),
        brightness=lighting,
        contrast=lighting,
        warp=warp,
        p_lighting=p_lighting,
        **more,
    )


def _views(rounds: int, *, augment: dict, phases: tuple, checkpoint: str = "last", **_) -> dict:
    """0.4 of the plain image, 0.6 of 8 corners a round under the transforms of the phase whose
    weights predict."""
    number = int(checkpoint.removeprefix("phase:")) if ":" in checkpoint else -1
    chosen = dict(phases[number].augment or augment)
    kept = {key: value for key, value in chosen.items() if key not in ("name", "zoom")}
    return dict(name="oml", rounds=rounds, **kept)


def alone(arg: str, *changes: Callable[[ConfigDict], None], **models: Model) -> ConfigDict:
    """The recipe of one network, with those that it starts from; `changes` are of the whole."""
    chosen = recipes.variants(arg, "as_run")
    config = base.default().unlock()
    data(config)
    config.models = {name: build("as_run" in chosen) for name, build in models.items()}
    for change in changes:
        change(config)
    if "smoke" in chosen:
        recipes.smoke(config, phases=2)
    return config.lock()


def data(config: ConfigDict) -> None:
    """Competition and atlas, and the one hold-out."""
    config.data.sources = (
        dict(source="kaggle", root="data/competition"),
        # 32,767 images: without those that show nothing but nucleoplasm and cytosol.  Theirs were
        # JPEGs of three channels; the default url fetches the ER stain, which v14 alone reads.
        dict(source="atlas", root="data/atlas", not_only=(0, 25)),
    )
    config.records.image_size = 512
    config.thresholds.method = "cross_validated"  # 5 folds x 20 repeats x 50 points
    config.split.update(
        fraction=0.25,  # 7,754 of 31,072
        external="train",  # all but the 253 that match a test image: these validate
    )


def full_size(config: ConfigDict) -> None:
    """768 px from the full-size images; 512 px are made of the same, smoothed, not skipped."""
    competition, *others = config.data.sources
    config.data.sources = (dict(competition, full_size=True), *others)
    config.records.also = (768,)


def best_by_f1(config: ConfigDict) -> None:
    """The best checkpoint, where a phase goes back to it, is that of the highest macro-F1."""
    config.train.monitor = "macro_f1"
