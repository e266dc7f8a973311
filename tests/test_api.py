"""The Python API: the same answers as the command line, from files and from arrays."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import hpa_jax
from hpa_jax.core.errors import InputError
from hpa_jax.data.reader import CHANNELS
from hpa_jax.pipeline import arrays


@pytest.fixture(scope="module")
def model(done):
    workdir, _ = done
    return hpa_jax.load(workdir / "models" / "tiny")


def read(workdir, count=5):
    """(ids, images uint8[N, 64, 64, 4]) of the run's test images."""
    ids = sorted(path.stem[: -len("_green")] for path in (workdir / "data/test").glob("*_green*"))
    ids = ids[:count]
    return ids, np.stack(
        [
            np.stack(
                [np.asarray(Image.open(workdir / f"data/test/{id}_{c}.png")) for c in CHANNELS], -1
            )
            for id in ids
        ]
    )


def test_importing_the_package_imports_nothing_heavy():
    code = "import hpa_jax, sys; print(sorted({'jax', 'tensorflow', 'pandas'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert callable(hpa_jax.decide)
    with pytest.raises(AttributeError, match="nothing_there"):
        hpa_jax.nothing_there  # noqa: B018


def test_arrays_files_and_the_run_agree(done, model):
    workdir, _ = done
    ids, images = read(workdir)
    of_arrays = model.predict(images, ids=ids)
    of_folder = model.predict(workdir / "data/test")
    files = [workdir / f"data/test/{id}_{c}.png" for id in ids for c in CHANNELS]
    of_files = model.predict(files)
    known = pd.read_parquet(workdir / "models/tiny/predictions/test.parquet").set_index("id")
    expected = known.loc[ids].to_numpy()
    np.testing.assert_allclose(of_arrays.scores, expected, atol=2e-3)
    np.testing.assert_allclose(of_files.scores, expected, atol=2e-3)
    place = [of_folder.ids.index(id) for id in ids]
    np.testing.assert_allclose(of_folder.scores[place], expected, atol=2e-3)
    np.testing.assert_array_equal(of_arrays.unlike, of_folder.unlike[place])
    assert of_arrays.ids == ids == of_files.ids and len(of_folder) == 30
    assert of_arrays.table["id"].tolist() == ids and "Nucleoplasm" in of_arrays.table
    np.testing.assert_allclose(model.embed(images), of_arrays.embeddings, rtol=1e-5)


def test_a_part_of_a_batch_gives_the_same(done, model):
    _, images = read(done[0])
    whole, one = model.predict(images, batch_size=2), model.predict(images[3])
    np.testing.assert_allclose(one.scores[0], whole.scores[3], atol=1e-5)
    assert whole.ids == ["0", "1", "2", "3", "4"] and len(whole.labels) == 5


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [(np.uint16, (0, 65535)), (np.int32, (-255, 255)), (np.float64, (0.0, 1.0))],
)
def test_any_type_with_a_range_becomes_eight_bits(dtype, value_range):
    plain = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 4), np.uint8)
    low, high = value_range
    given = plain / 255 * (high - low) + low
    given = given.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(given).astype(dtype)
    np.testing.assert_array_equal(arrays.eight_bits(given, value_range=value_range), plain)


def test_channels_are_put_in_their_places():
    images = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    found = arrays.eight_bits(images, ("blue", "green", "red"), absent=("yellow",))
    np.testing.assert_array_equal(found[..., :3], images[..., ::-1])
    assert not found[..., 3].any()


def test_a_channel_that_the_model_does_without_may_be_absent(done, model):
    """As in a folder: a published model that reads no yellow takes three planes."""
    _, images = read(done[0])
    packed = replace(model.bundle, training_images={"missing": {"yellow": "zeros"}})
    found = hpa_jax.api.Model(packed, "m").predict(images[..., :3], channels=CHANNELS[:3])
    expected = model.predict(images[..., :3], channels=CHANNELS[:3], missing_yellow="zeros")
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_one_file_is_a_list_of_one(done, model, tmp_path):
    _, images = read(done[0], count=1)
    Image.fromarray(images[0, ..., :3]).save(tmp_path / "a.png")
    one = model.predict(tmp_path / "a.png", missing_yellow="zeros")
    assert one.ids == ["a"]


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), {}, "must be"),
        (np.zeros((0, 4, 4, 4), np.uint8), {}, "not empty"),
        (np.zeros((1, 4, 4, 4), np.uint16), {}, "value_range"),
        (np.full((1, 4, 4, 4), np.nan), {"value_range": (0, 1)}, "outside"),
        (np.full((1, 4, 4, 4), 2.0), {"value_range": (0, 1)}, "from 2 to 2"),
        (np.zeros((1, 4, 4, 3), np.uint8), {"channels": CHANNELS[:3]}, "missing_yellow"),
        (np.zeros((1, 4, 4, 1), np.uint8), {"channels": ("purple",)}, "purple"),
        (np.zeros((1, 4, 4, 4), np.uint8), {"pattern": "{id}"}, "pattern"),
        (np.zeros((1, 4, 4, 4), np.uint8), {"ids": ["a", "b"]}, "2 ids"),
        (["nowhere.png"], {}, "no such file"),
        ("nowhere", {}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(model, images, options, words):
    with pytest.raises(InputError, match=words):
        model.predict(images, **options)


def test_a_notebook_shows_the_images(done, model):
    ids, images = read(done[0])
    result = model.predict(images, ids=["<b>", *ids[1:]])
    shown = result._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and shown.count("<") == 2  # all else is escaped
    assert ids[1] in shown and "5 images" in repr(result)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError):
        hpa_jax.load("no_such_model")
