"""The verb decide: what `run` would decide from the same scores, honestly, without JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hpa_jax
from hpa_jax.config import defaults as configs
from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import decide

ROOT = Path(__file__).parent.parent.parent
CLASSES = ("nucleus", "Golgi & ER", "rare")
ABSENT = ("jax", "flax", "tensorflow", "tensorflow_datasets", "optax", "orbax", "dm_pix")


def data(rows=240, labelled=160, seed=0):
    """(ids, labels bool[N, C], two models' scores [2, N, C]); the first `labelled` have labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 3)) < [0.5, 0.3, 0.08]
    noise = rng.normal(size=(3, rows, 3))
    margins = 2.2 * (2 * labels - 1) + noise[0] + noise[1:]
    return np.array([f"i{n}" for n in range(rows)]), labels, 1 / (1 + np.exp(-margins))


def frames(ids, scores):
    return {
        name: pd.DataFrame(values, columns=[f"p{c:02d}" for c in range(3)]).assign(id=ids)
        for name, values in zip(("first", "second"), scores)
    }


def targets(ids, labels):
    texts = [" ".join(map(str, np.flatnonzero(row))) for row in labels]
    return pd.DataFrame({"Id": ids, "Target": texts})


def quick():
    config = configs.default().unlock()
    config.stack.update(rounds=5, threshold_repeats=1)
    config.thresholds.update(repeats=2)
    config.submission.argmax = "off"  # these rows may have no class at all
    return config


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    ids, labels, scores = data()
    workdir = tmp_path_factory.mktemp("decide")
    found = hpa_jax.decide(
        frames(ids, scores), targets(ids[:160], labels[:160]), workdir, config=quick()
    )
    return found, workdir


def test_rows_without_a_label_are_decided(decided):
    found, workdir = decided
    ids, labels, _ = data()
    assert found.ids.tolist() == ids[160:].tolist()
    assert metrics.macro_f1(labels[160:], found.labels) > 0.75
    written = pd.read_csv(workdir / "submission.csv", dtype=str)
    assert written.columns.tolist() == ["Id", "Predicted"] and written["Id"].tolist() == [
        *ids[160:]
    ]
    assert (workdir / "report" / "index.html").stat().st_size > 10_000


def test_scores_are_nested_and_say_what_they_rest_on(decided):
    found, workdir = decided
    assert set(found.metrics["scores"]) >= {"first", "second", "mean of models", "stack"}
    assert "out of fold" in found.metrics["rows"]
    page = (workdir / "report" / "index.html").read_text()
    assert "must be out of fold" in page and "not sharper than" in page


def test_predictions_give_calibrated_probabilities_and_what_the_class_is_worth(decided):
    found, workdir = decided
    listed = pd.read_csv(workdir / "predictions.csv")
    assert [*listed.columns] == [
        "id", "class", "predicted", "score", "threshold", "probability", "f1", "support",
    ]  # fmt: skip
    assert listed["predicted"].sum() == found.labels.sum()
    assert set(listed["id"]) <= set(found.ids)
    above = listed["score"] >= listed["threshold"] - 1e-3
    assert above[listed["predicted"]].all()
    rows = listed[listed["class"] == "p00"]
    assert (np.diff(rows.sort_values("score")["probability"]) >= -1e-3).all()
    assert (rows["support"] == data()[1][:160, 0].sum()).all()
    score = found.metrics["scores"][found.method]
    assert (rows["f1"] - score["class_f1"][0]).abs().max() < 1e-3
    for own in found.metrics["scores"].values():
        assert own["calibration_error_calibrated"] < own["calibration_error"] + 0.02
    _, labels, _ = data()
    place = {name: row for row, name in enumerate(data()[0])}
    c = {name: number for number, name in enumerate(found.classes)}
    truth = [labels[place[name], c[of]] for name, of in zip(listed["id"], listed["class"])]
    assert listed["probability"].mean() == pytest.approx(np.mean(truth), abs=0.12)


def test_a_second_call_does_nothing_again(decided, capsys):
    _, workdir = decided
    before = (workdir / "submission.csv").read_bytes()
    ids, labels, scores = data()
    hpa_jax.decide(frames(ids, scores), targets(ids[:160], labels[:160]), workdir, config=quick())
    assert capsys.readouterr().out.count("done before, unchanged") >= 4
    assert (workdir / "submission.csv").read_bytes() == before


def test_separate_tables_in_any_order_give_the_same(decided, tmp_path):
    found, _ = decided
    ids, labels, scores = data()
    shuffled = np.random.default_rng(1).permutation(160)
    valid = frames(ids[:160], scores[:, :160])
    valid["second"] = valid["second"].iloc[shuffled]
    test = frames(ids[160:], scores[:, 160:])
    again = decide.decide(
        valid, targets(ids[:160], labels[:160]).iloc[shuffled], tmp_path,
        test={name: test[name] for name in ("second", "first")}, config=quick(),
    )  # fmt: skip
    np.testing.assert_array_equal(again.labels, found.labels)
    assert again.metrics["scores"] == found.metrics["scores"]


def test_options_reach_the_steps(tmp_path):
    ids, labels, scores = data()
    rng = np.random.default_rng(2)
    config = quick()
    config.submission.method, config.thresholds.method = "second", "exact"
    found = decide.decide(
        {"second": frames(ids, scores)["second"]}, targets(ids[:160], labels[:160]), tmp_path,
        classes=CLASSES, groups=pd.DataFrame({"Id": ids[:8], "Group": list("aabbccdd")}),
        folds=pd.DataFrame({"Id": ids, "Fold": np.arange(240) % 2}),
        metafeatures=pd.DataFrame({"id": ids, "brightness": rng.random(240)}),
        proportions=(0.5, 0.25, 0.125), config=config,
    )  # fmt: skip
    assert found.classes == CLASSES and found.method == "second"
    names = json.loads((tmp_path / "stack" / "stack.json").read_text())["names"]
    assert names[0] == "meta/brightness" and len(names) == 4
    groups = pd.read_parquet(tmp_path / "groups.parquet")["group"]
    assert groups.nunique() == 240 - 4 and groups[0] == groups[1]
    # two folds: each half of the rows was decided by the thresholds of the other
    from hpa_jax.decision import thresholds

    expected = np.zeros((160, 3), bool)
    values = scores[1].astype(np.float32)[:160].astype(float)
    for fold in range(2):
        own = np.arange(160) % 2 == fold
        expected[own] = thresholds.decide(
            values[own], thresholds.exact(labels[:160][~own], values[~own]), argmax="off"
        )
    score = found.metrics["scores"]["second"]["macro_f1"]
    assert score == pytest.approx(metrics.macro_f1(labels[:160], expected))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(labels="none"), "no id matches those of first"),
        (dict(labels="all"), "every row has a label"),
        (dict(second="fewer"), "second: 1 of 240 ids are missing, first 'i239'"),
        (dict(second="other"), "'i999'"),
        (dict(test="shared"), "'i0' is also in --predictions"),
        (dict(test="one"), "1 tables for 2"),
        (dict(test="renamed"), "test: has one, two; needs first, second"),
        (dict(folds="one"), "one fold"),
        (dict(folds="empty"), "folds: id 'i3' has none"),
        (dict(groups="other"), "groups: no id matches"),
        (dict(first="array"), "needs a file or a pandas table.*ndarray"),
        (dict(method="thrid"), "submission.method.*'third'"),
    ],
)
def test_what_does_not_fit_is_named_before_any_work(tmp_path, change, words):
    ids, labels, scores = data()
    given, options = frames(ids, scores), {"config": quick()}
    known = targets(ids[:160], labels[:160])
    match change:
        case {"labels": "none"}:
            known = known.assign(Id=[f"x{n}" for n in range(160)])
        case {"labels": "all"}:
            known = targets(ids, labels)
        case {"second": "fewer"}:
            given["second"] = given["second"].iloc[:-1]
        case {"second": "other"}:
            extra = given["second"].iloc[:1].assign(id="i999")
            given["second"] = pd.concat([given["second"], extra])
        case {"test": "shared"}:
            options["test"] = frames(ids, scores)
        case {"test": "one"}:
            options["test"] = {"first": given["first"]}
        case {"test": "renamed"}:
            options["test"] = dict(zip(("one", "two"), frames(ids, scores).values()))
        case {"first": "array"}:
            given["first"] = scores[0]
        case {"groups": "other"}:
            options["groups"] = pd.DataFrame({"Id": ids + ".png", "Group": 0})
        case {"folds": "empty"}:
            folds = np.arange(240.0) % 2
            folds[3] = np.nan
            options["folds"] = pd.DataFrame({"Id": ids, "Fold": folds})
        case {"folds": "one"}:
            options["folds"] = pd.DataFrame({"Id": ids, "Fold": 0})
        case {"method": method}:
            given["third"] = given["second"]
            options["config"].submission.method = method
    with pytest.raises(InputError, match=words):
        decide.decide(given, known, tmp_path, **options)
    assert not (tmp_path / "stack").exists()


