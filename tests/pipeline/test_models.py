"""The verb models, and predict by a published model's name, on folders as a biologist has them."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hpa_jax.__main__ import main
from hpa_jax.models import fetch, published
from hpa_jax.models.normalization import normalizer
from hpa_jax.pipeline import bundles
from tests.models import pinned
from tests.models.test_fetch import enter
from tests.models.test_pretrained import published_densenet

NAME = "tiny_published"
CHANNELS = ("red", "green", "blue", "yellow")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A narrow HPA DenseNet121 under its published names, fetched."""
    from flax import nnx
    from safetensors.numpy import save_file

    from hpa_jax.models import create

    monkeypatch.setenv("HPA_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    real = published.find("hpa_densenet121_512")
    network = {**real.network, "width": 1 / 8, "depth": (1, 1, 1, 1)}
    small = create(
        "densenet121",
        num_classes=28,
        rngs=nnx.Rngs(0),
        **{**network["head_options"], "head": "bestfitting", "width": 1 / 8, "depth": (1, 1, 1, 1)},
    )
    file = {name: np.ascontiguousarray(v) for name, v in published_densenet(small).items()}
    save_file(file, tmp_path / "w.safetensors")
    entry = dataclasses.replace(
        real, network=network, image_size=64, files=(published.File("w.safetensors"),), store=""
    )
    enter(monkeypatch, entry)
    fetch.fetch(NAME, source=str(tmp_path / "w.safetensors"))
    small.eval()
    return small


def write_images(folder, channels=CHANNELS, count=3):
    """Images uint8[64, 64, K], a file a channel; returns them [N, 64, 64, K]."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, len(channels)), np.uint8)
    for number, image in enumerate(pixels):
        for k, channel in enumerate(channels):
            Image.fromarray(image[..., k]).save(folder / f"image{number}_{channel}.png")
    return pixels


def test_a_folder_is_labelled_by_name_and_normalised_once(model, tmp_path, capsys):
    pixels = write_images(tmp_path / "mine")
    assert main(["predict", f"--model={NAME}", "--config.data.root=mine"]) == 0
    told = capsys.readouterr().out
    workdir = tmp_path / re.search(r"workdir: (runs/mine-tiny_published-\w{6}) ", told)[1]
    table = pd.read_csv(workdir / "predictions.csv")
    logits, features = pinned.embedding(
        model, normalizer("hpa", CHANNELS)(pixels / np.float32(255))
    )
    probs = 1 / (1 + np.exp(-np.asarray(logits, float)))
    found = table[list(published.find(NAME).class_names)].to_numpy()
    np.testing.assert_allclose(found, probs, atol=1e-4)
    embeddings = pd.read_parquet(workdir / "embeddings" / f"{NAME}.parquet").set_index("id")
    np.testing.assert_allclose(embeddings.to_numpy(), features, rtol=1e-3, atol=1e-4)
    for text, row in zip(table["class_numbers"].astype(str), probs):
        chosen = {*np.flatnonzero(row > 0.5), row.argmax()}  # the best class, however low
        assert set(map(int, text.split())) == chosen
    assert "unlike_training" not in table  # nothing tells what ordinary images look like to it
    assert "yellow" not in told.replace("blue, yellow", "")
    # The model knows its field, the files don't state their pixel size.
    assert table["scale_unknown"].all() and "3 of unknown scale" in told
    page = (workdir / "predictions" / "index.html").read_text()
    assert len(re.findall(r'"unscaled":\s*true', page)) == 3


def test_yellow_that_is_not_there_is_zero_and_said(model, tmp_path, capsys):
    pixels = write_images(tmp_path / "mine", CHANNELS[:3])
    assert main(["predict", f"--model={NAME}", "--config.data.root=mine", "--workdir=out"]) == 0
    assert "3 without a yellow channel (0 in its place)" in capsys.readouterr().out
    pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    logits = pinned.logits(model, normalizer("hpa", CHANNELS)(pixels / np.float32(255)))
    found = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("id")
    np.testing.assert_allclose(found.to_numpy(), 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_where_yellow_must_be_there_another_model_is_named(model, tmp_path, monkeypatch, capsys):
    strict = dataclasses.replace(published.find(NAME), yellow="error")
    enter(monkeypatch, strict)
    write_images(tmp_path / "mine", CHANNELS[:3])
    assert main(["predict", f"--model={NAME}", "--config.data.root=mine"]) == 2
    error = capsys.readouterr().err
    assert "missing.yellow=zeros (or mean)" in error and "subcell_mae_rbg" in error
    assert error.count("\n") == 1
    assert "subcell_mae_ybg" not in error


def test_without_another_channel_too(model, tmp_path, capsys):
    write_images(tmp_path / "mine", ("green", "blue", "yellow"))
    assert main(["predict", f"--model={NAME}", "--config.data.root=mine"]) == 2
    error = capsys.readouterr().err
    assert "no red channel" in error and "subcell_mae_ybg" in error
    assert "subcell_mae_rbg" not in error and error.count("\n") == 1


def test_a_channel_that_the_model_does_not_use_may_be_absent():
    from hpa_jax.models import pretrained

    def missing(name):
        return bundles.of_published(name).training_images["missing"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "published_network", lambda name, folder: None)
        assert missing("subcell_mae_bg") == {"red": "zeros", "yellow": "zeros"}
        assert missing("subcell_mae_ybg") == {"red": "zeros"}
        assert missing("subcell_mae_rybg") == {}


def test_a_fetched_folder_elsewhere_is_a_model_too(model, tmp_path):
    write_images(tmp_path / "mine")
    call = ["--config.data.root=mine"]
    fetch.fetch(NAME, out=tmp_path / "there", source=str(tmp_path / "w.safetensors"))
    assert main(["predict", f"--model={NAME}", *call, "--workdir=one"]) == 0
    assert main(["predict", "--model=there", *call, "--workdir=other"]) == 0
    one, other = ((tmp_path / name / "predictions.csv").read_text() for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models"], "models list, models show NAME, models fetch NAME"),
        (["models", "shwo", "x"], "did you mean 'show'?"),
        (["models", "show"], "should read models show NAME"),
        (["models", "list", "x"], "should read models list"),
        (["models", "show", "subcell"], "unknown published model 'subcell', did you mean"),
        (
            ["predict", "--model=hpa_densenet", "--config.data.root=x"],
            "did you mean 'hpa_densenet121'",
        ),
        (["predict", "--model=hpa_densenet121", "--config.data.root=x"], "models fetch hpa_dense"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setenv("HPA_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_show_tells_classes_licence_and_what_to_do_without_yellow(capsys):
    assert main(["models", "show", "subcell_mae_rybg"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "31, 25 of them the competition's",
        "also Centriolar satellite, Midbody, Mitotic chromosome, Nucleoli rim, Vesicles, Negative",
        "missing.yellow=zeros or mean, or another model: subcell_mae_rbg, subcell_mae_bg",
        "Human Protein Atlas",
        "s3.amazonaws.com/models/mae_contrast_supcon_model/all_channels_MAE-CellS-ProtS-Pool.pth",
    ):
        assert words in shown
