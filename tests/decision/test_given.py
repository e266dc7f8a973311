"""Tables of other people's models: every form gives the same arrays, what is wrong is named."""

import numpy as np
import pandas as pd
import pytest

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.decision import given

IDS = np.array(["b", "a", "0012", "d"])
PROBS = np.array([[0.1, 0.9], [0.5, 0.25], [0.0, 1.0], [0.75, 0.125]])
NAMES = ("Golgi", "Rods & rings")


def written(tmp_path, kind, columns=("p00", "p01")):
    path = tmp_path / f"model{kind}"
    table = pd.DataFrame(PROBS, columns=list(columns))
    table.insert(0, "Id", IDS)
    if kind == ".csv":
        table.to_csv(path, index=False)
    elif kind == ".parquet":
        table.to_parquet(path)
    else:
        np.savez(path, ids=IDS, probs=PROBS, classes=np.array(columns))
    return path


@pytest.mark.parametrize("kind", given.SUFFIXES)
@pytest.mark.parametrize("columns", [("p00", "p01"), ("golgi", "Rods & Rings")])
def test_all_forms_give_the_same(tmp_path, kind, columns):
    found = given.read(written(tmp_path, kind, columns), "m")
    assert found.ids.tolist() == IDS.tolist()
    np.testing.assert_array_equal(found.of_classes(NAMES), PROBS.astype(np.float32))
    frame = pd.DataFrame(PROBS, columns=list(columns)).assign(id=IDS)
    np.testing.assert_array_equal(given.read(frame, "m").values, PROBS)


def test_a_class_that_a_table_lacks_is_unknown():
    frame = pd.DataFrame({"id": IDS, "p01": PROBS[:, 1]})
    found = given.read(frame, "m").of_classes(NAMES)
    assert np.isnan(found[:, 0]).all() and found[0, 1] == np.float32(0.9)


