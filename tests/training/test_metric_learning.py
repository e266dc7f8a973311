"""Metric learning: antibodies as classes, a leak-free hold-out, and neighbours that are found."""

import tracemalloc
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.inference import predict, retrieval
from hpa_jax.models.heads import Embedding
from hpa_jax.training import checkpoint, losses, metric_learning, network
from hpa_jax.training import examples as rows
from tests.training import tiny

TABLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_tables"
EXTERNAL = TABLES / "HPAv18RBGY_wodpl.csv"


class Net(nnx.Module):
    """conv -> relu -> the embedding head."""

    def __init__(self, num_classes, *, rngs):
        self.conv = nnx.Conv(4, 16, (3, 3), rngs=rngs)
        self.head = Embedding(16, num_classes, size=8, rngs=rngs)

    def embed(self, x):
        return self.head.embed(nnx.relu(self.conv(x)))

    def __call__(self, x):
        return self.embed(x)[0]


def make(config, num_classes, *, seed=0, arrays=True):
    def net():
        return Net(num_classes, rngs=nnx.Rngs(seed))

    return net() if arrays else nnx.eval_shape(net)


class Atlas(tiny.Records):
    """Ten antibodies, 24 images each: how rough each stain is tells which."""

    def __init__(self):
        rng = np.random.default_rng(0)
        number = np.arange(240) // 24
        self.antibodies = [str(1000 + own) for own in number]
        self.ids = np.array([f"{name}_{row}" for row, name in enumerate(self.antibodies)])
        rough = np.array([(own >> np.arange(4)) & 1 for own in range(3, 13)])[number]
        means = rng.uniform(115, 135, (240, 4))  # what must not matter
        grain = rng.normal(0, 1, (240, 8, 8, 4)) * (3 + 50 * rough)[:, None, None]
        images = means[:, None, None] + grain
        self.images = np.clip(images, 0, 255).astype(np.uint8)


def test_classes_have_enough_images():
    names, numbers = metric_learning.classes_of(["b", "a", "b", None, "c", "b"], min_images=1)
    assert names == ["a", "b", "c"] and numbers.tolist() == [1, 0, 1, -1, 2, 1]
    with pytest.raises(InputError, match="1 antibodies"):
        metric_learning.classes_of(["b", "a", "b"], min_images=2)


def test_held_out_groups_leave_a_partner_behind():
    rng = np.random.default_rng(0)
    numbers, groups = rng.integers(-1, 30, 200), rng.integers(0, 120, 200)
    held = metric_learning.held_out(numbers, groups, 0.2, seed=3)
    assert 0.1 < held.mean() <= 0.25
    assert not set(groups[held]) & set(groups[~held])
    assert (numbers[held] >= 0).all() and set(numbers[held]) <= set(numbers[~held])


def test_arcface_is_a_term_of_the_config():
    loss = losses.from_config(dict(configs.embedding_model().loss))
    cosines = jnp.array([[0.9, 0.1, -0.2], [0.3, 0.2, 0.1]])
    labels, mask = jnp.array([[1, 0, 0], [0, 0, 1]]), jnp.array([True, False])
    want = losses.arcface(cosines[:1], jnp.array([0]))[0]
    np.testing.assert_allclose(loss(cosines, labels, mask), want, rtol=1e-6)


@pytest.mark.skipif(not EXTERNAL.is_file(), reason="the external set's table is not here")
def test_the_real_external_set_has_12815_antibodies_and_fits_into_little_memory(tmp_path):
    ids = pd.read_csv(EXTERNAL, dtype=str)["Id"]
    asked = {}

    def train(config, **given):
        weights = rows.class_weights(given["train_labels"], power=1.0)
        sampler = rows.sampler("balanced", given["train_labels"], seed=0)
        asked.update(given, weights=weights, drawn=sampler(0))
        rows.Examples(None, given["train_ids"], given["train_labels"], given["valid_ids"],
                    given["valid_labels"]).fingerprint()  # fmt: skip

    tracemalloc.start()
    with mock.patch.object(metric_learning.loop, "train", train):
        _, held = metric_learning.train(
            configs.embedding_model(), name="m", directory=tmp_path, records=None, ids=ids,
            antibodies=[name.split("_")[0] for name in ids], settings=None, seed=0,
        )  # fmt: skip
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(asked["class_names"]) == 12815 and len(ids) == 74606
    assert asked["train_labels"].shape == (len(ids) - held.sum(), 12815)
    assert asked["train_labels"][np.arange(32)].shape == (32, 12815)
    assert held.mean() == pytest.approx(0.05, abs=0.001)
    drawn = np.unique(asked["train_labels"].numbers[asked["drawn"]])
    assert len(drawn) == 12815  # every antibody in every epoch
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"


def test_training_brings_images_of_an_antibody_together(tmp_path):
    atlas = Atlas()
    config = configs.embedding_model(
        backbone="tiny", image_size=8, batch_size=16, dtype="float32",
        phases=(configs.phase(epochs=12, lr=1e-2, schedule="constant"),),
    )  # fmt: skip
    settings = configs.default().train
    settings.tensorboard = False
    with tiny.in_place(), mock.patch.object(network, "from_config", make):
        folder, held = metric_learning.train(
            config, name="metric", directory=tmp_path, records=atlas, ids=atlas.ids,
            antibodies=atlas.antibodies, settings=settings, seed=0, share=0.1,
        )  # fmt: skip
        names = checkpoint.load(folder, "final")[2]
        model, trained = metric_learning.load(folder)
        assert len(names) == 10 and held.sum() == 24
        batches = tiny.eval_batches(
            atlas, atlas.ids, np.zeros((240, 1)), batch_size=80, channels=trained.channels,
            image_size=8,
        )  # fmt: skip
        _, embeddings = predict.predict(model, trained, batches, atlas.ids)
    assert embeddings.shape == (240, 8)
    unit = retrieval.standardised(embeddings)
    pairs = retrieval.nearest(unit[held], unit[~held])
    antibodies = np.array(atlas.antibodies)
    recall = (antibodies[~held][pairs.rows[:, 0]] == antibodies[held]).mean()
    raw = retrieval.recall_at_1(atlas.images.mean((1, 2)), atlas.antibodies)["recall"]
    assert recall > 0.5 and raw < 0.3, (recall, raw)
