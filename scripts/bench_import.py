"""`scripts/bench import`: images a second from microscopes' files to 8-bit channels.

    scripts/bench import [--images=24] [--workers=2] [--rounds=2]

The folder source converts synthetic 16-bit OME-TIFFs of 2048² (four channels, one file) to the
512² that a run stores, and checks single 8-bit PNGs of 512², used where they lie.  Beside it, in
the same rounds and threads, the libraries alone: tifffile (percentiles by numpy, reduced and
written by Pillow), and Pillow's decoding.  Each by the clock and by the processor time of all
threads, which other programs disturb less; the best round counts.  The ratio is ours over theirs.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bench_table
import numpy as np
import tifffile
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.data import catalog
from hpa_jax.data.reader import CHANNELS

SIDE, STORED = 2048, 512


def main() -> None:
    """Writes the files, and prints a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # notes on how the files are read
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for kind, count, write, alone in (
            ("2048² 16-bit OME-TIFF", options.images, ome_tiffs, tifffile_alone),
            ("512² PNG", 16 * options.images, pngs, pillow_alone),
        ):
            for unit, rates in measured(work, write, alone, count, options).items():
                ours, theirs = map(max, zip(*rates, strict=True))
                bench_table.row(f"import of {kind}", ours, unit, "the libraries alone", theirs)


def measured(
    work: Path, write: Callable, alone: Callable, count: int, options: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Unit -> (ours, the libraries') of each round."""
    root = work / write.__name__
    files = write(root, count)
    rates: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        into = work / f"{write.__name__}_{number}"
        ours = seconds(build, root, into, options.workers)
        theirs = seconds(threads, alone, files, into, options.workers)
        for unit, *times in zip(("images/s", "images/processor s"), ours, theirs, strict=True):
            rates.setdefault(unit, []).append(tuple(count / time for time in times))
    return rates


def ome_tiffs(root: Path, count: int) -> list[list[Path]]:
    """Files of noise that is smooth over 4 pixels, 12 bits above an offset."""
    root.mkdir()
    rng = np.random.default_rng(0)
    about = {"axes": "CYX", "Channel": {"Name": list(CHANNELS)}}
    for number in range(count):
        coarse = rng.gamma(1.0, 300.0, (4, SIDE // 4, SIDE // 4))
        planes = np.kron(coarse, np.ones((1, 4, 4))) + rng.normal(100, 5, (4, SIDE, SIDE))
        values = planes.clip(0, 4095).astype(np.uint16)
        tifffile.imwrite(root / f"i{number}.ome.tif", values, ome=True, metadata=about)
    return [[root / f"i{number}.ome.tif"] for number in range(count)]


def pngs(root: Path, count: int) -> list[list[Path]]:
    """Four grey files an image."""
    root.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        image = np.kron(rng.gamma(1.0, 20.0, (4, STORED // 4, STORED // 4)), np.ones((1, 4, 4)))
        paths = [root / f"i{number}_{channel}.png" for channel in CHANNELS]
        for plane, path in zip(image.clip(0, 255).astype(np.uint8), paths, strict=True):
            Image.fromarray(plane).save(path)
        files.append(paths)
    return files


def build(root: Path, into: Path, workers: int) -> None:
    """What the step catalog does: reads, converts, checks."""
    source = dict(source="folder", root=root)
    catalog.build([source], classes.NAMES, imported=into, largest=STORED, workers=workers)


def tifffile_alone(paths: list[Path], into: Path) -> None:
    """A short script's way: percentiles of each channel, reduced, written."""
    for k, plane in enumerate(tifffile.imread(paths[0])):
        black, white = np.percentile(plane, (0.001, 99.999))
        values = np.clip((plane - black) * (255 / (white - black)), 0, 255).astype(np.uint8)
        small = Image.fromarray(values).resize((STORED, STORED), Image.BOX)
        small.save(into / f"{paths[0].stem}_{k}.png", compress_level=1)


def pillow_alone(paths: list[Path], into: Path) -> None:
    """Decoding alone."""
    np.stack([np.asarray(Image.open(path)) for path in paths])


def threads(work: Callable, files: list[list[Path]], into: Path, workers: int) -> None:
    """`work` on each image, in as many threads as ours has."""
    into = into.with_name(f"{into.name}_alone")
    into.mkdir()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda paths: work(paths, into), files))


def seconds(work: Callable, *arguments: object) -> tuple[float, float]:
    """How long it takes, by the clock and by the processor."""
    start, used = time.perf_counter(), time.process_time()
    work(*arguments)
    return time.perf_counter() - start, time.process_time() - used


if __name__ == "__main__":
    main()
