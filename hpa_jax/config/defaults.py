"""The default configuration: one locked ConfigDict that states every option once.

A recipe under configs/ starts from `default()` and states differences only.  `model(...)` and
`stage(...)` are the defaults of one network and of one stage of its training; a recipe puts as many
of them as it likes into `config.models[NAME]`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError, near

# Options of a model that change nothing in its training.
OF_PREDICTION = ("views", "checkpoint")
# Beside each model: the ways to decide, all scored in one table; submission.method can name them.
METHODS = ("mean of models", "weighted mean", "logistic regression", "ensemble", "stack")


def default() -> ConfigDict:
    """The whole default configuration, locked."""
    config = ConfigDict(
        dict(
            seed=0,
            classes=classes.NAMES,
            # Images on disk -> catalog.  `sources`: a list of dicts (source, root, weight, keep);
            # one without a root has `root`.  `source` and `root` are the short form for one.
            data=dict(
                source="synthetic",  # kaggle | atlas | folder | synthetic
                root="",  # "" with synthetic: WORKDIR/data
                sources=(),
                truth="",  # table of the test part's labels; only evaluate and report read it
                on_bad_image="error",  # error | skip (writes bad_images.csv)
                check="decode",  # decode every pixel | header: sizes and file ends only
                folder=dict(  # of source="folder"; in `sources` beside source and root
                    pattern="{id}_{channel}",  # {id} alone: one multichannel file an image
                    planes=(),  # channels of a multichannel file in order; (): by its own names
                    labels="labels.csv",
                    percentiles=(0.1, 99.9),  # of 16-bit images: black and white
                    missing_yellow="error",  # error | zeros | mean of the others
                    field_um=0.0,  # side of a training image in µm (competition: 163.84); 0: off
                    pixel_size=0.0,  # µm a pixel where the files don't say
                ),
                atlas=dict(  # of source="atlas"
                    table="external.csv",
                    url="http://v18.proteinatlas.org/images/{antibody}/{name}_{channel}.jpg",
                    missing_yellow="zeros",  # zeros | mean; where the url has no {channel}
                ),
                # timeout: seconds without a byte; deadline: seconds for one file
                download=dict(workers=4, per_second=10.0, retries=5, timeout=30.0, deadline=600.0),
                synthetic=dict(
                    train=1000,
                    test=300,
                    external=200,
                    image_size=128,
                    min_per_class=12,  # floor, so that even the rarest class exists
                    label_noise=0.0,  # share of train labels that are wrong
                    duplicates=0.03,  # share of train images that have a (near) copy in train
                    leak=0.03,  # share of test images with a (near) copy in external or train
                    missing_yellow=0.2,  # share of images without the ER stain, as atlas JPEGs
                    seed=0,
                ),
            ),
            duplicates=dict(
                radius=12,  # Hamming distance of 64-bit pHashes, on each of R, G, B
                rotations=False,  # whether rotated and mirrored copies are copies too
            ),
            split=dict(
                # holdout | folds | listed (validation: force_valid and the matches of test)
                scheme="holdout",
                fraction=0.2,
                folds=5,
                trained_folds=(),  # which of them; (): all (bestfitting trained 0, 1, 2 of 5)
                matches_test="valid",  # labelled twins of test images: valid | excluded
                # split | train (all but the twins of test images) | excluded
                external="split",
                group_by="",  # antibody | plate | sample: stay on one side too
                audit=0.0,  # share of labelled images on which nothing is fitted, for `evaluate`
                exclude="",  # a file with ids, as the two below
                force_valid="",
                force_train="",
                seed=0,
            ),
            # The verb adversarial: can train and test be told apart?
            adversarial=dict(
                variant="features",  # features (trees on metafeatures) | network (`model`)
                model=adversary_model(),
                folds=5,  # each image is scored by a model that has not seen it
                fraction=0.25,  # of the labelled images, for adversarial_valid.csv
                sources=("train",),  # whose labelled images: train, external, own
            ),
            records=dict(
                image_size=128,  # stored side in pixels
                also=(),  # further sides, as (768,): a model reads the smallest that holds its own
                encoding="zstd",  # zstd | raw | png (lossless) | jpeg | webp
                shard_images=512,
                beam=(),  # Apache Beam options, e.g. ("--runner=DirectRunner",); (): threads here
            ),
            models=dict(),  # NAME -> model(...)
            train=dict(
                workers=0,  # parallel decodes on the host; 0: one a core
                prefetch=2,  # batches in flight to the device
                keep=2,  # newest checkpoints kept beside the best
                # of validation, which checkpoint is the best: loss | focal (that alone, gamma 2) |
                monitor="loss",  # macro_f1 | micro_f1 | map
                checkpoint_minutes=10.0,  # between checkpoints inside an epoch
                on_nonfinite="stop",  # stop | skip (the step changes nothing and is counted)
                # epochs of a stage without a better monitor before it ends (later stages go on);
                patience=0,  # 0: never
                compilation_cache="",  # folder of compiled programs; "": WORKDIR/compiled
                # True: a restart gives the same bits on GPUs, too, by operations that may
                deterministic=False,  # be slower; CPU and TPU need no option for that
                # BatchNorm's statistics: global (those of the whole batch; N devices give what one
                batch_norm="global",  # gives) | per_device (faster on many; what torch does)
                tensorboard=True,
                profile=False,  # writes a jax.profiler trace of 5 steps
            ),
            predict=dict(
                batch_size=64,
                tile=0,  # own images: side of the squares they are cut into, in their pixels; 0:
                # each is looked at whole, scaled, and loses its longer ends
                tile_aggregate="max",  # max | mean over the tiles of an image
            ),
            features=dict(
                legacy_corr_bug=False,  # the red correlation in the blue column, as the team had
                extra=False,  # yellow, channel pairs, foreground, green texture, bytes of files
            ),
            ensemble=dict(  # scored as "ensemble", beside "mean of models" and "weighted mean"
                # mean | geometric | max | rank_mean | likelihood, greedy (weights by validation)
                method="mean",
                weights=dict(),  # of the first four: model -> weight (others 0); {}: all the same
                average_duplicates=False,  # twins among the test images share their mean
            ),
            thresholds=dict(
                # cross_validated | exact | match_proportions (bestfitting) |
                # match_proportions_pudae | fixed
                method="cross_validated",
                folds=5,
                repeats=20,
                grid=50,
                search="grid",  # grid | exact: inside cross_validated
                combine="mean",  # mean | median of the cuts of all folds and repeats
                shrink=0.0,  # positives at which a class counts as much as what it shrinks to
                shrink_towards="pooled",  # pooled: one cut for all | proportions: the matched share
                value=0.5,  # of method fixed
                proportions=(),  # of match_proportions: a share a class; (): those of validation
                match_on="valid",  # whose predictions are matched: valid | test (bestfitting)
                scale=(1.0,),  # a factor on all (One More Layer: 0.48 once), or one a class
                seed=0,
            ),
            stack=dict(
                protocol="quick",  # quick | talk (375 models a class) | main (225) | by_frequency
                seed=0,
                device="auto",  # auto | cpu | cuda
                **_of_protocol(
                    repeats=int,
                    outer=int,
                    inner_repeats=int,
                    inner=int,
                    vote=str,  # soft | binary
                    learner=str,  # boosted | logistic | ridge | multi_output_tree
                    rare_learner=str,  # boosted | logistic | ridge
                    rare_below=int,
                    rare_repeats=int,  # of both loops, for rare classes
                    rare_features=tuple,  # what they look at: own, meta, size, others
                    boost_from=int,
                    ridge_alpha=float,
                    rounds=int,
                    patience=int,
                    eta=float,
                    depth=int,
                    bins=int,
                    colsample=float,
                    vote_factor=float,  # of a model's threshold, before it votes
                    negatives=str,  # all | prior
                    cut_repeats=int,
                    shrink=float,
                    min_positives=int,
                ),
                of_class=dict(),  # NAME of a class -> dict of settings of its own
            ),
            # Metric learning: embeddings of antibodies, and the nearest labelled image
            retrieval=dict(
                # off | replace (the decision of a row within tau) | boost (its probabilities)
                mode="off",
                tau=0.65,  # smallest cosine that counts
                model=embedding_model(),
                holdout=0.05,  # share of the images kept out to measure recall on
                pictures=1,  # antibodies with fewer are left out
                backend="exact",  # exact | faiss (approximate, for galleries beyond a million)
            ),
            # True: the networks of the submission are trained again, on all labelled images, and
            # decided by the thresholds, blends and stack learnt on validation before
            refit=False,
            leak="on",  # on | off: labels of matched external images overwrite the prediction
            submission=dict(
                method="auto",  # a model, a name of METHODS, or auto: the best by nested validation
                argmax="empty",  # off | empty: the best class where none passes | always: added
                # to every row (bestfitting); on validation as on test
                # ascending order of trust: CSV files (Id,Target) and "matches" (twins found here)
                leak_tables=("matches",),
            ),
            report=dict(examples=24),
            ablate=dict(
                # each variation runs once a seed (of networks, split, thresholds and stack), paired
                # with the base's run
                seeds=(0, 1, 2),
                method="mean of models",  # whose score is compared: a model's name, or "stack"
                # dict(name, add={NAME: model(...)}, set={key: value}, method,
                # at (thresholds | half), about, talk)
                variations=(),
            ),
        )
    )
    return config.lock()


def _of_protocol(**types: type) -> dict[str, Any]:
    """Settings that the stack's protocol decides unless they are given."""
    return {name: placeholder(kind) for name, kind in types.items()}


