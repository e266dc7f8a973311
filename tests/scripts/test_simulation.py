"""What the bench's simulated models promise: listed class F1, correlated errors, real labels."""

import numpy as np
import pytest

from hpa_jax.core import metrics
from hpa_jax.decision import thresholds
from scripts import simulation


@pytest.fixture(scope="module")
def data():
    return simulation.simulate(20_000, 3, seed=2)


def test_single_models_have_the_listed_f1(data):
    """Classes of 150 positives or more, whose best F1 is not luck; mean over models."""
    common = data.labels.sum(axis=0) >= 150
    found = []
    for probs in data.probs.astype(np.float64):
        cuts = thresholds.exact(data.labels, probs)
        found.append(metrics.class_f1(data.labels, probs >= cuts)[common])
    difference = np.mean(found, axis=0) - np.array(simulation.CLASS_F1)[common]
    assert common.sum() >= 18
    assert abs(difference.mean()) < 0.02 and np.abs(difference).max() < 0.06, difference


def test_errors_of_two_models_correlate(data):
    probs = np.clip(data.probs.astype(np.float64), 1e-7, 1 - 1e-7)
    logits = np.log(probs / (1 - probs))
    for c in (0, 7, 25):
        negative = ~data.labels[:, c]
        assert np.corrcoef(logits[:, negative, c])[0, 1:].min() > 0.7


def test_labels_have_the_competitions_frequencies(data):
    sets, counts = simulation.label_sets()
    share = np.zeros(simulation.NUM_CLASSES)
    for numbers, count in zip(sets, counts):
        share[numbers] += count / counts.sum()
    np.testing.assert_allclose(data.labels.mean(axis=0), share, atol=0.01)
