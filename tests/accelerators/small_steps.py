"""One training step of every family of backbones, small enough to compile in two minutes."""

import functools
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts import bench_accelerator, hlo

IMAGES = 8  # of a step on each device
RESNET = dict(width=1 / 8, depth=(1, 1, 1, 1), image_size=64)
INCEPTION = dict(width=1 / 8, depth=(1, 1, 1), image_size=75)  # the smallest they take
MODELS: dict[str, dict[str, Any]] = {
    "resnet18": RESNET,  # basic blocks
    "resnet50": RESNET,
    "se_resnext50": RESNET,
    "senet154": RESNET,
    "densenet121": dict(width=1 / 8, depth=(2, 2, 2, 2), image_size=64),
    "inception_v3": INCEPTION,
    "inception_v4": INCEPTION,
    "bn_inception": dict(width=1 / 8, depth=(1, 1, 1), image_size=64),
    "xception": dict(width=1 / 8, depth=(1,), image_size=75),
    "nasnet_a_large": dict(width=1 / 14, depth=(1, 1, 1), image_size=64),
    "efficientnet_lite0": dict(width=1 / 4, depth=(1,) * 7, image_size=64),
    "convnext_tiny": RESNET,
    "vit_small_patch16": dict(width=64 / 384, depth=(2,), image_size=64),
}
DEMO = "tiny"  # of configs/demo.py, with its augmentation
STEPS = (DEMO, *MODELS)
# Reading a table of numbers by index is no reading of pixels.
TABLE = 1024
# Values of all BatchNorms' statistics together, at most; the networks' kernels hold more.
STATISTICS = 10_000
# All-reduces of a step beside BatchNorm's: gradients in bfloat16 and float32, the loss, one more.
REDUCES = 4


def options(name: str, **differences: Any) -> dict[str, Any]:
    """Options of `config.model` for one of STEPS, with the batch of one device."""
    if name == DEMO:
        recipe = runpy.run_path("configs/demo.py")["get_config"]()
        model = recipe.models[name].to_dict()
        model["phases"] = [dict(phase) for phase in model["phases"]]
        model["dtype"] = "bfloat16"
    else:
        model = dict(backbone=name, augment="d4", **MODELS[name])
    return {**model, "batch_size": IMAGES, **differences}


@functools.cache
def compiled(
    target: str, devices: int, name: str, **differences: Any
) -> tuple[dict[str, Any], hlo.Program | None]:
    """(row of scripts/bench_accelerator.py, the compiled program or None)."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "program.hlo"
        model = options(name, **differences)
        row = bench_accelerator.compiled(target, devices, model, python=sys.executable, hlo=text)
        return row, hlo.Program(text.read_text()) if "error" not in row else None


def faults(row: dict[str, Any], program: hlo.Program | None, allowed: dict[str, str]) -> list[str]:
    """What is wrong with a step's program, a line each.

    allowed: {part of a convolution's traced operation or source: why it is not in bfloat16}.
    """
    if program is None:
        return [f"does not compile: {row['error']}"]
    found = [] if row["fits"] else ["does not fit"]
    for kind in ("all-gather", "all-to-all", "collective-permute", "ragged-all-to-all"):
        if count := row["collectives"].get(kind, 0):
            places = {program.source(x) for x, _ in program.instructions() if x.collective == kind}
            found.append(f"{count} x {kind}: {', '.join(sorted(places))}")
    # Statistics of the batch: one forward and one backward a BatchNorm, each after the one before.
    rest = row["all_reduces"] - 2 * row["batch_norms"]
    if row["devices"] > 1 and rest > REDUCES:
        found.append(f"{rest} all-reduces beside those of {row['batch_norms']} BatchNorms")
    for dtype, one in program.convolutions():
        place = f"{one.op_name} {program.source(one)}"
        if dtype != "bf16" and not any(part in place for part in allowed):
            found.append(f"{dtype} convolution: {place}")
    if row["aliased"] < row["state_arrays"]:
        found.append(f"{row['aliased']} of {row['state_arrays']} arrays of the state are donated")
    return found


def pixel_gathers(program: hlo.Program) -> list[str]:
    """Gathers that read more than a table."""
    return [
        f"{one.op_name} {program.source(one)}"
        for one in program.gathers()
        if one.arrays[0].elements > TABLE
    ]


def gradients_in_loops(program: hlo.Program) -> list[str]:
    """All-reduces that run more than once in a step and sum more than statistics of BatchNorm."""
    return [
        f"{trips} x {one.op_name} {program.source(one)}"
        for one, trips in program.instructions()
        if one.collective == "all-reduce" and trips > 1
        if sum(array.elements for array in one.arrays) > STATISTICS
    ]