OF_THIS_RUN = "model:"  # begins an init_from that names another model of the recipe


def stage(**differences: Any) -> ConfigDict:
    """One stage of training: epochs at one schedule, with the same parts frozen."""
    return _with(
        dict(
            epochs=1,
            lr=1e-3,  # of the head; groups below it by lr_decay
            # one_cycle | one_cycle_cosine | cyclic_cosine | cyclic_triangular | constant | a table
            schedule="one_cycle",  # "25: 3e-4, 30: 1.5e-4": until epoch: lr
            freeze="none",  # none | backbone | a number of depth groups counted from the stem
            freeze_bn=False,  # False: BatchNorm of frozen groups trains on, as fastai's
            lr_decay=1.0,  # lr of the stem = lr / lr_decay, log-spaced; or one factor a depth group
            lr_noise=0.0,  # sigma of a factor 1 + N(0, sigma) on each depth group's lr
            lr_noise_every="stage",  # stage | step: how often it is drawn
            div_factor=25.0,  # one_cycle starts at lr / div_factor
            pct_start=0.3,  # one_cycle: share of the rising phase
            cycles=1,  # of cyclic_cosine and cyclic_triangular; each one's end is kept
            warmup=0.0,  # epochs of linear rise, for every schedule but one_cycle
            # "": go on | best | number of an earlier stage: its last weights | epoch:N, see
            start_from="",  # keep_epochs
            batch_size=0,  # 0: the model's
            dropout=None,  # None: the model's | a rate | one rate a dropout layer
            loss=None,  # None: the model's
            augment=None,  # None: the model's
        ),
        differences,
        "stage",
    )


