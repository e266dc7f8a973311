"""The vote protocol, step by step: drawn negatives, groups in both loops, a plain reference."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from hpa_jax.decision.stack import inputs, protocols, stacking, units

LEARNERS = ("boosted", "logistic", "ridge", "multi_output_tree")


def used_rows(positive, prior, **settings):
    """The union of the fitting and stopping rows of every outer fold, and the plan."""
    protocol = protocols.resolve({"outer": 4, "inner": 3, **settings})
    _, plan = units.splits(positive, None, 0, 0, protocol, prior)
    return [np.unique(np.concatenate([np.r_[pair] for pair in pairs])) for _, pairs in plan], plan


def test_negatives_are_subsampled_to_the_training_share_and_all_rows_get_votes():
    positive = np.arange(600) % 20 == 0  # 30 of 600
    for prior in (0.1, 0.25):
        used, plan = used_rows(positive, prior, negatives="prior")
        seen = np.unique(np.concatenate(used))
        assert positive[seen].sum() == 30
        assert positive[seen].mean() == pytest.approx(prior, abs=0.005)
        for rows in used:  # also in what each outer fold learns from
            assert positive[rows].mean() == pytest.approx(prior, abs=0.02)
        held = np.concatenate([rows for rows, _ in plan])
        assert sorted(held) == list(range(600))  # rows that were not drawn get votes too
    for rows, (held, _) in zip(*used_rows(positive, 0.1, negatives="all")):
        assert len(rows) + len(held) == 600


def test_a_share_below_that_of_the_rows_keeps_all_negatives():
    positive = np.arange(300) % 3 == 0
    used, _ = used_rows(positive, 0.05, negatives="prior")
    assert len(np.unique(np.concatenate(used))) == 300


def test_inner_folds_keep_groups():
    rng = np.random.default_rng(0)
    positive, groups = rng.random(240) < 0.3, np.repeat(np.arange(120), 2)
    protocol = protocols.resolve({"outer": 3, "inner": 3, "inner_repeats": 2})
    _, plan = units.splits(positive, groups, 0, 0, protocol)
    for held, pairs in plan:
        assert len(pairs) == 6
        for fit, stop in pairs:
            for one, other in ((fit, stop), (fit, held), (stop, held)):
                assert not set(groups[one]) & set(groups[other])


@pytest.mark.parametrize("learner", LEARNERS)
def test_labels_shuffled_by_pairs_of_duplicates_give_chance(learner):
    """Duplicates share image and label, and the models learn by heart: fitted on one, they know
    the other, so a pair that spans folds shows."""
    rng = np.random.default_rng(1)
    pairs, num_classes, models = 130, 2, 30
    labels = np.repeat(rng.random((pairs, num_classes)) < (0.35, 0.5), 2, axis=0)
    groups = np.repeat(np.arange(pairs), 2)
    probs = np.repeat(rng.random((pairs, models * num_classes)), 2, axis=0)
    names = [f"m{m}/p{c:02d}" for m in range(models) for c in range(num_classes)]
    config = {
        "learner": learner, "outer": 3, "inner": 2, "depth": 6, "eta": 0.5, "penalty": 0.01,
        "min_child_weight": 0.0, "strengths": (0.01,), "ridge_alpha": 0.01,
    }  # fmt: skip
    found = stacking.fit(probs, labels, groups, config, names=names, workers=1)
    share = labels.mean(axis=0)
    best = 2 * share / (1 + share)  # F1 of predicting every row; guessing at the share is below
    error = np.sqrt((best * (1 - best) / (pairs * share)).sum()) / num_classes
    assert found.scores["stack"]["macro_f1"] <= best.mean() + 2 * error
    # nor do the votes rank: two standard errors of the area under the curve
    for c in range(num_classes):
        assert abs(_area(labels[:, c], found.oof[:, c]) - 0.5) < 3 * np.sqrt(1 / (6 * pairs / 2))


def _area(positive, scores):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(positive, scores)


def _best_threshold(positive, scores):
    """Each score tried as a threshold; of equal F1 the highest, half-way to the next below."""
    thresholds = np.unique(scores)
    f1 = np.array([f1_score(positive, scores >= threshold) for threshold in thresholds])
    best = np.flatnonzero(f1 == f1.max())[-1]
    return thresholds[best] if best == 0 else (thresholds[best] + thresholds[best - 1]) / 2


def test_votes_are_those_of_a_plain_loop():
    """Ridge models by scikit-learn, folds by scikit-learn, every threshold tried."""
    rng = np.random.default_rng(2)
    rows, new = 90, 20
    positive = rng.random(rows) < 0.4
    probs = np.clip(
        0.3 * np.r_[positive, rng.random(new) < 0.4][:, None] + 0.6 * rng.random((rows + new, 3)),
        0,
        1,
    )
    names = tuple(f"m{m}/p00" for m in range(3))
    columns = inputs.named(names, 1)
    table, new_table = columns.split(probs[:rows]), columns.split(probs[rows:])
    protocol = protocols.resolve(
        {"protocol": "talk", "learner": "ridge", "outer": 3, "inner": 2, "inner_repeats": 2,
         "negatives": "all", "seed": 7}
    )  # fmt: skip
    repeat = 1
    data = inputs.StackData(table, positive[:, None], None, None, new_table, protocol)
    unit = units.fit_unit(data, 0, repeat)

    own, scale = inputs.class_inputs(table, 0)
    x = np.concatenate([own.linear, inputs.class_inputs(new_table, 0, scale)[0].linear])[:, 1:]
    votes, on_new, models = np.zeros(rows), np.zeros(new), 0
    seed = 7 + 57 * repeat
    for rest, held in StratifiedKFold(3, shuffle=True, random_state=seed).split(x[:rows], positive):
        for j in range(2):
            inner = StratifiedKFold(2, shuffle=True, random_state=seed + 101 * j)
            for a, b in inner.split(x[rest], positive[rest]):
                fit, stop = rest[a], rest[b]
                model = Ridge(protocol.ridge_alpha).fit(x[fit], positive[fit].astype(float))
                scores = model.predict(x)
                ours = unit.models[models].threshold
                assert ours == pytest.approx(
                    _best_threshold(positive[stop], scores[stop]), abs=1e-9
                )
                votes[held] += (scores[held] >= ours) / 4
                on_new += scores[rows:] >= ours
                models += 1
    assert len(unit.models) == models == 12
    np.testing.assert_allclose(unit.votes, votes, atol=1e-9)
    np.testing.assert_allclose(unit.test_votes, on_new / 12, atol=1e-9)
    assert 0 < votes.mean() < 1
