"""Retrieval: exact neighbours against numpy, exclusions, transfer, recall."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.inference import retrieval


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return retrieval.standardised(rng.normal(size=(37, 8))), retrieval.standardised(
        rng.normal(size=(300, 8))
    )


def test_standardised_by_the_sets_own_statistics():
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(50, 4)) * [1, 2, 3, 0] + 7
    unit = retrieval.standardised(embeddings)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(unit, retrieval.standardised(3 * embeddings - 1), atol=1e-4)
    with pytest.raises(InputError, match="finite"):
        retrieval.standardised(np.full((2, 2), np.nan))


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_equals_brute_force(sets, k):
    queries, gallery = sets
    pairs = retrieval.nearest(queries, gallery, k=k, query_block=10, gallery_block=128)
    cosines = queries @ gallery.T
    want = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(pairs.rows, want)
    np.testing.assert_allclose(
        pairs.similarity, np.take_along_axis(cosines, want, axis=1), atol=1e-5
    )


def test_rows_of_the_same_code_are_no_neighbours(sets):
    _, gallery = sets
    codes = np.arange(300) // 100
    pairs = retrieval.nearest(gallery, gallery, query_codes=codes, gallery_codes=codes)
    assert (codes[pairs.rows[:, 0]] != codes).all()
    one = np.zeros(300, int)
    pairs = retrieval.nearest(gallery, gallery, query_codes=one, gallery_codes=one)
    assert (pairs.rows == -1).all() and np.isneginf(pairs.similarity).all()


def test_bad_input_is_refused(sets):
    queries, gallery = sets
    with pytest.raises(InputError, match="gallery"):
        retrieval.nearest(queries[:, :3], gallery)
    with pytest.raises(InputError, match="300 rows"):
        retrieval.nearest(queries, gallery, k=301)
    with pytest.raises(InputError, match="both"):
        retrieval.nearest(queries, gallery, query_codes=np.zeros(37))
    with pytest.raises(InputError, match="exact"):
        retrieval.nearest(queries, gallery, backend="exakt")


def test_transfer_replaces_or_boosts_above_tau():
    probs = np.array([[0.2, 0.9], [0.2, 0.9], [0.2, 0.9]], np.float32)
    labels = np.array([[1, 0], [1, 0], [1, 0]])
    similarity = np.array([0.9, 0.65, 0.64])
    new, taken = retrieval.transfer(probs, labels, similarity)
    assert taken.tolist() == [True, True, False]
    np.testing.assert_allclose(new, [[1, 0], [1, 0], [0.2, 0.9]], atol=1e-6)
    boosted, _ = retrieval.transfer(probs, labels, np.array([1.0, 0.65, 0.1]), mode="boost")
    np.testing.assert_allclose(boosted, [[1, 0], [0.2, 0.9], [0.2, 0.9]], atol=1e-6)
    decided, _ = retrieval.transfer(probs >= 0.5, labels, similarity)
    assert decided.dtype == bool and decided[0].tolist() == [True, False]
    with pytest.raises(InputError, match="boost"):
        retrieval.transfer(probs >= 0.5, labels, similarity, mode="boost")
    with pytest.raises(InputError, match="similarity"):
        retrieval.transfer(probs, labels[:, :1], similarity)


def test_recall_counts_images_whose_antibody_has_another():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16)) * 5
    antibodies = np.repeat(np.arange(20), 3)
    close = centres[antibodies] + rng.normal(size=(60, 16)) * 0.1
    found = retrieval.recall_at_1(close, antibodies)
    assert found["recall"] == 1.0 and found["queries"] == 60
    assert found["chance"] == pytest.approx(2 / 59)
    random = retrieval.recall_at_1(rng.normal(size=(60, 16)), antibodies)
    assert random["recall"] < 0.25
    # A copy proves nothing: with all three images of an antibody in one group there is no query.
    assert retrieval.recall_at_1(close, antibodies, groups=antibodies)["queries"] == 0
    names = [None if a == 0 else str(a) for a in antibodies]
    assert retrieval.recall_at_1(close, names)["queries"] == 57


def test_agreement_tells_what_a_cut_takes_and_how_often_it_is_right():
    labels = np.array([[1, 0], [1, 1], [0, 1]], bool)
    other = np.array([[1, 0], [1, 0], [1, 0]], bool)
    table = retrieval.agreement(labels, other, np.array([0.9, 0.7, 0.1]), taus=(0.65, 0.95))
    assert table["taken"].tolist() == pytest.approx([2 / 3, 0])
    assert table["same"][0] == 0.5 and table["jaccard"][0] == 0.75 and np.isnan(table["same"][1])


def test_faiss_finds_what_the_exact_search_finds(sets):
    pytest.importorskip("faiss")
    _, gallery = sets
    exact = retrieval.nearest(gallery[:50], gallery)
    other = retrieval.nearest(gallery[:50], gallery, backend="faiss")
    assert (exact.rows == other.rows).mean() > 0.95
