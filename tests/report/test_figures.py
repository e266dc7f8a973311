import base64
import io

import networkx as nx
import numpy as np
from PIL import Image

from hpa_jax.report import figures, schedules


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


def test_planned_rates_of_every_model_and_stage_are_drawn():
    from hpa_jax import config as configs
    from hpa_jax.training.stages import learning_rates

    plans = {
        "one": learning_rates(configs.model(stages=(configs.stage(epochs=2),)), 100),
        "two": learning_rates(
            configs.model(
                stages=(configs.stage(freeze="backbone"), configs.stage(epochs=3, lr_decay=16.0))
            ),
            100,
        ),
    }
    text = svg(schedules.planned(plans))
    for part in ("one", "two", "learning rate", "beta 1", "head", "stem"):
        assert part in text
    assert schedules.planned(plans) == schedules.planned(plans)
