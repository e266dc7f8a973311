"""A network and packed images small enough that a training takes a second."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.config import defaults as configs

CLASSES = ("a", "b", "c", "d", "e")
SIDE = 8


class Net(nnx.Module):
    """conv -> BatchNorm -> relu -> conv -> BatchNorm -> relu -> mean -> dropout -> dense."""

    def __init__(self, num_classes, in_channels=4, dropout=0.5, norm=True, *, rngs):
        self.conv1 = nnx.Conv(in_channels, 8, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, momentum=0.9, rngs=rngs) if norm else None
        self.conv2 = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.bn2 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc = nnx.Linear(16, num_classes, rngs=rngs)

    def depth_groups(self, cuts=None):
        return [["conv1", "bn1"], ["conv2", "bn2"], ["fc"]]

    def features(self, x):
        x = self.conv1(x)
        x = nnx.relu(x if self.bn1 is None else self.bn1(x))
        x = self.conv2(x)
        return nnx.relu(x if self.bn2 is None else self.bn2(x))

    def embed(self, x):
        pooled = self.features(x).mean((1, 2))
        return self.fc(self.dropout(pooled)), pooled

    def __call__(self, x):
        return self.embed(x)[0]


def make(config, num_classes, *, seed=0, arrays=True):
    """Stands in for `network.from_config`; config.head "no_norm" leaves BatchNorm out."""

    def net():
        return Net(
            num_classes,
            len(config.channels),
            config.dropout,
            config.head != "no_norm",
            rngs=nnx.Rngs(seed),
        )

    return net() if arrays else nnx.eval_shape(net)


class Records:
    """Images in memory: class c brightens one of the corners or channels."""

    def __init__(self, count=96, side=SIDE, seed=0):
        draw = np.random.default_rng(seed)
        self.ids = np.array([f"id{i}" for i in range(count)])
        self.labels = (draw.random((count, len(CLASSES))) < 0.3).astype(np.uint8)
        images = draw.integers(0, 60, (count, side, side, 4))
        for c in range(4):
            images[..., c] += 150 * self.labels[:, c, None, None]
        images += 20 * self.labels[:, 4, None, None, None]
        self.images = np.clip(images, 0, 255).astype(np.uint8)


def train_batches(
    records, ids, labels, *, batch_size, channels, image_size, sampler, start=0,
    process_index=0, process_count=1, workers=1, prefetch=1,
):  # fmt: skip
    """As hpa_jax.data.batches, from memory."""
    from hpa_jax.data.batches import positions

    where = {id: row for row, id in enumerate(records.ids)}
    at = np.array([where[id] for id in ids])
    size = batch_size // process_count
    for rows in positions(sampler, batch_size, start):
        rows = rows[process_index * size : (process_index + 1) * size]
        yield {
            "image": records.images[at[rows]],
            "label": labels[rows],
            "mask": np.ones(len(rows), bool),
            "index": rows.astype(np.int32),
        }


def eval_batches(
    records, ids, labels, *, batch_size, channels, image_size,
    process_index=0, process_count=1, workers=1, prefetch=1,
):  # fmt: skip
    """As hpa_jax.data.batches, from memory."""
    where = {id: row for row, id in enumerate(records.ids)}
    at = np.array([where[id] for id in ids])
    size = batch_size // process_count
    for start in range(0, len(ids), batch_size):
        rows = np.arange(start, start + batch_size)
        mask = rows < len(ids)
        rows = np.where(mask, rows, 0)
        own = slice(process_index * size, (process_index + 1) * size)
        yield {
            "image": records.images[at[rows[own]]],
            "label": labels[rows[own]],
            "mask": mask[own],
            "index": rows[own].astype(np.int32),
        }


@contextlib.contextmanager
def in_place():
    """The training room with the tiny network and images in memory."""
    from unittest import mock

    from hpa_jax.data import batches as inputs
    from hpa_jax.training import network

    with (
        mock.patch.object(network, "from_config", make),
        mock.patch.object(inputs, "train_batches", train_batches),
        mock.patch.object(inputs, "eval_batches", eval_batches),
    ):
        yield


def model(**differences):
    """A model config for the tiny network."""
    defaults = dict(
        backbone="tiny",
        image_size=SIDE,
        batch_size=16,
        augment="d4",
        phases=(configs.phase(epochs=2, lr=1e-2),),
    )
    return configs.model(**{**defaults, **differences})


def settings(**differences):
    """config.train without TensorBoard, which costs seconds."""
    train = configs.default().train.copy_and_resolve_references()
    with train.unlocked():
        train.tensorboard = False
        train.update(differences)
    return train


def train(directory, config, *, records=None, held=32, seed=0, **train_settings):
    """loop.train on the tiny images; the first `held` rows are for validation."""
    from hpa_jax.training import loop

    records = records or Records()
    with in_place():
        return loop.train(
            config,
            name="tiny",
            directory=directory,
            records=records,
            train_ids=records.ids[held:],
            train_labels=records.labels[held:],
            valid_ids=records.ids[:held],
            valid_labels=records.labels[:held],
            class_names=CLASSES,
            settings=settings(**train_settings),
            seed=seed,
        )


def final_weights(directory):
    """{name: array} of the newest checkpoint."""
    from hpa_jax.training import checkpoint, network

    with in_place():
        loaded, _, _ = checkpoint.load(directory, "last")
    _, params, stats = network.split(loaded)
    return jax.tree.map(np.asarray, {**params, **stats})


def logits(directory, images):
    """Of the newest checkpoint, on images in [0, 1] as the network takes them."""
    from hpa_jax.training import checkpoint

    with in_place():
        loaded, _, _ = checkpoint.load(directory, "last")
    return np.asarray(loaded(jnp.asarray(images)))
