"""Packed records: lossless, readable by stock TFDS, resumable, incremental, checked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, encodings, reader, records
from hpa_jax.data.batches import Records
from tests.data.layouts import competition, picture, save

PROJECT = Path(__file__).resolve().parents[2]


def table_of(root):
    return catalog.build([dict(source="kaggle", root=root)], classes.NAMES)


def pack(table, out, encoding="png", **options):
    options = dict(image_size=16, shard_images=4) | options
    return records.write(table, out, encoding=encoding, **options)


def stored(folder, source="train"):
    """Every example of a split through stock TFDS, by id."""
    import tensorflow_datasets as tfds

    data = tfds.builder_from_directory(folder).as_data_source(source)
    return {example["id"].decode(): example for example in data}


@pytest.fixture
def root(tmp_path):
    return competition(tmp_path / "data")


def channels_last(image):
    """The image of a stock example: planes may be stored one above the other."""
    if image.shape[-1] == 4:
        return image
    return np.moveaxis(
        image[..., :1].reshape(4, 16, 16) if image.ndim == 3 and len(image) > 4 else image, 0, -1
    )


@pytest.mark.parametrize("encoding", encodings.ENCODINGS)
def test_stock_tfds_reads_every_pixel(root, tmp_path, encoding):
    folder = pack(table_of(root), tmp_path / "records", encoding)
    examples = stored(folder)
    opened = Records(folder)
    assert sorted(examples) == [f"t{i}" for i in range(6)]
    for i in range(6):
        stock = channels_last(examples[f"t{i}"]["image"])
        own = opened.image(opened.rows([f"t{i}"])[0])
        if encodings.ENCODINGS[encoding].lossless:
            assert np.array_equal(stock, picture(i)) and np.array_equal(own, picture(i))
        else:
            assert np.abs(own - picture(i).astype(float)).mean() < 6
            assert np.abs(own - stock.astype(float)).mean() < 6
    assert set(examples["t0"]) == {"id", "source", "image"}  # labels are joined by id
    records.verify(folder)


def test_ids_are_in_record_order(root, tmp_path):
    folder = pack(table_of(root), tmp_path / "records")
    opened = Records(folder)
    assert sorted(opened.ids) == sorted(table_of(root)["id"])
    for row, id in enumerate(opened.ids):
        assert id.encode() in opened.serialized(row)
    with pytest.raises(InputError, match=r"not packed, e\.g\. 'nobody'"):
        opened.rows(["t0", "nobody"])


def test_a_second_write_touches_nothing(root, tmp_path):
    folder = pack(table_of(root), tmp_path / "records")
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.array_record")}
    pack(table_of(root), tmp_path / "records")
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.glob("*.array_record")}


def test_new_images_add_shards_and_changed_ones_repack_theirs(root, tmp_path):
    folder = pack(table_of(root), tmp_path / "records")
    assert len(list(folder.glob("hpa-train-*.array_record"))) == 2
    first = (folder / "hpa-train-00000.array_record").stat().st_mtime_ns
    save(root / "train", "t6", picture(6))
    (root / "train.csv").write_text((root / "train.csv").read_text() + "t6,6 25\n")
    save(root / "train", "t0", picture(99))  # t0 lies in the second shard (reversed table)
    pack(table_of(root), tmp_path / "records")
    assert (folder / "hpa-train-00000.array_record").stat().st_mtime_ns == first
    examples = stored(folder)
    assert len(examples) == 7
    assert np.array_equal(examples["t0"]["image"], picture(99))
    records.verify(folder)


def test_removed_images_leave_no_gap(root, tmp_path):
    folder = pack(table_of(root), tmp_path / "records", shard_images=2)
    table = table_of(root)
    pack(table[~table["id"].isin(["t5", "t4"])], tmp_path / "records", shard_images=2)
    names = sorted(p.name for p in folder.glob("hpa-train-*.array_record"))
    assert names == ["hpa-train-00000.array_record", "hpa-train-00001.array_record"]
    assert sorted(stored(folder)) == ["t0", "t1", "t2", "t3"]
    assert len(Records(folder).ids) == 7


def test_a_killed_run_keeps_its_finished_shards(root, tmp_path, monkeypatch):
    whole = records.write_shard
    done = []

    def dies(shard):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(shard.path)
        return whole(shard)

    monkeypatch.setattr(records, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        pack(table_of(root), tmp_path / "records", workers=1)
    folder = tmp_path / "records" / "16-png"
    with pytest.raises(InputError, match="run the step that writes it"):
        Records(folder)
    stamp = done[0].stat().st_mtime_ns
    (folder / ".partial-1-hpa-train-00009.array_record").write_bytes(b"half")
    monkeypatch.undo()
    pack(table_of(root), tmp_path / "records")
    assert done[0].stat().st_mtime_ns == stamp
    assert not list(folder.glob(".partial-*"))
    assert len(stored(folder)) == 6


def sha256_of(folder):
    return {path.name: records.sha256(path) for path in folder.glob("*.array_record")}


PACKED = """
import sys
from tests.data.test_records import pack, table_of

