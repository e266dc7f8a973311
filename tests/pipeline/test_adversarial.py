"""The verb adversarial: a planted difference is found, none is not, a killed call goes on."""

import json

import numpy as np
import pandas as pd
import pytest

from hpa_jax.__main__ import main
from hpa_jax.config import defaults
from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, records
from hpa_jax.pipeline import adversarial, predict
from hpa_jax.training import network
from tests.data.layouts import picture, save
from tests.small_run import CONFIG
from tests.training import tiny

TRAIN, TEST, SIDE = 60, 40, 16


def workdir_of(folder, planted, scheme="holdout"):
    """Packed images and a split, without the phases; planted: test images are brighter."""
    root = folder / "data"
    ids = [f"t{i}" for i in range(TRAIN)] + [f"x{i}" for i in range(TEST)]
    for number, id in enumerate(ids):
        image = picture(number, SIDE) // 2
        image = image + np.uint8(100) if planted and id[0] == "x" else image
        save(root / ("train" if id[0] == "t" else "test"), id, image)
    lines = [f"{id},{number % 28}" for number, id in enumerate(ids[:TRAIN])]
    (root / "train.csv").write_text("Id,Target\n" + "\n".join(lines) + "\n")
    lines = [f"{id},0" for id in ids[TRAIN:]]
    (root / "sample_submission.csv").write_text("Id,Predicted\n" + "\n".join(lines) + "\n")
    work = folder / "work"
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    table.loc[:4, "source"] = "external"
    records.write(table, work / "records", image_size=SIDE, encoding="raw")
    artifacts.write_table(work / "catalog.parquet", table)
    group = np.arange(len(ids))
    artifacts.write_table(work / "groups.parquet", pd.DataFrame({"id": ids, "group": group}))
    fold = np.where(group < TRAIN, group % 3, np.nan) if scheme == "folds" else np.nan
    side = np.where(group < 48, "train", np.where(group < TRAIN, "valid", "test"))
    side[5] = "audit"
    fold = np.where(side == "audit", np.nan, fold)
    splits = pd.DataFrame({"id": ids, "split": side, "fold": fold, "reason": None})
    artifacts.write_table(work / "splits.parquet", splits)
    return work


def settings(variant, scheme="holdout"):
    config = defaults.default()
    config.records.update(image_size=SIDE, encoding="raw")
    config.train.tensorboard = False
    config.split.update(scheme=scheme, folds=3)
    model = defaults.adversary_model(
        backbone="tiny",
        image_size=SIDE,
        batch_size=16,
        dropout=0.0,
        phases=(defaults.phase(epochs=4, lr=2e-2),),
    )
    config.adversarial.update(variant=variant, model=model, folds=2)
    return config


def run(work, config):
    config.train.compilation_cache = str(work / "cache")  # of both folds
    adversarial.adversarial(config, {"workdir": str(work)})
    table = pd.read_parquet(work / "adversarial.parquet")
    return json.loads((work / "adversarial.json").read_text()), table


@pytest.mark.parametrize("variant", ["features", "network"])
@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_difference_is_found_and_none_is_not(tmp_path, monkeypatch, variant, planted):
    monkeypatch.setattr(network, "from_config", tiny.make)  # two convolutions, in the real loop
    work = workdir_of(tmp_path, planted)
    found, table = run(work, settings(variant))
    if planted:
        assert found["auc"] > 0.9
    else:
        assert found["auc_low"] < 0.5 < found["auc_high"]
    assert found["variant"] == variant and found["rows"] == len(table)
    labelled = table[~table["is_test"]]
    # neither the audit part nor another source than config.adversarial.sources
    assert set(labelled["id"]) == {f"t{i}" for i in range(6, TRAIN)}
    assert found["labelled"] == len(labelled) >= found["effective_size"] > 0
    assert table["score"].is_monotonic_increasing
    unlike = pd.read_csv(work / "adversarial_unlike.csv")
    assert unlike["id"].tolist() == labelled["id"].head(len(unlike)).tolist()


def test_folds_are_counted_once(tmp_path):
    work = workdir_of(tmp_path, planted=False, scheme="folds")
    found, table = run(work, settings("features", "folds"))
    assert table["id"].is_unique and found["labelled"] == TRAIN - 6
    chosen = pd.read_csv(work / "adversarial_valid.csv")["id"]
    assert len(chosen) == pytest.approx((TRAIN - 6) / 4, abs=1)
    # every second of the upper half, not the whole of it
    labelled = table[~table["is_test"]]["id"].tolist()
    assert np.diff(sorted(labelled.index(id) for id in chosen)).tolist() == [2] * (len(chosen) - 1)


def test_sources_are_scored_apart(tmp_path, capsys):
    work = workdir_of(tmp_path, planted=True)
    config = settings("features")
    config.adversarial.sources = ("train", "external")
    found, table = run(work, config)
    assert {name: own["rows"] for name, own in found["by_source"].items()} == {
        "external": 5,
        "train": TRAIN - 6,
    }
    assert (table["source"] == "external").sum() == 5 and "external: " in capsys.readouterr().out
    config.adversarial.sources = ("own",)
    with pytest.raises(InputError, match="no labelled image"):
        run(work, config)


def test_a_killed_call_goes_on_and_another_model_begins_anew(tmp_path, monkeypatch):
    """Folds, without networks: what is trained when."""
    work, trained = workdir_of(tmp_path, planted=True), []

    def train(context, rows, is_test, fit, folder):
        if len(trained) == 1 and not killed:
            killed.append(True)
            raise SystemExit(75)
        trained.append(folder.name)

    class Seen:
        def __init__(self, ids):
            self.probs = np.array([[0.9 if id[0] == "x" else 0.1] for id in ids])

    killed = []
    monkeypatch.setattr(adversarial, "_train", train)
    monkeypatch.setattr(predict, "predict_rows", lambda *a: Seen(a[3]))
    config = settings("network")
    with pytest.raises(SystemExit):
        run(work, config)
    found, _ = run(work, config)
    assert found["auc"] == 1 and trained == ["fold_0", "fold_1"]
    run(work, config)
    assert len(trained) == 2
    config.adversarial.model.width = 0.5
    run(work, config)
    assert trained[2:] == ["fold_0", "fold_1"]


def test_drawn_train_cannot_be_told_from_drawn_test(done, capsys):
    workdir, _ = done
    assert main(["adversarial", *CONFIG, f"--workdir={workdir}"]) == 0
    found = json.loads((workdir / "adversarial.json").read_text())
    assert found["auc_low"] < found["auc"] < found["auc_high"] and found["auc_low"] < 0.6
    assert f"{found['auc']:.3f}" in capsys.readouterr().out
    source = pd.read_parquet(workdir / "catalog.parquet").set_index("id")["source"]
    held_out = pd.read_csv(workdir / "adversarial_valid.csv")["id"]
    assert (source[held_out] == "train").all()
