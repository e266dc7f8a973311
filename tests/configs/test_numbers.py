"""The teams' numbers in the recipes: rates, dropouts, batches, augmentation, thresholds, weights.

Every number here was read from the spec, not from the recipe.  scripts/mutate.py changes them in
the recipes, one by one, and reports which change no test notices.
"""

import inspect

import pytest

from configs import ablation, bestfitting, pudae
from configs.one_more_layer import solution
from hpa_jax.core import classes
from hpa_jax.decision import thresholds
from hpa_jax.decision.stack import protocols
from hpa_jax.inference import views


def phase(freeze, epochs, lr, **changes):
    """A phase of the table; what is not said is one cycle from lr / 25, base 16, going on."""
    usual = dict(schedule="one_cycle", base=16.0, div=25.0, start="", gamma=2.0)
    return dict(freeze=freeze, epochs=epochs, lr=lr, **{**usual, **changes})


def fit(epochs, lr, **changes):
    """A constant rate, the same for all, while the body is frozen."""
    return phase("backbone", epochs, lr, schedule="constant", **{"base": 1.0, **changes})


def frozen(epochs, lr, **changes):
    return phase("backbone", epochs, lr, **changes)


def whole(epochs, lr, **changes):
    return phase("none", epochs, lr, **changes)


BY_HAND = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
TWO = dict(dropout=(0.2, 0.3))
# The spec's table of phases (one_more_layer 3).  "Where it changed is our guess" of the recipes:
# the batches of v6, v14 and bn_inception_v4, and what the last phase of v10 goes on from.
PHASES = dict(
    se_resnext_v2=(
        fit(1, 1e-3, batch=12, **TWO), whole(8, 1e-3, batch=12, base=BY_HAND, **TWO),
        whole(8, 1e-4, batch=12, base=BY_HAND, **TWO)),
    se_resnext_v3=(
        fit(1, 1e-3, batch=12, **TWO), whole(8, 1e-3, batch=12, **TWO),
        whole(8, 1e-4, batch=12, **TWO)),
    se_resnext_v5=(
        fit(1, 1e-3, batch=24, dropout=0.4), whole(8, 1e-3, batch=24, dropout=0.4),
        whole(8, 1e-4, batch=24, dropout=0.4), whole(16, 5e-5, batch=24, dropout=0.4)),
    se_resnext_v6=(
        frozen(4, 1e-3, batch=14, dropout=0.4), frozen(8, 8e-4, batch=14, dropout=0.4),
        whole(8, 1e-4, batch=12, dropout=0.4), whole(8, 1e-4, batch=12, dropout=0.4),
        whole(8, 5e-5, batch=12, dropout=0.6, base=8.0)),
    se_resnext_v7=(
        fit(1, 1e-3, batch=12, dropout=0.4), whole(8, 1e-3, batch=12, dropout=0.4),
        whole(16, 1e-4, batch=12, dropout=0.6, gamma=5.0)),
    se_resnext_v10=(
        fit(1, 1e-3, batch=24, dropout=0.4), whole(8, 1e-3, batch=24, dropout=0.4),
        whole(8, 1e-4, batch=24, dropout=0.6),
        whole(16, 1e-4, batch=24, dropout=0.55, div=50.0, start="1"),
        whole(16, 5e-5, batch=24, dropout=0.6, base=32.0, gamma=3.0)),
    se_resnext_v14=(
        frozen(8, 5e-3, batch=20, dropout=0.5), whole(16, 1e-4, batch=22, dropout=0.5),
        whole(16, 8e-5, batch=22, dropout=0.5), whole(16, 5e-5, batch=22, dropout=0.5),
        whole(16, 3e-5, batch=25, dropout=0.5),
        whole(16, 2e-5, batch=25, dropout=0.6, base=20.0, start="best")),
    se_resnext_lsep=(whole(4, 3e-5, batch=12, gamma=None, **TWO),),
    se_resnext_ovr=(
        fit(1, 1e-3, batch=12, dropout=0.4, gamma=5.0),
        whole(8, 5e-5, batch=12, dropout=0.4, gamma=5.0),
        whole(8, 1e-5, batch=12, dropout=0.4, gamma=5.0)),
    bn_inception_v3=(
        frozen(6, 2e-3, batch=28, dropout=0.5), whole(16, 1e-3, batch=28, dropout=0.5),
        whole(16, 5e-4, batch=28, dropout=0.5), whole(16, 1e-4, batch=28, dropout=0.6),
        whole(8, 1e-4, batch=28, dropout=0.6), whole(8, 1e-4, batch=28, dropout=0.6, div=50.0),
        whole(8, 5e-5, batch=28, dropout=0.6), whole(8, 1e-4, batch=28, dropout=0.6, start="3"),
        whole(8, 9e-5, batch=28, dropout=0.6)),
    bn_inception_v4=(
        frozen(4, 2e-3, batch=8, dropout=0.5), whole(8, 2e-3, batch=8, dropout=0.5),
        whole(8, 5e-4, batch=12, dropout=0.6), whole(16, 3e-4, batch=12, dropout=0.6),
        whole(16, 2e-4, batch=12, dropout=0.6), whole(8, 1e-4, batch=12, dropout=0.6),
        whole(8, 8e-5, batch=12, dropout=0.6), whole(8, 5e-5, batch=12, dropout=0.6)),
    xception=(
        frozen(4, 2e-3, batch=12, dropout=0.5), whole(8, 1e-4, batch=12, dropout=0.5, base=20.0),
        whole(8, 1e-4, batch=12, dropout=0.65, base=32.0),
        whole(8, 5e-4, batch=12, dropout=0.7, base=32.0),
        whole(16, 2e-4, batch=12, dropout=0.75, base=32.0)),
    inception_v4_v1=(
        fit(4, 1e-3, batch=12, dropout=(0.25, 0.3)),
        *(whole(8, lr, batch=12, dropout=(0.25, 0.3), base=(1 / 16, 1 / 12, *BY_HAND[2:]))
          for lr in (5e-4, 1e-4)),
        whole(16, 5e-5, batch=12, dropout=(0.6, 0.4), base=BY_HAND)),
    inception_v4_v2=(
        frozen(4, 1e-3, batch=16, dropout=0.25), frozen(8, 1e-3, batch=16, dropout=0.4),
        whole(16, 1e-4, batch=16, dropout=0.4),
        whole(8, 5e-5, batch=16, dropout=0.6, base=32.0)),
)  # fmt: skip
# Network: normalisation, depth groups, hidden units of the head (None: one dense layer).
PARTS = dict(
    se_resnext_v2=("imagenet", 6, 512),
    se_resnext_v3=("imagenet", 14, 512),
    se_resnext_v5=("imagenet", 10, None),
    se_resnext_v6=("imagenet", 10, None),
    se_resnext_v7=("imagenet", 10, None),
    se_resnext_v10=("imagenet", 10, None),
    se_resnext_v14=("imagenet", 10, None),
    se_resnext_lsep=("imagenet", 14, 512),
    se_resnext_ovr=("imagenet", 6, None),
    bn_inception_v3=("bn_inception", 7, None),
    bn_inception_v4=("bn_inception", 7, None),
    xception=("inception", 25, None),
    inception_v4_v1=("inception", 6, 512),
    inception_v4_v2=("inception", 6, None),
)
# Network: zoom, lighting, warp and chance of lighting at the start and in the last phase.
AUGMENT = dict(
    se_resnext_v2=((1.2, 0.2, 0, 0.65),) * 2,
    se_resnext_v3=((1.2, 0.2, 0, 0.65),) * 2,
    se_resnext_v5=((1.2, 0.2, 0, 0.65),) * 2,
    se_resnext_v6=((1.25, 0.2, 0, 0.65), (1.25, 0.25, 0.05, 0.65)),
    se_resnext_v7=((1.2, 0.2, 0, 0.65),) * 2,
    se_resnext_v10=((1.2, 0.2, 0, 0.65),) * 2,
    se_resnext_v14=((1.25, 0.25, 0, 0.7), (1.25, 0.25, 0.05, 0.72)),
    se_resnext_lsep=((1.2, 0.2, 0, 0.65),) * 2,
    se_resnext_ovr=((1.2, 0.2, 0, 0.65),) * 2,
    bn_inception_v3=((1.25, 0.25, 0.05, 0.7), (1.27, 0.28, 0.07, 0.73)),
    bn_inception_v4=((1.25, 0.25, 0.05, 0.7), (1.25, 0.25, 0.07, 0.7)),
    xception=((1.25, 0.25, 0, 0.7), (1.25, 0.25, 0.1, 0.7)),
    inception_v4_v1=((1.2, 0.2, 0, 0.65),) * 2,
    inception_v4_v2=((1.2, 0.2, 0, 0.65), (1.25, 0.25, 0.07, 0.65)),
)