pack(table_of(sys.argv[1]), sys.argv[2], sys.argv[3])
"""


def test_every_process_writes_the_same_bytes(root, tmp_path):
    import tensorflow as tf

    def begin(seed):
        command = [sys.executable, "-c", PACKED, str(root), str(tmp_path / str(seed)), "zstd"]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        return subprocess.Popen(command, cwd=PROJECT, env=environment)

    assert [process.wait() for process in [begin(seed) for seed in (1, 2)]] == [0, 0]
    one, other = (sha256_of(tmp_path / str(seed) / "16-zstd") for seed in (1, 2))
    assert one == other and len(one) == 3
    opened = Records(tmp_path / "1" / "16-zstd")
    for row in range(len(opened)):  # two processes could agree by chance
        message = tf.train.Example.FromString(opened.serialized(row))
        assert message.SerializeToString(deterministic=True) == opened.serialized(row)


SLOWLY = """
import sys, time
from hpa_jax.data import encodings
from tests.data.test_records import pack, table_of

fast = encodings.encode
encodings.encode = lambda *arguments: (time.sleep(0.1), fast(*arguments))[1]
pack(table_of(sys.argv[1]), sys.argv[2], shard_images=3, workers=2)
"""


@pytest.mark.slow
def test_sigkill_while_packing_keeps_finished_shards_and_the_result(tmp_path):
    root = competition(tmp_path / "data", train=28, test=20)
    whole = pack(table_of(root), tmp_path / "whole", shard_images=3)
    folder = tmp_path / "killed" / "16-png"
    finished = {}
    for count in (2, 7, 12):  # of 17; each time in the middle of two shards
        command = [sys.executable, "-c", SLOWLY, str(root), str(folder.parent)]
        process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        while len(list(folder.glob("*.array_record.json"))) < count:
            assert process.poll() is None, process.stderr.read()[-3000:]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record.json")}
        assert count <= len(now) < 17 and finished.items() <= now.items()
        finished = now
        with pytest.raises(InputError, match="run the step that writes it"):
            Records(folder)
    pack(table_of(root), folder.parent, shard_images=3)
    assert all((folder / name).stat().st_mtime_ns == mark for name, mark in finished.items())
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in whole.iterdir())
    assert sha256_of(folder) == sha256_of(whole)
    assert [len(stored(folder, source)) for source in ("train", "test")] == [28, 20]
    assert records.verify(folder) == 17


IMPORTS = """
import sys, threading
class Watch:
    def find_spec(self, name, path=None, target=None):
        main = threading.current_thread().name == "MainThread"
        if name.startswith("tensorflow_datasets") and not main:
            print("imported in a thread:", name)
