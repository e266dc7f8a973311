"""Counts as counted by hand; the competition's own figures; graphs that show what they say."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import statistics

TABLES = Path(__file__).resolve().parents[2] / "../shared/data/real_tables"
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def labels():
    """a and b often together, c alone, d never."""
    return np.array([[1, 1, 0, 0]] * 6 + [[1, 0, 0, 0]] * 2 + [[0, 0, 1, 0]] * 3, bool)


def test_counts_by_hand(labels):
    together = statistics.cooccurrence(labels)
    for i, j in itertools.product(range(4), repeat=2):
        assert together[i, j] == sum(row[i] and row[j] for row in labels)
    given = statistics.conditional(labels)
    assert given[1, 0] == 1.0 and given[0, 1] == 0.75 and np.isnan(given[3]).all()
    assert statistics.jaccard(labels)[0, 1] == 0.75 and statistics.jaccard(labels)[3, 3] == 0


def test_frequencies_of_parts(labels):
    table = statistics.frequencies({"train": labels, "test": labels[:2]}, NAMES)
    assert table["train"].tolist() == [8, 6, 3, 0]
    assert table["test_share"].tolist() == [1, 1, 0, 0]


def test_strongest_links(labels):
    table = statistics.strongest(labels, NAMES)
    assert table.iloc[0].tolist() == ["a", "b", 6, 1.0, 0.75] and len(table) == 1


@pytest.mark.parametrize("weight", statistics.WEIGHTS)
def test_graph_has_the_links_there_are(labels, weight):
    graph = statistics.graph(labels, NAMES, weight)
    assert len(graph) == 4 and graph.nodes[0]["count"] == 8 and graph.nodes[3]["name"] == "d"
    assert {frozenset(edge) for edge in graph.edges} == {frozenset({0, 1})}
    expected = {"jaccard": 0.75, "count": 6, "conditional": 0.75}[weight]
    assert graph.edges[0, 1]["weight"] == expected
    assert graph.is_directed() == (weight == "conditional")


def test_layout_puts_linked_classes_together():
    rng = np.random.default_rng(0)
    base = rng.random((400, 3)) < 0.3
    labels = np.concatenate([base, base], axis=1)  # class k and k + 3 always together
    graph = statistics.graph(labels, list("abcdef"))
    position = statistics.layout(graph)
    near = [np.linalg.norm(position[k] - position[k + 3]) for k in range(3)]
    far = [np.linalg.norm(position[i] - position[j]) for i in range(3) for j in range(i)]
    assert max(near) < 0.5 * min(far)
    circle = statistics.layout(graph, "circular")
    assert np.allclose([np.linalg.norm(xy) for xy in circle.values()], 1, atol=1e-6)


def test_layout_of_classes_without_links():
    graph = statistics.graph(np.eye(5, dtype=bool), list("abcde"))
    positions = np.array(list(statistics.layout(graph).values()))
    gaps = np.linalg.norm(positions[:, None] - positions, axis=-1)[np.triu_indices(5, 1)]
    assert np.isfinite(positions).all() and gaps.min() > 0.2


def test_write_makes_tables_and_graphs(labels, tmp_path):
    paths = statistics.write(tmp_path, {"train": labels}, NAMES)
    assert all(path.stat().st_size > 0 for path in paths)
    assert artifacts.read_table(tmp_path / "train_cooccurrence.parquet")["a"].tolist() == [
        8,
        6,
        0,
        0,
    ]
    assert "<svg" in (tmp_path / "train_graph.svg").read_text()[:2000]


@pytest.mark.parametrize(
    "call",
    [
        lambda labels: statistics.graph(labels, NAMES, "jacard"),
        lambda labels: statistics.graph(labels, NAMES[:3]),
        lambda labels: statistics.layout(statistics.graph(labels, NAMES), "round"),
        lambda labels: statistics.cooccurrence(labels[0]),
    ],
)
def test_wrong_input_is_named(call, labels):
    with pytest.raises(InputError, match=r"jaccard|class names|circular|\[N, C\]"):
        call(labels)


@pytest.mark.skipif(not TABLES.is_dir(), reason="the competition's tables are not here")
def test_figures_of_the_competition():
    table = pd.read_csv(TABLES / "train.csv", dtype=str)
    labels = np.stack([classes.encode(text) for text in table["Target"]])
    together, given = statistics.cooccurrence(labels), statistics.conditional(labels)
    published = {(25, 0): 3631, (2, 0): 1735, (21, 0): 1343, (7, 0): 1092, (25, 21): 921}
    assert {pair: together[pair] for pair in published} == published
    assert given[10, 9] == 1.0 and round(given[9, 10], 2) == 0.62 and round(given[27, 0], 2) == 0.64
    assert np.bincount(labels.sum(axis=1)).tolist() == [0, 15126, 12485, 3160, 299, 2]
    first = statistics.strongest(labels, classes.NAMES).iloc[0]
    assert {first["class_a"], first["class_b"]} == {"Nucleoplasm", "Cytosol"}
