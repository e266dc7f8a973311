"""The other side of `scripts/bench input`: PyTorch DataLoader + cv2 + albumentations.

    PYTHON_WITH_TORCH scripts/bench_input_torch.py --files=LIST.json --workers=2 --batch=32

LIST.json: a list of [red, green, blue, yellow] paths.  D4 and a random crop on the host, as these
programs do.  Prints one JSON object; imports nothing of hpa_jax, so any environment with
scripts/requirements-input-torch.txt serves.
"""

import argparse
import json
import os
import resource
import time

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import cv2
import numpy as np
import torch


class Pictures(torch.utils.data.Dataset):
    """Four PNGs -> uint8[4, crop, crop], augmented."""

    def __init__(self, files: list[list[str]], repeats: int) -> None:
        side = cv2.imread(files[0][0], cv2.IMREAD_GRAYSCALE).shape[0]
        crop = side * 7 // 8
        self.files, self.repeats = files, repeats
        self.augment = albumentations.Compose(
            [albumentations.D4(p=1), albumentations.RandomCrop(crop, crop)]
        )

    def __len__(self) -> int:
        return len(self.files) * self.repeats

    def __getitem__(self, row: int) -> torch.Tensor:
        paths = self.files[row % len(self.files)]
        planes = [cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in paths]
        image = self.augment(image=np.stack(planes, axis=-1))["image"]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def main() -> None:
    """Times `repeats` passes over the files after one batch of warming up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    with open(options.files) as handle:
        files = json.load(handle)
    loader = torch.utils.data.DataLoader(
        Pictures(files, options.repeats),
        batch_size=options.batch,
        shuffle=True,
        num_workers=options.workers,
    )
    batches = iter(loader)
    begin, used = time.perf_counter(), processor_seconds()
    images = sum(len(batch) for batch in batches)
    wall = time.perf_counter() - begin
    del batches, loader  # children are counted when they have ended
    print(json.dumps(dict(images=images, wall=wall, cpu=processor_seconds() - used)))


def processor_seconds() -> float:
    """User and system time of this process and its ended children."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


if __name__ == "__main__":
    main()
