"""Verbs beside the phases, each on the small run's workdir: they write what they say."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file

from hpa_jax.__main__ import main
from hpa_jax.models import pretrained, weight_files
from hpa_jax.pipeline import tables
from tests.models import pinned
from tests.small_run import CONFIG


@pytest.fixture
def verb(done, capsys):
    """Calls a verb on the small run; returns (workdir, what it printed)."""

    def call(name, *arguments):
        workdir, _ = done
        assert main([name, *CONFIG, f"--workdir={workdir}", *arguments]) == 0
        return workdir, capsys.readouterr().out

    return call


def test_classes_counts_the_labels_of_each_source_and_of_the_submission(verb):
    workdir, out = verb("classes")
    counts = pd.read_csv(workdir / "classes" / "counts.csv")
    splits = pd.read_parquet(workdir / "splits.parquet")
    table = pd.read_parquet(workdir / "catalog.parquet").merge(splits, on="id")
    table = table[table["split"].isin(["train", "valid"])]
    submitted = pd.read_csv(workdir / "submission.csv", dtype=str)["Predicted"].fillna("")
    labels = {source: table.query("source == @source")["labels"] for source in table["source"]}
    labels["test, predicted"] = [[int(token) for token in text.split()] for text in submitted]
    assert len(labels) == 3
    for part, rows in labels.items():
        expected = np.bincount(np.concatenate([*rows]).astype(int), minlength=28)
        assert counts[part].tolist() == expected.tolist(), part
    assert "Nucleoplasm" in out
    given = pd.read_parquet(workdir / "classes" / "test_predicted_conditional.parquet")
    assert given.shape == (28, 29) and np.nanmax(given.iloc[:, 1:].to_numpy()) == 1
    for kind in ("kamada_kawai", "circular"):
        assert "<svg" in (workdir / "classes" / f"graph_{kind}.svg").read_text()
    assert len(pd.read_csv(workdir / "classes" / "pairs.csv"))


def test_preview_shows_changed_images(verb):
    workdir, _ = verb("preview", "--only=tiny")
    grid = np.asarray(Image.open(workdir / "preview" / "tiny.png"))
    assert grid.min() != grid.max() and not (workdir / "preview" / "tiny_wide.png").exists()


def test_lr_find_sweeps_and_leaves_the_model_alone(verb, done):
    before = {
        file: file.stat().st_mtime_ns
        for file in (done[0] / "models" / "tiny" / "checkpoints").rglob("*")
    }
    flags = ("--low=1e-6", "--high=1", "--phase=0", "--checkpoint=best")
    workdir, out = verb("lr_find", "--only=tiny", "--iterations=10", *flags)
    found = json.loads((workdir / "models" / "tiny" / "lr_find.json").read_text())
    assert found["lr"][0] == pytest.approx(1e-6)
    assert 1e-6 <= found["steepest"] <= 1 and f"{found['steepest']:.2g}" in out
    assert (workdir / "models" / "tiny" / "lr_find.png").stat().st_size > 1000
    after = (done[0] / "models" / "tiny" / "checkpoints").rglob("*")
    assert {file: file.stat().st_mtime_ns for file in after} == before


def test_label_noise_lists_images_that_the_models_contradict(verb, monkeypatch):
    def sharp(context, part, ids):  # a network that is sure of another label set for two images
        labels = tables.split_rows(context, part).labels
        labels[:2] = ~labels[:2] & (np.arange(28) < 2)
        return np.where(labels, 0.99, 0.01)[None]

    monkeypatch.setattr(tables, "of_models", sharp)
    workdir, out = verb("label_noise")
    found = pd.read_csv(workdir / "label_noise.csv")
    valid = pd.read_parquet(workdir / "splits.parquet").query("split == 'valid'")["id"]
    assert set(found["id"]) <= set(valid) and f"{len(found)} of {len(valid)}" in out
    page = (workdir / "label_noise.html").read_text()
    assert page.count("data:image/jpeg") == len(found) == 2 and "expected to be wrong" in out
    assert all(id in page for id in found["id"].head(60))


def test_import_weights_names_what_is_missing(verb, done, tmp_path, capsys):
    arguments = ["import_weights", *CONFIG, f"--workdir={done[0]}", f"--out={tmp_path}/out"]
    assert main([*arguments, "--backbone=resnet18"]) == 2
    assert "--weights is missing" in capsys.readouterr().err
    assert main([*arguments, "--backbone=resnet18", f"--weights={tmp_path}/no.safetensors"]) == 2
    assert "no.safetensors" in capsys.readouterr().err


def test_import_weights_makes_a_folder_for_init_from(verb, tmp_path, monkeypatch):
    small = pinned.network("resnet18")  # narrow, so that no gigabytes are written
    monkeypatch.setattr(pretrained.registry, "create", lambda *a, **k: small)
    monkeypatch.setattr(pretrained.nnx, "eval_shape", lambda make: make())
    save_file(pinned.tensors("resnet18"), tmp_path / "w.safetensors")
    arguments = ["--backbone=resnet18", f"--weights={tmp_path}/w.safetensors"]
    _, out = verb("import_weights", *arguments, f"--out={tmp_path}/out")
    tensors, ours = weight_files.read(tmp_path / "out")
    assert ours and "conv1.kernel" in tensors and out.strip()


@pytest.mark.parametrize("name", ["classes", "preview", "label_noise", "adversarial", "lr_find"])
def test_before_the_run_each_names_the_file_it_lacks(name, tmp_path, capsys):
    assert main([name, *CONFIG, f"--workdir={tmp_path}"]) == 2
    assert "catalog.parquet" in capsys.readouterr().err
