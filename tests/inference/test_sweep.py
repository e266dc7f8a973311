"""Prediction over packed records: restart in the middle; images of any size by tiles."""

import json
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import batches as input
from hpa_jax.data import catalog, records
from hpa_jax.inference import predict, sweep
from tests.data.layouts import competition

SIZE = 16
CHANNELS = ("red", "green", "blue", "yellow")
CONFIG = types.SimpleNamespace(channels=CHANNELS, normalize="hpa", image_size=SIZE)


class Tiny(nnx.Module):
    """Class 0: how bright the brightest pixel; class 1: the mean; embedding: channel means."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def embed(self, images):
        means = images.mean((1, 2))
        logits = jnp.stack([images.max((1, 2, 3)), means.mean(-1)], -1)
        return self.scale * logits / 10, means


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = competition(tmp_path_factory.mktemp("sweep") / "data")
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    folder = records.write(table, root / "r", image_size=SIZE, encoding="png", shard_images=4)
    return input.Records(folder)


def run(packed, ids, **options):
    return sweep.predict_records(Tiny(), CONFIG, packed, ids, batch_size=2, **options)


def test_equals_predict_and_keeps_the_order_of_ids(packed):
    ids = list(packed.ids[::-1][:5])
    probs, embeddings, plain = run(packed, ids, views="d4")
    batches = input.eval_batches(
        packed, ids, None, batch_size=3, channels=CHANNELS, image_size=SIZE
    )
    want = predict.predict(Tiny(), CONFIG, batches, ids, views="d4")
    np.testing.assert_allclose(probs, want[0], atol=1e-6)
    np.testing.assert_allclose(embeddings, want[1], atol=1e-5)
    np.testing.assert_allclose(plain, run(packed, ids, views="identity").probs, atol=1e-6)


def test_a_stopped_run_goes_on_where_it_was(packed, tmp_path, monkeypatch):
    ids, parts = list(packed.ids[:5]), tmp_path / "parts"
    views = dict(
        name="crops", count=1, d4=False
    )  # random views must not depend on where a run stopped
    whole = run(packed, ids, views=views)
    monkeypatch.setattr(sweep, "SAVE_SECONDS", 0.0)
    plain, batches_read = predict.stream, []

    def stops(forward, batches, rows):
        for number, found in enumerate(plain(forward, batches, rows)):
            if number == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(predict, "stream", stops)
    with pytest.raises(KeyboardInterrupt):
        run(packed, ids, views=views, directory=parts)
    assert len(list(parts.glob("part-*.npz"))) == 2

    def counts(forward, batches, rows):
        batches_read.append(list(rows))
        return plain(forward, batches, rows)

    monkeypatch.setattr(predict, "stream", counts)
    again = run(packed, ids, views=views, directory=parts)
    assert batches_read == [[4]]
    for one, other in zip(whole, again, strict=True):  # probs, embeddings, plain
        np.testing.assert_allclose(one, other, atol=1e-5)
    monkeypatch.setattr(predict, "stream", None)  # all is done: no network is asked
    np.testing.assert_array_equal(run(packed, ids, views=views, directory=parts).probs, again.probs)
    other = types.SimpleNamespace(**vars(CONFIG))
    other.image_size = SIZE // 2  # images of another side are other images
    with pytest.raises(TypeError):
        sweep.predict_records(Tiny(), other, packed, ids, batch_size=2, directory=parts)


def test_a_image_replaced_under_its_id_is_looked_at_again(packed, tmp_path):
    """Part files remember the content of the packed images, not their ids alone."""
    ids, folder = list(packed.ids[:3]), tmp_path / "records"
    shutil.copytree(packed.directory, folder)
    before = sweep.content(input.Records(folder))
    run(packed, ids, directory=tmp_path / "parts")
    manifest = json.loads((folder / "manifest.json").read_text())
    name = next(iter(manifest["shards"]))
    manifest["shards"][name]["sha256"] = "of another image"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    replaced = input.Records(folder)
    assert sweep.content(replaced) != before
    run(replaced, ids, directory=tmp_path / "parts")
    prints = {path.name.split("-")[1] for path in (tmp_path / "parts").glob("part-*.npz")}
    assert len(prints) == 2


def test_parts_of_another_network_and_damaged_parts_do_not_count(tmp_path):
    mine = sweep.Parts(tmp_path, "mine")
    seen = predict.Outputs(np.ones((2, 3)), np.ones((2, 4)), np.zeros((2, 3)))
    mine.write(np.array([0, 1]), seen)
    sweep.Parts(tmp_path, "other").write(np.array([2, 3]), seen)
    whole = next(tmp_path.glob("part-mine-*.npz")).read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for number, damaged in enumerate((b"PK cut short", whole[:-9], whole[:100], b"", flipped)):
        (tmp_path / f"part-mine-9{number}.npz").write_bytes(damaged)
    ((rows, read),) = mine.read()
    assert rows.tolist() == [0, 1]
    for one, other in zip(seen, read, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_network_is_another_fingerprint():
    made = sweep.views_module.make("d4")
    other = Tiny()
    other.scale[...] = jnp.float32(2.0)
    prints = {
        sweep.fingerprint(model, CONFIG, sweep.views_module.make(views), ids, ("mean", 0))
        for model in (Tiny(), other)
        for views in (made, "identity", {"name": "oml", "rounds": 2})
        for ids in (["a"], ["b"])
    }
    assert len(prints) == 12


def test_empty_and_unknown_ids_are_refused(packed):
    with pytest.raises(InputError, match="empty"):
        run(packed, [])
    with pytest.raises(InputError, match="nobody"):
        run(packed, ["nobody"])


def test_tiles_cover_images_of_any_size():
    rng = np.random.default_rng(0)
    for shape in [(16, 16), (40, 23), (9, 50), (5, 5)]:
        picture = rng.integers(0, 256, (*shape, 1), np.uint8)
        tiles = list(sweep.tiles_of(picture, 16, 0.25))
        assert all(tile.shape == (16, 16, 1) for tile in tiles)
        assert set(np.unique(picture)) <= set(np.unique(np.stack(tiles)))
    assert len(list(sweep.tiles_of(np.zeros((16, 16, 1)), 16, 0.5))) == 1


def test_tiles_of_all_images_are_joined_by_max():
    """The brightest pixel of an image decides class 0, wherever it lies."""
    shapes = [(40, 23), (16, 16), (5, 60)]
    pictures = [np.zeros((*shape, 4), np.uint8) for shape in shapes]
    pictures[0][39, 22] = 255
    pictures[2][0, 0] = 128
    forward = predict.compiled(Tiny(), CONFIG)
    probs, embeddings = sweep.predict_images(
        forward, pictures.__getitem__, ["a", "b", "c"], tile=16, batch_size=3
    )
    assert probs[0, 0] > probs[2, 0] > probs[1, 0]
    assert embeddings.shape == (3, 4)


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_the_answer_of_an_image_in_tiles_is_its_own(aggregate):
    rng = np.random.default_rng(0)
    shapes = [(40, 23), (16, 16), (5, 60), (33, 33)]
    pictures = [rng.integers(0, 200 + 10 * n, (*s, 4), np.uint8) for n, s in enumerate(shapes)]
    options = dict(tile=16, batch_size=3, aggregate=aggregate)
    forward = predict.compiled(Tiny(), CONFIG)
    whole = sweep.predict_images(forward, pictures.__getitem__, list("abcd"), **options)
    for row, picture in enumerate(pictures):
        alone = sweep.predict_images(forward, [picture].__getitem__, ["a"], **options)
        for one, other in zip(whole, alone, strict=True):
            np.testing.assert_allclose(one[row], other[0], atol=1e-6)


def test_no_process_writes_before_all_have_read_what_is_known(packed, tmp_path, monkeypatch):
    """A fast process's first part must not change which rows a slow one takes for missing."""
    ids, seen = list(packed.ids), []
    whole = run(packed, ids)
    others = slice(1, len(ids), 2)

    def wait(name):
        seen.append(name)
        if name == "predicted":  # the other process has done its rows by now
            rows = np.arange(len(ids))[others]
            part.write(rows, predict.Outputs(*(array[others] for array in whole)))

    part = sweep.Parts(tmp_path, "")
    write = sweep.Parts.write

    def noted(self, rows, found):
        part.fingerprint = self.fingerprint
        seen.append("write")
        write(self, rows, found)

    monkeypatch.setattr(sweep, "wait", wait)
    monkeypatch.setattr(sweep.jax, "process_count", lambda: 2)
    monkeypatch.setattr(sweep.Parts, "write", noted)
    found = run(packed, ids, directory=tmp_path)
    assert seen == ["known parts read", "write", "predicted", "write", "gathered"]
    np.testing.assert_array_equal(found.probs, whole.probs)
