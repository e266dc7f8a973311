"""What is known of each class travels with its scores: probability, F1, support."""

import json

import numpy as np
import pytest

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.decision import calibration
from hpa_jax.decision.validated import SHOWN_FROM, Validated, by_class

NAMES = ("a", "b", "unknown")


@pytest.fixture(scope="module")
def known():
    """Scores of class a are the square of its probabilities; the last class has none."""
    rng = np.random.default_rng(0)
    truth = rng.random((4000, 2))
    labels = rng.random(truth.shape) < truth
    fitted = calibration.fit(labels, truth ** np.array([2.0, 1.0])).coefficients
    coefficients = np.concatenate([fitted, np.full((1, 3), np.nan)])
    return Validated(
        calibration.Calibration(coefficients), np.array([0.9, 0.5, np.nan]), np.array([40, 7, 0])
    )


def test_probabilities_are_calibrated_and_nothing_is_said_of_an_unknown_class(known):
    found = known.probabilities(np.array([[0.25, 0.5, np.nan], [0.64, 0.5, 0.0]]))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0.8, 0.5, 0]], atol=0.05)


def test_rows_are_the_predicted_and_the_probable_with_the_most_probable_first(known):
    scores = np.array([[0.0001, 0.3, 0.0], [0.81, 0.95, 0.0]])
    decided = np.array([[True, False, False], [True, False, False]])
    cuts = np.array([0.0, np.inf, 0.5])
    found = by_class(known, ["x", "y"], NAMES, scores, decided, cuts)
    assert [*zip(found["id"], found["class"])] == [("x", "b"), ("x", "a"), ("y", "b"), ("y", "a")]
    assert found["predicted"].tolist() == [False, True, False, True]
    assert found["score"].tolist() == [0.3, 0.0001, 0.95, 0.81]
    assert found["threshold"].isna().tolist() == [True, False, True, False]
    assert found["probability"].to_list()[2:] == pytest.approx([0.95, 0.9], abs=0.05)
    assert found["probability"][1] < SHOWN_FROM
    assert found["f1"].tolist() == [0.5, 0.9] * 2 and found["support"].tolist() == [7, 40] * 2


def test_it_comes_back_from_json_and_some_of_its_classes_alone(known):
    stored = json.loads(json.dumps(artifacts.plain(known.as_json()), allow_nan=False))
    again = Validated.from_json(stored, 3)
    np.testing.assert_array_equal(again.calibration.coefficients, known.calibration.coefficients)
    np.testing.assert_array_equal(again.f1, known.f1)
    part = again.of_classes([1])
    scores = np.full((1, 3), 0.3)
    assert part.probabilities(scores[:, [1]])[0, 0] == known.probabilities(scores)[0, 1]
    assert (part.f1[0], part.support[0]) == (0.5, 7)
    with pytest.raises(InputError, match="for 4 classes"):
        Validated.from_json(stored, 4)
