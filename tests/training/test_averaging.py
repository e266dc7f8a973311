"""Averages: of which epochs, and with which statistics of the norms."""

import os
import shutil
import signal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.config import defaults as configs
from hpa_jax.models.normalization import normalizer
from hpa_jax.training import averaging, checkpoint, distributed, logs, network
from hpa_jax.training.augment import warp
from tests.training import tiny

phase = configs.phase


def weights_at(folder, which):
    """(parameters, statistics) of a checkpoint."""
    with tiny.in_place():
        model, _, _ = checkpoint.load(folder, which)
    return network.split(model)[1:]


@pytest.mark.parametrize("kind", ["last", "chosen", "swa", "ema"])
def test_averages_are_means_with_reestimated_norms(tmp_path, kind):
    config = tiny.model(
        phases=(phase(epochs=3, lr=1e-2, schedule="constant"),),
        average=dict(kind=kind, count=2, epochs=(2, 3), decay=0.5),
    )
    tiny.train(tmp_path, config, keep=9 if kind != "chosen" else 1)
    with tiny.in_place():
        average, _, _ = checkpoint.load(tmp_path, "final")
        epochs = [checkpoint.load(tmp_path, step)[0] for step in (8, 12)]
    _, params, stats = network.split(average)
    by_epoch = [network.split(model)[1] for model in epochs]
    if kind != "ema":
        for name, x in params.items():
            expected = (by_epoch[0][name] + by_epoch[1][name]) / 2
            np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    # statistics of conv1's outputs over all 64 training images, computed again
    records = tiny.Records()
    images = (records.images[32:] / 255.0).astype(np.float32)
    y = average.conv1(normalizer(config.normalize, config.channels)(images))
    np.testing.assert_allclose(stats["bn1.mean"], y.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    within = y.reshape(4, 16, 8, 8, 8).var((1, 2, 3)).mean(0)  # mean of the batches' variances
    np.testing.assert_allclose(stats["bn1.var"], within, rtol=1e-2)
    rows = [r for r in logs.read(tmp_path / "metrics.jsonl") if r.get("weights") == kind]
    assert len(rows) == 1 and rows[0]["split"] == "valid"
    whole = logs.read(tmp_path / "metrics.jsonl")
    tiny.train(tmp_path, config)  # ended: nothing is written again
    assert logs.read(tmp_path / "metrics.jsonl") == whole
    shutil.rmtree(tmp_path / "checkpoints" / "13")  # killed before the average was saved
    tiny.train(tmp_path, config)
    assert logs.read(tmp_path / "metrics.jsonl") == whole


def test_norms_are_reestimated_at_the_size_that_the_network_sees(tmp_path):
    config = tiny.model(
        phases=(phase(epochs=2, lr=1e-2, schedule="constant"),),
        average=dict(kind="last", count=2),
        augment=dict(name="d4", output_size=20),
    )
    tiny.train(tmp_path, config, keep=9)
    with tiny.in_place():
        average, _, _ = checkpoint.load(tmp_path, "final")
    _, _, stats = network.split(average)
    images = jnp.asarray(tiny.Records().images[32:] / 255.0, jnp.float32)
    seen = warp.resized(images, 20)
    y = average.conv1(normalizer(config.normalize, config.channels)(seen))
    within = y.reshape(4, 16, 20, 20, 8).var((1, 2, 3)).mean(0)
    np.testing.assert_allclose(stats["bn1.var"], within, rtol=1e-2)


def test_swa_of_a_training_that_ends_early_is_of_its_last_epochs(tmp_path):
    config = tiny.model(
        phases=(phase(epochs=30, lr=1e-4, schedule="constant"),),
        average=dict(kind="swa", count=2),
    )
    tiny.train(tmp_path, config, patience=3, monitor="macro_f1", keep=1)
    rows = [r for r in logs.read(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    ended = rows[-1]["step"]
    assert ended < 30 * 4 and checkpoint.find(tmp_path / "checkpoints", "final") == ended + 1
    params, stats = weights_at(tmp_path, "final")
    last = [weights_at(tmp_path, step)[0] for step in (ended - 4, ended)]
    for name, x in params.items():
        np.testing.assert_allclose(x, (last[0][name] + last[1][name]) / 2, rtol=1e-6, atol=1e-7)
    assert not np.allclose(stats["bn1.mean"], 0)


@pytest.mark.parametrize("count", [70, 11])
def test_statistics_are_those_of_every_image_once(tmp_path, count):
    """70 images in batches of 16, the last of 6; 11 fill no batch."""
    config = tiny.model(
        phases=(phase(epochs=1, lr=1e-2),), average=dict(kind="ema", decay=0.5), augment="none"
    )
    tiny.train(tmp_path, config, held=96 - count)
    with tiny.in_place():
        model, _, _ = checkpoint.load(tmp_path, "average")
    images = (tiny.Records().images[96 - count :] / 255.0).astype(np.float32)
    y = np.asarray(model.conv1(normalizer(config.normalize, config.channels)(images)))
    batches = [y[at : at + 16] for at in range(0, count, 16)]
    variance = sum(len(b) * b.var((0, 1, 2)) for b in batches) / count
    np.testing.assert_allclose(model.bn1.mean[...], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.bn1.var[...], variance, rtol=1e-4)


def test_norms_that_stand_still_keep_their_statistics(tmp_path):
    plan = (phase(epochs=1, lr=1e-2), phase(epochs=1, lr=1e-2, freeze=1, freeze_bn=True))
    tiny.train(tmp_path, tiny.model(phases=plan, average=dict(kind="last", count=1)))
    before, after = weights_at(tmp_path, "last")[1], weights_at(tmp_path, "average")[1]
    for name, x in after.items():
        assert np.array_equal(x, before[name]) == name.startswith("bn1."), name


class WithAux(tiny.Net):
    """A second head with a norm of its own, and a norm that is never run."""

    def __init__(self, *args, rngs):
        super().__init__(*args, rngs=rngs)
        self.bn_aux = nnx.BatchNorm(8, momentum=0.7, rngs=rngs)
        self.bn_idle = nnx.BatchNorm(8, rngs=rngs)

    def logits_and_aux(self, x):
        return self(x), self.bn_aux(self.conv1(x)).mean((1, 2))


def test_the_auxiliary_heads_norms_are_estimated_too():
    model = WithAux(5, rngs=nnx.Rngs(0))
    images = tiny.Records().images[:8]
    bare, params, stats = network.split(model)
    stats = {name: x + 3.0 for name, x in stats.items()}
    found = averaging.make_batch_statistics(bare, lambda x: x)(params, stats, images)
    assert all(np.isfinite(x).all() for x in found.values())
    y = np.asarray(model.conv1(images.astype(np.float32) / 255.0))
    for name in ("bn1", "bn_aux"):
        np.testing.assert_allclose(found[f"{name}.mean"], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[f"{name}.var"], y.var((0, 1, 2)), rtol=1e-3)
    for name in ("bn_idle.mean", "bn_idle.var"):
        np.testing.assert_array_equal(found[name], stats[name])


def test_statistics_that_are_not_finite_are_no_network(tmp_path):
    nothing = mock.patch.object(averaging, "_of_batch", lambda old, zero, one: old * jnp.nan)
    config = tiny.model(phases=(phase(),), average=dict(kind="last", count=1))
    with nothing, pytest.raises(FloatingPointError, match="not finite"):
        tiny.train(tmp_path, config)
    assert checkpoint.find(tmp_path / "checkpoints", "final") == 4


def test_a_batch_with_padding_is_cut_to_its_real_rows():
    layout = distributed.layout()
    batch = {"image": np.arange(8).reshape(4, 1, 1, 2), "mask": np.arange(4) < 3}
    images, count = averaging.real_rows(layout, batch)
    assert count == 3 and images.shape == (3, 1, 1, 2)
    assert jax.tree.leaves(images)[0].sum() == np.arange(6).sum()


def test_told_to_stop_while_averaging_leaves_and_ends_the_same(tmp_path):
    config = tiny.model(phases=(phase(epochs=2, lr=1e-2),), average=dict(kind="swa", count=2))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    tiny.train(whole, config)
    real_rows = averaging.real_rows

    def told(*args):
        if batches.call_count == 2:  # the program of the first is compiled
            os.kill(os.getpid(), signal.SIGTERM)
        return real_rows(*args)

    with (
        mock.patch.object(averaging, "real_rows", side_effect=told) as batches,
        pytest.raises(SystemExit) as left,
    ):
        tiny.train(stopped, config)
    assert left.value.code == 75 and batches.call_count == 2
    tiny.train(stopped, config)
    for one, other in zip(weights_at(whole, "final"), weights_at(stopped, "final")):
        for name, x in one.items():
            np.testing.assert_array_equal(x, other[name], err_msg=name)