# bestfitting's target ratios, classes 0 to 27 (spec bestfitting_pudae A).
RATIOS = """
.362398 .043841 .075269 .059322 .075269 .075269 .043841 .075269 .001706 .001448 .000901 .043841
.043841 .014199 .043841 .000676 .028807 .014199 .028807 .059322 .005536 .126126 .028807 .075269
.010363 .222494 .028807 .000354
"""


@pytest.fixture(scope="module")
def layers():
    return solution.get_config().models


def planned(model, number):
    """A phase of a recipe in the words of the table."""
    given = dict(model.phases[number])
    loss = (given["loss"] or model.loss).to_dict()
    gamma = loss["focal"]["gamma"] if "focal" in loss else None
    return dict(
        freeze=given["freeze"],
        epochs=given["epochs"],
        lr=given["lr"],
        schedule=given["schedule"],
        base=given["lr_decay"],
        div=given["div_factor"],
        start=given["start_from"],
        gamma=gamma,
        batch=given["batch_size"] or model.batch_size,
        dropout=model.dropout if given["dropout"] is None else given["dropout"],
    )


@pytest.mark.parametrize("name", PHASES)
def test_one_more_layers_phases(layers, name):
    model = layers[name]
    assert len(model.phases) == len(PHASES[name])
    for number, expected in enumerate(PHASES[name]):
        assert planned(model, number) == expected, number
        assert not model.phases[number].freeze_bn and model.phases[number].pct_start == 0.3


