"""Tables are joined on id whatever their order; what does not fit is named."""

import pandas as pd
import pytest

from hpa_jax.core import tables
from hpa_jax.core.errors import InputError


def test_rows_in_the_order_of_the_wanted_ids():
    assert tables.rows_by_id(["a", "b", "c"], ["c", "a", "c"], "x").tolist() == [2, 0, 2]
    table = pd.DataFrame({"id": ["a", "b"], "x": [1, 2]})
    assert tables.by_id(table, ["b", "a"], "x")["x"].tolist() == [2, 1]
    assert len(tables.by_id(table, [], "x")) == 0


@pytest.mark.parametrize(
    ("ids", "wanted", "message"),
    [
        (["a", "b"], ["b", "c", "d"], "the table: 2 of 3 ids are missing, first 'c'; add them"),
        (["a", "b", "a"], ["b"], "the table: id 'a' occurs more than once"),
    ],
)
def test_a_missing_or_doubled_id_is_named(ids, wanted, message):
    with pytest.raises(InputError, match=message):
        tables.rows_by_id(ids, wanted, "the table", "add them")
    with pytest.raises(InputError, match=message):
        tables.by_id(pd.DataFrame({"id": ids}), wanted, "the table", "add them")


def test_a_table_needs_the_column_id():
    with pytest.raises(InputError, match="the table: has no column id"):
        tables.by_id(pd.DataFrame({"Id": ["a"]}), ["a"], "the table")
