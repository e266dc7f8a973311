"""Principal components: those of the singular value decomposition, and back from disk."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision import projection

X = np.random.default_rng(0).standard_normal((40, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) + 7


def test_components_are_the_singular_vectors(tmp_path):
    fitted = projection.fit(X, 3)
    centred = X - X.mean(0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(fitted.axes), np.abs(vectors[:3]), atol=1e-8)
    other = np.random.default_rng(1).standard_normal((5, 6))
    np.testing.assert_allclose(
        fitted.columns(other), (other - X.mean(0)) @ fitted.axes.T, atol=1e-5
    )
    spread = fitted.columns(X).std(0) * np.sqrt(len(X))
    np.testing.assert_allclose(spread, values[:3], rtol=1e-5)
    fitted.save(tmp_path / "p.npz")
    np.testing.assert_array_equal(
        projection.load(tmp_path / "p.npz").columns(other), fitted.columns(other)
    )


def test_what_can_not_be_is_refused():
    with pytest.raises(InputError, match="7 principal components of 40 rows"):
        projection.fit(X, 7)
    with pytest.raises(InputError, match="fitted on 6"):
        projection.fit(X, 2).columns(X[:, :5])


def test_columns_are_named_by_model():
    fitted = {"a": projection.fit(X, 2), "b": projection.fit(X[:, :4], 1)}
    found = projection.table(fitted, {"a": X[:3], "b": X[:3, :4]})
    assert list(found) == ["a.pc00", "a.pc01", "b.pc00"]
    np.testing.assert_array_equal(found["b.pc00"], fitted["b"].columns(X[:3, :4])[:, 0])
