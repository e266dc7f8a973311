"""`scripts/bench accelerator`: what the compiler for a GPU or TPU makes of the training step.

    scripts/bench accelerator --target=v5e --devices=4 se_resnext50:512:32 densenet121:512:32:oml
    scripts/bench accelerator --target=h100 --devices=4 se_resnext50:512:32 --hlo=FOLDER
    JAX_VERSION=0.12.0 scripts/bench accelerator --target=v5e se_resnext50:1024:8 --remat=blocks

Needs no GPU or TPU.  A case is BACKBONE:SIZE:IMAGES[:AUGMENT]: side of the images in pixels, images
of a step on each device, a preset of training/augment.py (default d4).  The step is the one that
training compiles, in bfloat16 with four channels, 28 classes and Adam.  Each case is compiled in a
process of its own, since a fault of the compiler ends the process; such a row says so, and the exit
status is 1.  The first use makes the environment (.venv-tpu: 1 GB, .venv-cuda: 3 GB; JAX_VERSION=V:
with that jax, over an environment .venv-V of 2 GB).

What a row holds, and means:
- arguments, temporaries: MiB on each device; fits: with what the outputs add, in the memory of one
  device (CUDA: in the three quarters that JAX takes).  The compiler's own plan; it holds on a card.
- collectives and gathers: how many run in a call; a loop's body counts times its trips.  Statistics
  of the whole batch take an all-reduce forward and one backward for each of the batch_norms.
- aliased: inputs whose memory an output takes over; of state_arrays, the arrays of the state.
- TPU alone: bytes and flops as the compiler counts them (on-chip traffic too, 64 KiB a gathered
  slice), with loops times their trips; hbm_bytes: main memory alone, counted from the program's
  text.  ms_peak, ms_bandwidth: those over the chip's published peaks.  ms_cycles: the sum of the
  compiler's cycle estimates; operations without one (gather, scatter, reduce-window,
  select-and-scatter, collectives) are charged by their bytes over the memory's bandwidth.
  images_per_s: of one device, by the largest of the three.
An estimate is no measurement: nothing ran.  It shows what one way of writing the step costs against
another, and what a program can't be faster than.  It doesn't know the links between chips, waiting
for input, or how well operations overlap.  CUDA's compiler gives no times, and without a card it
tunes no kernels.

Prints a table; --top=N adds the N most expensive groups of operations (* = without an estimate);
--out writes {"rows": [...]} as JSON; --hlo keeps the compiled programs' texts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts import hlo

ROOT = Path(__file__).resolve().parent.parent
TARGETS = Path(__file__).resolve().parent / "accelerator_targets"
# Asks no metadata server for the chips of this host; several processes may load libtpu at once.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """A TPU chip: peak bf16 FLOP/s, bytes/s and bytes of main memory, Hz; topologies by chips."""

    peak: float
    bandwidth: float
    memory: float
    clock: float
    topologies: Mapping[int, str]


_SQUARE = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
CHIPS = {
    "v5e": Chip(197e12, 819e9, 16 * 2**30, 1.5e9, _SQUARE),
    "v6e": Chip(918e12, 1640e9, 32 * 2**30, 1.75e9, _SQUARE),
    "v5p": Chip(459e12, 2765e9, 95 * 2**30, 1.75e9, {4: "2x2x1", 8: "2x2x2", 16: "2x2x4"}),
}
GPUS = ("h100", "a100")
GPU_SHARE = 0.75  # of the memory: what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says other

COLUMNS = {
    "compile_s": "compile s",
    "arguments_mib": "arguments MiB",
    "temporaries_mib": "temporaries MiB",
    "fits": "fits",
    "aliased": "aliased",
    "state_arrays": "state arrays",
    "all_gathers": "all-gathers",
    "all_reduces": "all-reduces",
    "gathers": "gathers",
}
TPU_COLUMNS = {
    "flops": "GFLOP",
    "bytes": "GB",
    "hbm_bytes": "HBM GB",
    "ms_peak": "ms peak",
    "ms_bandwidth": "ms bandwidth",
    "ms_cycles": "ms cycles",
    "images_per_s": "images/s",
}
CUDA_COLUMNS = {"bf16_convolutions": "bf16 convolutions", "f32_convolutions": "f32 convolutions"}


def main() -> None:
    """Compiles every case in turn and prints its row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", required=True, choices=(*CHIPS, *GPUS))
    parser.add_argument("--devices", type=int, default=1, help="over which the batch is split")
    parser.add_argument("--remat", default="none", choices=("none", "blocks"))
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--top", type=int, default=0, help="TPU: lines of the breakdown")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--hlo", type=Path, help="folder for the compiled programs' texts")
    parser.add_argument("cases", nargs="+", metavar="CASE")
    options = parser.parse_args()
    models = {case: model_of(case, options) for case in options.cases}
    python = environment(options.target)
    columns = COLUMNS | (TPU_COLUMNS if options.target in CHIPS else CUDA_COLUMNS)
    print(f"| case | {' | '.join(columns.values())} |\n|{'---|' * (len(columns) + 1)}")
    rows = []
    for case, model in models.items():
        text = options.hlo / f"{options.target}_{options.devices}_{case}.hlo" if options.hlo else ""
        row = compiled(
            options.target, options.devices, model, python=python, hlo=text, top=options.top
        )
        rows.append({"case": case, **row})
        print(line(rows[-1], columns), flush=True)
        if options.out:
            options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    failed = [row["case"] for row in rows if "error" in row]
    if failed:
        raise SystemExit(f"not compiled: {', '.join(failed)}")


