"""`predict` as a person runs it: time, memory, first printed line, and size of the page.

    scripts/bench predict --model=BUNDLE [--images=1000] [--maps=300] [--channels=FOLDER]

The images are 512² PNGs, one file a channel.  Each channel is one of the real ones in --channels,
ID_{red,green,blue,yellow}.png, shifted round its edges by a random number of pixels.  Memory is the
largest resident size of the process.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_table
import numpy as np
from PIL import Image

from hpa_jax.data.reader import CHANNELS

CHANNEL_FILES = Path(__file__).parent.parent / "../shared/data/real_images/channels"


def main() -> None:
    """Writes the images, predicts them, and prints a row for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="as of hpa-jax predict")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--maps", type=int, default=300, help="images that get activation maps")
    parser.add_argument("--channels", type=Path, default=CHANNEL_FILES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_images(work / "images", options.images, options.channels)
        command = [
            *(sys.executable, "-m", "hpa_jax", "predict", f"--model={options.model}"),
            *(f"--workdir={work / 'out'}", f"--maps={options.maps}"),
            *("--config.data.source=folder", f"--config.data.root={work / 'images'}"),
        ]
        first, total = seconds(command)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = work / "out" / "predictions"
        beside = sum(file.stat().st_size for file in page.rglob("*") if file.is_file())
        what = f"predict, {options.images} images of 512², {options.maps} with maps"
        bench_table.row(f"{what}: first printed line", first, "s")
        bench_table.row(f"{what}: all", total, "s")
        bench_table.row(f"{what}: processor time", used.ru_utime + used.ru_stime, "s")
        bench_table.row(f"{what}: memory", used.ru_maxrss / 2**10, "MiB")
        bench_table.row(f"{what}: index.html", size(page / "index.html"), "MB")
        bench_table.row(f"{what}: page with its files", beside / 1e6, "MB")


def write_images(folder: Path, count: int, channels: Path) -> None:
    """Write images of shifted channels.

    Raises:
        SystemExit: `channels` holds no file of a channel.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for channel in CHANNELS:
        files = sorted(f for f in channels.glob("*.png") if re.search(f"_{channel}$", f.stem))
        if not files:
            raise SystemExit(f"{channels}: no file ID_{channel}.png (--channels)")
        planes = [np.asarray(Image.open(file)) for file in files]
        for number in range(count):
            plane = np.roll(planes[number % len(planes)], rng.integers(0, 512, 2), (0, 1))
            Image.fromarray(plane).save(folder / f"image{number:05d}_{channel}.png")


def seconds(command: list[str]) -> tuple[float, float]:
    """Return the time to the first line that a command prints, and to its end."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout
        lines, first = [], 0.0
        for line in process.stdout:
            first = first or time.perf_counter() - start
            lines.append(line)
    if process.returncode:
        raise SystemExit("".join(lines))
    return first, time.perf_counter() - start


def size(file: Path) -> float:
    """Return the size of a file in MB."""
    return file.stat().st_size / 1e6


if __name__ == "__main__":
    main()
