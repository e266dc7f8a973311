"""A config is refused before any work, with the key, its value and what it can be."""

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core.errors import InputError


def with_one(**changes):
    config = configs.default().unlock()
    config.models = {"m": configs.model()}
    for key, value in changes.items():
        node = config
        *path, leaf = key.split("__")
        for part in path:
            node = node[part]
        with node.ignore_type():
            node[leaf] = value
    return config


def test_the_defaults_are_valid():
    validation.validate(with_one())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(retrieval__mode="replaced"), ["retrieval.mode", "'replaced'", "replace"]),
        (dict(retrieval__model__head="gap"), ["retrieval.model.head", "embedding"]),
        (dict(retrieval__model__bakcbone="x"), ["retrieval.model.bakcbone", "backbone"]),
        (dict(models__m__checkpoint="newest"), ["models.m.checkpoint", "final"]),
        (dict(models__m__bakcbone="x"), ["models.m.bakcbone", "backbone"]),
        (dict(split__fraction=1.0), ["split.fraction=1.0", "between 0 and 1"]),
        (dict(classes=("a", "a")), ["classes", "distinct"]),
        (dict(tresholds=1), ["tresholds", "thresholds"]),
        (dict(split__fracton=0.1), ["config.split.fracton", "'fraction'"]),
        (dict(records__imagesize=64), ["config.records.imagesize", "'image_size'"]),
        (dict(thresholds__wrong=1), ["config.thresholds.wrong"]),
        (dict(data__folder__patern="x"), ["config.data.folder.patern", "'pattern'"]),
        (dict(models__m__average__knd="last"), ["config.models.m.average.knd", "'kind'"]),
        (dict(models__m__optimizer__wieght_decay=1), ["m.optimizer.wieght_decay", "weight_decay"]),
        (dict(retrieval__model__optimizer__b3=1), ["config.retrieval.model.optimizer.b3", "b2"]),
        (dict(split=5), ["config.split=5", "fraction"]),
        (dict(stack__learner="lightgbm"), ["config.stack.learner", "'lightgbm'", "boosted"]),
        (dict(stack__inner=1), ["config.stack.inner=1", "at least 2"]),
        (dict(stack__device="tpu"), ["config.stack.device", "'tpu'", "cuda"]),
        (dict(stack__eta=0.0), ["config.stack.eta=0.0", "above 0"]),
        (dict(stack__bins=1), ["config.stack.bins=1"]),
        (dict(stack__shrink=-1.0), ["config.stack.shrink=-1.0", "at least 0"]),
        (dict(thresholds__folds=1), ["thresholds.folds=1", "2 to 127"]),
        (dict(thresholds__grid=1), ["thresholds.grid=1", "at least 2"]),
        (dict(thresholds__repeats=0), ["thresholds.repeats=0", "at least 1"]),
        (dict(thresholds__shrink=-3.0), ["thresholds.shrink=-3.0", "at least 0"]),
        (dict(thresholds__scale=(-1.0,)), ["thresholds.scale[0]=-1.0", "above 0"]),
        (dict(thresholds__proportions=(2.0,) * 28), ["thresholds.proportions[0]=2.0", "0 to 1"]),
        (dict(thresholds__value=1.5), ["thresholds.value=1.5", "0 to 1"]),
        (dict(thresholds__combine="mode"), ["thresholds.combine", "median"]),
        (dict(thresholds__shrink_towards="zero"), ["thresholds.shrink_towards", "proportions"]),
        (dict(ensemble__weights={"m": -1.0}), ["ensemble.weights.m=-1.0", "at least 0"]),
        (dict(predict__batch_size=0), ["predict.batch_size=0", "at least 1"]),
        (dict(predict__tile=-3), ["predict.tile=-3", "at least 0"]),
        (dict(seed="x"), ["config.seed='x'", "whole number"]),
        (dict(seed=True), ["config.seed=True", "whole number"]),
        (dict(models__m__batch_size=-3), ["models.m.batch_size=-3", "at least 1"]),
        (dict(models__m__image_size=7), ["models.m.image_size=7", "16 to 8192"]),
        (dict(models__m__image_size=64, models__m__backbone="inception_v3"), ["75 pixels"]),
        (dict(models__m__phases=(dict(lr=1e9),)), ["phases[0].lr=1000000000.0", "at most 10"]),
        (dict(models__m__phases=(dict(schedule="x:1"),)), ["phases[0].schedule", "step table"]),
        (dict(models__m__phases=(dict(epochs=3, cycles=2),)), ["phases[0].cycles=2", "divide"]),
        (dict(models__m__phases=()), ["models.m.phases", "at least one"]),
        (dict(models__m__backbone="resnet35"), ["backbone='resnet35'", "did you mean 'resnet"]),
        (dict(models__m__loss={"focall": 1.0}), ["config.models.m.loss", "'focal'"]),
        (dict(models__m__loss={"focal": {"gama": 1.0}}), ["models.m.loss.focal", "'gamma'"]),
        (dict(models__m__augment="pudea"), ["models.m.augment='pudea'", "'pudae'"]),
        (dict(models__m__augment={"name": "oml", "wrap": 1}), ["models.m.augment", "'warp'"]),
        (dict(models__m__views={"name": "oml", "round": 1}), ["models.m.views", "'rounds'"]),
        (dict(models__m__optimizer__name="adm"), ["optimizer.name='adm'", "'adam'"]),
        (dict(models__m__head_options={"hiden": 5}), ["head_options.hiden", "'hidden'"]),
        (dict(models__m__normalize="imagnet"), ["models.m.normalize", "'imagenet'"]),
        (dict(models__m__channels=("red", "gren")), ["models.m.channels[1]='gren'", "'green'"]),
        (dict(models__m__as_run=True), ["models.m.backbone", "xception"]),
        (dict(retrieval__model__views="d5"), ["config.retrieval.model.views='d5'", "'d4'"]),
        (dict(data__sources=(dict(source="kagle"),)), ["data.sources[0].source", "'kaggle'"]),
        (dict(data__sources=(dict(weight="x"),)), ["data.sources[0].weight='x'", "a number"]),
        (dict(data__sources=(dict(source="folder", patern=1),)), ["[0].patern", "'pattern'"]),
        (dict(split__fraction=float("nan")), ["split.fraction=nan", "between 0 and 1"]),
        (dict(thresholds__shrink=float("inf")), ["thresholds.shrink=inf"]),
    ],
)
def test_refused_with_key_and_choices(changes, words):
    with pytest.raises(InputError) as raised:
        validation.validate(with_one(**changes))
    assert all(word in str(raised.value) for word in words)


def test_a_stages_keys_are_known_and_free_forms_are_free():
    config = with_one(models__m__loss={"focal": {"gamma": 1.0}}, models__m__views={"name": "oml"})
    config.ensemble.weights = {"m": 1.0}
    config.models.m.head_options = {"hidden": 5}
    validation.validate(config)
    phase = configs.phase()
    with phase.unlocked():
        phase.epoch = 2
    config.models.m.phases = (configs.phase(), phase)
    with pytest.raises(InputError, match=r"models\.m\.phases\[1\]\.epoch: .*'epochs'"):
        validation.validate(config)