def test_a_workdir_of_a_run_is_left_alone(tmp_path):
    ids, labels, scores = data()
    (tmp_path / "catalog.parquet").write_text("of a run")
    with pytest.raises(InputError, match="another --workdir"):
        decide.decide(frames(ids, scores), targets(ids[:160], labels[:160]), tmp_path)
    assert (tmp_path / "catalog.parquet").read_text() == "of a run"


def test_names_of_files_become_names_of_models(tmp_path):
    files = [tmp_path / "a-b.csv", tmp_path / "50.npz"]
    assert list(decide._named(files, "predictions")) == ["a_b", "m_50"]
    assert decide._named("a.csv,b.npz", "predictions") == {"a": "a.csv", "b": "b.npz"}
    for doubled in ([tmp_path / "a.csv", tmp_path / "a.npz"], {"a-1": "a.csv", "a_1": "b.csv"}):
        with pytest.raises(InputError, match="two tables 'a"):
            decide._named(doubled, "predictions")
    frame = pd.DataFrame({"id": ["a"], "p00": [0.5]})
    for unnamed in (frame, [frame]):
        with pytest.raises(InputError, match="names with tables"):
            decide._named(unnamed, "predictions")


def test_test_files_belong_to_the_models_of_their_names():
    predictions = {"a": "valid/a.csv", "b": "valid/b.csv"}
    assert decide._paired("test/b.csv,test/a.csv", predictions) == {
        "a": "test/a.csv", "b": "test/b.csv",
    }  # fmt: skip
    assert decide._paired("x.csv,y.csv", predictions) == {"a": "x.csv", "b": "y.csv"}


