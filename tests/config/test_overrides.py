"""The command line's values: read by the type of their option, refused in one line."""

from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import overrides, reference, renamed, settings, validation
from hpa_jax.core import classes
from hpa_jax.core.errors import InputError

RECIPE = """
from hpa_jax.config import defaults as base
def get_config(arg=""):
    config = base.default().unlock()
    config.models = {"m": base.model(
        augment={"name": "oml", "drop": (("red", 0.1), ("blue", 0.2))}, batch_size=8,
        channels=("red", "green"), normalize="imagenet",
        phases=(base.phase(), base.phase(lr=1e-2)))}
    config.records.also = (256, 384)
    config.data.sources = (dict(source="kaggle", root="there"), dict(source="folder"))
    return config.lock()
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.py").write_text(RECIPE)
    return f"--config={tmp_path}/r.py"


CLASS = 'of_class["Rods & rings"]'
# change -> [(where, what stands there)]; "a/0/b" is config["a"][0]["b"].
RIGHT = {
    # a leaf of a section, by its type
    "seed=3": [("seed", 3)],
    "refit=true": [("refit", True)],
    "refit=0": [("refit", False)],
    "split.fraction=0.5": [("split/fraction", 0.5)],
    "data.root=7": [("data/root", "7")],
    "data.root=~/a=b": [("data/root", "~/a=b")],
    "models.m.augment=d4": [("models/m/augment", "d4")],
    # None by default
    "stack.eta=1": [("stack/eta", 1.0)],
    "stack.inner=4": [("stack/inner", 4)],
    "stack.inner=None": [("stack/inner", None)],
    "data.folder.frame=2": [("data/folder/frame", 2)],
    "models.m.depth_groups=3": [("models/m/depth_groups", 3)],
    "models.m.phases[0].dropout=0.25": [("models/m/phases/0/dropout", 0.25)],
    "models.m.phases[0].augment=oml": [("models/m/phases/0/augment", "oml")],
    "models.m.phases[0].loss.bce=1": [("models/m/phases/0/loss", {"bce": 1})],
    # items of tuples
    "models.m.phases[0].lr=3e-4": [("models/m/phases/0/lr", 3e-4)],
    "models.m.phases[1].lr=3": [("models/m/phases/1/lr", 3.0), ("models/m/phases/0/lr", 1e-3)],
    "models.m.phases[1]={'epochs': 7}": [
        ("models/m/phases/1/epochs", 7),
        ("models/m/phases/1/lr", 1e-2),  # what a mapping does not name stays
    ],
    "classes[3]=Golgi & more": [("classes/3", "Golgi & more"), ("classes/4", classes.NAMES[4])],
    "models.m.channels[1]=blue": [("models/m/channels", ("red", "blue"))],
    "records.also[1]=512": [("records/also", (256, 512))],
    "data.folder.percentiles[0]=1": [("data/folder/percentiles", (1.0, 99.999))],
    "models.m.augment.drop[0][1]=0.5": [("models/m/augment/drop", (("red", 0.5), ("blue", 0.2)))],
    "data.sources[0].root=here": [("data/sources/0/root", "here")],
    "data.sources[1].weight=2": [("data/sources/1/weight", 2.0)],
    "data.sources[1].missing.red=zeros": [("data/sources/1/missing", {"red": "zeros"})],
    "data.sources[1].tokens={'red': 'w1'}": [("data/sources/1/tokens", {"red": "w1"})],
    # a number where a tuple is allowed, and the reverse
    "thresholds.scale=2": [("thresholds/scale", (2,))],
    "records.also=768": [("records/also", (768,))],
    "split.trained_folds=0,1": [("split/trained_folds", (0, 1))],
    "split.trained_folds=[0, 1]": [("split/trained_folds", (0, 1))],
    "models.m.channels=red": [("models/m/channels", ("red",))],
    "models.m.depth=2": [("models/m/depth", 2.0)],
    "models.m.depth=(3, 4)": [("models/m/depth", (3, 4))],
    "models.m.phases[0].lr_decay=(1, 2)": [("models/m/phases/0/lr_decay", (1, 2))],
    # names that are free
    "models.m.loss.focal=2": [("models/m/loss", {"focal": 2.0})],
    "models.m.loss.bce=0.5": [("models/m/loss", {"bce": 0.5, "focal": 1.0})],
    "models.m.loss={'focal': {'gamma': 1}}": [("models/m/loss", {"focal": {"gamma": 1}})],
    "models.m.loss=dict(bce=1)": [("models/m/loss", {"bce": 1})],
    "data.folder.channels.DAPI=blue": [("data/folder/channels", {"DAPI": "blue"})],
    "ensemble.weights.m=2": [("ensemble/weights", {"m": 2.0})],
    "models.m.augment.rotate=9": [("models/m/augment/rotate", 9)],
    "models.m.views.aggregate=max": [("models/m/views", {"name": "d4", "aggregate": "max"})],
    f"stack.{CLASS}.depth=2": [("stack/of_class/Rods & rings/depth", 2)],
    "classes[0]=a.b=c|stack.of_class['a.b=c'].eta=0.5": [("stack/of_class/a.b=c/eta", 0.5)],
    # mappings for sections, and models
    "split={'folds': 3}": [("split/folds", 3), ("split/fraction", 0.2)],
    "models.m.optimizer=dict(name='sgd')": [
        ("models/m/optimizer/name", "sgd"),
        ("models/m/optimizer/b1", 0.9),
    ],
    "models.m={'image_size': 96}": [("models/m/image_size", 96), ("models/m/batch_size", 8)],
    "models.third=se_resnext50": [
        ("models/third/backbone", "se_resnext50"),
        ("models/third/batch_size", 32),
    ],
    "models.third=dict(backbone='resnet18', average=dict(kind='last'))": [
        ("models/third/average/kind", "last"),
        ("models/third/average/count", 10),
    ],
    "models.third=resnet18|models.third.phases[0].epochs=4": [
        ("models/third/phases/0/epochs", 4),
        ("models/m/phases/0/epochs", 1),
    ],
    "models={'a': 'resnet18'}": [("models/a/backbone", "resnet18"), ("models/a/width", 1.0)],
    "data.sources=(dict(source='kaggle'),)": [("data/sources", ({"source": "kaggle"},))],
}
# change -> words of the one line that refuses it
WRONG = {
    "seed=x": ["config.seed='x'", "a whole number"],
    "seed=[1]": ["config.seed=(1,)", "a whole number"],
    f"seed={'9' * 30}": ["config.seed=9", "64 bits"],
    "refit=maybe": ["config.refit='maybe'", "true or false"],
    "split.fraction=2": ["config.split.fraction=2.0", "between 0 and 1"],
    "split=5": ["config.split=5", "fraction"],
    "models.m.backbone=resnet35": ["config.models.m.backbone='resnet35'", "'resnet34'"],
    "stack.eta=high": ["config.stack.eta='high'", "a number or None"],
    # paths that lead nowhere
    "sed=1": ["--config.sed='1'", "no 'sed'", "'seed'"],
    "seed.x=1": ["--config.seed.x='1'", "seed is a whole number", "no 'x'"],
    "seed[0]=1": ["--config.seed[0]='1'", "seed has no numbered items"],
    "models[0]=1": ["models has no numbered items", "m"],
    "models.m.epochs=3": ["models.m has no 'epochs'", "models.m.phases[0].epochs"],
    "models.n.image_size=64": ["models has no 'n'", "--config.models.n=BACKBONE"],
    "models.items=resnet18": ["'items'", "can't be a name"],
    "models['a b']=resnet18": ["'a b'", "letters, digits and _"],
    "models.m.phases.lr=1": ["models.m.phases has numbered items ([0] to [1])", "'lr'"],
    "classes[28]=x": ["classes has 28 items, [0] to [27]", "whole tuple, classes=(...)"],
    "classes[-1]=x": ["--config.classes[-1]='x'", "28 items, [0] to [27]"],
    "split.trained_folds[0]=1": ["split.trained_folds has no items", "whole tuple"],
    "classes[1:2]=x": ["the path can't be read", "[0]"],
    "stack.of_class[Rods & rings].eta=1": ["the path can't be read", "in quotes"],
    "models.m..lr=1": ["the path can't be read"],
    "=1": ["the path can't be read"],
    "models.m.loss.focal.gamma=1": ["loss.focal is 1.0, not a mapping", "focal=dict(gamma=...)"],
    "models.m.phases[0].augment.zoom=1": ["augment is None", "dict(name=..., zoom=...)"],
    # values that don't fit below
    "models.m.phases[0]=1": ["config.models.m.phases[0]=1", "epochs, lr"],
    "models.m.phases[0].lr=fast": ["config.models.m.phases[0].lr='fast'", "a number"],
    "models.m.channels[0]=gren": ["config.models.m.channels[0]='gren'", "'green'"],
    "models.m.loss=focal": ["config.models.m.loss='focal'", "{'focal': 1.0}"],
    "models.m.loss.focall=1": ["config.models.m.loss", "'focall'", "'focal'"],
    "models.m.augment.rotat=1": ["config.models.m.augment", "'rotat'", "'rotate'"],
    "models.third=se_resnext51": ["config.models.third.backbone='se_resnext51'", "'se_resnext50'"],
    "models.third=dict(backbon='resnet18')": ["config.models.third.backbon", "'backbone'"],
    "models.third=5": ["config.models.third=5", "backbone"],
    "data.sources=(dict(source=": ["config.data.sources", "a tuple"],
    "data.sources=(dict(weight='x'),)": ["config.data.sources[0].weight='x'", "a number"],
    "data.sources[0].tokens={'red': 'w1'}": ["data.sources[0].tokens", "(source kaggle)"],
    "data.sources[0].rot=x": ["data.sources[0] has no 'rot'", "'root'"],
    "stack.of_class['Nucleolus'].eta=1": ["stack.of_class", "'Nucleolus'", "'Nucleoli'"],
    f"stack.{CLASS}.eta=x": [f"config.stack.{CLASS}.eta='x'", "a number"],
    f"stack.{CLASS}=5": [f"config.stack.{CLASS}=5", "a mapping"],
    "ensemble.weights.n=1": ["config.ensemble.weights.n", "unknown model"],
    r"ensemble.weights['a\nb']=1": [r"config.ensemble.weights['a\nb']", "unknown model"],
}


def given(recipe, changes):
    return overrides.configured([recipe, *(f"--config.{c}" for c in changes.split("|"))])


def node_at(config, where):
    for part in where.split("/"):
        config = config[int(part) if part.isdecimal() else part]
    return config.to_dict() if isinstance(config, ConfigDict) else config


def test_the_table_is_of_sixty_changes_or_more():
    assert len(RIGHT) + len(WRONG) >= 60


@pytest.mark.parametrize("changes", RIGHT)
def test_a_value_is_read_by_its_options_type(recipe, changes):
    config, rest = given(recipe, changes)
    validation.validate(config)
    for where, value in RIGHT[changes]:
        found = node_at(config, where)
        assert found == value and type(found) is type(value)
    assert rest == [] and config.is_locked and config.models.is_locked


@pytest.mark.parametrize("changes", WRONG)
def test_a_value_that_does_not_fit_is_one_line(recipe, changes):
    with pytest.raises(InputError) as raised:
        validation.validate(given(recipe, changes)[0])
    text = str(raised.value)
    assert all(word in text for word in WRONG[changes]) and len(text.splitlines()) == 1


def test_a_change_reaches_one_model_where_two_share_a_mapping(tmp_path):
    text = RECIPE.replace(
        "return",
        """config.models.n = config.models.m
    return""",
    )
    (tmp_path / "r.py").write_text(text)
    config, _ = given(
        f"--config={tmp_path}/r.py", "models.m.optimizer.b1=0.5|models.m.phases[0].lr=2"
    )
    assert (config.models.m.optimizer.b1, config.models.n.optimizer.b1) == (0.5, 0.9)
    assert (config.models.m.phases[0].lr, config.models.n.phases[0].lr) == (2.0, 1e-3)


def test_a_change_of_a_reference_reaches_all_who_share_it(tmp_path):
    line = "config.split.seed = config.get_ref('seed')\n    return"
    (tmp_path / "r.py").write_text(RECIPE.replace("return", line))
    config, _ = given(f"--config={tmp_path}/r.py", "seed=5")
    assert (config.seed, config.split.seed) == (5, 5)


NAMES = "seed models m third phases lr loss focal augment views stack of_class data sources root"
NAMES += " classes split optimizer head_options ensemble weights channels ablate variations items"
ENDS = ("[0]", "[1]", "[-1]", "[99]", "[:]", "[", "]", ".", '["a.b"]', "['a b']", "[x]")
PARTS = st.sampled_from((*(f".{name}" for name in NAMES.split()), *ENDS))
PATHS = st.lists(PARTS, max_size=5).map(lambda parts: "".join(parts).removeprefix("."))
# Paths of options, as random ones seldom lead far.
KNOWN = [path.replace("NAME", "m").replace("[K]", "[0]") for path, _ in reference.entries()]
KEYS = st.text(max_size=3) | st.sampled_from(["name", "lr", "m", "a.b", 1, None])
ODD = st.sampled_from([10**400, 2**64, -1, 0, 1.5, "focal", "d4", "m", ..., 1j])
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | ODD,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=5,
)
VALUES = (
    LITERALS.map(repr) | st.text(max_size=8) | st.sampled_from(["(" * 300, "-" * 5000, "f'{x}'"])
)


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.example(path="seed", text="0x" + "f" * 5000, second="seed=1")
@hypothesis.example(path="[" * 500, text="1", second="seed=1")
@hypothesis.example(path="split", text="(1, 2)", second="split[0].x=1")
@hypothesis.example(path="seed", text="1", second="models.m.aux_weight=1" + "0" * 400)
@hypothesis.example(
    path="models", text="{'m': {'aux_weight': 1" + "0" * 400 + "}}", second="seed=1"
)
@hypothesis.example(path="seed", text="-1" + "0" * 400, second="train.keep=1" + "0" * 400)
@hypothesis.given(
    path=st.sampled_from(KNOWN) | PATHS | st.text(max_size=8),
    text=VALUES,
    second=st.builds("{}={}".format, st.sampled_from(KNOWN), VALUES),
)
def test_random_changes_end_in_a_valid_config_or_in_one_line(path, text, second):
    """None in a traceback, whatever else was changed before."""
    config = configs.default().unlock()
    config.models = {"m": configs.model()}
    config.data.sources = ({"source": "kaggle"},)
    with mock.patch.object(overrides, "load", lambda recipe: config.lock()):
        try:
            changes = [f"--config.{path}={text}", f"--config.{second}"]
            validation.validate(overrides.configured(["--config=r.py", *changes])[0])
        except InputError as error:
            assert len(str(error).splitlines()) == 1


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
        ("def get_config():\n    return 5\n", ["must return a ConfigDict"]),
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
    with pytest.raises(InputError, match="no variants, got 'smoke'"):
        overrides.configured([f"--config={tmp_path}/r.py:smoke"])


def test_an_old_name_is_refused_by_the_new_one(monkeypatch, recipe):
    table = {"thresholds.cuts": "thresholds.folds"}
    table |= renamed.in_every_model({"spin": "dropout", "phases[*].rate": "phases[*].lr"})
    monkeypatch.setattr(renamed, "RENAMED", table)
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
        renamed, "RENAMED", {"cuts": "thresholds", "thresholds.many": "thresholds.folds"}
    )
    monkeypatch.setattr(renamed, "RENAMED_VALUES", {"thresholds.method": {r"cv:(\d)": r"cross_\1"}})
    assert renamed.current("cuts.many", 5) == ("thresholds.folds", 5)
    assert renamed.current("cuts.method", "cv:3") == ("thresholds.method", "cross_3")
    changed, gone = settings.differences({"cuts.many": 5}, {"thresholds.folds": 5})
    assert (changed, gone) == ([], [])
