"""`common.py` of the programs in ../shared/cases, by the present verbs, options and modules.

tests/data/cases/test_cases.py copies it beside each program and runs that.  The programs import
all names; WORK, PY, REPO and MODEL are those of the environment, LIGHT runs the verb catalog alone.
"""

import contextlib
import io
import json  # noqa: F401, of the programs
import os
import shutil
import struct
import subprocess  # noqa: F401, of the programs
import sys
import traceback
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

PY = os.environ.get("CASES_PYTHON", sys.executable)
REPO = os.environ.get("CASES_PROJECT", os.getcwd())
MODEL = os.environ.get("CASES_MODEL", "runs/demo/models/tiny")
WORK = Path(os.environ.get("CASES_WORK", "runs/cases"))
LIGHT = os.environ.get("LIGHT") == "1"
CH = ("red", "green", "blue", "yellow")
LABELS = ((0,), (2,), (5,), (7,), (21,), (23,))
RENAMED = {"folder.missing_yellow": "folder.missing.yellow"}
_roots: dict[str, str] = {}  # workdir -> folder of images


def pictures(n=6, side=96):
    """{id: uint8[side, side, 4]}, synthetic cells."""
    from hpa_jax.data.synthetic import camera

    return {f"p{k}": camera.photograph((77, k), LABELS[k % 6], side) for k in range(n)}


def fresh(name):
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def plain(folder, pics):
    """Write images as 8-bit PNGs, a file a channel."""
    folder.mkdir(parents=True, exist_ok=True)
    for id, image in pics.items():
        for k, channel in enumerate(CH):
            Image.fromarray(image[..., k]).save(folder / f"{id}_{channel}.png")


def predict(root, workdir, *more, env=None, verb="predict", prefix=(), model=MODEL):
    """Run a verb in this process; print and return (exit code, output)."""
    from hpa_jax import cli

    more = [str(option) for option in more]
    if verb == "predict" and LIGHT:
        verb, more = "catalog", ["--config.data.source=folder", *more]
    elif verb == "predict":
        more = [f"--model={model}", *more]
    for old, new in RENAMED.items():
        more = [option.replace(old, new) for option in more]
    arguments = [verb, f"--config.data.root={root}", f"--workdir={workdir}", *more]
    output, before = io.StringIO(), dict(os.environ)
    os.environ.update(env or {})
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = cli.main(arguments)
        except (Exception, SystemExit):
            code = 99
            traceback.print_exc(file=output)
    _roots[str(workdir)] = str(Path(root).expanduser())  # by the HOME of `env`
    os.environ.clear()
    os.environ.update(before)
    text = output.getvalue().strip()
    print("$", *arguments)
    print(f"exit {code}" + ("  TRACEBACK" if "Traceback (most recent" in text else ""))
    for line in [line for line in text.splitlines() if line.strip()][-6:]:
        print("   | " + line[:400])
    return code, text


def taken(workdir):
    """{id: uint8[H, W, 4]} that the catalog refers to; an absent channel is zeros."""
    from hpa_jax.data import catalog, reader

    table = pd.read_parquet(Path(workdir) / "catalog.parquet")
    table = catalog.absolute(table, [_roots[str(workdir)]], Path(workdir) / "imported")
    return {row["id"]: reader.read(row) for row in table[["id", *CH]].to_dict("records")}


def scores(workdir):
    if LIGHT:
        return taken(workdir)
    table = pd.read_csv(Path(workdir) / "predictions.csv", dtype={"id": str}, keep_default_na=False)
    return table.set_index("id")


def reference(n=6, side=96):
    """Scores of the plain 8-bit images."""
    folder = WORK / f"ref_{n}_{side}"
    if not (folder / "run" / "predictions.csv").exists():
        shutil.rmtree(folder, ignore_errors=True)
        plain(folder / "in", pictures(n, side))
        code, text = predict(folder / "in", folder / "run")
        assert code == 0, text
    return scores(folder / "run")


def compare(workdir, ref=None, rename=None):
    """Print the differences from what is right: grey levels, or scores and labels."""
    rename = rename or {}
    if LIGHT:
        right = ref if isinstance(ref, dict) else pictures()
        got = {rename.get(id, id): image for id, image in taken(workdir).items()}
        differences = [
            round(float(np.abs(got[id].astype(float) - right[id]).mean()), 2)
            if got[id].shape == right[id].shape
            else f"shape {got[id].shape}"
            for id in right
            if id in got
        ]
        print(
            f"   > rows {len(got)} ({_odd(right, got)}); mean grey-level differences {differences}"
        )
        return None, None
    right, got = reference() if ref is None else ref, scores(workdir).rename(index=rename)
    both = [id for id in right.index if id in got.index]
    numbers = [name for name in right.columns if str(right[name].dtype).startswith("float")]
    labels = [name for name in right.columns if name.startswith("label")]
    apart = np.abs(
        got.loc[both, numbers].to_numpy(float) - right.loc[both, numbers].to_numpy(float)
    )
    largest = apart.max() if apart.size else float("nan")
    unequal = got.loc[both, labels].astype(str) != right.loc[both, labels].astype(str)
    count = int(unequal.to_numpy().any(axis=1).sum())
    print(
        f"   > rows {len(got)} ({_odd(right.index, got.index)}); largest score difference "
        f"{largest:.4f}; label sets that differ {count} of {len(both)}"
    )
    return largest, count


def _odd(right, got):
    return f"missing {sorted(set(right) - set(got))}, extra {sorted(set(got) - set(right))}"


def pixels(workdir):
    """{id: {channel: array}} of the converted copies."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for file in sorted((Path(workdir) / "imported").rglob("*.png")):
        stem, channel = file.stem.rsplit("_", 1)
        out.setdefault(stem.rsplit("_", 1)[0], {})[channel] = np.asarray(Image.open(file))
    return out


def pixel_report(workdir, pics):
    """Print how far the converted copies of two images are from the right pixels."""
    got = pixels(workdir)
    for id in list(pics)[:2]:
        for k, channel in enumerate(CH):
            if channel not in got.get(id, {}):
                continue
            ours, right = got[id][channel].astype(float), pics[id][..., k].astype(float)
            if ours.shape != right.shape:
                print(f"   > {id} {channel}: shape {ours.shape} instead of {right.shape}")
                continue
            print(f"   > {id} {channel}: mean |difference| {np.abs(ours - right).mean():.1f}")


def png16(path, values):
    """Write a 16-bit PNG of [H, W] or [H, W, 2..4]; Pillow can't write those in colour."""
    values = np.ascontiguousarray(values.astype(">u2"))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
