"""The teams' numbers in the recipes: rates, dropouts, batches, augmentation, cuts, weights."""

import pytest

from configs import bestfitting, pudae
from configs.one_more_layer import solution

# Network: epochs and rate of each stage, dropout after its last stage, batch of its last stage.
STAGES = dict(
    se_resnext_v2=([(1, 1e-3), (8, 1e-3), (8, 1e-4)], (0.2, 0.3), 12),
    se_resnext_v3=([(1, 1e-3), (8, 1e-3), (8, 1e-4)], (0.2, 0.3), 12),
    se_resnext_v5=([(1, 1e-3), (8, 1e-3), (8, 1e-4), (16, 5e-5)], 0.4, 24),
    se_resnext_v6=([(4, 1e-3), (8, 8e-4), (8, 1e-4), (8, 1e-4), (8, 5e-5)], 0.6, 12),
    se_resnext_v7=([(1, 1e-3), (8, 1e-3), (16, 1e-4)], 0.6, 12),
    se_resnext_v10=([(1, 1e-3), (8, 1e-3), (8, 1e-4), (16, 1e-4), (16, 5e-5)], 0.6, 24),
    se_resnext_v14=(
        [(8, 5e-3), (16, 1e-4), (16, 8e-5), (16, 5e-5), (16, 3e-5), (16, 2e-5)], 0.6, 25),
    se_resnext_lsep=([(4, 3e-5)], (0.2, 0.3), 12),
    se_resnext_ovr=([(1, 1e-3), (8, 5e-5), (8, 1e-5)], 0.4, 12),
    bn_inception_v3=(
        [(6, 2e-3), (16, 1e-3), (16, 5e-4), (16, 1e-4), (8, 1e-4), (8, 1e-4), (8, 5e-5),
         (8, 1e-4), (8, 9e-5)], 0.6, 28),
    bn_inception_v4=(
        [(4, 2e-3), (8, 2e-3), (8, 5e-4), (16, 3e-4), (16, 2e-4), (8, 1e-4), (8, 8e-5),
         (8, 5e-5)], 0.6, 12),
    xception=([(4, 2e-3), (8, 1e-4), (8, 1e-4), (8, 5e-4), (16, 2e-4)], 0.75, 12),
    inception_v4_v1=([(4, 1e-3), (8, 5e-4), (8, 1e-4), (16, 5e-5)], (0.6, 0.4), 12),
    inception_v4_v2=([(4, 1e-3), (8, 1e-3), (16, 1e-4), (8, 5e-5)], 0.6, 16),
)  # fmt: skip
# Network: zoom, lighting, warp and chance of lighting at the start and in the last stage.
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


@pytest.fixture(scope="module")
def layers():
    return solution.get_config().models


@pytest.mark.parametrize("name", STAGES)
def test_one_more_layers_stages(layers, name):
    model = layers[name]
    last = model.stages[-1]
    dropout = model.dropout if last.dropout is None else last.dropout
    batch = last.batch_size or model.batch_size
    found = [(stage.epochs, stage.lr) for stage in model.stages]
    assert (found, dropout, batch) == STAGES[name]


@pytest.mark.parametrize("name", AUGMENT)
def test_one_more_layers_augmentation(layers, name):
    model = layers[name]
    for chosen, expected in zip(
        (model.augment, model.stages[-1].augment or model.augment), AUGMENT[name], strict=True
    ):
        zoom, light, warp, chance = expected
        assert tuple(chosen["zoom"]) == (1.0, zoom)
        assert chosen["brightness"] == chosen["contrast"] == light
        assert (chosen["warp"], chosen["p_lighting"]) == (warp, chance)


def test_bestfittings_numbers():
    config = bestfitting.get_config()
    cuts = config.thresholds.proportions
    assert len(cuts) == 28 and sum(cuts) == pytest.approx(1.589822, abs=1e-9)
    assert (cuts[0], cuts[21], cuts[25], cuts[27]) == (0.362398, 0.126126, 0.222494, 0.000354)
    assert config.split.folds == 5 and tuple(config.split.trained_folds) == (0, 1, 2)
    assert config.retrieval.tau == 0.65
    metric = config.retrieval.model
    assert (metric.stages[0].epochs, metric.stages[0].lr, metric.image_size) == (50, 1e-4, 768)
    assert (metric.checkpoint, metric.keep_epochs) == ("epoch:45", (45,))
    arcface = metric.loss.arcface
    assert (arcface.scale, arcface.margin, arcface.plain) == (30.0, 0.5, 0.5)
    for model in config.models.values():
        assert model.loss.to_dict() == dict(focal=0.5, lovasz=0.5, hard_log=0.5)
        assert model.optimizer.clip_norm == 1.0 and model.dropout == 0.5
        assert model.views["count"] == 3
    large = config.models.densenet121_large
    assert (large.image_size, large.augment["output_size"], large.large_stem) == (1536, 1024, True)
    assert config.models.densenet121.stages[0].schedule == (
        "25: 3e-4, 30: 1.5e-4, 35: 7.5e-5, 40: 3e-5, 45: 1e-5"
    )
    assert large.stages[0].schedule == "25: 3e-4, 35: 1.5e-4, 45: 7.5e-5, 50: 3e-5, 55: 1e-5"


def test_pudaes_numbers():
    config = pudae.get_config()
    models = config.models
    assert config.split.fraction == 1 / 11
    assert {n: m.stages[0].epochs for n, m in models.items()} == {
        **{f"resnet34_{fold}": 40 for fold in range(5)}, "se_resnext50": 22, "inception_v3": 27
    }  # fmt: skip
    assert all(model.stages[0].lr == 5e-4 for model in models.values())
    assert all(m.average.kind == "last" and m.average.count == 10 for m in models.values())
    assert all(
        model.loss.to_dict() == dict(focal_mean=dict(gamma=2.0)) for model in models.values()
    )
    assert (models.se_resnext50.batch_size, models.se_resnext50.accumulate) == (32, 4)
    assert (models.inception_v3.batch_size, models.inception_v3.accumulate) == (48, 2)
    assert models.se_resnext50.augment["output_size"] == 1024
    weights = config.ensemble.weights
    assert [weights[n] for n in ("resnet34_0", "se_resnext50", "inception_v3")] == [0.2, 1, 1]
