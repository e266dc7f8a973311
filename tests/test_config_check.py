"""A config is refused before any work, with the key, its value and what it can be."""

import pytest

from hpa_jax import config as configs
from hpa_jax import config_check
from hpa_jax.errors import InputError


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
    config_check.validate(with_one())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(retrieval__mode="replaced"), ["retrieval.mode", "'replaced'", "replace"]),
        (dict(retrieval__model__head="gap"), ["retrieval.model.head", "embedding"]),
        (dict(retrieval__model__bakcbone="x"), ["retrieval.model.bakcbone", "backbone"]),
        (dict(models__m__checkpoint="newest"), ["models.m.checkpoint", "final"]),
        (dict(models__m__bakcbone="x"), ["models.m.bakcbone", "backbone"]),
        (dict(split__fraction=1.0), ["split.fraction=1.0", "between 0 and 1"]),
        (dict(classes=("a", "a")), ["classes", "each once"]),
        (dict(tresholds=1), ["tresholds", "thresholds"]),
    ],
)
def test_refused_with_key_and_choices(changes, words):
    with pytest.raises(InputError) as raised:
        config_check.validate(with_one(**changes))
    assert all(word in str(raised.value) for word in words)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'stages'"):
        config_check.check_key(with_one(), "models.m.stage[0].lr")
    with pytest.raises(InputError, match=r"1 items, \[0\] to \[0\]"):
        config_check.check_key(with_one(), "models.m.stages[3].lr")
