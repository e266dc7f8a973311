"""Prediction: equality with a plain loop over views, padding, ids, devices, tables."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.inference import predict, views
from hpa_jax.models.normalization import normalizer

N, SIZE, C, B = 7, 8, 3, 4
CHANNELS = ("red", "green", "blue", "yellow")
CONFIG = types.SimpleNamespace(channels=CHANNELS, normalize="hpa")


class Tiny(nnx.Module):
    """A network that sees where bright pixels are, so that turns matter."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(SIZE * SIZE * 4, C, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def embed(self, images):
        flat = images.reshape(len(images), -1)
        return self.linear(self.dropout(flat)) / 10, flat[:, :5]


class Corner(nnx.Module):
    """A network that sees the top left quarter and takes images of any size."""

    def embed(self, images):
        height, width = images.shape[1] // 2, images.shape[2] // 2
        means = images[:, :height, :width].mean((1, 2))
        return means[:, :C], means


@pytest.fixture
def model():
    return Tiny(nnx.Rngs(0))  # left in training mode: predict must not care


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 4), np.uint8)


def batches(pictures, order=None, size=B):
    order = np.arange(len(pictures)) if order is None else np.asarray(order)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        mask = np.arange(size) < len(rows)
        rows = np.concatenate([rows, np.zeros(size - len(rows), int)]).astype(np.int32)
        yield dict(image=pictures[rows], mask=mask, index=rows)


def ids(count=N):
    return [f"id{number}" for number in range(count)]


def slow(model, pictures, made, aggregate):
    """View by view on the host."""
    model.eval()
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(jnp.arange(N))
    weights, logits, embeddings = [], [], []
    for group in made.groups(SIZE, SIZE):
        for view in range(group.count):
            seen = jax.jit(group.show)(
                keys, jnp.asarray(view), jnp.asarray(pictures / 255.0, jnp.float32)
            )
            one, other = model.embed(normalizer("hpa", CHANNELS)(seen))
            logits.append(np.asarray(one, np.float64))
            embeddings.append(np.asarray(other))
            weights.append(group.weights[view])
    logits, weights = np.stack(logits), np.array(weights)[:, None, None]
    probs = 1 / (1 + np.exp(-logits))
    total = dict(
        mean=(weights * probs).sum(0),
        max=probs.max(0),
        geometric=np.exp((weights * np.log(probs)).sum(0)),
        mean_logit=1 / (1 + np.exp(-(weights * logits).sum(0))),
    )[aggregate]
    return total, (weights * np.stack(embeddings)).sum(0)


@pytest.mark.parametrize(
    "name, aggregate",
    [("d4", aggregate) for aggregate in views.AGGREGATES]
    + [("identity", "mean"), ("identity", "geometric"), ("oml", "mean")],
)
def test_equals_a_loop_over_views(model, pictures, name, aggregate):
    made = views.make(name, rounds=1) if name == "oml" else views.make(name)
    probs, embeddings = predict.predict(
        model, CONFIG, batches(pictures), ids(), views=made, aggregate=aggregate
    )
    want, want_embeddings = slow(model, pictures, made, aggregate)
    assert probs.dtype == embeddings.dtype == np.float32
    np.testing.assert_allclose(probs, want, atol=2e-5)
    np.testing.assert_allclose(embeddings, want_embeddings, atol=2e-5)


@pytest.mark.parametrize(
    "name, held",
    [
        ("identity", True),
        ("d4", True),
        ({"name": "oml", "rounds": 1}, True),
        ({"name": "crops", "count": 1}, True),
        ("scales", True),
        ({"name": "scales", "factors": (0.5, 2.0)}, False),
        ({"name": "tiles", "tile": 8}, False),
    ],
)
def test_the_plain_view_is_kept_beside_the_others(pictures, name, held):
    """Equal to predicting with the one view; NaN where no view is the image as it is."""
    model = Corner()  # takes images of any size
    (batch,) = batches(pictures, size=N)
    pictures = pictures.repeat(4, axis=1).repeat(4, axis=2)
    batch["image"] = pictures
    seen = predict.compiled(model, CONFIG, views=name)(pictures, batch["index"])
    want = predict.compiled(model, CONFIG, views="identity")(pictures, batch["index"]).probs
    if held:
        np.testing.assert_allclose(seen.plain, want, atol=1e-6)
    else:
        assert np.isnan(seen.plain).all()


