"""The audit part: what was fitted elsewhere is applied to it, and nothing is fitted on it."""

import shutil

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts, metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision import thresholds
from hpa_jax.pipeline import evaluate, scores, split, tables
from hpa_jax.pipeline.context import Context
from tests.small_run import call

NUMBER = 12


@pytest.fixture
def context(done, tmp_path):
    """The small run with twelve of its training images called audit, and predictions of them."""
    workdir = shutil.copytree(done[0], tmp_path / "run")
    splits = pd.read_parquet(workdir / "splits.parquet")
    rows = splits.index[splits["split"] == "train"][:NUMBER]
    splits.loc[rows, "split"] = "audit"
    splits.to_parquet(workdir / "splits.parquet")
    ids, rng = splits.loc[rows, "id"].to_numpy(str), np.random.default_rng(0)
    for name in ("tiny", "tiny_wide"):
        path = workdir / "models" / name / "predictions" / "audit.parquet"
        tables.write_probabilities(path, ids, rng.random((NUMBER, 28), np.float32))
    features = pd.read_parquet(workdir / "features" / "valid.parquet")
    features.head(NUMBER).assign(id=ids).to_parquet(workdir / "features" / "audit.parquet")
    stored = artifacts.read_json(workdir / "run.json")["config"]
    config = configs.default().unlock()
    config.models = {name: configs.model() for name in stored["models"]}
    config.split.audit = 0.1
    return Context(config.lock(), workdir)


def test_every_method_is_scored_by_the_cuts_of_validation(context):
    (task,) = evaluate._on_audit(context)
    assert "macro-F1 on the audit part" in task.work()
    found = artifacts.read_json(context.path("audit.json"))
    assert found["rows"].startswith("12 audit images")
    table = pd.read_parquet(context.path("catalog.parquet")).set_index("id")["labels"]
    ids = tables.split_rows(context, "audit").ids
    labels = np.zeros((NUMBER, 28), bool)
    for row, id in enumerate(ids):
        labels[row, table[id]] = True
    both = [
        pd.read_parquet(context.path("models", name, "predictions", "audit.parquet"))
        .set_index("id")
        .loc[ids]
        .to_numpy()
        for name in ("tiny", "tiny_wide")
    ]
    class_thresholds = artifacts.read_json(context.path("thresholds.json"))["thresholds"]
    for name, probs in (("tiny_wide", both[1]), (scores.MEAN, np.mean(both, axis=0))):
        own = np.array(
            [np.inf if threshold is None else threshold for threshold in class_thresholds[name]],
            float,
        )
        argmax = context.config.submission.argmax
        expected = metrics.macro_f1(labels, thresholds.decide(probs, own, argmax=argmax))
        assert found["scores"][name]["macro_f1"] == pytest.approx(expected)
    assert set(found["scores"]) == set(class_thresholds) and scores.STACK in class_thresholds
    assert found["submission"].items() <= found["scores"][found["chosen"]].items()


def test_without_an_audit_part_what_was_said_of_one_is_gone(context):
    evaluate._on_audit(context)[0].work()
    config = context.config.copy_and_resolve_references()
    config.split.audit = 0.0
    plain = Context(config, context.workdir)
    assert evaluate._on_audit(plain) == [] and not context.path("audit.json").exists()
    assert "audit" in {task.name for task in evaluate.evaluate(context)}


@pytest.mark.slow
def test_nothing_is_fitted_on_the_audit_part(tmp_path):
    option = "--config.split.audit=0.15"
    out = call("run", tmp_path, option)
    assert "macro-F1 on the audit part" in out
    splits = pd.read_parquet(tmp_path / "splits.parquet").set_index("id")["split"]
    apart = set(splits.index[splits == "audit"])
    assert len(apart) >= 5
    for part in ("valid", "test"):
        seen = pd.read_parquet(tmp_path / "models" / "tiny" / "predictions" / f"{part}.parquet")
        assert not set(seen["id"]) & apart
    before = artifacts.read_json(tmp_path / "audit.json")
    kept = {name: (tmp_path / name).read_bytes() for name in ("thresholds.json", "submission.csv")}
    catalog = pd.read_parquet(tmp_path / "catalog.parquet")
    audited = catalog["id"].isin(apart)
    catalog.loc[audited, "labels"] = pd.Series([[0, 27]] * audited.sum(), catalog.index[audited])
    catalog.to_parquet(tmp_path / "catalog.parquet")
    for verb in ("stack", "thresholds", "submit", "evaluate"):
        call(verb, tmp_path, option, "--force")
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert artifacts.read_json(tmp_path / "audit.json")["scores"] != before["scores"]


def test_too_few_images_for_an_audit_part_are_said_at_once(context):
    table = pd.read_parquet(context.path("catalog.parquet"))
    labelled = table[table["source"] == "train"].head(3 * 28)
    labelled["labels"] = [[number % 28] for number in range(3 * 28)]  # three images a class
    table = pd.concat([labelled, table[table["source"] == "test"]], ignore_index=True)
    table.to_parquet(context.path("catalog.parquet"))
    (task,) = split.split(context)
    with pytest.raises(InputError, match="no image in audit"):
        task.work()
