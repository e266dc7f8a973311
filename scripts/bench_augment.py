"""`scripts/bench augment`: cost of each augmentation beside a training step, in one run.

    scripts/bench augment --size=256 --batch=8

Times are the median of repeats, all compiled and warmed up; the step is forward, backward and SGD
of the backbone with mean BCE.  Figures of a shared machine are ratios of one run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import bench_table
import dm_pix
import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models import create
from hpa_jax.training import augment, losses
from hpa_jax.training.augment import warp


def main() -> None:
    """Prints one JSON object a line: the step first, then each preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="se_resnext50_32x4d")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="timed training steps")
    options = parser.parse_args()
    key = jax.random.key(0)
    images = jax.random.uniform(key, (options.batch, options.size, options.size, 4))
    labels = jnp.zeros((options.batch, 28)).at[:, 0].set(1.0)
    step = _training_step(options.backbone)
    step_ms = _median_ms(lambda number: step(images, labels), options.steps)
    device = jax.devices()[0].device_kind
    print(json.dumps(dict(step=options.backbone, ms=round(step_ms, 1), device=device)), flush=True)
    _against_dm_pix(images)
    for name in augment.PRESETS:
        function = jax.jit(augment.preset(name))

        def once(number: int, function: Callable = function) -> jax.Array:
            return function(jax.random.fold_in(key, number), images, labels)

        ms = _median_ms(once, options.repeats)
        share = 100.0 * ms / step_ms
        row = dict(preset=name, ms=round(ms, 2), percent_of_step=round(share, 2))
        print(json.dumps(row), flush=True)
        if name in ("oml", "bestfitting", "pudae"):
            bench_table.row(
                f"augmentation {name}, {options.batch} images of {options.size}²",
                ms, "ms", f"a training step of {options.backbone}", step_ms,
            )  # fmt: skip


def _against_dm_pix(images: jax.Array) -> None:
    """One composed affine map of every image, read by warp.sample and by dm_pix."""
    count, size = images.shape[:2]
    turns = jax.vmap(warp.rotation)(jnp.linspace(-170.0, 170.0, count))
    base, half = warp.grid(size, size), (size - 1) / 2

    def read(image: jax.Array, turn: jax.Array) -> jax.Array:
        return warp.sample(image, warp.affine(base, turn), "edge")

    def theirs(image: jax.Array, turn: jax.Array) -> jax.Array:
        inner = turn[1::-1, 1::-1]  # (row, column); the middle of the image stays
        matrix = jnp.eye(4).at[:2, :2].set(inner).at[:2, 3].set(half * (1.0 - inner.sum(1)))
        return dm_pix.affine_transform(image, matrix, mode="nearest")

    ms = []
    for one in (read, theirs):
        compiled = jax.jit(jax.vmap(one))
        ms.append(_median_ms(lambda number, compiled=compiled: compiled(images, turns), 5))
    what = f"one affine reading of {count} images of {size}²"
    bench_table.row(what, ms[0], "ms", "dm_pix.affine_transform", ms[1])


def _training_step(backbone: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Forward, backward and an SGD update; keeps its own parameters."""
    model = create(backbone, num_classes=28, in_channels=4, rngs=nnx.Rngs(0))
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters: nnx.State, rest: nnx.State, images: jax.Array, labels: jax.Array):  # noqa: ANN202
        network = nnx.merge(graph, parameters, rest, copy=True)
        value = losses.bce(network(images), labels).mean()
        return value, nnx.split(network, nnx.Param, ...)[2]

    @jax.jit
    def update(parameters: nnx.State, rest: nnx.State, images: jax.Array, labels: jax.Array):  # noqa: ANN202
        (_, rest), gradients = jax.value_and_grad(loss, has_aux=True)(
            parameters, rest, images, labels
        )
        return jax.tree.map(lambda p, g: p - 1e-3 * g, parameters, gradients), rest

    held = [parameters, rest]

    def step(images: jax.Array, labels: jax.Array) -> nnx.State:
        held[:] = update(*held, images, labels)
        return held[0]

    return step


def _median_ms(call: Callable[[int], object], repeats: int) -> float:
    """Median wall time of a call in milliseconds, after one call that compiles."""
    jax.block_until_ready(call(0))
    times = []
    for number in range(1, repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(number))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
