import base64
import io

import networkx as nx
import numpy as np
from PIL import Image

from hpa_jax.report import figures


def svg(uri: str) -> str:
    kind, data = uri.split(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


LOG = [
    {"step": 5, "epoch": 0.5, "split": "train", "loss": 2.0, "lr": 0.1},
    {"step": 10, "epoch": 1, "split": "valid", "loss": 1.0, "macro_f1": 0.4},
    {"step": 20, "epoch": 2, "split": "train", "loss": 0.5, "lr": {"stem": 0.1, "head": 0.2}},
]


def test_curves_name_every_model():
    for uri in (
        figures.training_curves({"one": LOG, "two": LOG}),
        figures.learning_rates({"one": LOG}),
    ):
        assert "one" in svg(uri)


def test_picture_is_stretched_and_of_the_asked_size():
    image = np.zeros((10, 10, 3), np.uint8)
    image[5:, :, 1] = 100
    data = base64.b64decode(figures.picture(image, side=20).split(",")[1])
    found = np.asarray(Image.open(io.BytesIO(data)))
    assert found.shape == (20, 20, 3)
    assert found[..., 1].max() >= 250 and found[..., 0].max() < 10


def test_class_graph_draws_names_and_is_the_same_twice():
    graph = nx.Graph()
    graph.add_node(0, count=5)
    graph.add_node(1, count=2)
    graph.add_edge(0, 1, weight=2)
    positions = nx.circular_layout(graph)
    uri = figures.class_graph(graph, positions, ["Alpha", "Beta"], "circle")
    assert "Alpha" in svg(uri)
    assert uri == figures.class_graph(graph, positions, ["Alpha", "Beta"], "circle")
