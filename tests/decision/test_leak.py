"""The overlay: order of trust, conflicts, whole rows, nothing invented."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision import leak


def test_matches_take_the_nearest_and_list_the_rest():
    matches = pd.DataFrame(
        {
            "test_id": ["t1", "t1", "t1", "t2"],
            "match_id": ["e1", "e3", "e2", "e4"],
            "distance_r": [4, 0, 0, 1],
            "distance_g": [0, 1, 1, np.nan],  # a channel that one of them lacks
            "labels": [[0], [25, 2], [2, 25], [7]],
        }
    )
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        table, conflicts = leak.combine({"matches": leak.of_matches(matches.iloc[order])})
        assert dict(zip(table["id"], table["labels"])) == {"t1": [2, 25], "t2": [7]}
        assert table["origin"].tolist() == ["e2", "e4"]  # of equal ones the first id
        assert table["distance"].tolist() == [1.0, 1.0]
        assert conflicts["origin"].tolist() == ["e1"] and conflicts["labels"].tolist() == [[0]]


def test_tables_of_others_are_read_and_refused(tmp_path):
    path = tmp_path / "leak.csv"
    path.write_text("Id,Target\na,16 0\nb,\n")
    weak = pd.DataFrame({"id": ["b"], "labels": ["3"]})
    table, conflicts = leak.combine({"weak": weak, "file": leak.read(path)})
    assert dict(zip(table["id"], table["labels"])) == {"a": [0, 16], "b": [3]}  # no labels: no word
    assert not len(conflicts)
    with pytest.raises(InputError, match="nothing"):
        leak.read(tmp_path / "nothing.csv")
    path.write_text("id,labels\na,0\n")
    with pytest.raises(InputError, match="Id,Target"):
        leak.read(path)


def test_later_tables_win_and_conflicts_are_listed():
    first = pd.DataFrame({"id": ["a", "b", "b"], "labels": ["1 0", "5", "6"]})
    second = pd.DataFrame({"id": ["a", "c"], "labels": [[3], [4]]})
    table, conflicts = leak.combine({"shared": first, "phash": second})
    assert dict(zip(table["id"], table["labels"])) == {"a": [3], "b": [6], "c": [4]}
    assert set(zip(conflicts["id"], conflicts["table"])) == {("a", "shared"), ("b", "shared")}


def test_equal_labels_are_no_conflict():
    first = pd.DataFrame({"id": ["a"], "labels": ["1 0"]})
    second = pd.DataFrame({"id": ["a"], "labels": [[0, 1]]})
    _, conflicts = leak.combine({"x": first, "y": second})
    assert not len(conflicts)


def test_overlay_replaces_whole_rows_and_only_those():
    decided = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    table = pd.DataFrame({"id": ["b", "z", "c", "a"], "labels": ["2 0", "1", "2", ""]})
    result, changed = leak.overlay(decided, ["a", "b", "c"], table)
    assert result.tolist() == [[True, True, False], [True, False, True], [False, False, True]]
    assert changed == ["b"]  # c said the same already, a has no labels, z is no test image
    assert decided[1].tolist() == [False, True, False]  # the input stays as it was


def test_bad_tables_are_named():
    with pytest.raises(InputError, match="leak table x: no column 'labels'"):
        leak.combine({"x": pd.DataFrame({"id": ["a"]})})
    with pytest.raises(InputError, match="row 0"):
        leak.combine({"x": pd.DataFrame({"id": ["a"], "labels": ["one"]})})
    with pytest.raises(InputError, match="id 'a': label 9"):
        leak.overlay(np.zeros((1, 3), bool), ["a"], pd.DataFrame({"id": ["a"], "labels": ["9"]}))


REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_tables"
OVERLAY = (  # labels in the 301 published rows by class (spec 8.2)
    *(114, 11, 24, 4, 23, 16, 5, 20, 0, 3, 3, 4, 16, 17, 25, 4, 78, 18, 13, 11, 2, 38, 12, 16, 0),
    *(81, 2, 5),
)


@pytest.mark.skipif(not REAL.exists(), reason="needs the competition's tables")
def test_the_real_leak_table_gives_the_published_overlay():
    real = pd.read_csv(REAL / "leak_v4.csv", index_col=0)
    table = pd.DataFrame({"id": real.index, "labels": real["Site Parsed Labels"].astype(str)})
    ids = pd.read_csv(REAL / "sample_submission.csv")["Id"].tolist()
    combined, conflicts = leak.combine({"leak_v4": table})
    assert len(table) == 301 and len(combined) == 299
    result, changed = leak.overlay(np.zeros((len(ids), 28), bool), ids, combined)
    expected = np.array(OVERLAY)
    expected[[16, 17]] -= 1  # two ids are there twice, with the same label
    assert result.sum(axis=0).tolist() == expected.tolist()
    assert len(changed) == 299 and not len(conflicts)
