"""A class with settings of its own: they reach its models, and no other class's."""

import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import inputs, protocols, runner, stacking
from hpa_jax.decision.stack.units import vote

FAST = dict(outer=3, inner=2, learner="logistic", vote="binary", strengths=(20.0,))
NEVER = dict(vote_factor=1e9)


@pytest.fixture(scope="module")
def data():
    """Two classes, one model, 120 rows to fit and 40 new ones."""
    rng = np.random.default_rng(0)
    labels = rng.random((160, 2)) < 0.4
    probs = np.clip(0.3 + 0.4 * labels + rng.normal(0, 0.2, labels.shape), 0.01, 0.99)
    names = ("meta/x", "a/p00", "a/p01")
    features = np.column_stack([rng.normal(size=160), probs])
    return features, labels, names


def fitted(data, of_class, **more):
    features, labels, names = data
    config = {**FAST, "of_class": of_class}
    return stacking.fit(features[:120], labels[:120], config=config, names=names, workers=1, **more)


def test_only_the_named_class_changes(data, tmp_path):
    plain, changed = fitted(data, {}), fitted(data, {1: NEVER}, test=data[0][120:])
    np.testing.assert_array_equal(changed.oof[:, 0], plain.oof[:, 0])
    assert plain.oof[:, 1].any() and not changed.oof[:, 1].any()
    assert not changed.test_votes[:, 1].any()
    changed.save(tmp_path)
    votes = stacking.load(tmp_path).predict(data[0][120:])
    np.testing.assert_allclose(votes, changed.test_votes)
    assert votes[:, 0].any()


def test_finished_units_of_other_classes_are_kept(data):
    features, labels, names = data
    table = inputs.named(names, 2).split(features)

    def stamps(of_class):
        protocol = protocols.resolve({**FAST, "of_class": of_class})
        shared = inputs.StackData(table, labels, None, None, None, protocol)
        return list(runner.stamps_of(shared, runner.jobs(labels, protocol)).items())

    before, after = (dict(stamps(own)) for own in ({}, {1: NEVER}))
    assert [before[job] == after[job] for job in sorted(before, key=str)] == [True, False]


def test_a_class_has_repeats_of_its_own():
    labels = np.zeros((100, 2), bool)
    labels[:10] = True
    config = dict(repeats=2, rare_repeats=3, rare_below=15, of_class={1: dict(rare_repeats=5)})
    protocol = protocols.resolve(config)
    jobs = runner.jobs(labels, protocol)
    assert [sum(job.classes == (c,) for job in jobs) for c in (0, 1)] == [3, 5]
    assert protocol.of(1).models(10) == 5 * 5 * 5 * 3 and protocol.of(0).models(10) == 3 * 5 * 3 * 3


def test_a_vote_needs_so_many_times_the_threshold():
    scores = np.array([0.4, 0.41, 0.425, 0.43])
    protocol = protocols.resolve(dict(vote="binary", vote_factor=1.05))
    np.testing.assert_array_equal(vote(scores, 0.4, protocol), [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(of_class={"Nucleus": {}}), "unknown class 'Nucleus', did you mean 'Nucleoplasm'"),
        (dict(of_class={"Nucleoli": dict(vote_facter=1.0)}), "did you mean 'vote_factor'"),
        (dict(of_class={"Nucleoli": dict(threshold_repeats=1)}), "no 'threshold_repeats'"),
        (dict(of_class={"Nucleoli": dict(vote_factor=0.0)}), "vote_factor=0.0: .* above 0"),
        (dict(of_class={"Nucleoli": dict(rare_features=("meta",))}), "needs 'own'"),
        (dict(of_class={"Nucleoli": {}}, learner="multi_output_tree"), "multi_output_tree"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(settings, said):
    config = configs.default().unlock()
    config.stack.update(settings)
    with pytest.raises(InputError, match=said):
        validation.validate(config)


def test_a_config_names_classes():
    config = configs.default().unlock()
    config.stack.of_class = {"Rods & rings": dict(vote_factor=1.05)}
    protocol = protocols.of_config(config.stack.to_dict(), classes.NAMES)
    assert protocol.of_class == {27: {"vote_factor": 1.05}}
    assert protocol.of(27).vote_factor == 1.05 and protocol.of(26).vote_factor == 1.0
