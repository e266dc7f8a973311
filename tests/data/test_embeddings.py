"""Stored embeddings: whole parts, random access, damage."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.data import batches, embeddings
from hpa_jax.data.embeddings import Embeddings

SHAPE = (2, 1, 3)
IDS = [f"i{number}" for number in range(10)]
VALUES = np.random.default_rng(0).standard_normal((10, *SHAPE)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten rows in parts of four."""
    monkeypatch.setattr(embeddings, "ROWS", 4)
    for number in range(3):
        embeddings.write_part(tmp_path, number, VALUES[number * 4 : number * 4 + 4])
    return tmp_path


def test_rows_are_read_by_id_in_any_order(folder):
    stored = embeddings.finish(folder, IDS, SHAPE)
    rows = stored.rows(["i9", "i0", "i4"])
    np.testing.assert_array_equal(stored.read(rows), VALUES[[9, 0, 4]])
    with pytest.raises(InputError, match="no embedding of 'other'"):
        stored.rows(["i1", "other"])


def test_a_part_that_is_missing_or_cut_short_is_to_be_computed(folder):
    assert embeddings.missing(folder, 10, SHAPE) == []
    embeddings.part_path(folder, 0).unlink()
    path = embeddings.part_path(folder, 2)
    path.write_bytes(path.read_bytes()[:-4])
    assert embeddings.missing(folder, 10, SHAPE) == [0, 2]
    assert embeddings.missing(folder, 10, (2, 1, 4)) == [0, 1, 2]  # of another network
    with pytest.raises(InputError, match=r"part-00000\.npy: not there"):
        embeddings.finish(folder, IDS, SHAPE)


def test_damage_after_the_end_is_named(folder):
    stored = embeddings.finish(folder, IDS, SHAPE)
    embeddings.part_path(folder, 1).unlink()
    with pytest.raises(InputError, match=r"part-00001\.npy: damaged or missing"):
        stored.read(np.array([5]))


def test_a_checksum_changes_with_its_row_alone(folder):
    before = embeddings.finish(folder, IDS, SHAPE).checksums
    changed = VALUES[4:8].copy()
    changed[1, 0, 0, 0] += 1
    embeddings.write_part(folder, 1, changed)
    assert np.flatnonzero(Embeddings(folder).checksums != before).size == 0  # as it was finished
    after = embeddings.finish(folder, IDS, SHAPE).checksums
    assert np.flatnonzero(after != before).tolist() == [5]


def test_what_is_not_finite_is_not_stored(folder):
    values = VALUES[:4].copy()
    values[2, 1, 0, 0] = np.nan
    with pytest.raises(InputError, match="row 6 is not finite"):
        embeddings.write_part(folder, 1, values)


def test_batches_hold_embeddings_in_place_of_images(folder):
    stored = embeddings.finish(folder, IDS, SHAPE)
    ids = IDS[::-1][:5]
    found = list(batches.eval_batches(stored, ids, None, batch_size=3, channels=(), image_size=0))
    values = np.concatenate([batch["image"][batch["mask"]] for batch in found])
    np.testing.assert_array_equal(values, VALUES[::-1][:5])
