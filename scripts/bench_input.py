"""`scripts/bench input`: images a second from four PNGs and from packed records, and their size.

    .venv/bin/python scripts/bench_input.py --folder=DIR --torch-python=PYTHON [--mosaic=2]

DIR: ID_{red,green,blue,yellow}.png; the k-th file of each channel makes the k-th image.
--torch-python: an interpreter with scripts/requirements-input-torch.txt; every round runs it beside
ours, so that both meet the same noise.  Ours leaves D4 and crop to the device, where they cost
under 1 % of a training step (`scripts/bench augment`); both figures are of what the host does.
Wall time on a shared machine is noise; processor time an image (all processes) is not.
"""

import argparse
import collections
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench_table
import numpy as np
import pandas as pd
from PIL import Image

from hpa_jax.data import batches as input
from hpa_jax.data import encodings, reader, records
from hpa_jax.data.unpacked import Files

CHANNELS = reader.CHANNELS
PASSES = 4  # over the images, each time a source is measured


def main() -> None:
    """Prints a Markdown table, then one JSON line with the same figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--torch-python", default="")
    parser.add_argument("--mosaic", type=int, default=1, help="2: four images side by side")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encodings", default=",".join(encodings.ENCODINGS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        table = _images(Path(options.folder), work, options.images, options.mosaic)
        side = int(table["height"][0])
        sources = {"four PNGs": Files(table, side)}
        sizes = {"four PNGs": _bytes(table) / len(table)}
        for name in options.encodings.split(","):
            folder = records.write(table, work / "records", image_size=side, encoding=name)
            sources[name] = input.Records(folder)
            stored = sum(path.stat().st_size for path in folder.glob("*.array_record"))
            sizes[name] = stored / len(table)
        rounds = collections.defaultdict(list)
        for _ in range(options.rounds):
            if options.torch_python:
                rounds["PyTorch, cv2, albumentations"].append(_torch(options, table, work))
            for name, source in sources.items():
                rounds[name].append(_ours(source, options.batch, options.workers))
        _print(rounds, sizes, side)
        _memory(sources, options)


def _images(folder: Path, work: Path, count: int, mosaic: int) -> pd.DataFrame:
    """A catalog of the folder's images; with `mosaic` each is made of mosaic² of them."""
    files = {c: sorted(folder.glob(f"**/*_{c}.png")) for c in CHANNELS}
    count = min(count, *(len(paths) for paths in files.values()))
    rows = []
    for i in range(count):
        row = {"id": f"p{i}", "source": "train", "labels": np.array([0], np.int16)}
        for channel in CHANNELS:
            path = files[channel][i]
            if mosaic > 1:
                parts = [files[channel][(i + k) % count] for k in range(mosaic * mosaic)]
                tiles = [reader.read_channel(part, channel) for part in parts]
                grid = [np.hstack(tiles[r * mosaic : (r + 1) * mosaic]) for r in range(mosaic)]
                path = work / f"p{i}_{channel}.png"
                Image.fromarray(np.vstack(grid)).save(path)
            row[channel] = str(path)
        row["height"], row["width"] = reader.size(row["red"])
        row["files"] = ""
        rows.append(row)
    return pd.DataFrame(rows)


def _bytes(table: pd.DataFrame) -> int:
    return sum(Path(path).stat().st_size for channel in CHANNELS for path in table[channel])


def _torch(options: argparse.Namespace, table: pd.DataFrame, work: Path) -> dict[str, float]:
    listing = work / "files.json"
    listing.write_text(json.dumps(table[list(CHANNELS)].values.tolist()))
    script = Path(__file__).with_name("bench_input_torch.py")
    command = [options.torch_python, str(script), f"--files={listing}"]
    command += [f"--workers={options.workers}", f"--batch={options.batch}", f"--repeats={PASSES}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _ours(source: Files | input.Records, batch: int, workers: int) -> dict[str, float]:
    """PASSES over the images after two batches of warming up (tf.data's start)."""
    steps = max(1, PASSES * len(source) // batch)
    batches = _batches(source, batch, workers)
    for _ in islice(batches, 2):
        pass
    used, begin = _processor_seconds(), time.perf_counter()
    images_read = sum(len(b["image"]) for b in islice(batches, steps))
    wall, cpu = time.perf_counter() - begin, _processor_seconds() - used
    batches.close()
    return dict(images=images_read, wall=wall, cpu=cpu)


def _batches(source: Files | input.Records, batch: int, workers: int) -> input.Batches:
    labels = np.zeros((len(source), 1), np.uint8)
    return input.train_batches(
        source,
        source.ids,
        labels,
        batch_size=batch,
        channels=CHANNELS,
        image_size=source.image_size,
        sampler=lambda epoch: np.random.default_rng(epoch).permutation(len(source)),
        workers=workers,
    )


def _processor_seconds() -> float:
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def _print(rounds: dict[str, list[dict[str, float]]], sizes: dict[str, float], side: int) -> None:
    rows = {}
    for name, runs in rounds.items():
        rows[name] = dict(
            per_second=statistics.median(run["images"] / run["wall"] for run in runs),
            cpu_ms=min(run["cpu"] / run["images"] for run in runs) * 1e3,
            kilobytes=sizes.get(name, sizes["four PNGs"]) / 1e3,
        )
    base = next(iter(rows.values()))
    print(f"| {side}² | images/s | x | processor ms | x | kB | GB a 100,000 | lossless |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        kind = encodings.ENCODINGS.get(name)
        print(
            f"| {name} | {row['per_second']:.0f} | {row['per_second'] / base['per_second']:.2f} "
            f"| {row['cpu_ms']:.2f} | {base['cpu_ms'] / row['cpu_ms']:.2f} "
            f"| {row['kilobytes']:.0f} | {row['kilobytes'] / 10:.0f} "
            f"| {'yes' if kind is None or kind.lossless else 'no'} |"
        )
    print(json.dumps(rows), flush=True)
    other = next((name for name in rows if name.startswith("PyTorch")), "four PNGs")
    for name in set(rows) & {"raw", "zstd", "png"}:
        bench_table.row(
            f"records ({name}) of {side}² x 4, processor time an image",
            rows[name]["cpu_ms"], "ms", other, rows[other]["cpu_ms"],
        )  # fmt: skip


def _memory(sources: dict[str, Files | input.Records], options: argparse.Namespace) -> None:
    """Resident memory after each of three epochs over one source."""
    name, source = list(sources.items())[1]
    steps = max(1, len(source) // options.batch)
    batches = _batches(source, options.batch, options.workers)
    resident = []
    for _ in range(4):
        for _ in islice(batches, steps * 5):
            pass
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(round(pages * resource.getpagesize() / 1e6))
    print(json.dumps({"memory_MB": resident[1:], "of": name, "images": steps * 5 * options.batch}))


if __name__ == "__main__":
    main()
