"""All options with default, help, choices and range.

Used by validation, `--help` and docs/options.md.  A recipe under configs/ starts from `default()`,
a locked ConfigDict, and states differences only.  `model(...)` and `phase(...)` return the defaults
of a network and of a phase of its training, with differences; a recipe adds any number of them to
`config.models[NAME]`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from hpa_jax.config import renamed
from hpa_jax.config.options import Option, Statement, defaults, option
from hpa_jax.core import classes, own_code
from hpa_jax.core.errors import InputError, near

# Options of a model that do not affect its training.
OF_PREDICTION = ("views", "checkpoint")
# Methods besides single models; all are scored, and submission.method can name them.
METHODS = ("mean of models", "weighted mean", "logistic regression", "ensemble", "stack")
OF_THIS_RUN = "model:"  # prefix of an init_from that names another model of the recipe
RETRIEVAL = "retrieval"  # the name of metric learning's network for --only, and its folder
CHANNELS = "hpa_jax.data.reader:CHANNELS"
NUMBER = (int, float)


def default() -> ConfigDict:
    """Return the default configuration, locked."""
    return ConfigDict(defaults(OPTIONS)).lock()


def phase(**differences: Any) -> ConfigDict:
    """Return one phase of training: epochs at one schedule, with the same parts frozen.

    Raises:
        InputError: an unknown option.
    """
    return _with(PHASE, differences, "phase")


def model(**differences: Any) -> ConfigDict:
    """Return one network and its training; phases may be plain mappings of a phase's options.

    Raises:
        InputError: an unknown option of the model or a phase.
    """
    if "phases" in differences:
        phases = (phase(**dict(options.items())) for options in differences["phases"])
        differences["phases"] = tuple(phases)
    return _with(MODEL, differences, "model")


def embedding_model(**differences: Any) -> ConfigDict:
    """Return the network of metric learning, by default bestfitting's (spec bestfitting_pudae A).

    ResNet50 on the whole 768 px image, D4, 512-d embedding after BatchNorm; ArcFace with s 30 and
    m .5, half with the margin and half plain; Adam 1e-4 (b2 .999, torch's), gradients clipped to
    norm 1, 50 epochs; antibodies sampled evenly.
    """
    chosen = dict(
        backbone="resnet50",
        head="embedding",
        head_options=dict(size=512),
        dropout=0.0,
        image_size=768,
        batch_size=32,
        sampling="balanced",
        augment="d4",
        loss=dict(arcface=dict(weight=1.0, scale=30.0, margin=0.5, plain=0.5)),
        optimizer={**model().optimizer, "b2": 0.999, "clip_norm": 1.0},
        phases=(phase(epochs=50, lr=1e-4, schedule="constant"),),
        views="identity",
    )
    return model(**{**chosen, **differences})


def frozen_model(trained: str = "linear", hidden: int = 512, **differences: Any) -> ConfigDict:
    """Return a head (`trained`: linear, mlp, gated_attention) on stored embeddings.

    `differences` define the network, which is run once over the images:
    `**published.options("NAME")`, or backbone, head, channels, image_size, normalize, init_from.
    Adam with decoupled weight decay, one-cycle, 20 epochs of batches of 256; each update uses one
    of the stored views of each image, gated_attention all of them.
    """
    chosen = dict(
        frozen={**model().frozen, "head": trained, "hidden": hidden},
        dropout=0.2,
        augment="none",
        batch_size=256,
        head_init="prior",
        loss=dict(bce=1.0),
        optimizer={**model().optimizer, "name": "adamw", "weight_decay": 1e-2},
        phases=(phase(epochs=20, lr=3e-3),),
    )
    return model(**{**chosen, **differences})


def adversary_model(**differences: Any) -> ConfigDict:
    """Return the network that distinguishes test from training images: small, few epochs."""
    chosen = dict(
        backbone="resnet18",
        loss=dict(bce=1.0),
        phases=(phase(epochs=4),),
        checkpoint="best",
        views="identity",
    )
    return model(**{**chosen, **differences})


# Statements: `OPTIONS` of the config, `MODEL` of each of config.models, `PHASE` of its phases.
_RULE: dict[str, Any] = dict(choices="hpa_jax.data.sources.imported:MISSING")
FOLDER: Statement = dict(
    pattern=option(
        "",
        "path of the files without suffix, of {id}, {channel}, {plate}, {well}, {site}, * and **; "
        '"": a known layout is recognised',
    ),
    table=option(
        "",
        "CSV or Parquet of paths in the root, in place of a pattern: id, red, green, blue, yellow "
        "(or image), labels",
    ),
    channels=option(
        "", 'names of channels in file names and files: "DAPI:blue,GFP:green"', kinds=(str, dict)
    ),
    planes=option(
        (), "channels of a multichannel file in order; (): by the names in the file", items=(str,)
    ),
    labels=option("labels.csv", "table of labels in the folder"),
    percentiles=option(
        (0.001, 99.999), "of more than 8 bits: black and white", items=NUMBER, low=0, high=100
    ),
    floor=option(
        0.15, "white is at least this share of the depth's range above black", above=0, high=1
    ),
    bits=option(0, "depth of the camera; 0: from metadata, else from the values", low=0, high=16),
    scale_over=option(
        "image",
        "which images share black and white points",
        choices="hpa_jax.data.reader:SCALED_OVER",
    ),
    value_range=option((), "(black, white) of float images not within 0..1", items=NUMBER),
    missing=dict(
        red=option("error", "an image without the microtubules' channel", **_RULE),
        blue=option("error", "an image without the nuclei's channel", **_RULE),
        yellow=option("error", "an image without the ER's channel; mean: of the others", **_RULE),
    ),
    project=option("max", "a Z stack becomes", choices="hpa_jax.data.planes:PROJECTIONS"),
    frame=option(
        None, "of a time series the one to take; None refuses it", kinds=(int, type(None))
    ),
    field_um=option(0.0, "side of a training image in µm (competition: 163.84); 0: off", low=0),
    pixel_size=option(0.0, "µm per pixel if the files do not contain it", low=0),
    links=option(False, "whether links out of the root are followed"),
)
ATLAS: Statement = dict(
    table=option("external.csv", "table of the images, in the root"),
    url=option(
        "http://v18.proteinatlas.org/images/{antibody}/{name}_{channel}.jpg", "address of an image"
    ),
    missing_yellow=option(
        "zeros",
        "the ER stain where the url has no {channel}; mean: of the other three",
        choices="hpa_jax.data.sources.atlas:MISSING_YELLOW",
    ),
)
FULL_SIZE = option(False, "the files are the originals, up to 3072 pixels wide")
SOURCE_KIND = option("kaggle", "kind of source", choices="hpa_jax.data.catalog:SOURCES")
SOURCE: Statement = dict(
    source=SOURCE_KIND,
    root=option("", "its folder; absent: data.root"),
    weight=option(1.0, "how often training draws its images, relative to 1", above=0),
    not_only=option((), "class numbers: images with only these classes are left out", items=(int,)),
    parts=option(
        (), "parts of a competition to take; (): all", choices=("train", "external", "test", "own")
    ),
)
OF_SOURCE: dict[str, Statement] = dict(
    kaggle=dict(full_size=FULL_SIZE, links=FOLDER["links"]),
    synthetic=dict(full_size=FULL_SIZE, links=FOLDER["links"]),
    folder=dict(
        **FOLDER,
        tokens=option(None, "channel -> its text in file names", kinds=(dict, type(None))),
        part=option(
            "own", "part that its images belong to", choices=("own", "train", "external", "test")
        ),
    ),
    atlas=ATLAS,
)
SOURCES = option(
    (),
    "several: dicts of source, root, weight, not_only, parts and options of the kind",
    items=(dict,),
)
VARIATION: Statement = dict(
    name=option("", "name of its folder and row"),
    about=option("", "description"),
    talk=option("", "result reported in the team's talk", also=NUMBER),
    add=option({}, "NAME -> model(...): additional models"),
    set=option({}, 'key -> value; "models.*.KEY" changes every model'),
    method=option("", "method whose score is compared, if not ablate.method"),
    at=option(
        "thresholds", "score by the thresholds, or at one half", choices=("thresholds", "half")
    ),
)
OWN = own_code.PATTERN  # "my_file.py:function" (docs/own_code.md)
_LOSS = "hpa_jax.training.losses:from_config"
_AUGMENT: dict[str, Any] = dict(
    choices="hpa_jax.training.augment:PRESETS",
    pattern=OWN,
    check="hpa_jax.training.augment:resolve",
    text_key="name",
)
PHASE: Statement = dict(
    epochs=option(1, "epochs of the training rows", low=1),
    lr=option(1e-3, "rate of the head; groups below it by lr_decay", above=0, high=10),
    schedule=option(
        "one_cycle",
        'course of the rate; or a table "25: 3e-4, 30: 1.5e-4": until epoch: lr',
        choices="hpa_jax.training.schedules:NAMES",
        pattern=".*:.*",
    ),
    freeze=option(
        "none",
        "frozen parts; or a number of depth groups counted from the stem",
        choices=("none", "backbone"),
        pattern=r"\d*",
        also=(int,),
        low=0,
    ),
    freeze_bn=option(False, "False: BatchNorm of frozen groups is trained, as in fastai"),
    lr_decay=option(
        1.0,
        "lr of the stem = lr / lr_decay, log-spaced; or one factor per depth group",
        also=(tuple,),
        items=NUMBER,
        above=0,
    ),
    lr_noise=option(0.0, "sigma of a factor 1 + N(0, sigma) on each depth group's lr", low=0),
    lr_noise_every=option("phase", "how often that noise is drawn", choices=("phase", "step")),
    div_factor=option(25.0, "one_cycle starts at lr / div_factor", above=0),
    pct_start=option(0.3, "one_cycle: share of the rising phase", low=0, high=1),
    cycles=option(1, "of cyclic_cosine and cyclic_triangular; a snapshot is kept of each", low=1),
    warmup=option(0.0, "epochs of linear rise, for every schedule but one_cycle", low=0),
    start_from=option(
        "",
        'weights it starts from; "": continue; a number: the last ones of that earlier phase; '
        "epoch:N, see keep_epochs",
        choices=("", "best"),
        pattern=r"\d+|epoch:\d+",
    ),
    batch_size=option(0, "images; 0: the model's", low=0),
    dropout=option(
        None,
        "None: the model's; a rate, or one rate per dropout layer",
        also=(*NUMBER, tuple),
        items=NUMBER,
        low=0,
        below=1,
    ),
    loss=option(None, "name -> weight; None: the model's", also=(dict, str), check=_LOSS),
    augment=option(
        None, "a preset, or its differences; None: the model's", also=(str, dict), **_AUGMENT
    ),
)
MODEL: Statement = dict(
    backbone=option(
        "se_resnext50_32x4d", "the network", choices="hpa_jax.models.registry:NAMES", pattern=OWN
    ),
    width=option(1.0, "factor on the numbers of channels", above=0),
    depth=option(
        (),
        "blocks of each part of the network, or a factor on them; (): the standard",
        also=NUMBER,
        items=(int,),
        above=0,
    ),
    backbone_options=option(
        {},
        "of a transformer: grid, positions, registers, layer_scale, eps, per_channel "
        "(models/vit.py)",
    ),
    head=option(
        "adaptive_concat", "head after the last feature map", choices="hpa_jax.models.heads:HEADS"
    ),
    head_options=option({}, "of models/heads.py: hidden, pool_order, size"),
    dropout=option(0.5, "rate before the last dense layer", low=0, below=1),
    large_stem=option(False, "a second 2x2 max-pool after the stem"),
    as_run=option(False, "of xception: without some ReLUs and the last norm, as One More Layer's"),
    remat=option(
        "none", "blocks: less memory for one more forward pass", choices=("none", "blocks")
    ),
    depth_groups=option(
        None,
        "None: the network's; their number, or where each begins",
        also=(int, tuple),
        items=(int, str),
        low=0,
    ),
    channels=option(("red", "green", "blue", "yellow"), "input channels", choices=CHANNELS),
    image_size=option(128, "side of its images in pixels", low=16, high=8192),
    normalize=option(
        "hpa", "normalization of the input", choices="hpa_jax.models.normalization:NAMES"
    ),
    dtype=option(
        "auto",
        "of its layers; auto: bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"),
    ),
    head_init=option(
        "kaiming",
        "kaiming: as fastai; prior: starts at the classes' frequencies",
        choices=("kaiming", "prior"),
    ),
    init_from=option(
        "",
        'weight file, folder of a trained model, "published:NAME" (`models list`), or '
        '"model:NAME", another one of this recipe '
        "(trained first; its final weights, fold by fold); a head of another size is initialised",
    ),
    frozen=dict(
        head=option(
            "",
            "head to train on the stored embeddings of this network, which keeps the weights of "
            'init_from and is run once over the images; "": the network itself is trained',
            choices=("", "linear", "mlp", "gated_attention"),
        ),
        hidden=option(512, "units of mlp, or of the attention", low=1),
    ),
    extra_channels=option(
        "zeros", "of a weight file's stem", choices="hpa_jax.models.pretrained:EXTRA_CHANNELS"
    ),
    seed=option(0, "of weights, order and augmentation, beside config.seed", low=0),
    left_out=option(
        (), "(k, n): without the k-th of n parts of the training rows (pudae's folds)", items=(int,)
    ),
    classes=option(
        (),
        "names of its classes; (): all.  Others are missing in its predictions",
        items=(str,),
    ),
    batch_size=option(32, "images per weight update", low=1),
    accumulate=option(1, "micro-batches that a batch is split into", low=1),
    accumulate_sum=option(False, "gradients of micro-batches are summed, not averaged"),
    sampling=option(
        "uniform",
        "rows of an epoch; rare: by 1/sqrt of a class's frequency, balanced: by 1/frequency",
        choices="hpa_jax.training.examples:SAMPLINGS",
    ),
    loss=option(
        dict(focal=1.0), "name -> weight, or -> weight and options", also=(str,), check=_LOSS
    ),
    aux_weight=option(0.4, "of inception_v3's auxiliary head (torchvision, pudae); 0: off", low=0),
    optimizer=dict(
        name=option(
            "adam",
            "adamw: adam with decoupled weight decay",
            choices="hpa_jax.training.optimizer:NAMES",
        ),
        b1=option(0.9, "where the schedule does not move it", low=0, below=1),
        b2=option(0.99, "decay of the second moment", low=0, below=1),
        eps=option(1e-8, "added to the root of the second moment", above=0),
        momentum=option(0.9, "of sgd, where the schedule does not move it", low=0, below=1),
        nesterov=option(True, "of sgd"),
        weight_decay=option(0.0, "of all but norms and biases", low=0),
        decay_norm_and_bias=option(False, "decay all parameters, as fastai"),
        clip_norm=option(0.0, "maximum norm of the gradients; 0: not clipped", low=0),
    ),
    average=dict(
        kind=option(
            "none",
            "last: checkpoints of the last epochs; chosen: of `epochs`",
            choices="hpa_jax.training.phases:AVERAGES",
        ),
        count=option(10, "epochs averaged by last and swa", low=1),
        epochs=option((), "averaged by chosen, counted from 1", items=(int,), low=1),
        decay=option(0.999, "of ema", low=0, below=1),
    ),
    phases=option(
        lambda: (phase(),), "training phases: phase(...) each", kinds=(tuple,), each=PHASE
    ),
    augment=option(
        "d4", "a preset, or a mapping with its name and differences", also=(dict,), **_AUGMENT
    ),
    checkpoint=option(
        "final",
        "weights that predict; final: the average if configured, else the best; snapshots: the "
        "mean prediction of the ends of all phases and cycles; phase:K: the end of phases[K]; "
        "epoch:N: one of keep_epochs",
        choices=("final", "best", "last", "snapshots"),
        pattern=r"phase:\d+|epoch:\d+",
    ),
    keep_epochs=option(
        (), "epochs whose checkpoints are kept, counted from 1", items=(int,), low=1
    ),
    views=option(
        "d4",
        "test-time views, or a mapping with their name and options",
        choices="hpa_jax.inference.views:VIEWS",
        also=(dict,),
        check="hpa_jax.inference.views:make",
        text_key="name",
    ),
)


def _of_protocol(kind: type, help: str, **limits: Any) -> Option:
    """Define a setting of the stack; None: the protocol's value."""
    kinds = (*(NUMBER if kind is float else (kind,)), type(None))
    return option(lambda: placeholder(kind), help, kinds=kinds, **limits)


def _stack_choices(name: str) -> str:
    return f"hpa_jax.decision.stack.protocols:CHOICES.{name}"


OPTIONS: Statement = dict(
    seed=option(0, "of all randomness in training", low=0),
    classes=option(classes.NAMES, "names of the classes, in order", items=(str,)),
    data=dict(
        source=option(
            "synthetic", "where the images come from", choices="hpa_jax.data.catalog:SOURCES"
        ),
        root=option("", 'their folder; "" with synthetic: WORKDIR/data'),
        sources=SOURCES,
        truth=option("", "table of the test labels; only used by evaluate and report"),
        on_bad_image=option(
            "error", "skip: leave it out and list it in bad_images.csv", choices=("error", "skip")
        ),
        check=option(
            "decode",
            "decode: every pixel; header: sizes and file ends only",
            choices=("decode", "header"),
        ),
        folder=FOLDER,
        atlas=ATLAS,
        download=dict(
            workers=option(4, "files at a time", low=1),
            per_second=option(10.0, "requests, at most", above=0),
            retries=option(5, "of a file", low=0),
            timeout=option(30.0, "seconds without a byte", above=0),
            deadline=option(600.0, "seconds for one file", above=0),
        ),
        synthetic=dict(
            train=option(1000, "training images", low=1),
            test=option(300, "test images", low=0),
            external=option(200, "external images", low=0),
            image_size=option(128, "side in pixels", low=16, high=8192),
            min_per_class=option(12, "minimum, so that even the rarest class exists", low=0),
            label_noise=option(0.0, "share of train labels that are wrong", low=0, high=1),
            duplicates=option(
                0.03, "share of train images that have a (near) copy in train", low=0, high=1
            ),
            leak=option(
                0.03, "share of test images with a (near) copy in external or train", low=0, high=1
            ),
            missing_yellow=option(
                0.2, "share of images without the ER stain, as atlas JPEGs", low=0, high=1
            ),
            seed=option(0, "of the cells", low=0),
        ),
    ),
    duplicates=dict(
        radius=option(12, "Hamming distance of 64-bit pHashes, on each of R, G, B", low=0, high=64),
        rotations=option(False, "whether rotated and mirrored copies are duplicates"),
        trained_on=option(
            {},
            "model -> CSV of ids or antibodies that its starting weights were trained on: these "
            "images and near-duplicates of them are in sample; instead of what `models show` says",
            items=(str,),
        ),
    ),
    split=dict(
        scheme=option(
            "holdout",
            "listed: validation is force_valid and the matches of test",
            choices="hpa_jax.data.splits:SCHEMES",
        ),
        fraction=option(0.2, "share of validation in a holdout", above=0, below=1),
        folds=option(5, "number of folds", low=2),
        trained_folds=option(
            (), "which of them; (): all (bestfitting trained 0, 1, 2 of 5)", items=(int,), low=0
        ),
        matches_test=option(
            "valid", "labelled duplicates of test images", choices=("valid", "excluded")
        ),
        external=option(
            "split",
            "external images; train: all but the duplicates of test images",
            choices=("split", "train", "excluded"),
        ),
        group_by=option(
            "",
            "groups that are not split, besides duplicates",
            choices=("", "antibody", "plate", "sample"),
        ),
        audit=option(
            0.0,
            "share of labelled images on which nothing is fitted, for `evaluate`",
            low=0,
            below=1,
        ),
        exclude=option("", "file with ids to leave out"),
        force_valid=option("", "file with ids for validation"),
        force_train=option("", "file with ids for training"),
        seed=option(0, "of the split", low=0),
    ),
    # The verb adversarial.
    adversarial=dict(
        variant=option(
            "features",
            "features: trees on metafeatures; network: `model`",
            choices=("features", "network"),
        ),
        model=option(adversary_model, "of the variant network", kinds=(dict,), form=MODEL),
        folds=option(5, "folds of the out-of-fold scores", low=2),
        fraction=option(
            0.25, "of the labelled images, for adversarial_valid.csv", above=0, high=0.5
        ),
        sources=option(
            ("train",), "sources of the labelled images", choices=("train", "external", "own")
        ),
    ),
    records=dict(
        image_size=option(128, "stored side in pixels", low=16, high=8192),
        also=option(
            (),
            "further sides, as (768,): a model reads the smallest not below its image_size",
            items=(int,),
            low=16,
            high=8192,
        ),
        encoding=option(
            "zstd",
            "encoding of the pixels; jpeg and webp are lossy",
            choices="hpa_jax.data.encodings:ENCODINGS",
        ),
        shard_images=option(512, "images per file", low=1),
        beam=option(
            (),
            'Apache Beam options, e.g. ("--runner=DirectRunner",); (): local threads',
            items=(str,),
        ),
    ),
    models=option({}, "NAME -> model(...)", each=MODEL),
    train=dict(
        workers=option(0, "parallel decodes on the host; 0: one per core", low=0),
        prefetch=option(2, "batches in flight to the device", low=1),
        keep=option(2, "newest checkpoints kept besides the best", low=1),
        monitor=option(
            "loss",
            "validation value that defines the best checkpoint; focal: only that loss, gamma 2",
            choices="hpa_jax.training.phases:MONITORS",
        ),
        checkpoint_minutes=option(10.0, "between checkpoints inside an epoch", above=0),
        on_nonfinite=option(
            "stop",
            "skip: steps with a non-finite loss change nothing and are counted",
            choices=("stop", "skip"),
        ),
        patience=option(
            0,
            "epochs without improvement before a phase ends (the next one starts); 0: never",
            low=0,
        ),
        compilation_cache=option("", 'folder of compiled programs; "": WORKDIR/compiled'),
        deterministic=option(
            False,
            "a restart gives the same bits on GPUs, too, by operations that may be slower; CPU and "
            "TPU need no option for that",
        ),
        batch_norm=option(
            "global",
            "statistics of the whole batch (independent of the number of devices), or per_device "
            "(faster on many; as torch)",
            choices=("global", "per_device"),
        ),
        tensorboard=option(True, "writes TensorBoard events"),
        profile=option(False, "writes a jax.profiler trace of 5 steps"),
    ),
    predict=dict(
        batch_size=option(64, "images at a time", low=1),
        tile=option(
            0,
            "with --model: side of the tiles of an image, in its pixels; 0: the whole image, "
            "scaled, with its longer ends cropped",
            low=0,
        ),
        tile_aggregate=option(
            "max", "aggregation over the tiles of an image", choices=("max", "mean")
        ),
    ),
    features=dict(
        legacy_corr_bug=option(
            False, "the red correlation in the blue column, as in the team's code"
        ),
        extra=option(False, "yellow, channel pairs, foreground, green texture, bytes of files"),
    ),
    embeddings=dict(
        pca=option(
            {},
            "model with frozen.head -> principal components of its stored embeddings, fitted on "
            "training rows: columns of the stack",
            items=(int,),
            low=1,
        ),
    ),
    # Scored as "ensemble", beside "mean of models" and "weighted mean".
    ensemble=dict(
        method=option(
            "mean",
            "how models are blended; likelihood, greedy: weights by validation",
            choices=("hpa_jax.inference.ensemble:METHODS", "likelihood", "greedy"),
        ),
        weights=option(
            {}, "of the other methods: model -> weight (missing: 0); {}: equal", items=NUMBER, low=0
        ),
        average_duplicates=option(
            False, "average predictions over duplicates among the test images"
        ),
    ),
    thresholds=dict(
        method=option(
            "auto",
            "rule of fitting; match_proportions: bestfitting's; auto: the simplest rule within "
            "one standard error of the best, for every method and the stack",
            choices=("auto", "hpa_jax.decision.thresholds:METHODS"),
            pattern=OWN,
        ),
        folds=option(5, "folds of cross_validated", low=2, high=127),
        repeats=option(20, "repeats with other random folds", low=1),
        grid=option(50, "candidate thresholds", low=2),
        search=option("grid", "inside cross_validated", choices=("grid", "exact")),
        combine=option(
            "mean", "combines the thresholds of all folds and repeats", choices=("mean", "median")
        ),
        shrink=option(
            0.0,
            "positives at which a class's threshold and its shrinkage target weigh the same",
            low=0,
        ),
        shrink_towards=option(
            "pooled",
            "pooled: one threshold for all classes; proportions: the matched share",
            choices=("pooled", "proportions"),
        ),
        value=option(0.5, "of method fixed", low=0, high=1),
        proportions=option(
            (),
            "of match_proportions: one share per class; (): those of validation",
            items=NUMBER,
            low=0,
            high=1,
        ),
        match_on=option(
            "valid",
            "part whose predictions are matched; test: bestfitting",
            choices=("valid", "test"),
        ),
        scale=option(
            (1.0,),
            "a factor on all (One More Layer: 0.48 once), or one per class",
            items=NUMBER,
            above=0,
        ),
        seed=option(0, "of the folds", low=0),
    ),
    # None: the value of the protocol.
    stack=dict(
        protocol=option(
            "quick",
            "models per class: quick 15, talk 375, main 225, by_frequency 441 to 6,000",
            choices="hpa_jax.decision.stack.protocols:PROTOCOLS",
        ),
        seed=option(0, "of folds and models", low=0),
        device=option("auto", "device that fits trees", choices=_stack_choices("device")),
        repeats=_of_protocol(int, "repeats of the outer folds", low=1),
        outer=_of_protocol(int, "outer folds", low=2),
        inner_repeats=_of_protocol(int, "repeats of the inner folds", low=1),
        inner=_of_protocol(int, "inner folds", low=2),
        vote=_of_protocol(
            str,
            "soft: mean probability; binary: share of positive votes",
            choices=_stack_choices("vote"),
        ),
        learner=_of_protocol(str, "model to fit", choices=_stack_choices("learner")),
        rare_learner=_of_protocol(
            str, "the same, of rare classes", choices=_stack_choices("rare_learner")
        ),
        rare_below=_of_protocol(int, "positives below which a class is rare", low=0),
        rare_repeats=_of_protocol(int, "of both loops, for rare classes; 0: as others", low=0),
        rare_features=_of_protocol(
            tuple,
            "features of the learner of a rare class; own: always included",
            choices="hpa_jax.decision.stack.protocols:KINDS",
        ),
        boost_from=_of_protocol(
            int, "positives; with fewer only the logistic part is fitted", low=0
        ),
        ridge_alpha=_of_protocol(float, "penalty of ridge", low=0),
        rounds=_of_protocol(int, "trees, at most", low=1),
        patience=_of_protocol(int, "rounds without a better inner fold", low=1),
        eta=_of_protocol(float, "learning rate of the trees", above=0, high=1),
        depth=_of_protocol(int, "of a tree", low=1),
        bins=_of_protocol(int, "of a feature", low=2),
        colsample=_of_protocol(float, "share of the features per tree", above=0, high=1),
        vote_factor=_of_protocol(float, "of a model's threshold, before it votes", above=0),
        negatives=_of_protocol(
            str,
            "prior: as many as restore the training share of the class",
            choices=_stack_choices("negatives"),
        ),
        threshold=_of_protocol(
            str,
            "final threshold, where thresholds.method is not auto; shrunk: to the matched one",
            choices=_stack_choices("threshold"),
        ),
        threshold_repeats=_of_protocol(int, "of a cross-validated one: folds x repeats", low=1),
        shrink=_of_protocol(
            float, "positives at which a class's best threshold has weight one half", low=0
        ),
        min_positives=_of_protocol(
            int, "positives; with fewer the mean of the models is used", low=0
        ),
        of_class=option({}, "name of a class -> dict of its settings"),
    ),
    # Metric learning: embeddings of antibodies, and the nearest labelled image.
    retrieval=dict(
        mode=option(
            "off",
            "what near neighbours change; replace: decisions; boost: probabilities",
            choices=("off", "hpa_jax.inference.retrieval:MODES"),
        ),
        tau=option(0.65, "minimum cosine of a near neighbour", low=-1, high=1),
        model=option(embedding_model, "its network", kinds=(dict,), form=MODEL),
        embeddings_of=option(
            "",
            "name of a model with frozen.head whose stored embeddings are used; no network is "
            "trained",
        ),
        holdout=option(0.05, "share of the images held out to measure recall", low=0, below=1),
        min_images=option(1, "antibodies with fewer images are left out", low=1),
        backend=option(
            "exact",
            "faiss: approximate, for galleries beyond a million",
            choices="hpa_jax.inference.retrieval:BACKENDS",
        ),
    ),
    refit=option(
        False,
        "train the networks of the submission again on all labelled images; thresholds, blends and "
        "stack stay as fitted on validation",
    ),
    leak=option(
        "on",
        "labels of matched external images replace the prediction",
        choices=("on", "off"),
    ),
    submission=dict(
        method=option(
            "auto",
            "a model, another method (mean of models, weighted mean, logistic regression, "
            "ensemble, stack), or auto: the simplest within one standard error of the best by "
            "nested validation",
        ),
        argmax=option(
            "empty",
            "adds the best class; empty: to rows without a class; always: to every row "
            "(bestfitting); on validation and test",
            choices=("off", "empty", "always"),
        ),
        leak_tables=option(
            ("matches",),
            'ascending order of trust: CSV files (Id,Target) and "matches" (of the step '
            "duplicates)",
            items=(str,),
        ),
    ),
    report=dict(examples=option(24, "images shown", low=0)),
    ablate=dict(
        seeds=option(
            (0, 1, 2),
            "each variation runs once per seed (of networks, split, thresholds and stack), paired "
            "with the base's run",
            items=(int,),
            low=0,
        ),
        method=option(
            "mean of models", 'method whose score is compared: a model\'s name, or "stack"'
        ),
        variations=option((), "dicts of name, add, set, method, at, about, talk", each=VARIATION),
    ),
)


def _with(statement: Statement, differences: Mapping[str, Any], kind: str) -> ConfigDict:
    """Return the defaults of a statement with differences."""
    for name in differences:
        if name not in statement:
            place = f"models.*.phases[*].{name}" if statement is PHASE else f"models.*.{name}"
            raise InputError(f"{kind} has no option {name!r}{renamed.hint(place, statement)}")
    return ConfigDict({**defaults(statement), **differences})


def has_ensemble(config: ConfigDict) -> bool:
    """Whether config.ensemble differs from the mean and the weighted mean, always scored."""
    ensemble = config.ensemble
    return ensemble.method not in ("mean", "likelihood") or bool(ensemble.weights)


def in_training_order(models: Mapping[str, ConfigDict]) -> list[str]:
    """Return the names of the models, each after the one it starts from (init_from="model:NAME").

    Raises:
        InputError: a model starts from an unknown one or from itself.
    """
    ordered: list[str] = []

    def add(name: str, waiting: tuple[str, ...]) -> None:
        source = started_from(models[name])
        if source is not None and source not in models:
            raise InputError(
                f"config.models.{name}.init_from: unknown model {source!r}{near(source, models)}"
            )
        if name in waiting:
            raise InputError(f"config.models.{name}.init_from: starts from itself: {waiting}")
        if source is not None:
            add(source, (*waiting, name))
        if name not in ordered:
            ordered.append(name)

    for name in models:
        add(name, ())
    return ordered


def started_from(model: ConfigDict) -> str | None:
    """Return the name of the recipe's model that this one starts from, if any."""
    init_from = str(model.get("init_from", ""))
    return init_from.removeprefix(OF_THIS_RUN) if init_from.startswith(OF_THIS_RUN) else None
