import base64

import networkx as nx
import numpy as np

from hpa_jax.report import dataset, figures, training


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
        training.curves({"one": LOG, "two": LOG}),
        training.learning_rates({"one": LOG}),
    ):
        assert "one" in svg(uri)


def test_a_single_epoch_is_seen_and_networks_of_one_colour_are_told_apart(monkeypatch):
    monkeypatch.setattr(training, "svg", lambda figure: figure)
    (valid,) = [line for line in LOG if line["split"] == "valid"][:1]
    short = {"once": [line for line in LOG if line["epoch"] == valid["epoch"]]}
    for figure in (training.curves(short), training.learning_rates(short)):
        lines = [line for axis in figure.axes for line in axis.lines]
        assert lines and all(line.get_marker() in figures.MARKERS for line in lines)
    longer = LOG + [{**line, "epoch": line["epoch"] + 2} for line in LOG]
    many = {f"n{i}": longer for i in range(2 * len(figures.PALETTE) + 1)}
    for axis in training.curves(many).axes:
        looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines]
        assert len(set(looks)) == len(looks)
        assert axis.lines[0].get_marker() in ("", "None")


def test_an_image_is_stretched_and_of_the_asked_size():
    image = np.zeros((40, 40, 4), np.uint8)
    image[20:, :, 1] = 100
    found = figures.planes(figures.mosaic(image, 20)[0])
    assert found.shape == (20, 20, 4)
    assert found[..., 1].max() >= 240 and found[:, :18, 0].max() < 15


def test_class_graph_shows_names_and_is_the_same_twice():
    graph = nx.Graph()
    graph.add_node(0, count=5)
    graph.add_node(1, count=2)
    graph.add_edge(0, 1, weight=2)

    def drawn():
        figure, (axis,) = figures.axes(1)
        dataset.plot_graph(axis, graph, nx.circular_layout(graph), ["Alpha", "Beta"])
        return figures.svg(figure)

    assert "Alpha" in svg(drawn()) and drawn() == drawn()


def test_planned_rates_of_every_model_and_phase_are_shown():
    from hpa_jax.config import defaults as configs
    from hpa_jax.training.phases import learning_rates

    plans = {
        "one": learning_rates(configs.model(phases=(configs.phase(epochs=2),)), 100),
        "two": learning_rates(
            configs.model(
                phases=(configs.phase(freeze="backbone"), configs.phase(epochs=3, lr_decay=16.0))
            ),
            100,
        ),
    }
    text = svg(training.planned(plans))
    for part in ("one", "two", "learning rate", "beta 1", "head", "stem"):
        assert part in text
    assert training.planned(plans) == training.planned(plans)
