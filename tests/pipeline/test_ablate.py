"""The verb `ablate`: variations of a recipe, several seeds, one table."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import ablate
from tests.test_end_to_end import CONFIG, ROOT


def recipe(*variations, **options):
    config = configs.default().unlock()
    config.models = {"a": configs.model(), "b": configs.model()}
    config.ablate.update(variations=variations, **options)
    return config.lock()


def test_changes_reach_one_model_or_all_and_leave_the_base_alone():
    config = recipe()
    new = ablate.changed(
        config, {"models.*.loss": {"bce": 1.0}, "models.b.views": "identity", "leak": "off"}
    )
    assert [new.models[name].loss.to_dict() for name in "ab"] == [{"bce": 1.0}] * 2
    assert (new.models.a.views, new.models.b.views, new.leak) == ("d4", "identity", "off")
    assert config.models.a.loss.to_dict() == {"focal": 1.0} and config.leak == "on"


def test_a_seed_is_that_of_the_split_and_the_decision_too():
    keys = [key for key in recipe().to_dict() if key == "seed"]
    flat = configs.default()
    seeds = {f"{room}.seed" for room in flat if "seed" in getattr(flat[room], "keys", list)()}
    assert set(ablate.seeded(3)) == {*keys, *seeds}
    new = ablate.changed(recipe(), ablate.seeded(3))
    assert (new.seed, new.split.seed, new.thresholds.seed, new.stack.seed) == (3, 3, 3, 3)


def test_a_variation_adds_models_and_its_changes_reach_them():
    config = recipe()
    added = {"c": {"init_from": "model:a", "classes": config.classes[:2]}}
    new = ablate.varied(config, {"add": added, "set": {"models.*.views": "identity"}})
    assert list(new.models) == ["a", "b", "c"] and list(config.models) == ["a", "b"]
    assert new.models.c.init_from == "model:a" and len(new.models.c.classes) == 2
    assert {model.views for model in new.models.values()} == {"identity"}
    assert new.models.a.to_dict() == {**config.models.a.to_dict(), "views": "identity"}
    assert len(ablate.checked(recipe({"name": "x", "add": added, "method": "c"}))) == 2


def test_minutes_are_of_what_a_variation_did_anew(tmp_path):
    """The stamps of base and variation: records are the base's, training is another."""
    of = {"base": {"records": ("r", 120), "train-a": ("t", 60)}}
    of["x"] = {"records": ("r", 120), "train-a": ("u", 90), "train-b": ("v", 30)}
    for run, stamps in of.items():
        (tmp_path / run / ".stamps").mkdir(parents=True)
        for task, (key, seconds) in stamps.items():
            stamp = {"key": key, "outputs": [], "seconds": seconds}
            (tmp_path / run / ".stamps" / f"{task}.json").write_text(json.dumps(stamp))
    assert ablate.outcome(tmp_path / "base", {}, "a") == {"minutes": 3.0}
    assert ablate.outcome(tmp_path / "x", {}, "a", tmp_path / "base") == {"minutes": 2.0}


def test_a_change_that_did_nothing_is_refused(tmp_path):
    """Its row would say "no evidence" of what was never tried."""
    for run in ("base", "x"):
        (tmp_path / run / ".stamps").mkdir(parents=True)
        stamp = {"key": "t", "outputs": [], "seconds": 60}
        (tmp_path / run / ".stamps" / "train-a.json").write_text(json.dumps(stamp))
    variation = {"name": "x", "set": {"train.workers": 3}}
    with pytest.raises(InputError, match=r"'x': no step depends on train\.workers"):
        ablate.outcome(tmp_path / "x", variation, "a", tmp_path / "base")
    scored_otherwise = {"name": "x", "at": "half"}
    assert ablate.outcome(tmp_path / "x", scored_otherwise, "a", tmp_path / "base")


@pytest.mark.parametrize(
    ("variation", "said"),
    [
        ({"name": "x", "set": {"models.*.wiews": "d4"}}, "wiews"),
        ({"name": "x", "sett": {}}, "sett"),
        ({"name": "base"}, "needs a unique name"),
        ({"name": "a/b"}, "needs a unique name"),
        ({"name": "x", "at": "third"}, "third"),
        ({"name": "x", "method": "stak"}, "did you mean 'stack'"),
        ({"name": "x", "method": "ensemble"}, "unknown method"),
        ({"name": "x", "set": {"leak": "maybe"}}, "maybe"),
        ({"name": "x", "add": {"a": {}}}, "models.a: already exists"),
        ({"name": "x", "add": {"c": {"bacbone": "resnet18"}}}, "did you mean 'backbone'"),
        ({"name": "x", "add": {"c": {"init_from": "model:d"}}}, "unknown model 'd'"),
    ],
)
def test_a_wrong_variation_is_refused_by_name(variation, said):
    with pytest.raises(InputError, match=said):
        ablate.checked(recipe(variation))