def test_logits_become_probabilities():
    logits = np.log(np.clip(PROBS, 1e-6, 1 - 1e-6) / (1 - np.clip(PROBS, 1e-6, 1 - 1e-6)))
    frame = pd.DataFrame(logits, columns=["p00", "p01"]).assign(id=IDS)
    np.testing.assert_allclose(given.read(frame, "m", logits=True).values, PROBS, atol=2e-6)
    with pytest.raises(InputError, match=r"'b'.*'p00'.*--logits"):
        given.read(frame, "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(p00=[0.1, np.nan, 0.2, 0.3]), "nan.*'a'.*'p00'"),
        (dict(p00=[0.1, np.inf, 0.2, 0.3]), "inf.*'a'"),
        (dict(p00=[0.1, 0.2, 0.2, 1.5]), "1.5.*'d'.*p00"),
        (dict(p00=["0.1", "x", "0.2", "0.3"]), "p00.*'x'.*'a'"),
        (dict(id=["b", "b", "c", "d"]), "'b' occurs more than once"),
        (dict(id=["b", "", "c", "d"]), "row 1"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    frame = pd.DataFrame({"id": IDS, "p00": PROBS[:, 0], "p01": PROBS[:, 1]}).assign(**change)
    with pytest.raises(InputError, match=words):
        given.read(frame, "m")


def test_unknown_and_doubled_columns_are_named():
    frame = pd.DataFrame({"id": IDS, "p00": PROBS[:, 0], "golgi": PROBS[:, 1]})
    with pytest.raises(InputError, match="two columns of class 'Golgi'"):
        given.read(frame, "m").of_classes(NAMES)
    with pytest.raises(InputError, match=r"'p07'.*p00 to p01"):
        given.read(frame.rename(columns={"golgi": "p07"}), "m").of_classes(NAMES)
    with pytest.raises(InputError, match="no column id"):
        given.read(frame.drop(columns="id"), "m")


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        given.read(tmp_path / "a.npz", "m")
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(InputError, match="damaged"):
        given.read(tmp_path / "a.npz", "m")
    with pytest.raises(InputError, match=r"\.parquet"):
        given.read(tmp_path / "a.xlsx", "m")


def table_of(*columns):
    return given.Predictions("m", IDS, np.zeros((4, len(columns))), columns)


def test_classes_come_from_the_columns():
    numbered = tuple(f"p{c:02d}" for c in range(len(classes.NAMES)))
    assert given.class_names([table_of(*numbered)]) == classes.NAMES
    assert given.class_names([table_of("p00", "p02"), table_of("p01")]) == ("p00", "p01", "p02")
    assert given.class_names([table_of("golgi apparatus", "p03")]) == classes.NAMES
    assert given.class_names([table_of("0", "1"), table_of("prob_0", "p1")]) == ("p00", "p01")
    assert given.class_names([table_of("Red", "blue"), table_of("red", "green")]) == (
        "Red", "blue", "green",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([("red", "blue"), ("green", "red")], "another order than those of m.*--classes"),
        (
            [("p00", "p01"), ("p00", "target")],
            "unknown column 'target'; rename or remove it, or name all",
        ),
        ([("Cytosol", "Golgi")], "unknown column 'Golgi', did you mean 'Golgi apparatus'"),
        ([("1", "2")], "no column of class 0.*--classes"),
    ],
)
def test_columns_that_do_not_tell_the_classes_numbers_are_refused(tables, words):
    """Labels are numbers: a wrong order of classes would give wrong answers in silence."""
    with pytest.raises(InputError, match=words):
        given.class_names([table_of(*columns) for columns in tables])


def test_class_names_of_a_csv_keep_their_case(tmp_path):
    found = given.read(written(tmp_path, ".csv", ("Golgi", "ER exit")), "m")
    assert given.class_names([found]) == ("Golgi", "ER exit")


def test_indexes_of_pandas_are_no_classes(tmp_path):
    frame = pd.DataFrame(PROBS, columns=["p00", "p01"]).assign(id=IDS)
    frame.to_csv(tmp_path / "m.csv")
    assert given.read(tmp_path / "m.csv", "m").columns == ("p00", "p01")
    assert given.read(frame.set_index("id"), "m").ids.tolist() == IDS.tolist()
    frame.set_index("id").to_parquet(tmp_path / "m.parquet")
    assert given.read(tmp_path / "m.parquet", "m").ids.tolist() == IDS.tolist()


def test_probabilities_are_not_taken_for_logits():
    frame = pd.DataFrame(PROBS, columns=["p00", "p01"]).assign(id=IDS)
    with pytest.raises(InputError, match="leave out --logits"):
        given.read(frame, "m", logits=True)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (dict(probs=PROBS), "no array ids, only probs"),
        (dict(ids=IDS.astype(object), probs=PROBS), r"ids\.astype\(str\)"),
    ],
)
def test_archives_without_readable_ids_say_what_to_write(tmp_path, arrays, words):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=words):
        given.read(tmp_path / "m.npz", "m")


@pytest.mark.parametrize("target", ["Golgi;Rods & rings", "1 0", "[0, 1]", [0, 1]])
def test_labels_are_numbers_or_names(target):
    frame = pd.DataFrame({"Id": ["a", "b", "c"], "Target": [target, np.nan, None]})
    _, found = given.labels(frame, NAMES)
    assert found.tolist() == [[True, True], [False, False], [False, False]]


def test_labels_and_shares(tmp_path):
    (tmp_path / "labels.csv").write_text("Id,Target\na,1 0\nb,\nc,1\nd,1\n")
    ids, found = given.labels(tmp_path / "labels.csv", NAMES)
    assert ids.tolist() == ["a", "b", "c", "d"]
    assert found.tolist() == [[True, True], [False, False], [False, True], [False, True]]
    assert given.shares(str(tmp_path / "labels.csv"), NAMES).tolist() == [0.25, 0.75]
    assert given.shares("0.5,0.125", NAMES).tolist() == [0.5, 0.125]
    for wrong in ("0.5", "0.5,2", "a,b"):
        with pytest.raises(InputError, match="proportions"):
            given.shares(wrong, NAMES)
    with pytest.raises(InputError, match=r"'a'.*'2'"):
        given.labels(pd.DataFrame({"Id": ["a"], "Target": ["2"]}), NAMES)


def test_scores_of_seen_rows_are_sharper():
    rng = np.random.default_rng(0)
    labelled = np.arange(400) < 200
    probs = rng.uniform(0.1, 0.9, (400, 5))
    auc, low, high = given.sharpness(probs, labelled)
    assert low < 0.5 < high and auc == pytest.approx(0.5, abs=0.06)
    probs[labelled] = np.where(probs[labelled] > 0.5, 0.99, 0.01)
    assert given.sharpness(probs, labelled)[1] > 0.5
