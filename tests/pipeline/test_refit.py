"""Refitting: which rows are learnt, which weights count, whose the submission is."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import refit, scores, tables
from hpa_jax.pipeline.context import Context
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


def history(*phases):
    return [(number, score) for number, scores in enumerate(phases) for score in scores]


LOSS = [history((0.9, 0.4, 0.5, 0.45, 0.3))]


@pytest.mark.parametrize(
    ("checkpoint", "average", "kept"),
    [
        ("final", "none", "epoch:5"),
        ("best", "none", "epoch:5"),
        ("best", "last", "epoch:5"),
        ("final", "last", "final"),
        ("last", "none", "last"),
        ("snapshots", "none", "snapshots"),
    ],
)
def test_no_weights_are_chosen_on_rows_that_were_fitted(checkpoint, average, kept):
    model = configs.model(checkpoint=checkpoint, phases=(configs.phase(epochs=5),))
    model.average.kind = average
    new = refit.without_choice(model, LOSS)
    assert new.checkpoint == kept
    assert new.keep_epochs == ((5,) if kept == "epoch:5" else ())
    validation.validate(context(Path("unused"), models={"m": new}).config)


def test_a_phase_goes_back_to_the_epoch_that_the_holdout_found():
    phases = (configs.phase(epochs=3), configs.phase(epochs=2, start_from="best"))
    model = configs.model(checkpoint="last", phases=phases)
    scores = [history((0.9, 0.4, 0.5), (0.45, 0.3))]
    new = refit.without_choice(model, scores)
    assert new.phases[1].start_from == "epoch:2" and new.keep_epochs == (2,)
    of_f1 = refit.without_choice(model, scores, "macro_f1")
    assert of_f1.phases[1].start_from == "epoch:1"
    assert model.phases[1].start_from == "best"


def test_of_folds_the_median_epoch_counts_and_phases_are_as_long_as_they_were():
    phases = (configs.phase(epochs=9), configs.phase(epochs=4))
    model = configs.model(checkpoint="best", phases=phases)
    scores = [
        history((0.5, 0.2, 0.9), (0.9,)),
        history((0.9, 0.9, 0.9, 0.1, 0.9), (0.9, 0.9)),
        history((0.9,) * 6, (0.9, 0.1, 0.9)),  # 5 + 2, as phase 0 has 5 now
    ]
    new = refit.without_choice(model, scores, early=True)
    assert [phase.epochs for phase in new.phases] == [5, 2] and new.checkpoint == "epoch:4"
    last = refit.without_choice(model, scores[2:], early=True)
    assert [phase.epochs for phase in last.phases] == [6, 3] and last.checkpoint == "epoch:8"


def test_the_history_is_read_and_asked_for(tmp_path):
    with pytest.raises(InputError, match="train the model first"):
        refit.refit(context(tmp_path, refit=True))
    write_history(tmp_path)
    run = context(tmp_path, refit=True, train={"patience": 1})
    assert refit._history(run.fit_folder("m", None), "loss") == [(0, 0.5), (0, 0.4)]
    train, _, _ = refit.refit(run)
    assert train.settings["train"]["patience"] == 0
    assert train.settings["models.m"]["keep_epochs"] == (2,)


def write_history(tmp_path):
    rows = [dict(step=4 * epoch, epoch=epoch, split=split, phase=0, loss=loss)
            for epoch, loss in ((1, 0.5), (2, 0.4)) for split in ("train", "valid")]  # fmt: skip
    rows.append(dict(step=9, epoch=2, split="valid", weights="last", loss=0.1))
    log = tmp_path / "models" / "m" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_switched_off_the_final_networks_are_those_of_the_holdout(tmp_path):
    write_history(tmp_path)
    off, on = context(tmp_path), context(tmp_path, refit=True)
    for name in (tables.FINAL, "test"):
        assert tables.predictions(off, "m", name) == tables.predictions(on, "m", "test")
    assert "refit" in str(tables.predictions(on, "m", tables.FINAL))
    assert refit.refit(off) == [] and scores.refitted_files(off) == ()
    assert len(refit.refit(on)) == 3  # train, predict, decide


def test_one_network_leaves_the_decision_and_a_collection_the_training(tmp_path):
    write_history(tmp_path)
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
    call("export", workdir, "--config.refit=True", "--config.submission.method=mean of models")
    given = [f"--model={workdir}/bundle", f"--config.data.root={workdir}/data/test"]
    call("predict", tmp_path / "own", *given)
    own = pd.read_parquet(tmp_path / "own" / "predictions.parquet").set_index("id")
    theirs = pd.read_parquet(workdir / "refit" / "mean_of_models.parquet").set_index("id")
    np.testing.assert_allclose(own.loc[theirs.index], theirs, atol=2e-3)
