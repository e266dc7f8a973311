"""export and predict on own images: the bundle decides as the run did; odd input is told."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
from filelock import FileLock
from PIL import Image

from hpa_jax.__main__ import main
from hpa_jax.decision import bundle
from hpa_jax.inference.tables import read_table
from hpa_jax.pipeline import bundles
from tests.small_run import CONFIG

CHANNELS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def exported(done, tmp_path_factory):
    """(the run's workdir, its bundle, workdir of a prediction of the test images by it, text)."""
    workdir, _ = done
    assert main(["export", *CONFIG, f"--workdir={workdir}"]) == 0
    own = tmp_path_factory.mktemp("own")
    arguments = [f"--model={workdir}/bundle", f"--config.data.root={workdir}/data/test"]
    assert main(["predict", *arguments, f"--workdir={own}"]) == 0
    return workdir, workdir / "bundle", own


def chosen(workdir):
    return json.loads((workdir / "metrics.json").read_text())["chosen"]


def scores_of(workdir, method, ids):
    """The run's scores [N, C] of a method for its test images."""
    folder = workdir / "models" / method / "predictions"
    if method == "stack":
        folder = workdir / "stack"
    elif not folder.exists():
        folder = workdir / "ensemble" / method.replace(" ", "_")
    names, probs, _ = read_table(folder / "test.parquet")
    return pd.DataFrame(probs, index=names).loc[ids].to_numpy()


def test_the_bundle_decides_as_the_run(exported, done):
    workdir, _, own = exported
    found = pd.read_csv(own / "predictions.csv", dtype={"class_numbers": str})
    ids, probs, _ = read_table(own / "predictions.parquet")
    np.testing.assert_allclose(probs, scores_of(workdir, chosen(workdir), ids), atol=2e-3)
    submission = pd.read_csv(workdir / "submission.csv", dtype=str).set_index("Id")["Predicted"]
    leaked = pd.read_parquet(workdir / "leak_overlay.parquet")["id"]
    honest = ~found["id"].isin(leaked)
    same = found["class_numbers"][honest] == submission[found["id"][honest]].to_numpy()
    assert same.mean() > 0.9  # a score within rounding of its threshold may fall on the other side
    assert len(found) == 30 and "Nucleoplasm" in found.columns


def test_the_bundle_says_of_each_class_what_the_run_says(exported):
    workdir, packed, own = exported
    theirs, found = (
        pd.read_csv(path).set_index(["id", "class"]).sort_index()
        for path in (workdir / "predictions.csv", own / "predictions_by_class.csv")
    )
    assert [*found.columns] == [*theirs.columns]
    both = found.index.intersection(theirs.index)
    # A probability within rounding of .05 may be listed on one side alone.
    assert len(both) > 0.95 * max(len(found), len(theirs)) > 0
    for name, within in dict(score=3e-3, probability=5e-3, f1=0, support=0).items():
        np.testing.assert_allclose(found.loc[both, name], theirs.loc[both, name], atol=within)
    known = bundle.read(packed).validated
    image = page_of(own)["images"][0]
    expected = known.probabilities(np.array([image["scores"]]))[0]
    np.testing.assert_allclose(image["probabilities"], expected, atol=1e-3)


def test_models_of_a_run_carry_the_calibration_that_it_fitted_for_them(exported):
    workdir, _, _ = exported
    packed = bundles.named(f"{workdir}/models/tiny")
    stored = json.loads((workdir / "thresholds.json").read_text())["calibrations"]["tiny"]
    np.testing.assert_array_equal(
        packed.validated.calibration.coefficients, np.array(stored, float)
    )
    both = bundles.named(f"{workdir}/models/tiny,{workdir}/models/tiny_wide")
    assert both.validated is not None and both.training_images["thresholds"].startswith(
        "those of the mean"
    )


def page_of(workdir):
    html = (workdir / "predictions" / "index.html").read_text("utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_shows_what_the_table_says(exported):
    """Labels, maps of the strongest network, and nearest images out of the bundle's gallery."""
    workdir, packed, own = exported
    found = pd.read_csv(own / "predictions.csv", dtype={"class_numbers": str}).set_index("id")
    page = page_of(own)
    assert [row["id"] for row in page["images"]] == found.index.tolist()
    scores = json.loads((workdir / "metrics.json").read_text())["scores"]
    strongest = max(("tiny", "tiny_wide"), key=lambda name: scores[name]["macro_f1"])
    assert page["maps"]["method"] == f"Grad-CAM of {strongest}"
    catalog = pd.read_parquet(workdir / "catalog.parquet").set_index("id")["labels"]
    for row in page["images"]:
        numbers = " ".join(map(str, row["labels"]))
        assert numbers == found["class_numbers"][row["id"]]
        assert set(map(int, row["maps"])) <= set(row["labels"]) and row["maps"]
        similarity = [cosine for _, cosine in row["near"]]
        assert len(similarity) == 3 and similarity == sorted(similarity, reverse=True)
    for image in page["gallery"]:
        assert image["labels"] == catalog[image["id"]].tolist()
    assert (packed / "gallery" / "gallery.parquet").is_file()


def test_a_run_is_its_own_gallery(exported, tmp_path):
    """An image that the run validated on is nearest to itself."""
    workdir, _, _ = exported
    splits = pd.read_parquet(workdir / "splits.parquet")
    known = splits.loc[splits["split"] == "valid", "id"].iloc[0]
    (tmp_path / "in").mkdir()
    for source in (workdir / "data").rglob(f"{known}_*.png"):
        (tmp_path / "in" / source.name.replace(known, "mine")).write_bytes(source.read_bytes())
    arguments = [f"--model={workdir}/models/tiny", f"--config.data.root={tmp_path}/in"]
    assert main(["predict", *arguments, "--maps=0", f"--workdir={tmp_path}/out"]) == 0
    page = page_of(tmp_path / "out")
    (row,) = page["images"]
    place, similarity = row["near"][0]
    assert page["gallery"][place]["id"] == known and similarity > 0.98
    assert "maps" not in row


def test_embeddings_are_those_of_the_run(exported, done):
    workdir, packed, own = exported
    members = [member.name for member in bundle.read(packed).members]  # the best method's
    assert members
    for name in members:
        theirs = pd.read_parquet(workdir / f"models/{name}/predictions/test_embeddings.parquet")
        found = pd.read_parquet(own / "embeddings" / f"{name}.parquet")
        found = found.set_index("id").loc[theirs["id"]]
        np.testing.assert_allclose(found, theirs.set_index("id"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["tiny", "weighted mean", "logistic regression", "greedy"])
def test_every_method_is_exported_with_its_weights(exported, tmp_path, method):
    """Joined from the run's own probabilities, so no image is looked at again."""
    workdir, _, _ = exported
    settings = [f"--config.submission.method={method}"]
    if method == "greedy":
        settings = ["--config.ensemble.method=greedy", "--config.submission.method=ensemble"]
        assert main(["thresholds", *CONFIG, *settings, f"--workdir={workdir}"]) == 0
    try:
        assert main(["export", *CONFIG, *settings, f"--workdir={workdir}"]) == 0
        packed = bundle.read(workdir / "bundle")
        ids, _, _ = read_table(workdir / "models/tiny/predictions/test.parquet")
        given = {member.name: scores_of(workdir, member.name, ids) for member in packed.members}
        found, _ = packed.decide(given)
        name = "ensemble" if method == "greedy" else method
        np.testing.assert_allclose(found, scores_of(workdir, name, ids), atol=1e-6)
        thresholds = json.loads((workdir / "thresholds.json").read_text())["thresholds"][name]
        expected = [np.inf if threshold is None else threshold for threshold in thresholds]
        np.testing.assert_array_equal(packed.thresholds, expected)
    finally:  # as the other tests expect it
        assert main(["thresholds", *CONFIG, f"--workdir={workdir}"]) == 0
        assert main(["export", *CONFIG, f"--workdir={workdir}"]) == 0


def test_one_network_labels_by_its_runs_thresholds(exported, tmp_path, capsys):
    workdir, _, _ = exported
    arguments = [f"--model={workdir}/models/tiny", f"--config.data.root={workdir}/data/test"]
    arguments += ["--config.data.source=folder", f"--workdir={tmp_path}"]
    assert main(["predict", *arguments]) == 0
    said = capsys.readouterr().out
    assert "30 images" in said
    assert f"thresholds: those of tiny in {workdir}/thresholds.json" in said
    ids, probs, _ = read_table(tmp_path / "predictions.parquet")
    np.testing.assert_allclose(probs, scores_of(workdir, "tiny", ids), atol=2e-3)
    thresholds = json.loads((workdir / "thresholds.json").read_text())["thresholds"]["tiny"]
    decided = probs >= [np.inf if threshold is None else threshold for threshold in thresholds]
    texts = pd.read_csv(tmp_path / "predictions.csv", dtype={"class_numbers": str})["class_numbers"]
    expected = [" ".join(map(str, np.flatnonzero(row))) for row in decided]
    agree = [a == b for a, b in zip(texts, expected) if b]  # empty rows get their best class
    assert np.mean(agree) > 0.9 and not texts.isna().any()


def write_tiffs(folder, name, picture):
    """An image uint8[h, w, 4] as four 16-bit TIFFs, brighter than 8 bits hold."""
    folder.mkdir(exist_ok=True)
    for plane, channel in enumerate(CHANNELS):
        values = picture[..., plane].astype(np.uint16) * 150 + 90
        tifffile.imwrite(folder / f"{name}_{channel}.tif", values)


def test_strange_images_are_flagged_with_a_reason(exported, tmp_path, capsys):
    _, packed, own = exported
    ordinary = pd.read_csv(own / "predictions.csv")
    assert ordinary["unlike_training"].mean() < 0.4  # of 35 reference images; they are alike
    rng = np.random.default_rng(0)
    write_tiffs(tmp_path / "in", "noise", rng.integers(0, 256, (90, 70, 4), np.uint8))
    write_tiffs(tmp_path / "in", "dots", 255 * rng.integers(0, 2, (64, 64, 4)).astype(np.uint8))
    arguments = [f"--model={packed}", f"--config.data.root={tmp_path}/in"]
    assert main(["predict", *arguments, f"--workdir={tmp_path}/out"]) == 0
    assert "2 images, 2 unlike the training images" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert found["unlike_training"].all()
    assert found["why"].str.contains("above all reference|no similar image").all()


def test_tiles_see_the_ends_of_a_long_image(exported, tmp_path):
    workdir, _, _ = exported
    test = workdir / "data" / "test"
    ids = sorted({path.name.rsplit("_", 1)[0] for path in test.glob("*_green.png")})[:2]
    (tmp_path / "in").mkdir()
    for channel in CHANNELS:
        pair = [np.asarray(Image.open(test / f"{name}_{channel}.png")) for name in ids]
        Image.fromarray(np.concatenate(pair, axis=1)).save(tmp_path / "in" / f"long_{channel}.png")
        Image.fromarray(pair[0]).save(tmp_path / "in" / f"one_{channel}.png")
    arguments = [f"--model={workdir}/models/tiny", f"--config.data.root={tmp_path}/in"]
    arguments += ["--config.predict.tile=64", f"--workdir={tmp_path}/out"]
    assert main(["predict", *arguments]) == 0
    names, probs, _ = read_table(tmp_path / "out" / "predictions.parquet")
    found = dict(zip(names, probs))
    left, right = scores_of(workdir, "tiny", ids)
    np.testing.assert_allclose(found["one"], left, atol=2e-3)  # one tile is the image itself
    # What was calibrated are scores of whole images.
    assert not (tmp_path / "out" / "predictions_by_class.csv").exists()
    assert (found["long"] >= np.maximum(left, right) - 2e-3).all()


def test_what_is_wrong_is_said_in_one_line(exported, tmp_path, capsys):
    workdir, packed, _ = exported
    (tmp_path / "empty").mkdir()
    rng = np.random.default_rng(0)
    write_tiffs(tmp_path / "cut", "a", rng.integers(0, 256, (64, 64, 4), np.uint8))
    write_tiffs(tmp_path / "cut", "b", rng.integers(0, 256, (64, 64, 4), np.uint8))
    whole = (tmp_path / "cut" / "b_green.tif").read_bytes()
    (tmp_path / "cut" / "b_green.tif").write_bytes(whole[:2000])
    here = f"--config.data.root={tmp_path}"
    cases = [
        ([f"--model={tmp_path}", here], "neither a bundle"),
        ([f"--model={workdir}", here], f"did you mean {workdir}/bundle or {workdir}/models/"),
        ([f"--model={packed}", f"{here}/cut/b_green.tif"], "is a file; name its folder"),
        ([f"--model={packed}"], "folder of images to label is missing"),
        ([f"--model={packed}", f"{here}/nowhere"], "no such folder"),
        ([f"--model={packed}", f"{here}/empty"], "no image fits"),
        ([f"--model={packed}", f"{here}/cut"], "b_green.tif"),
        ([f"--bundle={packed}", f"{here}/cut"], "--bundle is now called --model"),
        ([f"--checkpoint={packed}", f"{here}/cut"], "--checkpoint is now called --model"),
        ([f"--model={workdir}/models/none", f"{here}/cut"], "nor a trained model"),
    ]
    for arguments, words in cases:
        assert main(["predict", *arguments, f"--workdir={tmp_path}/out"]) == 2, words
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    arguments = [f"--model={packed}", f"{here}/cut", "--config.data.on_bad_image=skip"]
    assert main(["predict", *arguments, f"--workdir={tmp_path}/out"]) == 0
    assert re.search(r"1 images, 1 left out \(.*bad_images\.csv\)", capsys.readouterr().out)


def test_without_a_workdir_one_is_chosen_and_printed(exported, tmp_path, monkeypatch, capsys):
    workdir, packed, _ = exported
    monkeypatch.chdir(tmp_path)
    assert main(["predict", f"--model={packed}"]) == 2  # nor a folder of images
    assert "folder of images to label is missing" in capsys.readouterr().err
    assert main(["predict", f"--model={packed}", f"--config.data.root={workdir}/data/test"]) == 0
    chosen = re.search(r"workdir: (runs/test-bundle-\w{6}) ", capsys.readouterr().out)[1]
    assert (tmp_path / chosen / "predictions.csv").is_file()


def test_the_workdir_of_a_run_or_in_use_is_refused(exported, tmp_path, capsys):
    workdir, packed, _ = exported
    before = (workdir / "predictions.csv").read_bytes()
    arguments = ["predict", f"--model={packed}", f"--config.data.root={workdir}/data/test"]
    assert main([*arguments, f"--workdir={workdir}"]) == 2
    assert "name another --workdir" in capsys.readouterr().err
    assert (workdir / "predictions.csv").read_bytes() == before
    with FileLock(tmp_path / ".lock"):
        assert main([*arguments, f"--workdir={tmp_path}"]) == 2
    assert "another run is at work there" in capsys.readouterr().err


def test_export_needs_a_finished_run(tmp_path, capsys):
    assert main(["export", *CONFIG, f"--workdir={tmp_path}"]) == 2
    assert "metrics.json" in capsys.readouterr().err


@pytest.mark.slow  # a run of its own
def test_a_bundle_reads_images_of_the_sides_that_the_run_read(tmp_path):
    """Metafeatures of 32 px, a network of 64 px: never from images that were made smaller."""
    arguments = [*CONFIG, "--config.records.image_size=32", "--config.records.also=(64,)"]
    assert main(["run", *arguments, f"--workdir={tmp_path}/run"]) == 0
    assert main(["export", *arguments, f"--workdir={tmp_path}/run"]) == 0
    given = [f"--model={tmp_path}/run/bundle", f"--config.data.root={tmp_path}/run/data/test"]
    assert main(["predict", *given, f"--workdir={tmp_path}/own"]) == 0
    ids, probs, _ = read_table(tmp_path / "own" / "predictions.parquet")
    method = chosen(tmp_path / "run")
    np.testing.assert_allclose(probs, scores_of(tmp_path / "run", method, ids), atol=2e-3)
    for path in (tmp_path / "own" / "embeddings").glob("*.parquet"):
        folder = tmp_path / "run" / "models" / path.stem / "predictions"
        theirs = pd.read_parquet(folder / "test_embeddings.parquet").set_index("id")
        found = pd.read_parquet(path).set_index("id")
        np.testing.assert_allclose(found.loc[ids], theirs.loc[ids], rtol=1e-3, atol=1e-4)
