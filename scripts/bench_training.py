"""`scripts/bench training`: what the loop costs beside its step, the data, and the compiler.

    scripts/bench training [--what=overhead,data_wait,compile,accumulation]

All on a network of the demo as its recipe has it (size, batch, loss, augmentation).  Prints one
JSON object a line, and rows for the table of `scripts/bench all`:
- overhead: seconds a step of the loop (images in memory) over those of the bare compiled step,
  the two taken in turns in one run; medians over the turns;
- data_wait: share of the time the same network waits for packed records of noise;
- compile: seconds until the training step is compiled in a fresh process, without and with the
  cache;
- accumulation: temporary memory of the compiled step at 1, 4 and 16 micro-batches of one size.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import bench_table
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import demo
from hpa_jax.config import defaults as configs
from hpa_jax.core import classes
from hpa_jax.data import batches as inputs
from hpa_jax.training import compilation, distributed, logs, loop, phases, preemption
from hpa_jax.training import setup as setups
from hpa_jax.training.examples import Examples

MICRO = 4  # images of a micro-batch


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="overhead,data_wait,compile,accumulation")
    parser.add_argument("--model", default="tiny", help="of configs/demo.py")
    parser.add_argument("--turns", type=int, default=7, help="of the overhead, the first uncounted")
    parser.add_argument("--steps", type=int, default=32, help="of a turn, and of data_wait's epoch")
    parser.add_argument("--only_compile", default="", help="(internal) cache folder")
    options = parser.parse_args()
    config = demo_model(options.model, epochs=options.turns)
    if options.only_compile:
        print(json.dumps({"seconds": compile_seconds(config, Path(options.only_compile))}))
        return
    name = f"{options.model} of the demo"
    print(json.dumps({"devices": jax.device_count(), "kind": jax.devices()[0].device_kind}))
    with tempfile.TemporaryDirectory() as cache:
        compilation.keep_programs(cache)
        for what in options.what.split(","):
            found = MEASURES[what](config, options)
            print(json.dumps({"what": what, **found}), flush=True)
            for row in ROWS[what](found, name):
                bench_table.row(*row)


def demo_model(name: str, **changes: Any) -> ConfigDict:
    """A model of the demo's recipe, with changes of its only phase."""
    given = demo.get_config().models[name]
    return configs.model(
        **{**phases.plain(given), "phases": (configs.phase(**{**given.phases[0], **changes}),)}
    )


def overhead(config: ConfigDict, options: argparse.Namespace) -> dict[str, Any]:
    """Loop against bare step, epoch by epoch: a turn of the one, a turn of the other."""
    bare: list[float] = []
    host = {"loop": [], "bare": []}  # CPU seconds a step of the thread that drives the device
    per_epoch = options.steps
    left_at = [0.0]

    def timed_instead_of_validation(run: Any, params: Any, stats: Any) -> dict[str, Any]:
        host["loop"].append((time.thread_time() - left_at[0]) / per_epoch)
        phase = run.setup.phases[0]
        step = run.setup.train_step(phase, run.compile)
        state = jax.tree.map(jnp.copy, run.setup.state(phase, params, stats, 0))
        state = run.setup.layout.replicate(state)
        batch = run.setup.layout.put_batch(next(in_memory(config)))
        rates = phase.rates(0)
        state, loss = step(state, batch, np.uint32(0), rates)
        loss.block_until_ready()
        start, own = time.perf_counter(), time.thread_time()
        for _ in range(per_epoch):
            state, loss = step(state, batch, np.uint32(0), rates)
        loss.block_until_ready()
        bare.append((time.perf_counter() - start) / per_epoch)
        host["bare"].append((time.thread_time() - own) / per_epoch)
        return {"loss": 0.0, "macro_f1": 0.0, "map": 0.0}

    finish_epoch = loop._Run.finish_epoch

    def then_note_the_time(run: Any, *args: Any) -> Any:
        state = finish_epoch(run, *args)
        left_at[0] = time.thread_time()
        return state

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loop._Run, "finish_epoch", then_note_the_time),
        mock.patch.object(inputs, "train_batches", lambda *a, **k: in_memory(config)),
        mock.patch.object(loop._Run, "validate", timed_instead_of_validation),
    ):
        train(config, Path(folder), None, per_epoch * config.batch_size)
        rows = logs.read(Path(folder) / "metrics.jsonl")
    speeds = [row["images_per_second"] for row in rows if row["split"] == "train"]
    looped = [config.batch_size / speed for speed in speeds]
    ratios = [a / b for a, b in zip(looped[1:], bare[1:], strict=True)]
    return {
        "loop_ms": 1e3 * statistics.median(looped[1:]),
        "bare_ms": 1e3 * statistics.median(bare[1:]),
        "overhead": statistics.median(ratios) - 1,
        "host_ms": {key: 1e3 * statistics.median(values[1:]) for key, values in host.items()},
        "turns": [round(r - 1, 3) for r in ratios],
    }


def data_wait(config: ConfigDict, options: argparse.Namespace) -> dict[str, Any]:
    """Trains two epochs on packed noise, the worst case for decoding."""
    with tempfile.TemporaryDirectory() as folder:
        packed = _packed(Path(folder), config, options.steps * config.batch_size)
        two = (configs.phase(epochs=2, lr=1e-3),)
        config = configs.model(**{**phases.plain(config), "phases": two})
        train(config, Path(folder) / "model", packed, options.steps * config.batch_size)
        rows = logs.read(Path(folder) / "model" / "metrics.jsonl")
    last = [row for row in rows if row["split"] == "train"][-1]
    return {key: last[key] for key in ("data_wait", "images_per_second")}


