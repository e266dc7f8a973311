"""Small folders of images for the tests of data/: written with PIL, known pixel by pixel."""

from pathlib import Path

import numpy as np
from PIL import Image

CHANNELS = ("red", "green", "blue", "yellow")


def picture(seed: int, side: int = 16, channels: int = 4) -> np.ndarray:
    """uint8[side, side, channels] of smooth noise; another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (side // 4, side // 4, channels), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))


def save(folder: Path, id: str, image: np.ndarray, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, channel in enumerate(CHANNELS[: image.shape[2]]):
        Image.fromarray(image[..., k]).save(folder / f"{id}_{channel}{suffix}")


def competition(root: Path, train: int = 6, test: int = 3, side: int = 16) -> Path:
    """train ids t0.., labels "I 25"; test ids in another order than sorted."""
    lines = []
    for i in range(train):
        save(root / "train", f"t{i}", picture(i, side))
        lines.append(f"t{i},{i} 25")
    (root / "train.csv").write_text("Id,Target\n" + "\n".join(reversed(lines)) + "\n")
    for i in range(test):
        save(root / "test", f"x{i}", picture(100 + i, side))
    ids = [f"x{i},0" for i in reversed(range(test))]
    (root / "sample_submission.csv").write_text("Id,Predicted\n" + "\n".join(ids) + "\n")
    return root