@pytest.mark.parametrize("name", PARTS)
def test_one_more_layers_parts(layers, name):
    model = layers[name]
    found = (model.normalize, model.depth_groups, model.head_options.get("hidden"))
    assert found == PARTS[name] and model.head == "adaptive_concat"
    own = model.optimizer
    assert (own.name, own.weight_decay, own.decay_norm_and_bias) == ("adamw", 0.01, True)
    assert (own.b1, own.b2, own.eps, own.clip_norm) == (0.9, 0.99, 1e-8, 0.0)
    assert model.image_size == (768 if name == "bn_inception_v4" else 512)
    green = ("red", "green", "blue")
    assert tuple(model.channels) == ((*green, "yellow") if name == "se_resnext_v14" else green)


def test_one_more_layers_rows_classes_and_starts(layers):
    config = solution.get_config()
    assert (config.split.scheme, config.split.fraction) == ("holdout", 0.25)
    assert (config.split.external, config.split.matches_test) == ("train", "valid")
    assert tuple(config.data.sources[1]["not_only"]) == (0, 25)
    assert config.duplicates.radius == 12 and config.train.monitor == "macro_f1"
    worst = [classes.NAMES.index(name) for name in layers.se_resnext_ovr.classes]
    assert worst == [17, 26, 15, 20, 18, 16, 6, 22, 9, 27]
    assert layers.se_resnext_lsep.init_from == "model:se_resnext_v3"
    assert layers.se_resnext_ovr.init_from == "model:se_resnext_v6"
    assert layers.se_resnext_v14.extra_channels == "zeros"
    assert {name: model.views["name"] for name, model in layers.items()} == dict.fromkeys(
        layers, "oml"
    )


@pytest.mark.parametrize("name", ["talk", "main", "by_frequency"])
def test_one_more_layers_protocols(name):
    protocol = protocols.resolve(name)
    assert (protocol.vote, protocol.negatives, protocol.rare_learner) == (
        "binary",
        "prior",
        "ridge",
    )
    assert (protocol.rare_below, protocol.threshold) == (15, "cross_validated")
    counts = dict(talk=(5, 5, 5, 3), main=(3, 5, 5, 3), by_frequency=(5, 7, 5, 7))
    assert protocol.counts(500) == counts[name]
    assert (
        (15, 20, 5, 3), (110, 10, 5, 5), (250, 7, 7, 5), (1000, 5, 7, 7), (float("inf"), 3, 7, 7),
    ) == protocols.FREQUENCY_TABLE  # fmt: skip


