"""Refitting: which rows are learnt, which weights count, whose the submission is."""

import numpy as np
import pandas as pd
import pytest

from hpa_jax import artifacts
from hpa_jax import config as configs
from hpa_jax.context import Context
from hpa_jax.stages import refit, scores, tables
from tests.small_run import call


def context(tmp_path, **options):
    config = configs.default().unlock()
    config.models = {"m": configs.model()}
    config.update(options)
    return Context(config.lock(), tmp_path)


def write_rows(tmp_path, folds=None):
    ids = ["t0", "t1", "v0", "x0", "e0"]
    labels = [[0], [1], [2], None, [3]]
    pd.DataFrame({"id": ids, "labels": labels}).to_parquet(tmp_path / "catalog.parquet")
    side = ["train", "train", "valid", "test", "excluded"]
    splits = pd.DataFrame(
        {"id": ids, "split": side, "fold": pd.array(folds or [None] * 5, "Int64")}
    )
    splits.to_parquet(tmp_path / "splits.parquet")
    pd.DataFrame({"id": ids, "group": range(5)}).to_parquet(tmp_path / "groups.parquet")


@pytest.mark.parametrize("folds", [None, [0, 1, 1, None, None]])
def test_all_labelled_rows_are_fitted_and_none_else(tmp_path, folds):
    write_rows(tmp_path, folds)
    options = {"split": {"scheme": "folds", "folds": 2}} if folds else {}
    rows = tables.labelled_rows(context(tmp_path, **options))
    assert sorted(rows.ids) == ["t0", "t1", "v0"]
    assert [np.flatnonzero(row).tolist() for row in rows.labels] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("checkpoint", "average", "kept"),
    [
        ("final", "none", "last"),
        ("best", "none", "last"),
        ("best", "last", "last"),
        ("final", "last", "final"),
        ("snapshots", "none", "snapshots"),
    ],
)
def test_no_weights_are_chosen_on_rows_that_were_fitted(checkpoint, average, kept):
    model = configs.model(checkpoint=checkpoint)
    model.average.kind = average
    assert refit.without_choice(model).checkpoint == kept


def test_switched_off_the_final_networks_are_those_of_the_holdout(tmp_path):
    off, on = context(tmp_path), context(tmp_path, refit=True)
    for name in (tables.FINAL, "test"):
        assert tables.predictions(off, "m", name) == tables.predictions(on, "m", "test")
    assert "refit" in str(tables.predictions(on, "m", tables.FINAL))
    assert refit.refit(off) == [] and scores.refitted_files(off) == ()
    assert len(refit.refit(on)) == 3  # train, predict, decide


def test_one_network_leaves_the_decision_and_a_collection_the_training(tmp_path):
    config = context(tmp_path, refit=True).config
    tasks = refit.refit(Context(config, tmp_path, {"only": "m"}))
    assert [task.name for task in tasks] == ["train-m-refit", "predict-m-refit"]
    tasks = refit.refit(Context(config, tmp_path, {"collect": True}))
    assert [task.name for task in tasks] == ["refit"]


@pytest.mark.slow
def test_the_submission_is_that_of_the_refitted_networks(tmp_path):
    workdir = tmp_path
    call("run", workdir)
    plain = artifacts.read_json(workdir / "evaluation.json")
    out = call("run", workdir, "--config.refit=True")
    assert "[stack] done before" in out and "[thresholds] done before" in out
    found = artifacts.read_json(workdir / "evaluation.json")
    assert found["refit_off"] == plain["leak_off"]
    before = pd.read_parquet(workdir / "models" / "tiny" / "predictions" / "test.parquet")
    after = pd.read_parquet(workdir / "models" / "tiny" / "refit" / "predictions" / "test.parquet")
    assert before["id"].tolist() == after["id"].tolist()
    assert not np.allclose(before.drop(columns="id"), after.drop(columns="id"))
    test = tables.split_rows(context(workdir), "test")
    mean = pd.read_parquet(workdir / "refit" / "mean_of_models.parquet").drop(columns="id")
    both = [
        pd.read_parquet(workdir / "models" / name / "refit" / "predictions" / "test.parquet")
        for name in ("tiny", "tiny_wide")
    ]
    expected = np.mean([table.drop(columns="id") for table in both], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert len(mean) == len(test.ids)
