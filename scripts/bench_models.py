"""`scripts/bench models`: milliseconds an image, compile time and memory of the networks.

    scripts/bench models --models=se_resnext50,densenet121 --size=256 --batch=8 \
        --against=torch --torch-python=PYTHON
    scripts/bench models --what=memory --size=1024 --batch=1 --dtype=bfloat16 [--compile]

speed: inference, and a full training step (forward, backward, Adam, BCE).  Every measurement has a
fresh process; with --against=torch each round runs ours and timm's (channels_last and NCHW; for
bn_inception pretrainedmodels') in turn, so that all meet the same noise, and the ratio is to the
faster of torch's two.  Wall time is the best of all rounds; processor time (all threads) is beside
it, for it holds on a shared machine too.

memory: bytes of the maps that the forward pass keeps for the backward pass, with remat=none and
remat=blocks, counted in the traced program; --compile adds the work space of the compiled step.

Prints a table, and rows for `scripts/bench all`; --out writes the figures as JSON.
"""

import argparse
import importlib.util
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_table

# Ours -> timm's names of the same architecture; of several the faster is compared with.
_SE_RESNEXT50 = ("legacy_seresnext50_32x4d", "seresnext50_32x4d")
_SE_RESNEXT101 = ("legacy_seresnext101_32x4d", "seresnext101_32x4d")
TIMM = {
    "se_resnext50": _SE_RESNEXT50,
    "se_resnext50_32x4d": _SE_RESNEXT50,
    "se_resnext101": _SE_RESNEXT101,
    "se_resnext101_32x4d": _SE_RESNEXT101,
    "se_resnet50": ("legacy_seresnet50", "seresnet50"),
    "senet154": ("legacy_senet154",),
    "xception": ("legacy_xception",),
    "nasnet_a_large": ("nasnetalarge",),
    "vit_small_patch16": ("vit_small_patch16_224",),
    "vit_base_patch16": ("vit_base_patch16_224",),
    "vit_large_patch16": ("vit_large_patch16_224",),
    **{f"efficientnet_lite{n}": (f"tf_efficientnet_lite{n}",) for n in range(5)},
}
LAYOUTS = ("channels_last", "nchw")
CLASSES = 28
CHANNELS = 4


def main() -> None:
    """Runs the workers in turns and prints what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="speed", choices=("speed", "memory"))
    parser.add_argument("--models", default="se_resnext50,densenet121,se_resnext_tiny")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="none", choices=("none", "blocks"), help="of speed")
    parser.add_argument("--compile", action="store_true", help="memory: the compiled step's, too")
    parser.add_argument("--against", default="", choices=("", "torch"))
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with timm")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4, help="calls a round and mode")
    parser.add_argument("--out", default="", help="JSON file")
    parser.add_argument("--worker", default="", help="(internal)")
    options = parser.parse_args()
    if options.worker:
        work = {"jax": jax_worker, "memory": memory_worker}.get(options.worker, torch_worker)
        print(json.dumps(work(options)))
        return
    measure = compare if options.what == "speed" else memory
    rows: list[dict[str, Any]] = []
    for name in options.models.split(","):
        rows += measure(name, options)
        if options.out:
            Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")


def compare(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The best figures of each way over the rounds, ours first, with ratios where there are two.

    Prints them.  A network that torch's libraries lack has ours alone.
    """
    ways = ["jax", *(LAYOUTS if options.against else ())]
    best: dict[str, dict[str, Any]] = {}
    for turn in range(options.rounds):
        for way in ways:
            # Minutes pass on a shared machine before the first row; stderr, for rows go to stdout.
            print(f"{name}: {way}, round {turn + 1} of {options.rounds}", file=sys.stderr)
            figures = run_worker(way, name, options)
            if "lacks" in figures:
                print(f"{name:22}{way:14}{figures['lacks']}", flush=True)
                ways = ["jax"]
                break
            kept = best.setdefault(way, figures)
            best[way] = {
                key: value if isinstance(value, str) else min(value, kept[key])
                for key, value in figures.items()
            }
    rows = [dict(model=name, way=way, **figures) for way, figures in best.items()]
    if len(rows) > 1:
        for key in ("train_ms", "infer_ms", "train_cpu_ms", "infer_cpu_ms"):
            rows[0][f"{key}_ratio"] = rows[0][key] / min(row[key] for row in rows[1:])
    for row in rows:
        print(line(row), flush=True)
    for mode, title in (("train", "training step"), ("infer", "inference")):
        what = f"{name}, {title}, {options.size}², batch {options.batch}, {options.dtype}"
        theirs, alternative = None, ""
        if layouts := [way for way in LAYOUTS if way in best]:
            layout = min(layouts, key=lambda way: best[way][f"{mode}_ms"])
            theirs = best[layout][f"{mode}_ms"]
            alternative = f"{best[layout]['library']}, {layout}"
        bench_table.row(what, best["jax"][f"{mode}_ms"], "ms/image", alternative, theirs)
    return rows


