"""The stack: honest, no worse than the mean, restartable, and clear about bad input."""

import json

import numpy as np
import pytest

from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision import thresholds
from hpa_jax.decision.stack import files, protocols, runner, stacking
from scripts import simulation

CLASSES = [0, 2, 25, 7, 9]  # common to rare
LINEAR = {"protocol": "quick", "learner": "logistic"}


@pytest.fixture(scope="module")
def data():
    """Five classes of a simulated validation part: 400 rows to fit, 2,600 new ones."""
    whole = simulation.simulate(3000, 2, seed=1, min_positives=90)
    rename = {old: new for new, old in enumerate(CLASSES)}
    columns, names = [], []
    for position, name in enumerate(whole.names):
        model, _, number = name.rpartition("/p")
        if not model:
            columns.append(position)
            names.append(name)
        elif int(number) in rename:
            columns.append(position)
            names.append(f"{model}/p{rename[int(number)]:02d}")
    return whole.features[:, columns], whole.labels[:, CLASSES], tuple(names)


@pytest.fixture(scope="module")
def stack(data):
    features, labels, names = data
    return stacking.fit(features[:400], labels[:400], names=names, workers=1)


def test_shapes_and_scores(stack, data):
    _, labels, _ = data
    assert stack.oof.shape == (400, 5) and stack.thresholds.shape == (5,)
    assert np.isfinite(stack.oof).all() and stack.oof.min() >= 0 and stack.oof.max() <= 1
    assert set(stack.scores) == {"stack", "mean", "weighted_mean", "logistic_regression"}
    expected = metrics.macro_f1(labels[:400], stack.nested_decisions)
    assert stack.scores["stack"]["macro_f1"] == pytest.approx(expected)
    assert all(len(unit.models) == 15 for unit in stack.units)


def test_does_not_lose_to_the_mean_on_new_rows(stack, data):
    features, labels, names = data
    votes = stack.predict(features[400:], names)
    own = stack.scores["mean"]
    where = [[i for i, n in enumerate(names) if n.endswith(f"/p{c:02d}")] for c in range(5)]
    mean = np.stack([features[400:][:, columns].mean(axis=1) for columns in where], axis=1)
    ours = metrics.macro_average_precision(labels[400:], votes)
    theirs = metrics.macro_average_precision(labels[400:], mean)
    assert ours > theirs - 0.005
    assert stack.scores["stack"]["macro_f1"] > own["macro_f1"] - 0.03
    # what is published is what new rows show, within the noise of 400 rows
    new = metrics.macro_f1(labels[400:], votes >= stack.thresholds)
    assert stack.scores["stack"]["macro_f1"] == pytest.approx(new, abs=0.12)


def test_saved_and_loaded_gives_the_same(stack, data, tmp_path):
    features, _, names = data
    stack.save(tmp_path / "stack")
    again = stacking.load(tmp_path / "stack")
    np.testing.assert_array_equal(
        again.predict(features[400:600]), stack.predict(features[400:600])
    )
    np.testing.assert_array_equal(again.oof, stack.oof)
    np.testing.assert_array_equal(again.thresholds, stack.thresholds)
    assert again.names == names and again.protocol == stack.protocol
    assert json.loads((tmp_path / "stack" / "stack.json").read_text())["classes"] == 5


def test_shuffled_labels_give_nothing(data):
    features, labels, names = data
    rng = np.random.default_rng(0)
    shuffled = labels[:400][rng.permutation(400)]
    found = stacking.fit(features[:400], shuffled, names=names, workers=1)
    share = shuffled.mean(axis=0)
    all_positive = 2 * share / (1 + share)  # F1 of predicting every row
    best = np.maximum(all_positive, share)  # F1 of guessing at the prior is the share itself
    error = np.sqrt((best * (1 - best) / (400 * share + 1)).sum()) / len(share)
    assert found.scores["stack"]["macro_f1"] <= best.mean() + 2 * error


def test_groups_never_span_folds(data):
    features, labels, names = data
    rng = np.random.default_rng(0)
    groups = np.arange(400)
    groups[rng.permutation(400)[:80]] = np.repeat(np.arange(40), 2)
    found = stacking.fit(features[:400], labels[:400], groups, names=names, workers=1)
    for unit in found.units:
        for group in np.unique(groups):
            assert len(set(unit.fold[groups == group])) == 1


def test_a_killed_fit_resumes(data, tmp_path, monkeypatch):
    features, labels, names = data
    arguments = (features[:300], labels[:300, :3])
    few = [i for i, name in enumerate(names) if not name.endswith(("/p03", "/p04"))]
    arguments = (features[:300][:, few], labels[:300, :3])
    options = dict(names=[names[i] for i in few], workers=1)
    whole = stacking.fit(*arguments, **options)
    real, calls = runner.fit_unit, []

    def killed(*args, **kwargs):
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(runner, "fit_unit", killed)
    with pytest.raises(KeyboardInterrupt):
        stacking.fit(*arguments, directory=tmp_path, **options)
    again = stacking.fit(*arguments, directory=tmp_path, **options)
    assert len(calls) == 4  # the two finished units were read, not fitted
    again.save(tmp_path)
    assert stacking.fit(*arguments, directory=tmp_path, **options).oof.shape == (300, 3)
    assert len(calls) == 4  # saved in the same folder, units stay what they are
    np.testing.assert_array_equal(again.oof, whole.oof)
    other = files.read(tmp_path, 0, 0, "another stamp")
    assert other is None