def model_of(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """The model's options of a case BACKBONE:SIZE:IMAGES[:AUGMENT]; `batch_size` of one device."""
    found = re.fullmatch(r"(\w+):(\d+):(\d+)(?::(\w+))?", case)
    if not found:
        raise SystemExit(f"{case}: a case is BACKBONE:SIZE:IMAGES[:AUGMENT], se_resnext50:512:32")
    return dict(
        backbone=found[1],
        image_size=int(found[2]),
        batch_size=int(found[3]),
        augment=found[4] or "d4",
        remat=options.remat,
        accumulate=options.accumulate,
    )


def environment(target: str) -> str:
    """The interpreter of the environment for a target, which is made where it is missing."""
    kind = "tpu" if target in CHIPS else "cuda"
    command = '. scripts/environment.sh && alone plugin_environment "$1" && echo "$python"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"no environment for {target} (see above)")
    return str(ROOT / done.stdout.split()[-1])


def compiled(
    target: str,
    devices: int,
    model: Mapping[str, Any],
    *,
    python: str,
    hlo: str | Path = "",
    top: int = 0,
) -> dict[str, Any]:
    """The row of one step, compiled in a process of its own; with "error" where that failed.

    model: options of `config.model`; its batch_size is that of one device.
    hlo: file for the compiled program's text.
    """
    if hlo:
        Path(hlo).parent.mkdir(parents=True, exist_ok=True)
    work = dict(target=target, devices=devices, model=dict(model), hlo=str(hlo), top=top)
    variables = {key: value for key, value in os.environ.items() if key not in KEPT_OUT}
    variables |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    variables |= TPU_ENVIRONMENT if target in CHIPS else {}
    done = subprocess.run(
        [python, "-c", "from scripts import bench_accelerator; bench_accelerator.worker()"],
        cwd=ROOT,
        env=variables,
        input=json.dumps(work),
        capture_output=True,
        text=True,
    )
    said = [text for text in done.stdout.splitlines() if text.startswith("{")]
    row = json.loads(said[-1]) if said else dict(target=target, devices=devices)
    if done.returncode:
        row["error"] = reason(done.stderr, done.returncode)
        if "RESOURCE_EXHAUSTED" in done.stderr:
            row["fits"] = False
    return row


# A compiled program from the cache would make the compile time wrong.
KEPT_OUT = ("JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def reason(said: str, code: int) -> str:
    """One line of what a failed process wrote: the fatal one, else the last error or line."""
    lines = [text.strip() for text in said.splitlines() if text.strip()]
    fatal = [text for text in lines if re.match(r"F\d{4} ", text)]
    errors = [text for text in lines if re.match(r"[\w.]*(Error|Exception)\b", text)]
    chosen = (fatal[:1] or errors[-1:] or lines[-1:] or ["said nothing"])[0]
    return f"exit status {code}: {chosen}"[:400]


def line(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"| {row['case']} | {row['error']} |"
    scale = {"bytes": 1e9, "hbm_bytes": 1e9, "flops": 1e9}
    cells = []
    for key in columns:
        value = row[key]
        if isinstance(value, bool):
            cells.append("yes" if value else "NO")
        elif isinstance(value, int | float):
            value /= scale.get(key, 1)
            cells.append(f"{value:.3g}" if value < 100 else f"{value:,.0f}")
        else:
            cells.append(value)
    table = f"| {row['case']} | {' | '.join(cells)} |"
    for ms, moved, count, *names in row.get("breakdown", []):
        table += f"\n  {ms:9.3f} ms {moved / 1e6:11,.1f} MB {count:5} x {' | '.join(names)}"
    return table


# --- in the process that compiles -------------------------------------------------------------


def worker() -> None:
    """Reads what to compile as JSON from stdin and prints its row."""
    work = json.load(sys.stdin)
    print(json.dumps(measure(**work)))


def measure(
    target: str, devices: int, model: Mapping[str, Any], hlo: str, top: int
) -> dict[str, Any]:
    """The row of one step, compiled here."""
    import jax

    row: dict[str, Any] = dict(target=target, devices=devices, jax=jax.__version__)
    print(json.dumps(row), flush=True)  # what is known where the compiler ends the process
    start = time.perf_counter()
    lowered, arrays = lower(topology(target, devices), model)
    program = lowered.compile()
    seconds = time.perf_counter() - start
    memory, text = program.memory_analysis(), program.as_text()
    if hlo:
        Path(hlo).write_text(text)
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    used += memory.output_size_in_bytes - memory.alias_size_in_bytes
    row |= dict(
        compile_s=round(seconds, 1),
        arguments_mib=round(memory.argument_size_in_bytes / 2**20, 1),
        temporaries_mib=round(memory.temp_size_in_bytes / 2**20, 1),
        fits=used < room(target),
        **arrays,
    )
    images = model["batch_size"]
    return row | figures(text, target, images, program.cost_analysis() or {}, top)


def figures(
    text: str, target: str, images: int, cost: Mapping[str, float], top: int = 0
) -> dict[str, Any]:
    """What a compiled program's text says, for a row.

    Args:
        text: of the program.
        target: a key of CHIPS or one of GPUS.
        images: of a step on one device.
        cost: XLA's cost analysis, of a TPU program.
        top: lines of the breakdown.
    """
    program = hlo.Program(text)
    collectives = program.collectives()
    row: dict[str, Any] = dict(
        all_gathers=collectives.get("all-gather", 0),
        all_reduces=collectives.get("all-reduce", 0),
        collectives=collectives,
        gathers=len(program.gathers()),
        aliased=program.aliased_inputs(),
        unknown_loops=program.unknown_loops,
    )
    if target not in CHIPS:
        types = [dtype for dtype, _ in program.convolutions()]
        return row | {f"{t}_convolutions": types.count(t) for t in ("bf16", "f32")}
    chip = CHIPS[target]
    charges = program.charges(chip.bandwidth, chip.clock)
    flops = cost["flops"] * program.flops_factor()
    moved = cost["bytes accessed"] * program.bytes_factor()
    row |= dict(
        bytes=moved,
        hbm_bytes=sum(charge.bytes for charge in charges),
        flops=flops,
        ms_peak=1e3 * flops / chip.peak,
        ms_bandwidth=1e3 * moved / chip.bandwidth,
        ms_cycles=sum(charge.ms for charge in charges),
    )
    row["images_per_s"] = 1e3 * images / max(row["ms_peak"], row["ms_bandwidth"], row["ms_cycles"])
    if top:
        row["breakdown"] = hlo.breakdown(program, charges, top)
    return row


def topology(target: str, devices: int) -> Sequence[Any]:
    """That many devices of a target, to compile for."""
    from jax.experimental import topologies

    if target in CHIPS:
        sizes = [size for size in CHIPS[target].topologies if size >= devices]
        if not sizes:
            raise SystemExit(f"{target}: at most {max(CHIPS[target].topologies)} devices")
        name = f"{target}:{CHIPS[target].topologies[min(sizes)]}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices[:devices]
    text = (TARGETS / f"{target}.pbtxt").read_text()
    return topologies.get_topology_desc(
        target, "cuda", target_config=text, topology=f"1x1x{devices}"
    ).devices


def room(target: str) -> float:
    """Bytes of a device's memory that a program may take."""
    if target in CHIPS:
        return CHIPS[target].memory
    text = (TARGETS / f"{target}.pbtxt").read_text()
    return GPU_SHARE * int(re.findall(r"device_memory_size: (\d+)", text)[0])


def lower(devices: Sequence[Any], model: Mapping[str, Any]) -> tuple[Any, dict[str, int]]:
    """(the lowered training step over these devices, arrays of its state and BatchNorm layers)."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from hpa_jax.config import defaults as configs
    from hpa_jax.core import classes
    from hpa_jax.training import distributed
    from hpa_jax.training import setup as setups
    from hpa_jax.training.examples import Examples

    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    batch_size = model["batch_size"] * len(devices)
    config = configs.model(**{"dtype": "bfloat16", **model, "batch_size": batch_size})
    ids = np.array([str(i) for i in range(max(4 * batch_size, 512))])
    labels = np.random.default_rng(0).random((len(ids), len(classes.NAMES))) < 0.1
    labels = labels.astype(np.uint8)
    examples = Examples(None, ids, labels, ids[:64], labels[:64])
    layout = distributed.MeshLayout(mesh)
    setup = setups.build(config, configs.default().train, layout, examples, classes.NAMES, seed=0)
    phase = setup.phases[0]
    step, shapes = setup.jitted_step(phase), setup.step_shapes(phase)
    norms = sum(name.split(".")[-1] == "mean" for name in setup.outline.stats)
    state = dict(state_arrays=len(jax.tree.leaves(shapes[0])), batch_norms=norms)
    return step.lower(*shapes), state


if __name__ == "__main__":
    main()
