"""Thresholds of a method by its own rule: on resampled rows, and a nested choice of method."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.decision import choice, confidence, thresholds
from hpa_jax.pipeline import tables
from hpa_jax.pipeline import thresholds as steps
from hpa_jax.pipeline.context import Context


def rows_of(count=200, groups=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random((count, 3)) < [0.4, 0.2, 0.0]
    probs = np.clip(0.4 * labels + 0.6 * rng.random((count, 3)), 0, 1)
    groups = np.arange(count) if groups is None else groups
    return tables.Rows(np.arange(count).astype(str), labels, groups, np.ones(count)), probs


def context(tmp_path, **thresholds):
    config = configs.default().unlock()
    config.models = {"m": configs.model()}
    config.thresholds.update({"method": "cross_validated", **thresholds})
    return Context(config.lock(), tmp_path)


def around(context, rows, probs, matched=None):
    return steps.intervals_of(context, "m", probs, rows, matched, steps.FoldCaches())


def test_scale_and_fixed_cuts_are_respected(tmp_path):
    rows, probs = rows_of()
    fixed = around(context(tmp_path, method="fixed", value=0.3), rows, probs)
    np.testing.assert_allclose(fixed["low"][:2], 0.3)
    np.testing.assert_allclose(fixed["spread"][:2], 0, atol=1e-12)
    plain = around(context(tmp_path, repeats=2), rows, probs)
    halved = around(context(tmp_path, repeats=2, scale=(0.5,)), rows, probs)
    np.testing.assert_allclose(halved["low"], 0.5 * plain["low"])
    assert (plain["low"] < plain["high"])[:2].all() and np.isnan(plain["low"][2])
    threshold = thresholds.cross_validated(rows.labels, probs)[:2]
    assert (plain["low"][:2] <= threshold).all() and (threshold <= plain["high"][:2]).all()


def test_matching_moves_with_the_shares_not_with_the_matched_rows(tmp_path):
    rows, probs = rows_of()
    options = dict(method="match_proportions", match_on="test")
    found = around(context(tmp_path, **options), rows, probs, matched=probs[:50])
    assert (found["spread"][:2] > 0).all()
    options["proportions"] = (0.4, 0.2, 0.1)  # given: nothing of the rows is left to move them
    found = around(context(tmp_path, **options), rows, probs, matched=probs[:50])
    np.testing.assert_allclose(found["spread"][:2], 0, atol=1e-12)


def test_the_stack_keeps_its_own_rule_where_others_match_the_test_part(tmp_path, monkeypatch):
    rows, probs = rows_of()
    protocol = SimpleNamespace(threshold="cross_validated", threshold_repeats=1, seed=0, shrink=0.0)
    votes = "hpa_jax.decision.stack.stacking.load_votes"
    monkeypatch.setattr(votes, lambda folder: (protocol, probs))
    here = context(tmp_path, method="match_proportions", match_on="test")
    matched = steps.fit_and_nest(here, "stack", probs, rows, probs[:50])
    alone = steps.fit_and_nest(here, "stack", probs, rows, None)
    for with_test, without in zip(matched, alone):
        np.testing.assert_array_equal(with_test, without)


def test_folds_of_resamples_are_drawn_once_for_all_methods(tmp_path):
    rows, probs = rows_of(groups=np.arange(200) // 2)
    drawn, here = steps.FoldCaches(), context(tmp_path)
    one = steps.intervals_of(here, "m", probs, rows, None, drawn)
    count = len(drawn.resampled)
    two = steps.intervals_of(here, "m", probs, rows, None, drawn)
    assert count == len(drawn.resampled) == 100
    np.testing.assert_array_equal(one["low"], two["low"])


def test_auto_takes_a_rule_for_each_method_and_nests_the_choice(tmp_path):
    rows, probs = rows_of()
    here = context(tmp_path, method="auto", repeats=2, proportions=(0.4, 0.2, 0.1))
    fitted = steps.fit(here, "m", probs, rows, probs[:50], steps.FoldCaches())
    assert list(fitted.by_rule) == [
        "match_proportions", "shrunk", "exact", "match_training", "match_test", "cross_validated",
    ]  # fmt: skip
    weights = confidence.resamples(200, choice.DRAWS, groups=rows.groups)
    assert fitted.rule == choice.simplest(rows.labels, fitted.by_rule, weights)
    expected, _ = choice.fold_by_fold(rows.labels, fitted.by_rule, rows.groups)
    np.testing.assert_array_equal(fitted.decided, expected)
    assert fitted.thresholds[2] < 1  # no positive of its own, but predicted


def test_rules_without_test_scores_or_training_shares_are_left_out(tmp_path):
    rows, probs = rows_of()
    here = Context(context(tmp_path, method="auto", repeats=2).config, tmp_path, {"given": None})
    splits = pd.DataFrame({"id": rows.ids})
    splits.to_parquet(tmp_path / "splits.parquet")
    fitted = steps.fit(here, "m", probs, rows, None, steps.FoldCaches())
    assert {"match_test", "match_training"}.isdisjoint(fitted.by_rule)


def test_methods_are_preferred_from_the_mean_to_the_stack(tmp_path):
    names = ["stack", "m", "logistic regression", "mean of models", "weighted mean"]
    assert steps.simplest_first(context(tmp_path), names) == [
        "mean of models", "m", "weighted mean", "logistic regression", "stack",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["tiny", "mean of models", "stack"])
def test_every_method_has_intervals_of_cuts_and_f1(done, method):
    workdir, _ = done
    table = json.loads((workdir / "thresholds.json").read_text())
    scored = json.loads((workdir / "metrics.json").read_text())
    threshold = table["thresholds"][method]
    own = table["intervals"][method]
    for low, value, high, spread in zip(own["low"], threshold, own["high"], own["spread"]):
        assert value is not None or low is None
        assert low is None or (low <= high and spread >= 0)
    assert sum(low is not None for low in own["low"]) >= 20
    score = scored["scores"][method]
    for (low, high), value in zip(score["class_f1_interval"], score["class_f1"]):
        assert low - 1e-9 <= value <= high + 1e-9
    assert scored["auto"]["macro_f1"] <= 1 and len(scored["auto"]["chosen"]) == 5
