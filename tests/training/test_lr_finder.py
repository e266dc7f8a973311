"""The sweep, its smoothing, where it stops, and that it leaves the model as it was."""

from unittest import mock

import numpy as np
import pytest

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.training import lr_finder
from tests.training import tiny


def find(directory, **options):
    records = tiny.Records()
    with tiny.in_place():
        return lr_finder.find(
            tiny.model(optimizer=dict(name="sgd")),
            name="tiny",
            directory=directory,
            records=records,
            train_ids=records.ids[32:],
            train_labels=records.labels[32:],
            valid_ids=records.ids[:32],
            valid_labels=records.labels[:32],
            class_names=tiny.CLASSES,
            settings=tiny.settings(),
            seed=0,
            **options,
        )


def test_sweep_stops_on_divergence_and_leaves_the_model_untouched(tmp_path):
    tiny.train(tmp_path, tiny.model(optimizer=dict(name="sgd")))
    before = {p: p.read_bytes() for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    found = find(tmp_path, iterations=150, high=1e5, which="last")
    assert found["diverged_at"] is not None and len(found["lr"]) < 150
    assert found["lr"][0] == pytest.approx(1e-7)
    assert 1e-7 < found["steepest"] < found["diverged_at"]
    assert found["minimum_tenth"] < found["diverged_at"]
    after = {p: p.read_bytes() for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}
    assert after == before and (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert artifacts.read_json(tmp_path / "lr_find.json")["steepest"] == found["steepest"]
    assert (tmp_path / "lr_find.png").read_bytes().startswith(b"\x89PNG")


def test_images_of_weight_0_are_not_shown(tmp_path):
    """As in training: the sweep sees the sources in their weights."""
    alone, labels = np.zeros(64), tiny.Records().labels[32:]
    alone[5] = 1.0
    shown = []
    batches = tiny.train_batches

    def spied(*args, **options):
        for batch in batches(*args, **options):
            shown.append(batch["label"])
            yield batch

    with mock.patch.object(tiny, "train_batches", spied):
        find(tmp_path, iterations=10, train_weights=alone)
    assert (np.concatenate(shown) == labels[5]).all()


def test_smoothing_is_the_bias_corrected_mean():
    losses = np.array([3.0, 1.0, 2.0])
    b = 0.98
    last = (b * b * 3 + b * 1 + 2) / (b * b + b + 1)
    np.testing.assert_allclose(lr_finder.smoothed(losses), [3, (b * 3 + 1) / (b + 1), last])


def test_suggestions_of_a_known_curve():
    rates = np.geomspace(1e-6, 1, 601)
    x = np.log10(rates)
    # falls fastest at 1e-3, is lowest at 1e-2, then explodes
    true = 1 - np.tanh(3 * (x + 3)) + np.where(x > -2, np.exp(9 * (x + 2)) - 1, 0)
    found = lr_finder.suggest(rates, true)
    assert 1e-3 < found["steepest"] < 3e-3  # smoothing lags a little
    assert 1e-3 < found["minimum_tenth"] < 4e-3
    assert found["diverged_at"] is not None


def test_divergence_is_four_times_the_best_or_not_finite():
    assert lr_finder.diverged([1.0] * 50) is None
    assert lr_finder.diverged([1.0, 1.0, float("nan"), 1.0]) == 2
    assert lr_finder.diverged([1.0] * 10 + [1e6]) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(low=1.0, high=0.1), "low < high"),
        (dict(phase=4), "phase=4, but there are 1"),
        (dict(which="best"), "no checkpoint"),
        (dict(train_weights=np.full(64, -1.0)), "weights must be"),
    ],
)
def test_bad_sweeps_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        find(tmp_path, **options)
