import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpa_jax.core import classes


def test_names_are_the_28_of_the_competition():
    assert len(classes.NAMES) == len(set(classes.NAMES)) == 28
    assert classes.NAMES[0] == "Nucleoplasm"
    assert classes.NAMES[27] == "Rods & rings"


def test_encode_takes_any_order_and_decode_sorts():
    mask = classes.encode("16 0")
    assert mask.dtype == bool
    assert np.flatnonzero(mask).tolist() == [0, 16]
    assert classes.decode(mask) == "0 16"


@given(st.sets(st.integers(0, 27)))
def test_codec_round_trip(numbers):
    text = " ".join(map(str, numbers))
    assert set(map(int, classes.decode(classes.encode(text)).split())) == numbers


@pytest.mark.parametrize("text", ["28", "-1", "x", "1.0", "0 ²"])
def test_encode_refuses_what_is_no_class(text):
    with pytest.raises(ValueError, match="class number"):
        classes.encode(text)


def test_other_label_sets():
    assert classes.encode("4", 5).tolist() == [False] * 4 + [True]
    with pytest.raises(ValueError):
        classes.encode("5", 5)


def test_frequencies():
    assert classes.frequencies(np.array([[1, 0], [1, 1]])).tolist() == [1.0, 0.5]
