"""The command line's values: read by the type of their option, refused in one line."""

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import overrides, settings, validation
from hpa_jax.core.errors import InputError

RECIPE = """
from hpa_jax.config import defaults as base
def get_config(arg=""):
    config = base.default().unlock()
    config.models = {"m": base.model(augment={"name": "oml"})}
    return config.lock()
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.py").write_text(RECIPE)
    return f"--config={tmp_path}/r.py"


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("seed=3", "seed", 3),
        ("refit=true", "refit", True),
        ("thresholds.scale=2", "thresholds.scale", (2,)),
        ("split.trained_folds=[0, 1]", "split.trained_folds", (0, 1)),
        ("data.root=7", "data.root", "7"),
        ("data.root=~/a=b", "data.root", "~/a=b"),
        ("stack.eta=1", "stack.eta", 1.0),
        ("stack.inner=None", "stack.inner", None),
        ("models.m.channels=red", "models.m.channels", ("red",)),
        ("models.m.augment=d4", "models.m.augment", "d4"),
        ("models.m.loss.focal=2", "models.m.loss.focal", 2.0),
        ("models.m.loss=dict(bce=1)", "models.m.loss.bce", 1),
        ("models.m.phases[0].dropout=0.25", "models.m.phases[0].dropout", 0.25),
        ("data.sources=(dict(source='kaggle'),)", "data.sources[0].source", "kaggle"),
    ],
)
def test_a_value_is_read_by_its_options_type(recipe, change, key, value):
    config, rest = overrides.configured([recipe, f"--config.{change}", "--workdir=w"])
    validation.validate(config)
    node = config
    for part in key.replace("[", ".[").split("."):
        node = node[int(part[1:-1])] if part.startswith("[") else node[part]
    assert node == value and type(node) is type(value)
    assert rest == ["--workdir=w"] and config.is_locked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=x", ["config.seed='x'", "whole number"]),
        ("refit=maybe", ["config.refit='maybe'", "true or false"]),
        ("data.sources=(dict(source=", ["config.data.sources", "a tuple"]),
        ("data.sources=(dict(weight='x'),)", ["config.data.sources[0].weight='x'", "a number"]),
        ("models.m.phases[0]=1", ["the whole tuple"]),
        ("seed[0]=1", ["no numbered items"]),
        ("sed=1", ["'sed'", "'seed'"]),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(recipe, change, words):
    with pytest.raises(InputError) as raised:
        validation.validate(overrides.configured([recipe, f"--config.{change}"])[0])
    text = str(raised.value)
    assert all(word in text for word in words) and "\n" not in text


def test_a_value_may_follow_as_the_next_argument(recipe):
    path = recipe.removeprefix("--config=")
    config, rest = overrides.configured(["--config", path, "--config.seed", "3", "--only", "m"])
    assert config.seed == 3 and rest == ["--only", "m"]
    with pytest.raises(InputError, match="needs a value"):
        overrides.configured([recipe, "--config.refit", "--only=m"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", ["no function get_config"]),
        ("def get_config(:\n", ["r.py:1:"]),
        ("def get_config():\n    return 1 / 0\n", ["r.py:2: ZeroDivisionError"]),
        ("def get_config():\n    return 5\n", ["no ConfigDict"]),
        (RECIPE.replace("config.models =", "config.lock().modles ="), ["r.py:5", "models"]),
    ],
)
def test_a_broken_recipe_is_named_with_its_line(tmp_path, text, words):
    (tmp_path / "r.py").write_text(text)
    with pytest.raises(InputError) as raised:
        overrides.configured([f"--config={tmp_path}/r.py"])
    assert all(word in str(raised.value) for word in words) and "\n" not in str(raised.value)


def test_the_packages_recipes_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no checkout is needed
    assert set(overrides.load("demo").models) == {"tiny", "tiny_wide"}
    found = overrides.recipes()
    assert "one_more_layer/solution" in found and "one_more_layer/common" not in found
    with pytest.raises(InputError, match="demo"):
        overrides.load("dmeo")


def test_a_variant_of_a_recipe_without_variants_is_refused(tmp_path):
    (tmp_path / "r.py").write_text(RECIPE.replace('arg=""', ""))
    with pytest.raises(InputError, match="no variants, so none called 'smoke'"):
        overrides.configured([f"--config={tmp_path}/r.py:smoke"])


def test_an_old_name_is_refused_by_the_new_one(monkeypatch, recipe):
    table = {"thresholds.cuts": "thresholds.folds"}
    table |= configs.in_every_model({"spin": "dropout", "phases[*].rate": "phases[*].lr"})
    monkeypatch.setattr(configs, "RENAMED", table)
    for key, new in {
        "thresholds.cuts": "folds",
        "models.m.spin": "dropout",
        "retrieval.model.spin": "dropout",
        "models.m.phases[0].rate": "lr",
    }.items():
        with pytest.raises(InputError, match=f"it is now '{new}'"):
            overrides.configured([recipe, f"--config.{key}=1"])
    with pytest.raises(InputError, match="it is now 'dropout'"):
        configs.model(spin=0.5)
    config = configs.default().unlock()
    config.thresholds.cuts = 5
    with pytest.raises(InputError, match=r"config\.thresholds\.cuts: .*it is now 'folds'"):
        validation.validate(config)


def test_stored_names_and_values_are_read_as_todays(monkeypatch):
    monkeypatch.setattr(
        configs, "RENAMED", {"cuts": "thresholds", "thresholds.many": "thresholds.folds"}
    )
    monkeypatch.setattr(configs, "RENAMED_VALUES", {"thresholds.method": {r"cv:(\d)": r"cross_\1"}})
    assert configs.current("cuts.many", 5) == ("thresholds.folds", 5)
    assert configs.current("cuts.method", "cv:3") == ("thresholds.method", "cross_3")
    changed, gone = settings.differences({"cuts.many": 5}, {"thresholds.folds": 5})
    assert (changed, gone) == ([], [])
