"""`scripts/bench encodings`: what each encoding of the records costs in score, and takes of disk.

    scripts/bench encodings [--encodings=jpeg,webp] [--seeds=0,1,2] [--work=DIR] [--folder=DIR]

One small network of configs/ablation.py:smoke is trained on the same drawn images packed without
loss (zstd) and in each lossy encoding; everything else is the same, seed by seed, so the
differences are paired.  Prints a Markdown table: disk a 100,000 images, how far pixels are
changed (mean of the absolute difference in grey levels), macro-F1 and mean average precision of
the test part, and their differences from zstd with the 95 % interval (Student's t).
With --work what is there counts: more seeds or encodings add to it.  --folder: real images
(ID_{red,green,blue,yellow}.png, the k-th file of each channel makes the k-th image), whose change
in pixels is printed beside, as drawn ones of 64 px can't stand for them there.
"""

import argparse
import runpy
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bench_table
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.data import encodings, reader
from hpa_jax.data.batches import Records
from hpa_jax.pipeline import ablate

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "ablation.py"
BASE = "zstd"
LOOKED_AT = 200  # drawn images whose pixels are compared
HEAD = (
    "| encoding | GB a 100,000 | change | macro-F1 | difference | mAP | difference |",
    "|---|---|---|---|---|---|---|",
)


def main() -> None:
    """Trains what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encodings", default="jpeg,webp", help=f"beside {BASE}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", default="", help="folder that is kept")
    parser.add_argument("--folder", default="", help="real images")
    options = parser.parse_args()
    names = options.encodings.split(",")
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary)
        config = recipe(names, seeds)
        ablate.ablate(config, {"workdir": str(work)})
        rows = artifacts.read_json(work / "ablation.json")["variations"]
        print("\n".join([f"{len(seeds)} seeds", "", *HEAD, *lines(rows, work, config)]))
    for name in names if options.folder else ():
        real = change(name, real_images(Path(options.folder)))
        print(f"{name}: real images are changed by {real:.2f} grey levels")
    for row in rows[1:]:
        what = f"macro-F1 of a small network, records in {row['name']}"
        bench_table.row(what, row["test"]["mean"], "", BASE, rows[0]["test"]["mean"])


def recipe(names: Iterable[str], seeds: tuple[int, ...]) -> ConfigDict:
    """The smoke form of the ablation, whose variations are encodings."""
    config = runpy.run_path(str(RECIPE))["get_config"]("smoke").unlock()
    config.records.encoding = BASE
    config.ablate.seeds = seeds
    config.ablate.variations = tuple(
        dict(name=name, about=f"records in {name}", set={"records.encoding": name})
        for name in names
    )
    return config.lock()


def lines(rows: list[dict[str, Any]], work: Path, config: ConfigDict) -> Iterator[str]:
    """A line of the table for each variation, the base first."""
    seed = f"seed_{config.ablate.seeds[0]}"
    lossless = work / "ablate" / ablate.BASE / seed / "records"
    lossless = lossless / f"{config.records.image_size}-{BASE}"
    drawn = [Records(lossless).image(row) for row in range(LOOKED_AT)]
    for row in rows:
        name = BASE if row["name"] == ablate.BASE else row["name"]
        folder = work / "ablate" / row["name"] / seed / "records"
        kilobytes = bytes_a_image(folder / f"{config.records.image_size}-{name}") / 1e3
        cells = [name, f"{kilobytes / 10:.2f}", f"{change(name, drawn):.2f}"]
        cells += [
            *ablate.mean_and_difference(row["test"], 4),
            *ablate.mean_and_difference(row["test_map"], 4),
        ]
        yield f"| {' | '.join(cells)} |"


def bytes_a_image(folder: Path) -> float:
    """What an image takes of the disk in a packed data set."""
    stored = sum(path.stat().st_size for path in folder.glob("*.array_record"))
    return stored / artifacts.read_json(folder / "manifest.json")["images"]


def change(encoding: str, images: Iterable[np.ndarray]) -> float:
    """Mean absolute difference, in grey levels, of uint8[S, S, 4] and what is read back."""
    found = []
    for image in images:
        stored = memoryview(encodings.encode(encoding, image)).cast("B")
        again = encodings.decode(encoding, stored, len(image), range(encodings.K))
        found.append(np.abs(again.astype(int) - image).mean())
    return float(np.mean(found))


def real_images(folder: Path) -> Iterator[np.ndarray]:
    """uint8[S, S, 4] made of single channels, which may be of different images."""
    files = [sorted(folder.glob(f"**/*_{channel}.png")) for channel in reader.CHANNELS]
    for paths in zip(*files):
        yield reader.read(dict(zip(reader.CHANNELS, map(str, paths))))


if __name__ == "__main__":
    main()