def model(**differences: Any) -> ConfigDict:
    """One network and how it is trained; its stages may be plain mappings of a stage's options."""
    if "stages" in differences:
        differences["stages"] = tuple(stage(**dict(one.items())) for one in differences["stages"])
    return _with(
        dict(
            backbone="se_resnext50_32x4d",
            width=1.0,
            depth=(),  # blocks of each stage; () = the network's own
            head="adaptive_concat",
            head_options=dict(),  # of models/heads.py: hidden, pool_order, size
            dropout=0.5,
            large_stem=False,  # another 2x2 max-pool after the stem's
            as_run=False,  # of xception: without some ReLUs and the last norm, as One More Layer's
            remat="none",  # none | blocks: less memory for one more forward pass
            depth_groups=None,  # None: the network's | their number | where each begins
            channels=("red", "green", "blue", "yellow"),
            image_size=128,
            normalize="hpa",  # a name of models/normalization.py
            dtype="auto",  # bfloat16 on GPU and TPU, float32 on CPU
            head_init="kaiming",  # kaiming (fastai) | prior: starts at the classes' frequencies
            # weight file, folder of a trained model, or "model:NAME", another one of this recipe
            # (trained first; its final weights, fold by fold); a head of other size starts afresh
            init_from="",
            extra_channels="zeros",  # of a weight file's stem: zeros | copy_red | mean
            seed=0,
            left_out=(),  # (k, n): without the k-th of n parts of the training rows (pudae's folds)
            classes=(),  # names of those it knows; (): all.  Others are absent from its predictions
            batch_size=32,
            accumulate=1,  # micro-batches that a batch is cut into
            accumulate_sum=False,  # gradients of micro-batches are summed, not averaged
            sampling="uniform",  # uniform | rare (1/sqrt of a class's frequency) | balanced (1/)
            loss=dict(focal=1.0),  # name -> weight
            aux_weight=0.4,  # of inception_v3's auxiliary head (torchvision, pudae); 0: off
            optimizer=dict(
                name="adam",  # adam | adamw (decoupled decay) | sgd
                b1=0.9,  # where the schedule does not move it
                b2=0.99,
                eps=1e-8,
                momentum=0.9,  # of sgd, where the schedule does not move it
                nesterov=True,
                weight_decay=0.0,
                decay_norm_and_bias=False,  # fastai decays all parameters
                clip_norm=0.0,  # 0: gradients are not clipped
            ),
            average=dict(
                # none | last (checkpoints of the last epochs) | chosen (of these) | swa | ema
                kind="none",
                count=10,  # epochs averaged by last and swa
                epochs=(),  # averaged by chosen, counted from 1
                decay=0.999,  # of ema
            ),
            stages=(stage(),),
            augment="d4",
            # of prediction: final (the average if one is made, else the best) | best | last |
            # snapshots (the mean of what the ends of all stages and cycles predict) | stage:K (the
            # end of stages[K]) | epoch:N, one of keep_epochs
            checkpoint="final",
            keep_epochs=(),  # epochs whose ends are kept, counted from 1
            views="d4",
        ),
        differences,
        "model",
    )


