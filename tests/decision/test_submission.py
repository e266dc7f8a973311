"""What is handed in has the sample's ids in the sample's order and valid labels, or is refused."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision import submission

IDS = ["b", "a", "c"]
DECIDED = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)


def test_written_in_the_order_of_the_sample(tmp_path):
    path = tmp_path / "submission.csv"
    submission.write(path, IDS, DECIDED, ["a", "b", "c"])
    assert path.read_text() == "Id,Predicted\na,1 2\nb,0\nc,2\n"
    found = submission.check(path, ["a", "b", "c"], 3)
    assert found.tolist() == DECIDED[[1, 0, 2]].tolist()
    assert submission.sample_ids(path) == ["a", "b", "c"]


def test_empty_predictions_need_permission(tmp_path):
    decided = DECIDED & [[True], [False], [True]]
    with pytest.raises(InputError, match="1 predictions are empty, first 'a'"):
        submission.write(tmp_path / "s.csv", IDS, decided)
    assert not (tmp_path / "s.csv").exists()
    submission.write(tmp_path / "s.csv", IDS, decided, allow_empty=True)
    assert not submission.check(tmp_path / "s.csv", IDS, 3, allow_empty=True)[1].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Id,Predicted\nb,0\na,1\n", "1 ids of the sample are missing, first 'c'"),
        ("Id,Predicted\nb,0\na,1\nc,2\nd,0\n", "'d' is not in the sample"),
        ("Id,Predicted\nb,0\na,1\na,1\nc,2\n", "'a' occurs more than once"),
        ("Id,Predicted\na,1\nb,0\nc,2\n", "line 2: id 'a', the sample has 'b'"),
        ("Id,Predicted\nb,0\na,7\nc,2\n", r"line 3 \(a\): label '7'"),
        ("Id,Predicted\nb,0\na,x\nc,2\n", r"line 3 \(a\): label 'x'"),
        ("Id,Predicted\nb,0 0\na,1\nc,2\n", "duplicate class"),
        ("Id,Predicted\nb,0\na,\nc,2\n", "1 predictions are empty"),
        ("Id,Predicted\nb,0\na,1,2\nc,2\n", "line 3: 3 cells"),
        ("id;target\nb;0\n", "the first line must be Id,Predicted"),
        ("", "the first line must be"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        submission.check(path, IDS, 3)


def test_ids_and_decisions_must_fit(tmp_path):
    with pytest.raises(InputError, match="shape"):
        submission.write(tmp_path / "s.csv", ["a"], DECIDED)
    with pytest.raises(InputError, match="first 'x'"):
        submission.write(tmp_path / "s.csv", IDS, DECIDED, ["a", "b", "x"])
    with pytest.raises(InputError, match="can't be read"):
        submission.sample_ids(tmp_path / "none.csv")
