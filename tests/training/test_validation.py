"""Scores between epochs against the losses of training and a count by hand."""

import jax
import numpy as np
import pytest

from hpa_jax.training import checkpoint, losses, validation


def test_focal_is_the_loss_of_that_name_and_lower_is_better():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(40, 5)).astype(np.float32) * 3
    labels = (draw.random((40, 5)) < 0.3).astype(np.uint8)
    found = validation.scores(labels, np.asarray(jax.nn.sigmoid(logits)), loss=7.0)
    assert found["focal"] == pytest.approx(float(losses.focal(logits, labels).mean()), rel=1e-5)
    assert found["loss"] == 7.0
    metas = {step: {"kind": "epoch", "metrics": {"focal": x}} for step, x in ((1, 0.5), (2, 0.4))}
    assert checkpoint.best_step(metas, "focal") == 2


def test_certainties_do_not_make_it_infinite():
    found = validation.scores(np.eye(2), 1 - np.eye(2), loss=0.0)
    assert 10 < found["focal"] < 50
    assert np.isnan(validation.scores(np.eye(2), np.full((2, 2), np.nan), 0.0)["focal"])


def test_f1_counts_a_class_without_positives_as_zero_and_leaves_its_precision_out():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    probs = np.array([[0.9, 0.2, 0.1], [0.4, 0.6, 0.2], [0.1, 0.7, 0.6]])
    found = validation.scores(labels, probs, loss=0.0)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["map"] == 1.0 and np.isnan(found["ap"][2])
