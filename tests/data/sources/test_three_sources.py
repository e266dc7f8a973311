"""2,000 images of three sources, through every phase to a trained network."""

import io
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from hpa_jax.config import defaults as configs
from hpa_jax.core.artifacts import read_table
from hpa_jax.data.batches import Records
from hpa_jax.pipeline import runner
from hpa_jax.pipeline.download import download
from tests.data.layouts import CHANNELS, save

SIDE = 32
OWN, EXTERNAL, TRAIN, TEST = 300, 500, 1000, 200


def drawn(seed: int, label: int) -> np.ndarray:
    """Another field for each seed; the label brightens a stripe of green."""
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 120, (8, 8, 4)), np.ones((4, 4, 1))).astype(np.uint8)
    image[label : label + 3, :, 1] = 255
    return image


class Atlas(BaseHTTPRequestHandler):
    """Serves channel JPEGs drawn from the address; every seventh is busy at first."""

    def do_GET(self):
        name, channel = self.path.rsplit("/", 1)[1].removesuffix(".jpg").rsplit("_", 1)
        key = zlib.crc32(self.path.encode())
        if key % 7 == 0 and self.path not in self.server.busy:
            self.server.busy.add(self.path)
            self.send_response(503)
            self.end_headers()
            return
        number = int(name.rsplit("_", 1)[1])
        k = CHANNELS.index(channel)
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        planes = (0, 1) if channel == "yellow" else (k,)
        for plane in planes:
            pixels[..., plane] = drawn(10_000 + number, number % 28)[..., k]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=98, subsampling=0)
        self.send_response(200)
        self.send_header("Content-Length", str(buffer.tell()))
        self.end_headers()
        self.wfile.write(buffer.getvalue())

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Atlas)
    server.busy = set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def write_sources(root):
    competition, atlas, own = root / "competition", root / "atlas", root / "own"
    rows = []
    for i in range(TRAIN):
        save(competition / "train", f"c{i}", drawn(i, i % 28))
        rows.append((f"c{i}", i % 28))
    pd.DataFrame(rows, columns=["Id", "Target"]).to_csv(competition / "train.csv", index=False)
    for i in range(TEST):
        save(competition / "test", f"x{i}", drawn(50_000 + i, i % 28))
    sample = [(f"x{i}", 0) for i in range(TEST)]
    sample = pd.DataFrame(sample, columns=["Id", "Predicted"])
    sample.to_csv(competition / "sample_submission.csv", index=False)
    atlas.mkdir()
    rows = [(f"{100 + i // 4}_77_B2_{i}", i % 28) for i in range(EXTERNAL)]
    pd.DataFrame(rows, columns=["Id", "Target"]).to_csv(atlas / "external.csv", index=False)
    own.mkdir()
    rows = []
    for i in range(OWN):
        planes = np.moveaxis(drawn(20_000 + i, i % 28), -1, 0).astype(np.uint16) * 200 + 90
        metadata = {"axes": "CYX", "Channel": {"Name": ["Tubulin", "GFP", "DAPI", "ER"]}}
        tifffile.imwrite(own / f"o{i}.ome.tif", planes, metadata=metadata, ome=True)
        rows.append((f"o{i}", configs.default().classes[i % 28]))
    pd.DataFrame(rows, columns=["id", "labels"]).to_csv(own / "labels.csv", index=False)
    return competition, atlas, own


@pytest.mark.slow
def test_from_three_sources_to_a_trained_network(tmp_path, server):
    competition, atlas, own = write_sources(tmp_path)
    config = configs.default().unlock()
    config.data.sources = (
        dict(source="kaggle", root=str(competition)),
        dict(
            source="atlas",
            root=str(atlas),
            url=server + "/{antibody}/{name}_{channel}.jpg",
            not_only=(0, 25),
        ),
        dict(source="folder", root=str(own), pattern="{id}", weight=2.0),
    )
    config.data.download.update(per_second=0.0)
    config.records.update(image_size=SIDE, shard_images=256)
    config.models = {
        "tiny": configs.model(
            backbone="se_resnext_tiny",
            width=0.5,
            image_size=SIDE,
            batch_size=64,
            phases=(configs.phase(epochs=1),),
        )
    }
    config.lock()
    flags = {"workdir": str(tmp_path / "work")}
    assert download(config, flags) == 0
    names = ["catalog", "duplicates", "split", "records", "train"]
    assert runner.run(config, flags, names) == 0
    table = read_table(tmp_path / "work" / "catalog.parquet")
    kept = EXTERNAL - sum(i % 28 in (0, 25) for i in range(EXTERNAL))
    counts = dict(train=TRAIN, external=kept, own=OWN, test=TEST)
    assert table["source"].value_counts().to_dict() == counts
    assert set(table["weight"][table["source"] == "own"]) == {2.0}
    records = Records(tmp_path / "work" / "records" / f"{SIDE}-zstd")
    assert len(records) == sum(counts.values())
    image = records.image(records.rows(["o5"])[0]).astype(int)
    for k in range(4):  # 16 bits were stretched channel by channel
        assert np.corrcoef(image[..., k].ravel(), drawn(20_005, 5)[..., k].ravel())[0, 1] > 0.99
    assert (tmp_path / "work" / "models" / "tiny" / "metrics.jsonl").stat().st_size > 0