def memory(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes with and without recomputation; prints them."""
    rows = []
    for remat in ("blocks", "none"):
        options.remat = remat
        rows.append(dict(model=name, remat=remat, **run_worker("memory", name, options)))
    blocks, none = rows
    what = f"{name}, {{}}, {options.size}², batch {options.batch}, {options.dtype}, remat=blocks"
    for key, title in (("saved_mb", "maps saved"), ("temp_mb", "work space of the step")):
        if key in blocks:
            bench_table.row(what.format(title), blocks[key], "MB", "remat=none", none[key])
    return rows


def run_worker(way: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own."""
    python = options.torch_python if way in LAYOUTS else sys.executable
    command = [python, __file__, f"--worker={way}", f"--models={name}", f"--size={options.size}"]
    command += [f"--batch={options.batch}", f"--dtype={options.dtype}", f"--remat={options.remat}"]
    command += [f"--repeats={options.repeats}", *(["--compile"] if options.compile else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} {name}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    shown = [f"{row['model']:22}{row['way']:14}"]
    for mode in ("train", "infer"):
        each = row[f"{mode}_ms"]
        shown.append(f"{mode} {each:8.1f} ms/img ({row[f'{mode}_cpu_ms']:8.1f} cpu)")
        shown.append(f"{1000 / each:7.1f} img/s")
        if f"{mode}_ms_ratio" in row:
            shown.append(f"x{row[f'{mode}_ms_ratio']:.2f} (cpu x{row[f'{mode}_cpu_ms_ratio']:.2f})")
    if "train_compile_s" in row:
        shown.append(f"compile {row['train_compile_s']:.1f}/{row['infer_compile_s']:.1f} s")
        shown.append(f"work space {row['train_temp_mb']:.0f} MB")
    if "device_peak_mb" in row:
        shown.append(f"device peak {row['device_peak_mb']:.0f} MB")
    return "  ".join([*shown, f"host peak {row['peak_mb']:.0f} MB"])


def host_peak() -> dict[str, float]:
    """The process' largest resident set."""
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


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


def program(options: argparse.Namespace) -> tuple[Any, Any, tuple, Callable]:
    """(loss, predict, their weights as shapes, how to make the arrays) of our network.

    loss(params, rest, images, labels) -> (value, rest); predict(params, rest, images) -> logits.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from hpa_jax.models import create

    def make() -> nnx.Module:
        return create(
            options.models,
            num_classes=CLASSES,
            in_channels=CHANNELS,
            head="token" if options.models.startswith("vit") else "adaptive_concat",
            dtype=jnp.dtype(options.dtype),
            remat=options.remat,
            rngs=nnx.Rngs(0),
        )

    model = nnx.eval_shape(make)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    model.eval()
    still, _, _ = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)
        value = optax.sigmoid_binary_cross_entropy(model(images), labels).mean()
        return value, nnx.split(model, nnx.Param, ...)[2]

    def predict(params: Any, rest: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(still, params, rest, copy=True)(images)

    return loss, predict, (params, rest), lambda: nnx.split(make(), nnx.Param, ...)[1:]


def shapes(options: argparse.Namespace) -> tuple[Any, Any]:
    """Images and labels of one batch."""
    import jax

    side = (options.size, options.size)
    images = jax.ShapeDtypeStruct((options.batch, *side, CHANNELS), "float32")
    return images, jax.ShapeDtypeStruct((options.batch, CLASSES), "float32")


def training_step(loss: Callable) -> tuple[Any, Any]:
    """(step(state, images, labels) -> state, the optimizer); state = (params, rest, moments)."""
    import jax
    import optax

    adam = optax.adam(1e-4)

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, rest, moments = state
        gradient, rest = jax.grad(loss, has_aux=True)(params, rest, images, labels)
        updates, moments = adam.update(gradient, moments)
        return optax.apply_updates(params, updates), rest, moments

    return jax.jit(step, donate_argnums=0), adam


def jax_worker(options: argparse.Namespace) -> dict[str, Any]:
    """Our network of that name."""
    import jax
    import jax.numpy as jnp

    loss, predict, _, arrays = program(options)
    params, rest = arrays()
    images = jax.random.normal(jax.random.key(0), shapes(options)[0].shape)
    labels = jnp.zeros(shapes(options)[1].shape)
    figures = {}
    started = time.perf_counter()
    inference = jax.jit(predict).lower(params, rest, images).compile()
    figures["infer_compile_s"] = time.perf_counter() - started
    step, adam = training_step(loss)
    state = [(params, rest, adam.init(params))]
    started = time.perf_counter()
    training = step.lower(state[0], images, labels).compile()
    figures["train_compile_s"] = time.perf_counter() - started
    figures["train_temp_mb"] = training.memory_analysis().temp_size_in_bytes / 2**20

    def infer() -> None:
        inference(params, rest, images).block_until_ready()

    def train() -> None:
        state[0] = jax.block_until_ready(training(state[0], images, labels))

    for name, call in (("infer", infer), ("train", train)):
        wall, cpu = best_of(call, options.repeats, options.batch)
        figures |= {f"{name}_ms": wall, f"{name}_cpu_ms": cpu}
    if device := jax.local_devices()[0].memory_stats():
        figures["device_peak_mb"] = device["peak_bytes_in_use"] / 2**20
    return figures | host_peak()


def memory_worker(options: argparse.Namespace) -> dict[str, Any]:
    """What our network's training step keeps."""
    import jax

    loss, _, (params, rest), _ = program(options)
    images, labels = shapes(options)
    figures = {"saved_mb": saved_bytes(loss, params, rest, images, labels) / 2**20}
    if options.compile:
        step, adam = training_step(loss)
        state = (params, rest, jax.eval_shape(adam.init, params))
        compiled = step.lower(state, images, labels).compile()
        figures["temp_mb"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return figures


def saved_bytes(loss: Callable, params: Any, *others: Any) -> int:
    """Bytes of what the forward pass of loss(params, *others) -> (value, aux) keeps for backward.

    Counted in the traced program, without the arguments themselves; nothing is compiled.
    """
    import jax

    def kept(params: Any, *others: Any) -> list:
        return jax.tree.leaves(jax.vjp(lambda p: loss(p, *others), params, has_aux=True)[1])

    jaxpr = jax.make_jaxpr(kept)(params, *others).jaxpr
    arguments = set(map(id, jaxpr.invars))
    arrays = {
        id(out): out.aval
        for out in jaxpr.outvars
        if id(out) not in arguments and not hasattr(out, "val")  # a literal has a value
    }
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in arrays.values())


def torch_models(name: str) -> tuple[dict[str, Any], str]:
    """({name there: a network of the same architecture}, what is missing where there is none)."""
    if importlib.util.find_spec("timm") is None:
        raise SystemExit("no timm in this interpreter; name one with --torch-python")
    import timm
    import torch

    theirs = [one for one in TIMM.get(name, (name,)) if timm.is_model(one)]
    if theirs:
        options: dict[str, Any] = dict(num_classes=CLASSES, in_chans=CHANNELS)
        if name.startswith("vit"):
            options["dynamic_img_size"] = True
        return {f"timm {one}": timm.create_model(one, **options) for one in theirs}, ""
    if name == "bn_inception" and importlib.util.find_spec("pretrainedmodels"):
        import pretrainedmodels

        model = pretrainedmodels.bninception(num_classes=CLASSES, pretrained=None)
        model.conv1_7x7_s2 = torch.nn.Conv2d(CHANNELS, 64, 7, 2, 3)
        model.global_pool = torch.nn.AdaptiveAvgPool2d(1)  # any size
        return {"pretrainedmodels": model}, ""
    return {}, f"no {name} in timm" + (" or pretrainedmodels" if name == "bn_inception" else "")


def torch_worker(options: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's fastest network of the same architecture, in one memory layout."""
    models, missing = torch_models(options.models)
    if not models:
        return {"lacks": missing}
    rows = [torch_figures(model, options) | {"library": there} for there, model in models.items()]
    best = min(rows, key=lambda row: row["train_ms"])
    times = [key for key in best if key.endswith("_ms")]
    return best | {key: min(row[key] for row in rows) for key in times} | host_peak()


def torch_figures(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Times of one network of PyTorch, ms an image."""
    import torch

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
    if device == "cuda":
        figures["device_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


if __name__ == "__main__":
    main()