def test_memory_does_not_grow_with_the_views(pictures, monkeypatch):
    """Views are scanned in one compiled call: 80 of them need what 16 need."""
    compiled, jit = [], jax.jit

    def watched(function, **options):
        jitted = jit(function, **options)

        def call(*arguments):
            compiled.append(jitted.lower(*arguments).compile().memory_analysis())
            return jitted(*arguments)

        return call if function.__name__ == "pass_all" else jitted

    big = pictures.repeat(8, axis=1).repeat(8, axis=2)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "jit", watched)
        for count in (1, 9):
            views_of = {"name": "crops", "count": count}
            predict.compiled(Corner(), CONFIG, views=views_of)(big, np.arange(N))
    few, many = (memory.temp_size_in_bytes for memory in compiled)  # one call each
    assert big.size < few and many < 1.1 * few


def test_rows_land_at_their_ids_whatever_the_order_and_batch(model, pictures):
    random = {"name": "crops", "count": 2, "d4": False}
    one, _ = predict.predict(model, CONFIG, batches(pictures), ids(), views=random)
    order = np.random.default_rng(1).permutation(N)
    other, _ = predict.predict(model, CONFIG, batches(pictures, order, 3), ids(), views=random)
    np.testing.assert_allclose(one, other, atol=1e-5)


_ON_THREE_DEVICES = """
import sys
import jax, numpy as np
from flax import nnx
from tests.inference import test_predict as t
images = np.load(sys.argv[1])
assert jax.local_device_count() == 3
probs, _ = t.predict.predict(
    t.Tiny(nnx.Rngs(0)), t.CONFIG, t.batches(images), t.ids(), views="d4"
)
np.save(sys.argv[2], probs)
"""


def test_several_devices_share_a_batch_that_does_not_divide(model, pictures, tmp_path):
    want, _ = predict.predict(model, CONFIG, batches(pictures), ids(), views="d4")
    np.save(tmp_path / "in.npy", pictures)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    command = [sys.executable, "-c", _ON_THREE_DEVICES, tmp_path / "in.npy", tmp_path / "out.npy"]
    subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), want, atol=1e-6)


def test_the_model_is_left_as_it_was(model, pictures):
    model.train()
    predict.predict(model, CONFIG, batches(pictures), ids())
    assert not model.dropout.deterministic


def test_missing_doubled_and_nan_are_named(model, pictures):
    with pytest.raises(InputError, match=r"no batch.*'id6'"):
        predict.predict(model, CONFIG, batches(pictures[:6]), ids())
    with pytest.raises(InputError, match=r"two batches.*'id2'"):
        predict.predict(model, CONFIG, batches(pictures, [0, 1, 2, 3, 4, 5, 6, 2]), ids())
    model.linear.bias[...] = model.linear.bias[...].at[0].set(jnp.nan)
    with pytest.raises(InputError, match="not finite"):
        predict.predict(model, CONFIG, batches(pictures), ids())
    with pytest.raises(InputError, match="geometric"):
        predict.predict(model, CONFIG, batches(pictures), ids(), aggregate="geo")
    with pytest.raises(InputError, match="no batch"):
        predict.predict(model, CONFIG, [], ids())


def test_table_round_trip_and_checks(tmp_path):
    probs = np.random.default_rng(0).random((3, 2)).astype(np.float32)
    path = tmp_path / "test.parquet"
    predict.write_table(path, ["b", "a", "c"], probs, [4, 27])
    got_ids, got, numbers = predict.read_table(path)
    assert list(got_ids) == ["b", "a", "c"] and numbers == [4, 27]
    np.testing.assert_array_equal(got, probs)
    with pytest.raises(InputError, match="'a' occurs more than once"):
        predict.write_table(path, ["a", "a", "c"], probs)
    with pytest.raises(InputError, match=r"not finite.*'b'"):
        predict.write_table(path, ["a", "b", "c"], probs * [[1], [np.nan], [1]])
    with pytest.raises(InputError, match="not probabilities"):
        predict.write_table(path, ["a", "b", "c"], probs + 1)
    with pytest.raises(InputError, match="3 ids"):
        predict.write_table(path, ["a", "b", "c"], probs, [1])
    predict.write_embeddings(path, ["x", "y"], np.eye(2))
    got_ids, got = predict.read_embeddings(path)
    np.testing.assert_array_equal(got, np.eye(2))
    with pytest.raises(InputError, match="p00"):
        predict.read_table(path)