def test_what_one_network_alone_has(layers):
    first, second, third = (one.augment for one in layers.se_resnext_v7.phases)
    chances = [first["blank_protein"], second["blank_protein"], third.get("blank_protein", 0)]
    assert chances == [1.0, 0.5, 0]
    lsep = layers.se_resnext_lsep
    assert lsep.loss.to_dict() == {"lsep": 1.0} and lsep.phases[0].lr_noise == 0.01
    jitter = ("jitter", "p_jitter", "corner_shift", "p_perspective")
    assert [lsep.augment[key] for key in jitter] == [0.03, 0.1, 0.03, 0.1]
    warps = {name: [(one.augment or model.augment)["warp"] for one in model.phases]
             for name, model in layers.items()}  # fmt: skip
    assert warps["se_resnext_v10"] == [0, 0, 0.02, 0, 0]
    assert warps["bn_inception_v4"] == [0.05] * 4 + [0.07] * 4
    assert warps["se_resnext_v6"] == [0, 0, 0, 0.05, 0.05]
    assert warps["bn_inception_v3"] == [0.05] * 4 + [0.07] * 5


@pytest.mark.parametrize("name", AUGMENT)
def test_one_more_layers_augmentation(layers, name):
    model = layers[name]
    for chosen, expected in zip(
        (model.augment, model.phases[-1].augment or model.augment), AUGMENT[name], strict=True
    ):
        zoom, light, warp, chance = expected
        assert tuple(chosen["zoom"]) == (1.0, zoom)
        assert chosen["brightness"] == chosen["contrast"] == light
        assert (chosen["warp"], chosen["p_lighting"]) == (warp, chance)


def test_bestfittings_numbers():
    config = bestfitting.get_config()
    class_thresholds = config.thresholds.proportions
    assert class_thresholds == tuple(float(x) for x in RATIOS.split())
    points = inspect.signature(thresholds.match_proportions).parameters["grid"].default
    assert points == 10_000
    assert (config.thresholds.method, config.thresholds.match_on) == ("match_proportions", "test")
    assert config.submission.argmax == "always" and config.ensemble.average_duplicates
    assert config.train.monitor == "focal"
    assert config.split.folds == 5 and tuple(config.split.trained_folds) == (0, 1, 2)
    assert config.split.scheme == "folds" and config.split.matches_test == "excluded"
    assert config.retrieval.model.backbone == "resnet50"  # of metric learning alone
    assert config.retrieval.tau == 0.65
    metric = config.retrieval.model
    assert (metric.phases[0].epochs, metric.phases[0].lr, metric.image_size) == (50, 1e-4, 768)
    assert (metric.checkpoint, metric.keep_epochs) == ("epoch:45", (45,))
    assert (metric.extra_channels, metric.augment, metric.views) == ("copy_red", "d4", "identity")
    assert (metric.head, metric.head_options["size"]) == ("embedding", 512)
    own = metric.optimizer
    assert (own.name, own.b1, own.b2, own.clip_norm) == ("adam", 0.9, 0.999, 1.0)
    assert config.retrieval.mode == "replace" and config.duplicates.radius == 12
    assert config.submission.method == "mean of models"
    assert (config.records.image_size, tuple(config.records.also)) == (768, (1536,))
    arcface = metric.loss.arcface
    assert (arcface.scale, arcface.margin, arcface.plain) == (30.0, 0.5, 0.5)
    for model in config.models.values():
        assert model.loss.to_dict() == dict(focal=0.5, lovasz=0.5, hard_log=0.5)
        assert model.optimizer.clip_norm == 1.0 and model.dropout == 0.5
        assert model.views["count"] == 3 and model.normalize == "hpa"
        assert (model.head, model.extra_channels) == ("bestfitting", "copy_red")
        own = model.optimizer
        assert (own.name, own.b1, own.b2, own.weight_decay) == ("adam", 0.9, 0.999, 0.0)
        crop, stored = model.augment["output_size"], model.image_size
        assert model.augment["name"] == "bestfitting" and model.checkpoint == "best"
        assert model.views["name"] == "crops" and views.make(model.views).aggregate == "max"
        assert tuple(model.views["share"]) == (crop / stored, 1.0)
        assert model.views["output_size"] == crop
        assert (model.large_stem, model.aux_weight) == (stored == 1536, 0.0)
        if model is not config.models.densenet121_large:
            assert (model.image_size, model.augment["output_size"]) == (768, 512)
    assert {model.backbone for model in config.models.values()} == {
        "densenet121", "inception_v3", "resnet18", "resnet34"
    }  # fmt: skip
    large = config.models.densenet121_large
    assert (large.image_size, large.augment["output_size"], large.large_stem) == (1536, 1024, True)
    assert config.models.densenet121.phases[0].schedule == (
        "25: 3e-4, 30: 1.5e-4, 35: 7.5e-5, 40: 3e-5, 45: 1e-5"
    )
    assert large.phases[0].schedule == "25: 3e-4, 35: 1.5e-4, 45: 7.5e-5, 50: 3e-5, 55: 1e-5"


