"""Tables are joined on id; names tell the layout; what does not fit is named."""

import numpy as np
import pandas as pd
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import inputs as stack_inputs


@pytest.fixture
def tables():
    big = pd.DataFrame({"id": ["a", "b", "c"], "p00": [0.1, 0.2, 0.3], "p01": [0.4, 0.5, 0.6]})
    small = pd.DataFrame({"id": ["c", "a", "b"], "p01": [0.9, 0.7, 0.8]})
    meta = pd.DataFrame(
        {"id": ["b", "a", "c"], "green_mean": [2.0, 1.0, 3.0], "size": [2048, np.nan, 3072]}
    )
    return {"big": big, "small": small}, meta


def test_joined_on_id_whatever_the_order(tables):
    features, names = stack_inputs.assemble(*tables, ["c", "a"])
    assert names == ["meta/green_mean", "meta/size", "big/p00", "big/p01", "small/p01"]
    expected = [[3, 3072, 0.3, 0.6, 0.9], [1, 3072, 0.1, 0.4, 0.7]]  # unknown size: the median
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    where = stack_inputs.layout(names, 5, 2)
    assert where.own == ((2,), (3, 4)) and where.meta == (0, 1)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda p, m: ({**p, "small": p["small"].iloc[1:]}, m),
            "predictions of small: 1 of 3 ids are missing, first 'c'",
        ),
        (
            lambda p, m: ({**p, "big": pd.concat([p["big"]] * 2)}, m),
            "predictions of big: id 'a' is there more than once",
        ),
        (
            lambda p, m: ({**p, "big": p["big"].assign(p01=[0, np.nan, 0])}, m),
            "nan in row 1 of big/p01",
        ),
        (lambda p, m: (p, m.assign(green_mean=[1, np.inf, 2])), "inf in row 0 of meta/green_mean"),
        (lambda p, m: ({"x": m}, None), "predictions of x: no column p00"),
        (lambda p, m: ({}, None), "neither predictions nor metafeatures"),
    ],
)
def test_what_is_wrong_is_named(tables, break_it, message):
    with pytest.raises(InputError, match=message):
        stack_inputs.assemble(*break_it(*tables), ["a", "b", "c"])


def test_layout_errors():
    with pytest.raises(InputError, match="only 2 classes"):
        stack_inputs.layout(["m/p02"], 1, 2)
    with pytest.raises(InputError, match="more than once"):
        stack_inputs.layout(["m/p01", "m/p01"], 2, 2)
    with pytest.raises(InputError, match="1 feature names for 2"):
        stack_inputs.layout(["m/p01"], 2, 2)


def test_a_table_without_names_that_fits_the_layout_gets_them():
    rng = np.random.default_rng(0)
    names = stack_inputs.conventional_names(rng.random((5, 15 + 2 * 4)), 4)
    assert names[:1] == ("meta/blue_corr_with_green",) and names[-1] == "model_01/p03"
    assert stack_inputs.conventional_names(rng.random((5, 8)), 4)[0] == "model_00/p00"
    assert stack_inputs.conventional_names(rng.random((5, 15 + 8 + 1)), 7) is None
    assert stack_inputs.conventional_names(rng.normal(size=(50, 15 + 8)), 4) is None


def test_new_rows_are_standardised_as_the_fitted_ones(tables):
    features, names = stack_inputs.assemble(*tables, ["a", "b", "c"])
    where = stack_inputs.layout(names, 5, 2)
    whole, scale = stack_inputs.class_inputs(features, where, 1, names=names)
    part, _ = stack_inputs.class_inputs(features[1:2], where, 1, scale, names)
    np.testing.assert_allclose(part.linear, whole.linear[1:2])
    assert whole.linear[:, 0].tolist() == [1, 1, 1]
    expected = stack_inputs.logit(features[:, [3, 4]]).mean(axis=1)
    np.testing.assert_allclose(whole.linear[:, 1], expected)
    assert whole.names[0] == "own/mean" and whole.trees.shape[1] == len(whole.names)


def test_what_tells_a_images_side_is_of_a_kind_of_its_own():
    names = ["meta/size", "meta/file_bytes", "meta/green_mean", "a/p00"]
    features = np.random.default_rng(0).random((9, 4))
    where = stack_inputs.layout(names, 4, 1)
    inputs, _ = stack_inputs.class_inputs(features, where, 0, names=names)
    assert inputs.kinds[1].count("size") == 2 and inputs.kinds[1].count("meta") == 1