def compile_twice(config: ConfigDict, options: argparse.Namespace) -> dict[str, Any]:
    """In fresh processes: first start, and second start with the first's cache."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = [_fresh_process(cache, options) for _ in range(2)]
    return {"first_s": seconds[0], "second_s": seconds[1], "share": seconds[1] / seconds[0]}


def compile_seconds(config: ConfigDict, cache: Path) -> float:
    """Tracing and compiling the training step in this process."""
    compilation.keep_programs(cache)
    setup = _setup(config)
    start = time.perf_counter()
    with preemption.Preemption() as stop:
        setup.train_step(setup.phases[0], compilation.Compiler(stop, lambda text: None))
    return time.perf_counter() - start


def accumulation(config: ConfigDict, options: argparse.Namespace) -> dict[str, Any]:
    """compiled.memory_analysis(): temporaries for 1, 4, 16 micro-batches of one size."""
    found = {}
    for count in (1, 4, 16):
        own = configs.model(**{**phases.plain(config), "batch_size": MICRO * count})
        own.accumulate = count
        setup = _setup(own)
        with preemption.Preemption() as stop:
            step = setup.train_step(setup.phases[0], compilation.Compiler(stop, lambda text: None))
        memory = step.memory_analysis()
        found[f"temporaries_mib_{count}"] = round(memory.temp_size_in_bytes / 2**20, 2)
        found[f"images_mib_{count}"] = round(MICRO * count * own.image_size**2 * 4 / 2**20, 2)
    return found


MEASURES = {
    "overhead": overhead,
    "data_wait": data_wait,
    "compile": compile_twice,
    "accumulation": accumulation,
}
# What was found -> rows of the table.
ROWS: dict[str, Callable[[dict, str], list[tuple]]] = {
    "overhead": lambda found, name: [
        (f"loop, a step ({name})", found["loop_ms"], "ms", "the bare step", found["bare_ms"]),
        ("the same, median of the turns' ratios", 100 * found["overhead"], "% over the bare step"),
    ],
    "data_wait": lambda found, name: [
        (f"waiting for packed records ({name})", 100 * found["data_wait"], "% of the time"),
    ],
    "compile": lambda found, name: [
        (f"compiling, second start ({name})", found["second_s"], "s", "first", found["first_s"]),
    ],
    "accumulation": lambda found, name: [
        (
            f"temporaries, {count} micro-batches of {MICRO} ({name})",
            found[f"temporaries_mib_{count}"],
            "MiB",
            "one",
            found["temporaries_mib_1"],
        )
        for count in (4, 16)
    ],
}


def train(config: ConfigDict, folder: Path, packed: Any, count: int) -> None:
    """loop.train on `count` images (of which 32 again for validation), quietly."""
    ids = packed.ids[:count] if packed is not None else np.arange(count).astype(str)
    labels = np.zeros((count, len(classes.NAMES)), np.uint8)
    labels[np.arange(count), np.arange(count) % len(classes.NAMES)] = 1
    settings = configs.default().train.copy_and_resolve_references()
    with settings.unlocked():
        settings.tensorboard = False
    loop.train(
        config,
        name="bench",
        directory=folder,
        records=packed,
        train_ids=ids,
        train_labels=labels,
        valid_ids=ids[:32],
        valid_labels=labels[:32],
        class_names=classes.NAMES,
        settings=settings,
        seed=0,
    )


def in_memory(config: ConfigDict) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches that cost the host nothing."""
    size, side = config.batch_size, config.image_size
    draw = np.random.default_rng(0)
    shape = (size, side, side, len(config.channels))
    batch = {
        "image": draw.integers(0, 256, shape, np.uint8),
        "label": draw.integers(0, 2, (size, len(classes.NAMES)), np.uint8),
        "mask": np.ones(size, bool),
        "index": np.arange(size, dtype=np.int32),
    }
    while True:
        yield batch


def _setup(config: ConfigDict) -> setups.Setup:
    ids = np.arange(64).astype(str)
    labels = np.zeros((64, len(classes.NAMES)), np.uint8)
    examples = Examples(None, ids, labels, ids, labels)
    settings = configs.default().train
    return setups.build(config, settings, distributed.layout(), examples, classes.NAMES, 0)


def _fresh_process(cache: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, f"--only_compile={cache}", f"--model={options.model}"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])["seconds"]


def _packed(folder: Path, config: ConfigDict, count: int) -> Any:
    """So many packed images of noise, in the demo's encoding."""
    import pandas as pd
    from PIL import Image

    from hpa_jax.data import records

    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        row: dict[str, Any] = {"id": f"{number:05d}", "source": "train", "labels": [0]}
        for channel in ("red", "green", "blue", "yellow"):
            path = folder / f"{number:05d}_{channel}.png"
            noise = draw.integers(0, 256, (config.image_size, config.image_size), np.uint8)
            Image.fromarray(noise).save(path)
            row[channel] = str(path)
        side = config.image_size
        row |= {"height": side, "width": side, "original_size": 2048, "files": ""}
        rows.append(row)
    written = records.write(
        pd.DataFrame(rows),
        folder / "records",
        image_size=config.image_size,
        encoding=demo.get_config().records.encoding,
    )
    return inputs.Records(written)


if __name__ == "__main__":
    main()
