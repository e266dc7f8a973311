"""From images on disk to packed records: images that can't be used stop it, or are left out."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hpa_jax.__main__ import main
from hpa_jax.config import defaults
from hpa_jax.core import artifacts
from hpa_jax.data.batches import Records
from hpa_jax.pipeline import submit, tables
from hpa_jax.pipeline.context import Context
from tests.data.layouts import competition, picture, save
from tests.small_run import ROOT


@pytest.fixture
def root(tmp_path):
    """Twelve labelled images and four of the test part; headers tell nothing of what is wrong."""
    root = competition(tmp_path / "data", train=12, test=4)
    half = (root / "train" / "t1_red.png").read_bytes()
    (root / "train" / "t1_red.png").write_bytes(half[:45] + b"\0" * 9 + half[54:])
    yellow = (root / "train" / "t2_yellow.png").read_bytes()
    (root / "train" / "t2_yellow.png").write_bytes(yellow[:45] + b"\0" * 9 + yellow[54:])
    save(root / "test", "x3", np.zeros((16, 16, 4), np.uint8))
    return root


def prepare(root, workdir, *arguments, code=0, verbs=("catalog", "duplicates", "split", "records")):
    options = [f"--config={ROOT}/configs/demo.py", "--config.split.fraction=0.3"]
    options += [f"--config.data.root={root}", "--config.data.source=kaggle"]
    options += ["--config.data.check=header", "--config.records.image_size=16"]
    options += ["--config.records.encoding=zstd"]
    for verb in verbs:
        found = main([verb, *options, *arguments, f"--workdir={workdir}"])
        if found:
            break
    assert found == code


def spoil(root):
    """Every kind of bad input at once; returns id -> a word of what is to be said of it."""
    train = root / "train"

    def write(name, pixels):
        Image.fromarray(pixels).save(train / name)

    (train / "t0_red.png").write_bytes((train / "t0_red.png").read_bytes()[:60])
    (train / "t1_blue.png").write_bytes(b"")
    write("t2_green.png", picture(2)[..., :3])
    save(train, "t3", np.zeros((16, 16, 4), np.uint8))
    write("t4_yellow.png", picture(4, 32)[..., 0])
    bomb = np.zeros((10_001, 10_001), np.uint8)
    write("t5_red.png", bomb)
    (root.parent / "elsewhere.png").write_bytes((train / "t6_red.png").read_bytes())
    (train / "t6_red.png").unlink()
    (train / "t6_red.png").symlink_to(root.parent / "elsewhere.png")
    rows = [f"t{i},{i} 25" for i in range(7)] + ["../test/x0,1", "t7, 3  25 ", "t8,1", "t8,2"]
    rows += ["t9,", "t10,28", " t11 ,4"]
    text = "\ufeffId,Target\r\n" + "\r\n".join(rows) + "\r\n"
    (root / "train.csv").write_bytes(text.encode())
    return {
        "t0": "truncated",
        "t1": "0 bytes",
        "t2": "planes differ",
        "t3": "black",
        "t4": "32 x 32 pixels",
        "t5": "refused",
        "t6": "leaves data.root",
        "../test/x0": "plain name",
        "t8": "already in row 11",
        "t9": "no label",
        "t10": "no class name or class number",
    }


def test_every_kind_of_bad_input_is_in_one_report(tmp_path, capsys):
    root, work = competition(tmp_path / "data", train=12, test=4), tmp_path / "work"
    wanted = spoil(root)
    prepare(root, work, "--config.data.check=decode", code=2, verbs=["catalog"])
    message = capsys.readouterr().err
    assert f"error: {len(wanted)} problems" in message and "bad_images.csv" in message
    found = pd.read_csv(work / "bad_images.csv").set_index("id")["problem"]
    assert sorted(found.index) == sorted(wanted)
    assert {id for id, word in wanted.items() if word not in found[id]} == set()
    skip = ("--config.data.check=decode", "--config.data.on_bad_image=skip")
    prepare(root, work, *skip, verbs=["catalog"])
    table = pd.read_parquet(work / "catalog.parquet").set_index("id")
    # Of an id with two rows the first counts: asked to skip, it goes on with that.
    assert sorted(table.index) == sorted(["t7", "t8", "t11", "x0", "x1", "x2", "x3"])
    assert [list(table["labels"][id]) for id in ("t7", "t8", "t11")] == [[3, 25], [1], [4]]


def test_all_that_headers_do_not_show_is_named_at_once(root, tmp_path, capsys):
    prepare(root, tmp_path / "work", code=2)
    message = capsys.readouterr().err
    assert "error: 3 problems" in message
    for id in ("t1_", "t2_", "x3_"):  # equal problems are one line, which names the files
        assert id in message


def test_what_is_left_out_is_in_no_later_phase(root, tmp_path):
    work = tmp_path / "work"
    prepare(root, work, "--config.data.on_bad_image=skip")
    assert sorted(pd.read_csv(work / "bad_duplicates.csv")["id"]) == ["t1", "t2", "x3"]
    splits = pd.read_parquet(work / "splits.parquet").set_index("id")
    assert (splits["split"][["t1", "t2", "x3"]] == "excluded").all()
    config = defaults.default()
    config.records.image_size, config.data.on_bad_image = 16, "skip"
    context = Context(config, work)
    records = Records(context.records)
    for part in ("train", "valid", "test"):
        assert len(records.rows(tables.split_rows(context, part).ids)) > 0

    test = tables.split_rows(context, "test").ids
    decided = np.zeros((3, 28), bool)
    order = [f"x{i}" for i in range(4)]
    ids, filled, count = submit._with_left_out(context, order, test, decided)
    assert count == 1 and ids[-1] == "x3" and np.flatnonzero(filled[-1]).tolist() == [25]


def test_verify_reads_every_byte(root, tmp_path, capsys):
    work = tmp_path / "work"
    prepare(root, work, "--config.data.on_bad_image=skip")
    prepare(root, work, "--config.data.on_bad_image=skip", "--verify", verbs=("records",))
    assert "2 shards match their checksums" in capsys.readouterr().out
    shards = sorted((work / "records" / "16-zstd").glob("*.array_record"))
    for shard in shards:
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 255
        shard.write_bytes(content)
    prepare(root, work, "--config.data.on_bad_image=skip", "--verify", verbs=("records",), code=2)
    message = capsys.readouterr().err
    assert "damaged (SHA-256)" in message and all(shard.name in message for shard in shards)


def test_beam_is_a_flag(root, tmp_path, capsys):
    work = tmp_path / "work"
    verbs = ("catalog", "duplicates", "split")
    prepare(root, work, "--config.data.on_bad_image=skip", verbs=verbs)
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        prepare(root, work, "--config.data.on_bad_image=skip", "--beam", verbs=["records"], code=2)
        assert "needs Apache Beam" in capsys.readouterr().err
    else:
        prepare(root, work, "--config.data.on_bad_image=skip", "--beam", verbs=["records"])
        assert len(artifacts.read_table(work / "records/16-zstd/manifest.parquet")) == 13
