"""Published weights that have seen this run's images: refused, or every score says so."""

import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import cache, checks, collect, scores, seen
from hpa_jax.pipeline.context import Context


def context(tmp_path, source="kaggle", root="x", flags=None, **models):
    config = configs.default().unlock()
    config.data.source, config.data.root = source, root
    for name, init_from in models.items():
        config.models[name] = configs.model(init_from=init_from)
    return Context(config.lock(), tmp_path, flags or {})


BY_WINNER = dict(fresh="", winner="published:hpa_densenet121", next="model:winner")


def test_labelled_images_it_was_trained_on_are_in_sample(tmp_path):
    here = context(tmp_path, **BY_WINNER)
    assert seen.parts(here) == {"winner": {"train", "external"}, "next": {"train", "external"}}
    notes = seen.notes(here)
    assert notes["winner"] == notes["next"] == notes["stack"] == "in sample"
    assert notes["fresh"] == "" and set(seen.notes(here, test=True).values()) == {""}
    with pytest.raises(InputError, match=r"models\.(winner|next).*train.*--allow-seen"):
        checks.before(here, ["thresholds"])
    checks.before(context(tmp_path, flags={"allow-seen": True}, **BY_WINNER), ["thresholds"])


def test_test_images_it_may_have_seen_are_transductive(tmp_path):
    here = context(tmp_path, atlas="published:subcell_mae_rbg")
    assert seen.notes(here, test=True)["atlas"] == "transductive"
    marked = seen.marked(here, {"atlas": {"macro_f1": 0.5}}, test=True)
    assert scores.summary(marked) == "atlas 0.500 (transductive)"


@pytest.mark.parametrize(
    ("source", "root", "weights"),
    [
        ("folder", "mine", "published:hpa_densenet121"),  # a user's own images
        ("synthetic", "", "published:hpa_densenet121"),
        ("kaggle", "x", "published:dinov2_vits14"),
        ("kaggle", "x", "/some/file.pth"),
    ],
)
def test_nothing_is_said_where_nothing_was_seen(tmp_path, source, root, weights):
    here = context(tmp_path, source, root, one=weights)
    assert seen.parts(here) == {} and seen.settings(here) == {}
    assert not any(seen.notes(here).values())
    checks.before(here, ["thresholds"])


def test_an_atlas_source_is_covered_by_models_of_the_atlas(tmp_path):
    here = context(tmp_path, "atlas", "x", one="published:cell_dino_hpa_sc")
    assert seen.parts(here) == {"one": {"external"}}


LIST = ("Id,Target", "a1,0", "HPA001,3")  # an image's id, and an antibody


@pytest.fixture
def listed(tmp_path):
    """A run with a model of weights that were trained on the images of a list, and one after it."""
    here = context(tmp_path, own="/some/weights.pth", next="model:own", fresh="")
    path = tmp_path / "list.csv"
    path.write_text("\n".join(LIST))
    with here.config.unlocked():
        here.config.duplicates.trained_on = {"own": str(path)}
    catalog = pd.DataFrame(
        {
            "id": ["a1", "a2", "a3", "e1", "e2", "t1", "t2"],
            "source": ["train"] * 3 + ["external"] * 2 + ["test"] * 2,
            "antibody": [None, None, None, "HPA001", "HPA002", None, None],
        }
    )
    groups = pd.DataFrame({"id": catalog["id"], "group": [0, 1, 0, 2, 3, 2, 4]})
    artifacts.write_table(tmp_path / "catalog.parquet", catalog)
    artifacts.write_table(tmp_path / "groups.parquet", groups)
    return here


def test_a_list_of_ids_and_antibodies_is_compared_with_the_images(listed, tmp_path):
    checks.before(listed, ["thresholds"])  # nothing is known before the images are compared
    (task,) = seen.tasks(listed)
    assert "4 of own" in task.work()
    table = artifacts.read_table(tmp_path / "trained_on.parquet")
    of_own = table[table["model"] == "own"].set_index("id")["by"].to_dict()
    expected = {"a1": "id", "a3": "near-duplicate", "e1": "antibody", "t1": "near-duplicate"}
    assert of_own == expected
    everything = {"train", "external", "test"}
    assert seen.parts(listed) == {"own": everything, "next": everything}
    assert seen.notes(listed)["next"] == "in sample" and seen.notes(listed)["fresh"] == ""
    assert seen.notes(listed, test=True)["own"] == "transductive"
    with pytest.raises(
        InputError, match=r"(own|next): starts from /some/weights\.pth.*--allow-seen"
    ):
        seen.check(listed)


def test_a_list_stands_in_place_of_the_catalogue(listed, tmp_path):
    """Published weights that were fitted anew without the images of this run, say."""
    with listed.config.unlocked():
        listed.config.models.own.init_from = "published:hpa_densenet121"
    (tmp_path / "list.csv").write_text("id\nelsewhere\n")
    (task,) = seen.tasks(listed)
    task.work()
    assert seen.parts(listed) == {}


def test_another_list_is_compared_anew(listed, tmp_path):
    def key():
        (task,) = seen.tasks(listed)
        return [part.content() for part in task.inputs if isinstance(part, cache.Part)]

    before = key()
    (tmp_path / "list.csv").write_text("id\na2\n")
    assert key() != before


def test_a_list_of_a_model_without_weights_is_refused(listed):
    for name, words in (("fresh", "starts from no weights"), ("nobody", "unknown model")):
        with listed.config.unlocked():
            listed.config.duplicates.trained_on = {name: "list.csv"}
        with pytest.raises(InputError, match=rf"duplicates\.trained_on\.{name}.*{words}"):
            validation.validate(listed.config)


def test_a_model_whose_origin_is_not_collected_still_has_it(tmp_path):
    """--collect leaves the winner out; what goes on from it has seen the same."""
    here = context(tmp_path, **BY_WINNER)
    for part in ("valid", "test"):
        for name in ("fresh", "next"):
            path = tmp_path / "models" / name / "predictions" / f"{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    config, missing = collect.present(here)
    assert list(missing) == ["winner"] and set(config.models) == {"fresh", "next"}
    assert seen.parts(Context(config, tmp_path)) == {"next": {"train", "external"}}


def test_a_list_holds_where_the_model_that_it_names_is_not_collected(listed, tmp_path):
    (task,) = seen.tasks(listed)
    task.work()
    for part in ("valid", "test"):
        path = tmp_path / "models" / "next" / "predictions" / f"{part}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    config, missing = collect.present(listed)
    assert list(config.models) == ["next"] and "own" in missing
    assert seen.parts(Context(config, tmp_path)) == {"next": {"train", "external", "test"}}


def test_a_frozen_network_of_random_weights_is_marked(tmp_path):
    here = context(tmp_path, winner="published:hpa_densenet121")
    with here.config.unlocked():
        here.config.models.noise = configs.frozen_model()
    marks = seen.notes(here)
    assert marks["noise"] == "random weights" and marks["winner"] == "in sample"
    assert marks["stack"] == "in sample; random weights in noise"
    assert seen.notes(here, test=True)["mean of models"] == "random weights in noise"
    assert scores.summary(seen.marked(here, {"noise": {"macro_f1": 0.5}})) == (
        "noise 0.500 (random weights)"
    )