def test_pudaes_numbers():
    config = pudae.get_config()
    models = config.models
    assert config.split.fraction == 1 / 11
    assert {n: m.phases[0].epochs for n, m in models.items()} == {
        **{f"resnet34_{fold}": 40 for fold in range(5)}, "se_resnext50": 22, "inception_v3": 27
    }  # fmt: skip
    assert all(model.phases[0].lr == 5e-4 for model in models.values())
    assert all(m.average.kind == "last" and m.average.count == 10 for m in models.values())
    assert all(
        model.loss.to_dict() == dict(focal_mean=dict(gamma=2.0)) for model in models.values()
    )
    assert (models.se_resnext50.batch_size, models.se_resnext50.accumulate) == (32, 4)
    assert (models.inception_v3.batch_size, models.inception_v3.accumulate) == (48, 2)
    assert models.se_resnext50.augment["output_size"] == 1024
    for name, model in models.items():
        small = name.startswith("resnet34")
        assert model.normalize == ("half_range" if small else "per_image")
        assert model.head == ("gap" if small else "attention")
        assert dict(model.augment) == dict(name="pudae", output_size=512 if small else 1024)
        assert model.phases[0].schedule == "constant" and model.aux_weight == 0.4
        own = model.optimizer
        assert (own.name, own.b1, own.b2, own.weight_decay) == ("adam", 0.9, 0.999, 0.0)
        assert model.accumulate_sum and model.dropout == 0.0
        assert dict(model.views) == dict(name="d4", output_size=512 if small else 1024)
        assert views.make(model.views).aggregate == "mean"
    assert [tuple(models[f"resnet34_{k}"].left_out) for k in range(5)] == [(k, 5) for k in range(5)]
    assert config.submission.argmax == "off" and config.submission.method == "ensemble"
    assert config.thresholds.method == "match_proportions_pudae"
    weights = config.ensemble.weights
    assert weights.to_dict() == {
        **{f"resnet34_{fold}": 0.2 for fold in range(5)}, "se_resnext50": 1.0, "inception_v3": 1.0
    }  # fmt: skip
    assert (config.ensemble.method, config.thresholds.match_on) == ("mean", "valid")
    assert tuple(thresholds.PUDAE_GRID) == tuple(k / 100 for k in range(5, 100))
    assert tuple(config.submission.leak_tables) == ("matches",)


def test_the_talks_list_is_tried_with_these_numbers():
    rows = {row["name"]: row for row in ablation.get_config().ablate.variations}
    augment = {name: rows[name]["set"]["models.*.augment"] for name in (
        "mixup", "sample pairing", "protein gain", "blanked protein")}  # fmt: skip
    assert augment == {
        "mixup": dict(name="demo", mixup=0.4),
        "sample pairing": dict(name="demo", sample_pairing=0.5),
        "protein gain": dict(name="demo", protein_gain=0.3),
        "blanked protein": dict(name="demo", blank_protein=0.5),
    }
    assert rows["wrong labels"]["set"] == {"data.synthetic.label_noise": 0.05}