def test_rows_without_a_group_are_alone():
    table = pd.DataFrame({"Id": list("abc"), "Group": ["x", "", np.nan]})
    assert decide._groups(table, np.array(list("abcd"))).tolist() == [0, 1, 2, 3]


def test_classes_that_only_labels_or_only_predictions_have_are_named(tmp_path, capsys):
    ids, labels, scores = data()
    labels[:, 1] = False
    given = {name: frame.drop(columns="p02") for name, frame in frames(ids, scores).items()}
    decide.decide(
        given, targets(ids[:160], labels[:160]), tmp_path, classes=CLASSES, config=quick()
    )
    printed = capsys.readouterr().out
    assert "classes of labelled rows that no model predicts: rare\n" in printed
    assert "classes that no labelled row has (F1 0): Golgi & ER\n" in printed
    assert "3 classes (0 nucleus, 1 Golgi & ER, 2 rare); 160 rows with a label" in printed


def test_the_command_works_where_jax_flax_and_tensorflow_are_not_installed(tmp_path):
    """Shortest form; in this process and its children any import of them fails."""
    ids, labels, scores = data(rows=150, labelled=100)
    frames(ids, scores)["first"].to_csv(tmp_path / "first.csv", index=False)
    np.savez(tmp_path / "second.npz", ids=ids, probs=scores[1])
    targets(ids[:100], labels[:100]).to_csv(tmp_path / "labels.csv", index=False)
    for name in ABSENT:
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text("raise ImportError('absent')\n")
    path = os.pathsep.join([str(tmp_path / "absent"), str(ROOT)])
    command = [sys.executable, "-m", "hpa_jax", "decide", f"--workdir={tmp_path / 'work'}"]
    command += [f"--predictions={tmp_path / 'first.csv'},{tmp_path / 'second.npz'}"]
    command += [f"--labels={tmp_path / 'labels.csv'}", "--config.thresholds.repeats=2"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "work" / "submission.csv").read_text().splitlines()) == 51
    without = subprocess.run(
        [sys.executable, "-c", "import jax"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert without.returncode != 0  # the import really fails there
