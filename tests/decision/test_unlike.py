"""Pictures unlike the training set: ordinary ones pass, far ones and odd ones are named."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision import unlike


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(600, 8)) @ rng.normal(size=(8, 40)) + 5).astype(np.float32)


def test_few_ordinary_images_and_all_far_ones_are_flagged(embeddings, tmp_path):
    reference = unlike.fit(embeddings[:400], flagged=0.01)
    ordinary, _ = reference.judge(embeddings[400:])
    assert ordinary.mean() < 0.06
    far, reasons = reference.judge(embeddings[400:] * 4)
    assert far.mean() > 0.95 and "no similar image" in reasons[int(far.argmax())]
    reference.save(tmp_path / "r.npz")
    again = unlike.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.distances(embeddings), reference.distances(embeddings))


def test_a_metafeature_out_of_range_is_named(embeddings):
    features = np.random.default_rng(1).uniform(0.2, 0.3, (600, 2))
    features[:, 1] = np.nan  # size unknown: never judged
    reference = unlike.fit(embeddings, features, ["green_mean", "size"])
    rows = np.array([[0.25, 99.0], [0.0, 1.0]])
    flagged, reasons = reference.judge(embeddings[:2], rows)
    assert flagged.tolist() == [False, True] and "green_mean 0 below" in reasons[1]


def test_distances_equal_a_loop(embeddings):
    points, sample = embeddings[:3], embeddings[10:40]
    got = unlike._kth(points, sample, 4)
    want = [np.sort(np.linalg.norm(sample - point, axis=1))[3] for point in points]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_bad_input_is_refused(embeddings, tmp_path):
    with pytest.raises(InputError, match="more than 5"):
        unlike.fit(embeddings[:3])
    with pytest.raises(InputError, match="shape"):
        unlike.fit(embeddings).distances(embeddings[:, :3])
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"x\.npz"):
        unlike.load(tmp_path / "x.npz")
