"""Planted label errors come first; the rule is the paper's, written out slowly; cleanlab agrees.

Its answers on three sets are kept: `python -m tests.decision.test_label_noise` asks it anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision import label_noise
from scripts import simulation

ANSWERS = Path(__file__).with_name("cleanlab.json")


def noisy(seed=0, n=400, flips=0.04, spread=0.2):
    """Labels of four classes, one rare, some flipped; probabilities of an able model."""
    rng = np.random.default_rng(seed)
    true = rng.random((n, 4)) < [0.5, 0.3, 0.1, 0.04]
    wrong = rng.random(true.shape) < flips
    probs = np.where(true, 0.75, 0.2) + rng.normal(0, spread, true.shape)
    return true ^ wrong, np.clip(probs, 0.01, 0.99), wrong


def slowly(labels, probs):
    """Confident learning of one class, row by row, from the paper (sections 3.1 and 3.2)."""
    n = len(labels)
    means = [np.mean([1 - p for g, p in zip(labels, probs) if not g]),
             np.mean([p for g, p in zip(labels, probs) if g])]  # fmt: skip
    counts = [[0, 0], [0, 0]]
    for g, p in zip(labels, probs):
        sure = [k for k, q in enumerate((1 - p, p)) if q >= means[k] - 1e-6]
        if sure:
            counts[int(g)][max(sure, key=lambda k: (1 - p, p)[k])] += 1
    errors = [False] * n
    for given in (0, 1):
        members = [row for row in range(n) if labels[row] == given]
        share = counts[given][1 - given] / (max(counts[given][given], 1) + counts[given][1 - given])
        number = min(round(share * len(members)), len(members) - 1)
        worst = sorted(members, key=lambda row: probs[row] if given else -probs[row])
        for row in worst[:number]:
            errors[row] = (probs[row] > 0.5) != bool(given)
    return errors


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_is_the_papers(seed):
    labels, probs, _ = noisy(seed, n=150)
    found = label_noise.likely_errors(labels, probs)
    for c in range(4):
        assert found[:, c].tolist() == slowly(labels[:, c], probs[:, c])


def test_planted_errors_are_found():
    labels, probs, wrong = noisy(1, n=2000, spread=0.12)
    found = label_noise.likely_errors(labels, probs)
    # In the rarest class every second given label is wrong: its means say little.
    assert (found & wrong).sum() / wrong.sum() > 0.75
    assert (found & wrong).sum() / found.sum() > 0.85
    trust = label_noise.trust(labels, probs)
    planted = wrong.any(axis=1)
    assert planted[np.argsort(trust)][: planted.sum()].mean() > 0.9


def test_clean_labels_are_left_alone():
    labels, probs, _ = noisy(2, flips=0.0, spread=0.02)
    assert not label_noise.likely_errors(labels, probs).any()


def test_joint_keeps_the_given_numbers():
    labels, probs, _ = noisy(3)
    joint = label_noise.confident_joint(labels[:, 0], probs[:, 0])
    assert joint.sum(axis=1).tolist() == [(~labels[:, 0]).sum(), labels[:, 0].sum()]


def test_trust_by_hand():
    # Labels as given have probabilities .9, .6, .3: ((.9 -> .6) -> .3) with memory .8.
    trust = label_noise.trust(np.array([[1, 0, 1]]), np.array([[0.9, 0.4, 0.3]]))
    assert trust[0] == pytest.approx(0.8 * 0.3 + 0.2 * (0.8 * 0.6 + 0.2 * 0.9))


@pytest.fixture(scope="module")
def simulated():
    """Right labels of 800 images of the competition and the mean of four models of its F1s."""
    data = simulation.simulate(800, 4, seed=3)
    return data.labels, data.probs.mean(axis=0, dtype=float)


def exchanged(labels, share, seed):
    """(labels in which a share of the rows has another row's set, which rows these are)."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    for row in rows:
        while (given[row] == labels[row]).all():
            given[row] = labels[rng.integers(len(labels))]
    return given, np.isin(np.arange(len(labels)), rows)


def test_right_labels_of_hard_images_are_not_listed(simulated):
    labels, probs = simulated
    evidence, _ = label_noise.wrong(labels, probs)
    assert (evidence >= label_noise.LISTED).mean() < 0.005
    assert label_noise.likely_errors(labels, probs).any(axis=1).mean() > 0.05  # cleanlab's are


def test_scores_that_tell_nothing_list_nothing(simulated):
    labels, _ = simulated
    probs = np.random.default_rng(0).uniform(0, 1, labels.shape)
    evidence, _ = label_noise.wrong(labels[:60], probs[:60])
    assert not (evidence >= label_noise.LISTED).any()


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_planted_wrong_sets_are_listed_with_the_precision_that_is_stated(simulated, share):
    labels, probs = simulated
    found = []
    for seed in range(3):
        given, planted = exchanged(labels, share, seed)
        evidence, _ = label_noise.wrong(given, probs)
        listed = evidence >= label_noise.LISTED
        found.append(
            [listed.sum(), (listed & planted).sum(), planted.sum(), evidence[listed].sum()]
        )
    listed, right, planted, expected = np.sum(found, axis=0)
    assert right / listed > 0.7 and right / planted > 0.4
    assert expected / listed == pytest.approx(right / listed, abs=0.15)


def test_the_list_begins_with_the_surest(simulated):
    labels, probs = simulated
    given, planted = exchanged(labels, 0.05, 0)
    ids = [f"i{row}" for row in range(len(labels))]
    names = [f"c{c}" for c in range(labels.shape[1])]
    found = label_noise.table(ids, given, probs, names, groups=np.arange(len(ids)))
    assert found["evidence"].is_monotonic_decreasing and len(found) > 10
    half = [ids.index(name) for name in found["id"][: len(found) // 2]]
    assert planted[half].mean() > 0.9
    for row in found.itertuples():
        given_, suggested = ({*text.split()} for text in (row.given, row.suggested))
        changed = {f"c{c}" for c in given_ ^ suggested}
        assert changed == {*filter(None, (row.missing + ", " + row.spurious).split(", "))}
        assert row.worst_class in changed
    counts = label_noise.summary(given, probs, names)
    assert counts["given"].tolist() == given.sum(axis=0).tolist()


def test_classes_no_model_knows_and_empty_classes_have_no_errors():
    labels, probs, _ = noisy(5)
    probs[:, 1] = np.nan
    labels[:, 2] = False
    found = label_noise.likely_errors(labels, probs)
    assert not found[:, 1:3].any() and found.any()
    assert np.isfinite(label_noise.trust(labels, probs)).all()


def test_one_example_is_never_taken_from_a_class():
    labels = np.zeros((30, 1), bool)
    labels[0] = True
    found = label_noise.likely_errors(labels, np.full((30, 1), 0.01))
    assert not found.any()


@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 1)), "probabilities"),
        (np.ones((3, 2)), np.full((3, 2), 1.5), "outside"),
        (np.ones((2, 2)), np.array([[0.5, np.nan], [0.5, 0.5]]), "class 1"),
    ],
)
def test_wrong_input_is_named(labels, probs, message):
    with pytest.raises(InputError, match=message):
        label_noise.likely_errors(labels, probs)


