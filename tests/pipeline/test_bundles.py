"""What --model names: which weights, views and thresholds; averages; images of the right side."""

import json
import shutil

import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.decision import bundle
from hpa_jax.pipeline import arrays, bundles, export, refit
from hpa_jax.pipeline.context import Context, side_for
from hpa_jax.training import checkpoint


@pytest.fixture
def workdir(done, tmp_path):
    """A copy of what predict --model reads of a run, to be changed."""
    source, _ = done
    for name in ("run.json", "thresholds.json"):
        shutil.copy(source / name, tmp_path / name)
    for name in ("tiny", "tiny_wide"):
        shutil.copytree(
            source / "models" / name / "checkpoints", tmp_path / "models" / name / "checkpoints"
        )
    return tmp_path


def change_run(workdir, **options):
    stored = json.loads((workdir / "run.json").read_text())
    stored["config"]["models"]["tiny"].update(options)
    (workdir / "run.json").write_text(json.dumps(stored))


def change_thresholds(workdir, **thresholds):
    stored = json.loads((workdir / "thresholds.json").read_text())
    stored["thresholds"].update({n.replace("_of_", " of "): c for n, c in thresholds.items()})
    (workdir / "thresholds.json").write_text(json.dumps(stored))


def test_weights_and_views_are_those_of_the_run(workdir, monkeypatch):
    """The run predicts with what its config says last, not with what training began with."""
    change_run(workdir, checkpoint="last", views="oml")
    loaded, plain = [], checkpoint.load

    def load(folder, which):
        loaded.append(which)
        return plain(folder, which)

    monkeypatch.setattr(checkpoint, "load", load)
    packed = bundles.of_folders(str(workdir / "models" / "tiny"))
    folder = workdir / "models" / "tiny" / "checkpoints"
    assert loaded == [checkpoint.find(folder, "last")]
    assert [member.views for member in packed.members] == ["oml"]
    assert packed.training_images["image_size"] == 64


def test_snapshots_are_all_there(workdir):
    change_run(workdir, checkpoint="snapshots")
    packed = bundles.of_folders(str(workdir / "models" / "tiny"))
    steps = checkpoint.snapshots(workdir / "models" / "tiny")
    assert len(packed.members) == len(steps) and packed.models == ["tiny"]


def test_an_average_has_the_cuts_of_the_average(workdir):
    given = f"{workdir}/models/tiny,{workdir}/models/tiny_wide"
    change_thresholds(workdir, mean_of_models=[0.25] * 28)
    packed = bundles.of_folders(given)
    assert packed.models == ["tiny", "tiny_wide"]
    assert "the mean of models in" in packed.training_images["thresholds"]
    np.testing.assert_array_equal(packed.thresholds, 0.25)
    probs = {member.name: np.full((1, 28), n / 2) for n, member in enumerate(packed.members)}
    assert packed.decide(probs)[0][0, 0] == 0.25  # of 0 and .5


def test_an_average_that_no_cut_was_fitted_on_says_so(workdir):
    change_thresholds(workdir, tiny=[0.2, None] + [0.4] * 26, tiny_wide=[0.4, None] + [None] * 26)
    stored = json.loads((workdir / "run.json").read_text())
    stored["config"]["models"]["third"] = stored["config"]["models"]["tiny"]
    (workdir / "run.json").write_text(json.dumps(stored))
    packed = bundles.of_folders(f"{workdir}/models/tiny,{workdir}/models/tiny_wide")
    assert "none were fitted on their average" in packed.training_images["thresholds"]
    np.testing.assert_allclose(packed.thresholds, [0.3, np.inf] + [0.4] * 26)


@pytest.mark.parametrize("which", ["tiny", "tiny/fold_0,tiny/fold_1"])
def test_folds_are_averaged_and_cut_where_their_model_is(workdir, which):
    folder = workdir / "models" / "tiny"
    for fold in ("fold_0", "fold_1"):
        shutil.copytree(folder / "checkpoints", folder / fold / "checkpoints")
    shutil.rmtree(folder / "checkpoints")
    packed = bundles.of_folders(",".join(f"{workdir}/models/{one}" for one in which.split(",")))
    assert [member.name for member in packed.members] == ["tiny-fold_0", "tiny-fold_1"]
    assert packed.models == ["tiny"] and "those of tiny in" in packed.training_images["thresholds"]


def test_without_its_run_the_cuts_are_said_to_be_a_half(workdir):
    (workdir / "run.json").unlink()
    packed = bundles.of_folders(str(workdir / "models" / "tiny"))
    assert packed.training_images["thresholds"].startswith("0.5 for every class")
    np.testing.assert_array_equal(packed.thresholds, 0.5)


def test_a_run_whose_thresholds_are_empty_is_refused(workdir):
    change_thresholds(workdir, tiny=[])
    with pytest.raises(InputError, match="0 thresholds of 'tiny' for 28 classes"):
        bundles.of_folders(str(workdir / "models" / "tiny"))


def test_no_model_and_one_named_twice_are_refused(workdir):
    with pytest.raises(InputError, match="nor a trained model"):
        bundles.of_folders(f"{workdir}/models/none")
    with pytest.raises(InputError, match="twice"):
        bundles.of_folders(f"{workdir}/models/tiny,{workdir}/models/tiny")


def test_a_bundle_of_a_refitted_run_holds_the_refitted_networks(workdir, done):
    here = bundles._run(workdir)
    assert [folder.name for *_, folder in bundles.fits(here)] == ["tiny", "tiny_wide"]
    for name in ("tiny", "tiny_wide"):
        log = done[0] / "models" / name / "metrics.jsonl"
        shutil.copy(log, workdir / "models" / name / "metrics.jsonl")
    with here.config.unlocked():
        here.config.refit = True
    found = list(bundles.fits(here))
    assert [folder for *_, folder in found] == [
        workdir / "models" / name / "refit" for name in ("tiny", "tiny_wide")
    ]
    for name, model, fold, _ in found:
        assert fold is None and model == refit.planned(here, name)


@pytest.mark.parametrize(
    ("mode", "words"), [("off", ""), ("replace", "retrieval (replace)"), ("boost", "fitted with")]
)
def test_what_a_bundle_leaves_out_is_said(tmp_path, mode, words):
    config = configs.default().unlock()
    config.retrieval.mode = mode
    said = export.left_out(Context(config.lock(), tmp_path))
    assert words in said and bool(said) == (mode != "off") and "\n" not in said


def test_each_network_reads_the_side_that_the_run_read(workdir):
    assert [side_for([64, 32, 128], wanted) for wanted in (16, 64, 65, 200)] == [32, 64, 128, 128]
    packed = bundles.of_folders(f"{workdir}/models/tiny,{workdir}/models/tiny_wide")
    packed.training_images |= {"image_size": 32, "sides": [32, 64, 128]}
    assert arrays.sides(packed) == [32, 64]  # of metafeatures, of networks of 64 px
    packed.members[0].config.unlock().image_size = 100
    assert arrays.sides(packed) == [32, 128, 64]
    assert isinstance(packed, bundle.Bundle)
