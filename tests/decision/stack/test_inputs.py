"""Names become arrays once; what does not fit is named."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import inputs as stack_inputs

NAMES = ["meta/green_mean", "meta/size", "big/p00", "big/p01", "small/p01"]


@pytest.fixture
def table():
    return np.array(
        [[1, np.nan, 0.1, 0.4, 0.7], [2, 2048, 0.2, 0.5, 0.8], [3, 3072, 0.3, 0.6, 0.9]]
    )


def test_a_table_is_split_by_names(table):
    found = stack_inputs.named(NAMES, 2).split(table).filled({})
    assert (found.models, found.metafeatures) == (("big", "small"), ("green_mean", "size"))
    np.testing.assert_array_equal(found.known, [[True, True], [False, True]])
    np.testing.assert_allclose(found.probs[1, :, 1], [0.7, 0.8, 0.9])
    assert found.meta[0, 1] == 2560 and np.isnan(found.probs[1, :, 0]).all()
    assert found.names == tuple(NAMES) and found.sizes() == {"size": 2560}
    shuffled = [4, 2, 0, 3, 1]
    names = [NAMES[k] for k in shuffled]
    again = stack_inputs.named(names, 2).split(table[:, shuffled])
    place = [again.models.index(model) for model in found.models]
    np.testing.assert_array_equal(again.probs[place], found.probs)


def test_an_unknown_size_is_filled_with_that_of_the_fit(table):
    found = stack_inputs.named(NAMES, 2).split(table[:1])
    assert found.filled({"size": 7.0}).meta[0, 1] == 7
    assert found.filled({}).meta[0, 1] == 0  # none is known


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (1, 3, np.nan, "nan in row 1 of big/p01"),
        (0, 0, np.inf, "inf in row 0 of meta/green_mean"),
        (2, 1, np.inf, "inf in row 2 of meta/size"),
    ],
)
def test_a_value_that_is_not_finite_is_named(table, row, column, value, message):
    table[0, 1], table[row, column] = 2048, value
    with pytest.raises(InputError, match=message):
        stack_inputs.named(NAMES, 2).split(table).filled({})


def test_errors_of_names_and_shapes(table):
    with pytest.raises(InputError, match="only 2 classes"):
        stack_inputs.named(["m/p02"], 2)
    with pytest.raises(InputError, match="more than once"):
        stack_inputs.named(["m/p01", "m/p01"], 2)
    with pytest.raises(InputError, match="fitted on 1 columns"):
        stack_inputs.named(["m/p01"], 2).split(table)
    with pytest.raises(InputError, match="of 1 models"):
        stack_inputs.of_tables(np.zeros((2, 3, 4)), ["a"], np.zeros((3, 0)), [])


def test_a_table_without_names_is_read_as_the_teams():
    rng = np.random.default_rng(0)
    columns = stack_inputs.unnamed(rng.random((5, 15 + 2 * 4)), 4)
    assert columns.names[0] == "meta/blue_corr_with_green" and columns.names[-1] == "model_01/p03"
    assert stack_inputs.unnamed(rng.random((5, 8)), 4).names[0] == "model_00/p00"
    for odd, num_classes in ((rng.random((5, 24)), 7), (rng.normal(size=(50, 23)), 4)):
        columns = stack_inputs.unnamed(odd, num_classes)  # all of them metafeatures
        assert not columns.models and len(columns.metafeatures) == odd.shape[1]


def test_new_rows_are_standardised_as_the_fitted_ones(table):
    inputs = stack_inputs.named(NAMES, 2).split(table).filled({})
    whole, scale = stack_inputs.class_inputs(inputs, 1)
    new = stack_inputs.named(NAMES, 2).split(table[1:2])
    part, _ = stack_inputs.class_inputs(new, 1, scale)
    np.testing.assert_allclose(part.linear, whole.linear[1:2])
    assert whole.linear[:, 0].tolist() == [1, 1, 1]
    expected = stack_inputs.logit(table[:, [3, 4]]).mean(axis=1)
    np.testing.assert_allclose(whole.linear[:, 1], expected, rtol=1e-5)
    assert whole.names[0] == "own/mean" and whole.trees.shape[1] == len(whole.names)


def test_columns_that_tell_an_images_source_are_a_kind_of_their_own():
    names = ["meta/size", "meta/file_bytes", "meta/green_mean", "a/p00"]
    features = np.random.default_rng(0).random((9, 4))
    inputs, _ = stack_inputs.class_inputs(stack_inputs.named(names, 1).split(features), 0)
    assert inputs.kinds[1].count("size") == 2 and inputs.kinds[1].count("meta") == 1
