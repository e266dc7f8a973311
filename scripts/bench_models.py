"""`scripts/bench models`: milliseconds an image, compile time and memory of the networks.

    scripts/bench models --models=se_resnext50,densenet121 --size=256 --batch=8 \
        --against=torch --torch-python=PYTHON

Inference, and a full training step (forward, backward, Adam, BCE).  Every measurement has a fresh
process; with --against=torch each round runs ours and timm's (channels_last and NCHW) in turn, so
that all meet the same noise, and the ratio is to the faster of torch's two.  Wall time is the best
of all rounds; processor time (all threads) is beside it, for it holds on a shared machine too.
Prints a table; --out writes the figures as JSON.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Ours -> timm's name of the same architecture.
TIMM = {
    "se_resnext50": "legacy_seresnext50_32x4d",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "se_resnet50": "legacy_seresnet50",
    "senet154": "legacy_senet154",
    "xception": "legacy_xception",
    "nasnet_a_large": "nasnetalarge",
}
CLASSES = 28
CHANNELS = 4


def main() -> None:
    """Runs the workers in turns and prints what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="se_resnext50,densenet121,se_resnext_tiny")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="none", choices=("none", "blocks"))
    parser.add_argument("--against", default="", choices=("", "torch"))
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with timm")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4, help="calls a round and mode")
    parser.add_argument("--out", default="", help="JSON file")
    parser.add_argument("--worker", default="", help="(internal)")
    options = parser.parse_args()
    if options.worker:
        figures = jax_worker(options) if options.worker == "jax" else torch_worker(options)
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    rows = [row for name in options.models.split(",") for row in compare(name, options)]
    for row in rows:
        print(line(row), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")


def compare(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The best figures of each way over the rounds, ours first, with ratios where there are two."""
    ways = ["jax"]
    if options.against and name != "se_resnext_tiny":
        ways += ["channels_last", "nchw"]
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for way in ways:
            figures = run_worker(way, name, options)
            kept = best.setdefault(way, figures)
            best[way] = {key: min(value, kept[key]) for key, value in figures.items()}
    rows = [dict(model=name, way=way, **figures) for way, figures in best.items()]
    if len(rows) > 1:
        for key in ("train_ms", "infer_ms", "train_cpu_ms", "infer_cpu_ms"):
            rows[0][f"{key}_ratio"] = rows[0][key] / min(row[key] for row in rows[1:])
    return rows


def run_worker(way: str, name: str, options: argparse.Namespace) -> dict[str, float]:
    """One measurement in a process of its own."""
    python = sys.executable if way == "jax" else options.torch_python
    command = [python, __file__, f"--worker={way}", f"--models={name}", f"--size={options.size}"]
    command += [f"--batch={options.batch}", f"--dtype={options.dtype}", f"--remat={options.remat}"]
    command += [f"--repeats={options.repeats}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} {name}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    shown = [f"{row['model']:22}{row['way']:14}"]
    for mode in ("train", "infer"):
        shown.append(f"{mode} {row[f'{mode}_ms']:8.1f} ms/img ({row[f'{mode}_cpu_ms']:8.1f} cpu)")
        if f"{mode}_ms_ratio" in row:
            shown.append(f"x{row[f'{mode}_ms_ratio']:.2f} (cpu x{row[f'{mode}_cpu_ms_ratio']:.2f})")
    if "train_compile_s" in row:
        shown.append(f"compile {row['train_compile_s']:.1f}/{row['infer_compile_s']:.1f} s")
        shown.append(f"work space {row['train_temp_mb']:.0f} MB")
    return "  ".join([*shown, f"peak {row['peak_mb']:.0f} MB"])


def best_of(call: Callable[[], None], repeats: int, batch: int) -> tuple[float, float]:
    """(wall, processor) milliseconds an image: the best of `repeats` calls after a first."""
    call()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return min(wall) * 1e3 / batch, min(cpu) * 1e3 / batch


def jax_worker(options: argparse.Namespace) -> dict[str, float]:
    """Our network of that name."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from hpa_jax.models import create

    model = create(
        options.models,
        num_classes=CLASSES,
        in_channels=CHANNELS,
        dtype=jnp.dtype(options.dtype),
        remat=options.remat,
        rngs=nnx.Rngs(0),
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    model.eval()
    still, _, _ = nnx.split(model, nnx.Param, ...)
    adam = optax.adam(1e-4)

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any, rest: Any) -> Any:
            model = nnx.merge(graph, params, rest, copy=True)
            value = optax.sigmoid_binary_cross_entropy(model(images), labels).mean()
            return value, nnx.split(model, nnx.Param, ...)[2]

        params, rest, moments = state
        gradient, rest = jax.grad(loss, has_aux=True)(params, rest)
        updates, moments = adam.update(gradient, moments)
        return optax.apply_updates(params, updates), rest, moments

    def predict(params: Any, rest: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(still, params, rest, copy=True)(images)

    shape = (options.batch, options.size, options.size, CHANNELS)
    images = jax.random.normal(jax.random.key(0), shape)
    labels = jnp.zeros((options.batch, CLASSES))
    figures = {}
    started = time.perf_counter()
    inference = jax.jit(predict).lower(params, rest, images).compile()
    figures["infer_compile_s"] = time.perf_counter() - started
    state = [(params, rest, adam.init(params))]
    started = time.perf_counter()
    training = jax.jit(step, donate_argnums=0).lower(state[0], images, labels).compile()
    figures["train_compile_s"] = time.perf_counter() - started
    figures["train_temp_mb"] = training.memory_analysis().temp_size_in_bytes / 2**20

    def infer() -> None:
        inference(params, rest, images).block_until_ready()

    def train() -> None:
        state[0] = jax.block_until_ready(training(state[0], images, labels))

    for name, call in (("infer", infer), ("train", train)):
        wall, cpu = best_of(call, options.repeats, options.batch)
        figures |= {f"{name}_ms": wall, f"{name}_cpu_ms": cpu}
    return figures


def torch_worker(options: argparse.Namespace) -> dict[str, float]:
    """timm's network of the same architecture, in one memory layout."""
    if importlib.util.find_spec("timm") is None:
        raise SystemExit("no timm in this interpreter; name one with --torch-python")
    import timm
    import torch

    model = timm.create_model(
        TIMM.get(options.models, options.models), num_classes=CLASSES, in_chans=CHANNELS
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if options.worker == "channels_last" else torch.contiguous_format
    model = model.to(device, memory_format=layout)
    images = torch.randn(options.batch, CHANNELS, options.size, options.size, device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.zeros(options.batch, CLASSES, device=device)
    adam = torch.optim.Adam(model.parameters(), 1e-4)
    half = torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16")
    if device == "cuda":
        model = torch.compile(model)

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def infer() -> None:
        model.eval()
        with torch.inference_mode(), half:
            model(images)
        finish()

    def train() -> None:
        model.train()
        adam.zero_grad()
        with half:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), labels)
        loss.backward()
        adam.step()
        finish()

    figures = {}
    for name, call in (("infer", infer), ("train", train)):
        wall, cpu = best_of(call, options.repeats, options.batch)
        figures |= {f"{name}_ms": wall, f"{name}_cpu_ms": cpu}
    return figures


if __name__ == "__main__":
    main()
