"""`scripts/bench inference`: all views of a batch beside views x the plain pass, in one run.

    .venv/bin/python scripts/bench_inference.py --backbone=resnet34 --size=256 --batch=8

plain: the jitted network alone on normalised images that lie on the device.  Each row of views
takes uint8 images from the host and gives probabilities and embeddings; `ratio` is its time over
count x plain (target: at most 1.05).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import bench_table
import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.inference import predict, views
from hpa_jax.models import create
from hpa_jax.models.normalization import normalizer

CHANNELS = ("red", "green", "blue", "yellow")


def main() -> None:
    """Prints one JSON object a line: the plain pass, then each set of views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet34")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--views", default="identity,d4,oml,crops")
    options = parser.parse_args()
    names = options.views.split(",")
    plain, rows = measure(options.backbone, options.size, options.batch, options.repeats, names)
    device = jax.devices()[0].device_kind
    print(json.dumps(dict(vars(options), device=device, plain_ms=round(1e3 * plain, 1))))
    for row in rows:
        print(json.dumps(row))
        bench_table.row(
            f"{row['count']} views ({row['views']}) of {options.batch} images of "
            f"{options.size}², {options.backbone}",
            row["ms"], "ms", f"{row['count']} plain passes", 1e3 * row["count"] * plain,
        )  # fmt: skip


def measure(
    backbone: str, size: int, batch: int, repeats: int, names: Sequence[str]
) -> tuple[float, list[dict[str, object]]]:
    """(seconds of the plain pass, for each of the views its count, time and ratio)."""
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 4), np.uint8)
    ids = np.arange(batch)
    model = create(backbone, num_classes=28, in_channels=4, rngs=nnx.Rngs(0))
    model.eval()
    passes: dict[str, Callable[[], object]] = {"plain": _plain(model, images)}
    config = ConfigDict(dict(channels=CHANNELS, normalize="hpa"))
    for name in names:
        forward = predict.compiled(model, config, views=name)
        passes[name] = lambda forward=forward: forward(images, ids)
    seconds = _medians(passes, repeats)
    rows = []
    for name in names:
        count = views.make(name).count(size, size)
        ratio = round(seconds[name] / (count * seconds["plain"]), 3)
        rows.append(dict(views=name, count=count, ms=round(1e3 * seconds[name], 1), ratio=ratio))
    return seconds["plain"], rows


def _plain(model: nnx.Module, images: np.ndarray) -> Callable[[], object]:
    graph, state = nnx.split(model)
    forward = jax.jit(lambda state, images: nnx.merge(graph, state).embed(images))
    images = normalizer("hpa", CHANNELS)(jax.device_put(images / np.float32(255.0)))
    return lambda: forward(state, images)


def _medians(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each; rounds interleave them, so that a busy machine disturbs all alike."""
    for run in passes.values():
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, run in passes.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