def agree(labels, probs, flagged, trust):
    differ = label_noise.likely_errors(labels, probs) != flagged
    assert differ.sum(axis=0).max() <= 1  # the number of errors is rounded in another way
    assert np.allclose(label_noise.trust(labels, probs), trust, atol=1e-6)


@pytest.mark.parametrize("number", range(3))
def test_what_cleanlab_said_is_said_here(number):
    stored = json.loads(ANSWERS.read_text())["sets"][number]
    labels, probs, flagged = (np.array(stored[key]) for key in ("labels", "probs", "flagged"))
    assert flagged.sum() >= 10
    agree(labels.astype(bool), probs, flagged.astype(bool), stored["trust"])


@pytest.mark.parametrize("seed", range(6))
def test_cleanlab_agrees(seed):
    pytest.importorskip("cleanlab")
    labels, probs, _ = noisy(seed, n=60 + 50 * seed, flips=0.08, spread=0.3)
    agree(labels, probs, *cleanlab_says(labels, probs))


def cleanlab_says(labels, probs):
    """Its likely errors bool[N, C] and quality scores [N]."""
    from cleanlab import multilabel_classification as library

    lists = [list(np.flatnonzero(row)) for row in labels]
    flagged = library.filter.find_multilabel_issues_per_class(lists, probs)
    return np.asarray(flagged), library.rank.get_label_quality_scores(lists, probs)


def write_answers():
    """Asks cleanlab (pip install cleanlab) and keeps what it says in ANSWERS."""
    import cleanlab

    sets = []
    for seed, n in ((10, 60), (11, 100), (12, 140)):
        labels, probs, _ = noisy(seed, n=n, flips=0.08, spread=0.3)
        probs = probs.round(5)
        flagged, trust = cleanlab_says(labels, probs)
        sets.append(
            dict(
                labels=labels.astype(int).tolist(),
                probs=probs.tolist(),
                flagged=flagged.astype(int).tolist(),
                trust=trust.round(7).tolist(),
            )
        )
    said = {"cleanlab": cleanlab.__version__, "sets": sets}
    ANSWERS.write_text(json.dumps(said, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    write_answers()
