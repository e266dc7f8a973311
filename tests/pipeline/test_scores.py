"""Scores that several networks or several images share: folds of a model, test duplicates."""

import json

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.inference.tables import read_table, write_embeddings
from hpa_jax.pipeline import predict, scores, tables
from hpa_jax.pipeline.context import Context

IDS = np.array(["a", "b", "c", "d", "e"])


@pytest.fixture
def context(tmp_path):
    config = configs.default().unlock()
    config.classes = ("x", "y")
    config.models = {"m": configs.model()}
    return Context(config.lock(), tmp_path)


def test_duplicates_of_the_test_part_share_their_mean_in_every_method(context):
    """a ~ b ~ c: all three are one image; v, of another part, joins nobody."""
    rng, drawn = np.random.default_rng(0), {}
    for split in ("valid", "test"):
        paths = {"m": tables.predictions(context, "m", split)}
        paths |= {name: scores.blend_path(context, name, split) for name in scores.blends(context)}
        paths[scores.STACK] = scores.stack_path(context, split)
        for name, path in paths.items():
            drawn[split, name] = rng.random((5, 2), np.float32)
            tables.write_probabilities(path, IDS, drawn[split, name])
    pairs = [("a", "b"), ("c", "b"), ("d", "v"), ("v", "e")]
    table = pd.DataFrame(pairs, columns=["id_a", "id_b"])
    artifacts.write_table(context.path("duplicates.parquet"), table)
    for shared in (False, True):
        context.config.ensemble.average_duplicates = shared
        for split in ("valid", "test"):
            found = scores.of_methods(context, split, IDS)
            assert set(found) == {"m", scores.MEAN, scores.WEIGHTED, scores.LOGISTIC, scores.STACK}
            for name, probs in found.items():
                wanted = drawn[split, name].copy()
                if shared and split == "test":
                    wanted[:3] = wanted[:3].mean(axis=0)
                np.testing.assert_allclose(probs, wanted, atol=1e-6)


def test_folds_of_a_model_are_averaged_on_test_and_stand_side_by_side_on_validation(context):
    context.config.split.update(scheme="folds", folds=4, trained_folds=(0, 2))
    rng, drawn = np.random.default_rng(0), {}
    for place, fold in enumerate(context.folds()):
        folder = context.path("models", "m", f"fold_{fold}", "predictions")
        own, order = IDS[[place, place + 2]], rng.permutation(5)
        drawn[fold] = rng.random((5, 2), np.float32)
        tables.write_probabilities(folder / "test.parquet", IDS[order], drawn[fold][order])
        tables.write_probabilities(folder / "valid.parquet", own, drawn[fold][:2])
        write_embeddings(folder / "valid_embeddings.parquet", own, drawn[fold][:2])
        write_embeddings(folder / "test_embeddings.parquet", IDS, drawn[fold])
    predict._join_folds(context, "m").work()
    on_test = tables.probabilities(tables.predictions(context, "m", "test"), IDS, context)
    np.testing.assert_allclose(on_test, (drawn[0] + drawn[2]) / 2, atol=1e-6)
    ids, probs, _ = read_table(tables.predictions(context, "m", "valid"))
    assert ids.tolist() == ["a", "c", "b", "d"]
    np.testing.assert_array_equal(probs, np.concatenate([drawn[0][:2], drawn[2][:2]]))
    written = {path.name for path in context.path("models", "m", "predictions").iterdir()}
    assert written == {"test.parquet", "valid.parquet", "valid_embeddings.parquet"}


@pytest.mark.parametrize("own", [[], [0.5], [0.5, float("nan")], 0.5, ["low", "high"]])
def test_thresholds_that_are_not_one_a_class_are_refused(context, own):
    path = context.path("thresholds.json")
    stored = {"classes": ["x", "y"], "thresholds": {"stack": [0.5, None], "m": own}}
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"thresholds\.json: .*run the step thresholds again"):
        scores.class_thresholds(context)
    stored["thresholds"]["m"] = [0.25, 0.75]
    path.write_text(json.dumps(stored))
    found = scores.class_thresholds(context)
    np.testing.assert_array_equal(found["stack"], [0.5, np.inf])
    np.testing.assert_array_equal(found["m"], [0.25, 0.75])
    context.config.classes = ("x", "z")
    with pytest.raises(InputError, match="made for other classes"):
        scores.class_thresholds(context)