def test_test_rows_get_the_votes_of_predict(data):
    features, labels, names = data
    for config in ("quick", {"protocol": "quick", "vote": "binary", "rare_learner": "ridge"}):
        found = stacking.fit(
            features[:300],
            labels[:300],
            names=names,
            workers=1,
            config=config,
            test=features[400:500],
            prior=labels.mean(axis=0),
        )
        np.testing.assert_allclose(found.test_votes, found.predict(features[400:500]), atol=1e-6)


def test_rare_and_absent_classes_follow_the_rule(data):
    features, labels, names = data
    few = labels[:300].copy()
    few[:, 4] = False
    few[np.flatnonzero(few[:, 3])[3:], 3] = False
    found = stacking.fit(features[:300], few, names=names, workers=1)
    assert {unit.c for unit in found.units} == {0, 1, 2}
    assert found.thresholds[4] == thresholds.pooled(
        few, found.oof
    )  # the common threshold of the others
    fit = stacking.threshold_fitter(protocols.resolve("talk"))  # the team's: never
    assert not (found.oof[:, 4] >= fit(few, found.oof, None)[4]).any()
    assert np.isfinite(found.oof[:, 3]).all()


def test_names_are_not_needed(data):
    features, labels, _ = data
    odd = features[:300, :22]  # 22 columns are no known layout of 5 classes
    found = stacking.fit(odd, labels[:300], workers=1)
    assert found.names[0] == "meta/column_00" and set(found.scores) == {"stack"}
    again = stacking.fit(odd, labels[:300], names=found.names, workers=1)
    np.testing.assert_array_equal(again.oof, found.oof)


def test_a_constant_column_changes_nothing(data):
    features, labels, names = data
    whole = stacking.fit(features[:300], labels[:300], names=names, workers=1, config=LINEAR)
    constant = np.insert(features[:500], 15, 7.0, axis=1)
    longer = (*names[:15], "meta/constant", *names[15:])
    found = stacking.fit(constant[:300], labels[:300], names=longer, workers=1, config=LINEAR)
    np.testing.assert_allclose(found.oof, whole.oof, atol=1e-9)
    changed = constant[400:].copy()
    changed[:, 15] = -100.0  # where it was constant, nothing was learnt of it
    np.testing.assert_array_equal(found.predict(changed), found.predict(constant[400:]))
    trees = stacking.fit(constant[:300], labels[:300], names=longer, workers=1)
    np.testing.assert_array_equal(trees.predict(changed), trees.predict(constant[400:]))


def test_a_part_without_positives_does_not_vote(data):
    """All positives in two groups of duplicates: some outer and inner parts can have none."""
    features, labels, names = data
    few, groups = labels[:300].copy(), np.arange(300)
    few[:, 3] = False
    few[:8, 3] = True
    groups[:8] = [0, 0, 0, 0, 1, 1, 1, 1]
    found = stacking.fit(features[:300], few, groups, names=names, workers=1)
    unit = next(unit for unit in found.units if unit.c == 3)
    assert np.isfinite(found.oof).all() and 0 < len(unit.models) < 15
    few[:8, 3], groups[:8] = True, 0  # one group: its own fold has no positive to learn from
    found = stacking.fit(features[:300], few, groups, names=names, workers=1)
    unit = next(unit for unit in found.units if unit.c == 3)
    held = unit.fold == unit.fold[0]
    own = [i for i, name in enumerate(names) if name.endswith("/p03")]
    p = np.clip(features[:300][:, own].astype(float), 1e-6, 1 - 1e-6)
    mean = 1 / (1 + np.exp(-np.log(p / (1 - p)).mean(axis=1)))
    np.testing.assert_allclose(unit.votes[held], mean[held], atol=1e-4)  # the models' mean votes


def test_an_unknown_size_is_the_usual_one(data, tmp_path):
    features, labels, names = data
    size = names.index("meta/size")
    made = stacking.fit(features[:300], labels[:300], names=names, workers=1)
    made.save(tmp_path)
    usual, unknown = features[400:500].copy(), features[400:500].copy()
    usual[:, size], unknown[:, size] = np.median(features[:300, size]), np.nan
    votes = stacking.load(tmp_path).predict(unknown)  # of none of the new rows is it known
    np.testing.assert_array_equal(votes, made.predict(usual))


def test_bad_input_is_named(stack, data):
    features, labels, names = data
    bad = features[:50].copy()
    bad[7, 16] = np.nan
    with pytest.raises(InputError, match=f"row 7 of {names[16]}"):
        stacking.fit(bad, labels[:50], names=names)
    with pytest.raises(InputError, match="rows of features"):
        stacking.fit(features[:50], labels[:40], names=names)
    with pytest.raises(InputError, match="did you mean 'quick'"):
        stacking.fit(features[:50], labels[:50], config="quik", names=names)
    with pytest.raises(InputError, match="no setting 'roundz'"):
        stacking.fit(features[:50], labels[:50], config={"roundz": 3}, names=names)
    with pytest.raises(InputError, match="different features"):
        stack.predict(features[:5], [*names[:-1], "model_09/p00"])
    with pytest.raises(InputError, match="another order"):
        stack.predict(features[:5], names[::-1])
    with pytest.raises(InputError, match="fitted on"):
        stack.predict(features[:5, :4])
    with pytest.raises(InputError, match=r"stack\.json"):
        stacking.load("/nowhere")
