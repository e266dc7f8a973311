"""The step `embeddings`, a frozen network run once over packed images: images a second, and memory.

    scripts/bench embeddings [--backbone=densenet121] [--images=250,1000] [--size=512]

Each number of images has a process of its own, which makes the images (as `scripts/bench predict`),
packs them, and is timed over the step alone, compilation included.  The network has random weights.
Memory is the largest resident size of that process: it must not grow with the number of images.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_predict
import bench_table

from hpa_jax.config import defaults
from hpa_jax.pipeline import runner


def main() -> None:
    """Prints rows for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="densenet121")
    parser.add_argument("--images", default="250,1000")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", default="identity")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=Path, default=bench_predict.CHANNEL_FILES)
    parser.add_argument("--worker", action="store_true", help="(internal)")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(options)))
        return
    for count in options.images.split(","):
        command = [sys.executable, *sys.argv, f"--images={count}", "--worker"]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(printed.splitlines()[-1])
        what = f"embedding {int(count):,} images of {options.size}², {options.backbone}"
        bench_table.row(what, found["images_per_s"], "images/s")
        bench_table.row(f"{what}: memory", found["memory_mib"], "MiB")


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Return images a second of the step and the process's largest memory."""
    count = int(options.images)
    config = defaults.default().unlock()
    config.predict.batch_size = options.batch
    config.records.image_size = options.size
    config.models.net = defaults.frozen_model(
        backbone=options.backbone, image_size=options.size, views=options.views
    )
    with tempfile.TemporaryDirectory() as temporary:
        images, workdir = Path(temporary, "images"), Path(temporary, "run")
        bench_predict.write_images(images, count, options.channels)
        config.data.update(source="folder", root=str(images))
        flags = {"workdir": str(workdir)}
        runner.run(config, flags, ["catalog", "records"])
        start = time.perf_counter()
        runner.run(config, flags, ["embeddings"])
        seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return dict(images_per_s=count / seconds, memory_mib=memory)


if __name__ == "__main__":
    main()