def embedding_model(**differences: Any) -> ConfigDict:
    """The network of metric learning, bestfitting's by default (spec bestfitting_pudae A).

    ResNet50 on the whole 768 px image, D4, 512-d embedding after BatchNorm; ArcFace with s 30 and
    m .5, half with the margin and half plain; Adam 1e-4 (b2 .999, torch's), gradients clipped to
    norm 1, 50 epochs; antibodies drawn evenly.
    """
    defaults = dict(
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
        stages=(stage(epochs=50, lr=1e-4, schedule="constant"),),
        views="identity",
    )
    return model(**{**defaults, **differences})


def adversary_model(**differences: Any) -> ConfigDict:
    """The network that tells test images from training images: a small one, few epochs."""
    defaults = dict(
        backbone="resnet18",
        loss=dict(bce=1.0),
        stages=(stage(epochs=4),),
        checkpoint="best",
        views="identity",
    )
    return model(**{**defaults, **differences})


def _with(defaults: dict, differences: Mapping[str, Any], what: str) -> ConfigDict:
    for name in differences:
        if name not in defaults:
            raise InputError(f"{what} has no option {name!r}{near(name, defaults)}")
    return ConfigDict({**defaults, **differences})


def has_ensemble(config: ConfigDict) -> bool:
    """Whether config.ensemble is another than the mean and the weighted mean, scored anyway."""
    own = config.ensemble
    return own.method not in ("mean", "likelihood") or bool(own.weights)


def in_training_order(models: Mapping[str, ConfigDict]) -> list[str]:
    """Names of the models, each after the one it starts from (init_from="model:NAME").

    Raises:
        InputError: a model starts from one that is not there, or from itself.
    """
    ordered: list[str] = []

    def add(name: str, waiting: tuple[str, ...]) -> None:
        source = started_from(models[name])
        if source is not None and source not in models:
            raise InputError(
                f"config.models.{name}.init_from: no model {source!r}{near(source, models)}"
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
    """Name of the recipe's model whose weights this one starts from, if it does."""
    given = str(model.get("init_from", ""))
    return given.removeprefix(OF_THIS_RUN) if given.startswith(OF_THIS_RUN) else None
