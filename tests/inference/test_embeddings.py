"""A frozen network is run once: every view stored, nothing computed twice, the same answers."""

import jax
import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import batches, catalog, records
from hpa_jax.data import embeddings as storing
from hpa_jax.inference import embeddings, sweep, views
from hpa_jax.training import frozen, network
from tests.data.layouts import competition, picture, save

SIZE = 32


TINY = dict(backbone="resnet18", width=1 / 16, depth=(1, 1, 1, 1), image_size=SIZE)


def config(**differences):
    return configs.frozen_model(**TINY, **differences)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = competition(tmp_path_factory.mktemp("frozen") / "data", side=SIZE)
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    folder = records.write(table, root / "r", image_size=SIZE, encoding="raw", shard_images=4)
    return batches.Records(folder)


def write(packed, folder, model, batch_size=2, earlier=()):
    network = frozen.network_of(model)
    options = dict(batch_size=batch_size, views=model.views, earlier=earlier)
    return embeddings.write(network, model, packed, folder, **options)


@pytest.mark.parametrize(
    ("trained", "shown"),
    [
        ("mlp", "identity"),
        ("mlp", {"name": "d4", "weights": tuple(range(8)), "aggregate": "max"}),
        ("linear", {"name": "cells", "count": 3, "side": 16, "output_size": 32}),
        ("gated_attention", {"name": "cells", "count": 3, "side": 16, "output_size": 32}),
        ("gated_attention", "d4"),
        ("linear", {"name": "crops", "count": 1, "d4": False, "aggregate": "mean_logit"}),
    ],
)
def test_the_head_on_stored_views_says_what_the_whole_network_says(
    packed, tmp_path, shown, trained
):
    model = configs.frozen_model(trained, 8, **TINY, views=shown)
    stored = write(packed, tmp_path, model)
    head = network.trained_from_config(model, 5, seed=3)
    head.eval()
    whole = frozen.whole(model, head)
    ids = packed.ids[::-1]
    # random crops draw from the row: those of the stored order
    of_images = sweep.predict_records(whole, model, packed, packed.ids, batch_size=3, views=shown)
    alone = configs.model(**{**dict(model.items()), "normalize": "none"})
    found = sweep.predict_records(
        head, alone, stored, ids, batch_size=4, views=views.stored(shown, SIZE)
    )
    np.testing.assert_allclose(found.probs[::-1], of_images.probs, atol=1e-5)
    np.testing.assert_allclose(found.plain[::-1], of_images.plain, atol=1e-5)
    np.testing.assert_allclose(found.embeddings[::-1], of_images.embeddings, atol=1e-4)
    assert np.ptp(found.probs, axis=0).min() > 1e-4  # else equality would mean nothing
    if trained == "gated_attention":  # as it was trained: all views of an image at once
        together = jax.nn.sigmoid(head(stored.read(stored.rows(ids))))
        np.testing.assert_allclose(found.probs, together, atol=1e-5)


def test_a_killed_run_goes_on_where_it_was(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "ROWS", 2)
    monkeypatch.setattr(embeddings, "ROWS", 2)
    model, whole, plain = config(views="d4"), tmp_path / "whole", storing.write_part
    expected = write(packed, whole, model)

    def dies(directory, number, values):
        if number == 2:
            raise KeyboardInterrupt
        plain(directory, number, values)

    monkeypatch.setattr(storing, "write_part", dies)
    with pytest.raises(KeyboardInterrupt):
        write(packed, tmp_path / "cut", model)
    with pytest.raises(InputError, match="not found"):
        storing.Embeddings(tmp_path / "cut")  # half of it is no embeddings
    written = []
    monkeypatch.setattr(
        storing, "write_part", lambda *part: (written.append(part[1]), plain(*part))
    )
    found = write(packed, tmp_path / "cut", model)
    assert written == [2, 3, 4] and len(packed) == 9
    np.testing.assert_array_equal(found.checksums, expected.checksums)
    monkeypatch.setattr(embeddings, "program", None)  # nothing is left to compute
    write(packed, tmp_path / "cut", model)


@pytest.fixture
def counted(monkeypatch):
    """Row numbers that a network embeds."""
    rows, plain = [], embeddings.eval_batches
    monkeypatch.setattr(
        embeddings,
        "eval_batches",
        lambda r, ids, *a, **k: (rows.extend(ids), plain(r, ids, *a, **k))[1],
    )
    return rows


@pytest.mark.parametrize(("shown", "computed"), [("d4", 1), ("crops", 7)])
def test_a_new_image_is_embedded_alone(tmp_path, counted, monkeypatch, shown, computed):
    """Random crops are drawn by row, and the new image (of an earlier shard) moves six rows."""
    monkeypatch.setattr(storing, "ROWS", 4)
    monkeypatch.setattr(embeddings, "ROWS", 4)
    root = competition(tmp_path / "data", 6, 2, side=SIZE)
    model = config(views=shown if shown == "d4" else {"name": shown, "output_size": SIZE})

    def packed():
        table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
        return batches.Records(records.write(table, root / "r", image_size=SIZE, encoding="raw"))

    write(packed(), tmp_path / "before", model)
    save(root / "test", "w0", picture(99, SIZE))
    lines = (root / "sample_submission.csv").read_text().splitlines()
    (root / "sample_submission.csv").write_text("\n".join([*lines, "w0,0"]) + "\n")
    both = packed()
    expected = write(both, tmp_path / "anew", model)
    counted.clear()
    found = write(both, tmp_path / "after", model, earlier=[tmp_path / "before"])
    assert len(counted) == computed and "w0" in counted
    everything = np.arange(len(both))
    np.testing.assert_allclose(found.read(everything), expected.read(everything), atol=1e-6)
    assert found.signatures.tolist() == both.signatures().tolist()


def test_after_an_image_is_removed_nothing_is_computed(packed, tmp_path, counted):
    model = config()
    everything = write(packed, tmp_path / "before", model)
    root = competition(tmp_path / "data", side=SIZE)
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    fewer = records.write(table[1:], root / "r", image_size=SIZE, encoding="raw")
    counted.clear()
    found = write(batches.Records(fewer), tmp_path / "after", model, earlier=[tmp_path / "before"])
    assert counted == [] and len(found) == len(everything) - 1
    rows = everything.rows(found.ids)
    np.testing.assert_array_equal(found.read(np.arange(len(found))), everything.read(rows))


def test_a_changed_or_damaged_row_is_computed_again(packed, tmp_path, counted):
    model = config()
    write(packed, tmp_path / "before", model)
    part = storing.part_path(tmp_path / "before", 0)
    values = np.load(part)
    values[3] += 1
    np.save(part, values)
    counted.clear()
    found = write(
        packed, tmp_path / "after", model, earlier=[tmp_path / "before", tmp_path / "none"]
    )
    assert counted == [packed.ids[3]]
    np.testing.assert_allclose(found.read(np.arange(4))[3] + 1, values[3], atol=1e-6)


def test_random_weights_are_the_same_whatever_the_seed(packed, tmp_path):
    one, other = (write(packed, tmp_path / str(seed), config(seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(one.checksums, other.checksums)
