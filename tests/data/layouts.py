"""Small folders of images for the tests of data/: written with PIL, known pixel by pixel."""

import struct
import zlib
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


def png16(path: Path, values: np.ndarray) -> None:
    """A PNG of uint16[H, W] or [H, W, 2..4], which PIL can't write in colour."""
    values = np.ascontiguousarray(values.astype(">u2"))
    samples = 1 if values.ndim == 2 else values.shape[2]
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    content = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
