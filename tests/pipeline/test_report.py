"""The report's chain of steps: each adds its own part alone, neighbours' labels too."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.pipeline import report, retrieve, scores, submit, tables
from hpa_jax.pipeline.context import Context


@pytest.fixture(scope="module")
def workdir(done, tmp_path_factory):
    """The small run, and tables that give every other row a near labelled image."""
    copied = shutil.copytree(done[0], tmp_path_factory.mktemp("report") / "run")
    splits = pd.read_parquet(copied / "splits.parquet")
    lenders = splits.loc[splits["split"] == "train", "id"].to_numpy(str)
    for split in ("valid", "test"):
        ids = splits.loc[splits["split"] == split, "id"].to_numpy(str)
        near = np.where(np.arange(len(ids)) % 2 == 0, 0.9, 0.1)
        table = pd.DataFrame({"id": ids, "neighbour": np.resize(lenders, len(ids))})
        path = copied / "retrieval" / f"{split}.parquet"
        artifacts.write_table(path, table.assign(similarity=near))
    return copied


def made(workdir, mode="off"):
    stored = artifacts.read_json(workdir / "run.json")["config"]
    config = configs.default().unlock()
    config.models = {name: configs.model() for name in stored["models"]}
    config.retrieval.mode = mode
    return Context(config.lock(), workdir)


def chain(workdir, mode):
    """(context, the steps by title, without counts)"""
    context = made(workdir, mode)
    found, _ = report.steps(context, report.gather_results(context))
    return context, {step.name.split(" (")[0].split(":")[0]: step for step in found}


def equal(one, other):
    assert one.keys() == other.keys()
    for part, decided in one.items():
        np.testing.assert_array_equal(decided, other[part])


def test_replaced_labels_are_a_step_after_the_thresholds(workdir):
    context, steps = chain(workdir, "replace")
    names = list(steps)
    assert names[-4:] == ["+ thresholds", "+ neighbours", "+ leak table", "submitted"]
    for part, split in (("validation", "valid"), ("test", "test")):
        before, after = (steps[name].decided[part] for name in names[-4:-2])
        ids = tables.split_rows(context, split).ids
        wanted, count = retrieve.replaced(context, split, ids, before)
        assert count == -(-len(ids) // 2) and (after != before).any()
        np.testing.assert_array_equal(after, wanted)
    leaked, _ = submit.overlay_leak(context, ids, after)  # on top of the neighbours' labels
    np.testing.assert_array_equal(steps["+ leak table"].decided["test"], leaked)


def test_boosted_probabilities_are_a_step_after_the_stack(workdir):
    _, plain = chain(workdir, "off")
    context, steps = chain(workdir, "boost")
    names = list(steps)
    place = names.index("+ neighbours")
    assert names[place - 1 : place + 2] == ["+ stack", "+ neighbours", "+ thresholds"]
    assert list(plain) == [name for name in names if name != "+ neighbours"]
    for name in names[:place]:  # what comes before is what it is without neighbours
        equal(steps[name].decided, plain[name].decided)
        assert steps[name].fitted.keys() == plain[name].fitted.keys() == {"validation", "test"}
    ids = tables.split_rows(context, "test").ids
    boosted = scores.of_methods(context, "test", ids)[scores.STACK]
    np.testing.assert_array_equal(steps["+ neighbours"].decided["test"], boosted >= 0.5)


def test_without_retrieval_there_is_no_such_step(workdir):
    _, steps = chain(workdir, "off")
    assert "+ neighbours" not in steps


def test_thresholds_matched_on_test_predictions_are_nested_so_without_a_truth_too(workdir):
    context = made(workdir)
    context.config.thresholds.update(method="match_proportions", match_on="test")
    found = report.gather_results(context)
    known, unknown = (
        report.steps(context, one)[0][0] for one in (found, dataclasses.replace(found, test=None))
    )
    assert known.name == unknown.name and "no test-time views" in known.name
    np.testing.assert_array_equal(known.fitted["validation"], unknown.fitted["validation"])
    assert unknown.fitted.keys() == {"validation"}