def test_without_variations_or_seeds_nothing_begins():
    with pytest.raises(InputError, match="empty"):
        ablate.checked(recipe())
    with pytest.raises(InputError, match="seeds"):
        ablate.checked(recipe({"name": "x"}, seeds=(1, 1)))


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    base, other = rng.normal(0.6, 0.01, 5), rng.normal(0.63, 0.01, 5)
    found = ablate.paired(list(other - base))
    expected = stats.ttest_rel(other, base).confidence_interval(0.95)
    np.testing.assert_allclose(found["interval"], expected)
    assert found["verdict"] == ("better" if expected.low > 0 else "no evidence")
    assert ablate.paired([-0.1, -0.11, -0.1])["verdict"] == "worse"
    assert ablate.paired([0.1, -0.1, 0.0])["verdict"] == "no evidence"
    assert ablate.paired([0.1])["interval"] is None


@pytest.mark.slow
def test_only_what_a_variation_changes_is_done_again(tmp_path):
    """Two seeds, one variation of prediction and one of the data; then the same call once more."""
    recipe_file = tmp_path / "recipe.py"
    recipe_file.write_text(RECIPE)
    options = [f"--config={recipe_file}", *CONFIG[1:], f"--workdir={tmp_path / 'w'}"]
    command = [sys.executable, "-m", "hpa_jax", "ablate", *options]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    parts = out.split("== ")[1:]
    told = {part.split(" ==")[0]: part for part in parts}
    assert list(told) == [
        f"{name}, seed {seed}"
        for seed in (0, 1)
        for name in ("base", "plain", "alone", "half", "rare", "wrong")
    ]
    assert "[train-tiny] reads" in told["base, seed 1"]
    assert "[train-tiny] done before" in told["plain, seed 0"]
    assert "[predict-tiny] reads" in told["plain, seed 0"]
    assert "[train-tiny] reads" in told["alone, seed 0"]
    assert "[predict-tiny] done before" in told["half, seed 1"]
    assert "[train-tiny] done before" in told["rare, seed 1"]
    assert "[train-second] reads" in told["rare, seed 1"]
    assert [run for run in told if "[data]" in told[run]] == ["wrong, seed 0", "wrong, seed 1"]
    assert "[train-tiny] reads" in told["wrong, seed 1"]  # other labels of equal images
    assert "[records] done before" in told["wrong, seed 1"]
    rows = json.loads((tmp_path / "w" / "ablation.json").read_text())["variations"]
    base = json.loads(
        (tmp_path / "w" / "ablate" / "base" / "seed_1" / "evaluation.json").read_text()
    )
    assert rows[0]["test"]["values"][1] == base["scores"]["mean of models"]["macro_f1"]
    assert rows[3]["test"]["values"][1] == base["scores"]["mean of models"]["macro_f1_at_half"]
    assert 0 == rows[3]["minutes"]["mean"] < rows[1]["minutes"]["mean"] < rows[0]["minutes"]["mean"]
    assert rows[4]["test"]["values"] != rows[0]["test"]["values"]
    assert rows[5]["test"]["values"] != rows[0]["test"]["values"]
    first = (tmp_path / "w" / "ablation.json").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "reads" not in again
    assert (tmp_path / "w" / "ablation.json").read_bytes() == first


RECIPE = """
import runpy

from hpa_jax.config import defaults as base

def get_config(arg=""):
    config = runpy.run_path("configs/demo.py")["get_config"]().unlock()
    config.ablate.seeds = (0, 1)
    second = dict(config.models.tiny.items())
    # CONFIG shrinks the recipe's own two networks; the added one has to be as small by itself
    second |= dict(width=0.25, phases=(base.phase(epochs=1),))
    second |= dict(init_from="model:tiny", classes=config.classes[8:18])
    config.ablate.variations = (
        dict(name="plain", set={"models.*.views": "identity"}),
        dict(name="alone", set={"split.external": "excluded"}),
        dict(name="half", at="half"),
        dict(name="rare", add={"second": second}),
        dict(name="wrong", set={"data.synthetic.label_noise": 0.2}),
    )
    return config.lock()
"""