sys.meta_path.insert(0, Watch())
from tests.data.test_records import pack, table_of
from pathlib import Path
root, folder = map(Path, sys.argv[1:])
pack(table_of(root), folder)
"""


def test_threads_import_nothing_of_tensorflow_datasets(root, tmp_path):
    # Its lazy imports, made by two threads at once, could wait for each other for ever.
    command = [sys.executable, "-c", IMPORTS, str(root), str(tmp_path / "packed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "imported in a thread" not in done.stdout


def test_damage_is_found(root, tmp_path):
    folder = pack(table_of(root), tmp_path / "records")
    shard = folder / "hpa-train-00000.array_record"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"hpa-train-00000\.array_record: damaged"):
        records.verify(folder)
    shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match="damaged or missing"):
        Records(folder)
    pack(table_of(root), tmp_path / "records")  # packs that shard again
    records.verify(folder)


def test_a_image_that_broke_since_the_catalog(root, tmp_path):
    table = table_of(root)
    broken = root / "train" / "t2_green.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(InputError, match=r"t2_green.png \(id t2\): truncated"):
        pack(table, tmp_path / "records")
    folder = pack(table, tmp_path / "records", on_bad_image="skip", bad_images=tmp_path / "bad.csv")
    assert sorted(stored(folder)) == ["t0", "t1", "t3", "t4", "t5"]
    assert "t2" in (tmp_path / "bad.csv").read_text()


def test_images_that_are_gone_or_black_are_named_at_once_or_left_out(root, tmp_path):
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES, check="header")
    (root / "train" / "t2_green.png").unlink()
    save(root / "train", "t3", np.zeros((16, 16, 4), np.uint8))
    with pytest.raises(
        InputError, match=r"2 problems: .*\(id t2\): gone .*\(id t3\): all channels"
    ):
        pack(table, tmp_path / "records")
    folder = pack(table, tmp_path / "records", on_bad_image="skip", bad_images=tmp_path / "bad.csv")
    assert sorted(stored(folder)) == ["t0", "t1", "t4", "t5"]
    assert sorted(line[:2] for line in (tmp_path / "bad.csv").read_text().splitlines()[1:]) == [
        "t2",
        "t3",
    ]


def test_a_full_disk_is_said_before_the_work(root, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="GB are free"):
        pack(table_of(root), tmp_path / "records")


def test_a_disk_that_fills_up_while_packing_loses_only_that_shard(root, tmp_path):
    import resource

    folder = pack(table_of(root), tmp_path / "records", "raw", shard_images=2)
    kept = sorted(folder.glob("hpa-train-*.array_record"))[0]
    stamp = kept.stat().st_mtime_ns
    for other in folder.glob("hpa-t*-0000[12].array_record"):
        other.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"can't be written .* finished shards stay"):
            pack(table_of(root), tmp_path / "records", "raw", shard_images=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.glob(".partial-*"))
    pack(table_of(root), tmp_path / "records", "raw", shard_images=2)
    records.verify(folder)
    assert kept.stat().st_mtime_ns == stamp and len(stored(folder)) == 6


def test_sizes_lie_side_by_side_and_are_resized(root, tmp_path):
    small = pack(table_of(root), tmp_path / "records", image_size=8)
    pack(table_of(root), tmp_path / "records", image_size=16)
    assert sorted(p.name for p in (tmp_path / "records").iterdir()) == ["16-png", "8-png"]
    wanted = reader.resize(picture(3), 8)
    assert np.array_equal(stored(small)["t3"]["image"], wanted)


def test_a_corrected_label_or_class_name_packs_nothing_anew(root, tmp_path):
    folder = pack(table_of(root), tmp_path / "records")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("t3,3 25", "t3,7"))
    pack(table_of(root), tmp_path / "records")
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}
    about = json.loads((folder / "manifest.json").read_text())
    assert about["images"] == 9 and about["encoding"] == "png" and "classes" not in about


def test_unknown_encoding_names_the_nearest(root, tmp_path):
    with pytest.raises(InputError, match="did you mean 'png'"):
        pack(table_of(root), tmp_path / "records", "pngg")


def test_image_bytes_are_those_that_protobuf_finds(root, tmp_path):
    import tensorflow as tf

    opened = Records(pack(table_of(root), tmp_path / "records", "zstd"))
    for row in range(len(opened)):
        example = opened.serialized(row)
        features = tf.train.Example.FromString(example).features.feature
        assert bytes(encodings.image_bytes(example)) == features["image"].bytes_list.value[0]
    with pytest.raises(ValueError, match="without the feature"):
        encodings.image_bytes(b"")
