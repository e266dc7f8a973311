"""From pictures on disk to packed records: pictures that can't be used stop it, or are left out."""

import numpy as np
import pandas as pd
import pytest

from hpa_jax import artifacts
from hpa_jax import config as defaults
from hpa_jax.__main__ import main
from hpa_jax.context import Context
from hpa_jax.data.input import Records
from hpa_jax.stages import finish, tables
from tests.data.layouts import competition, save
from tests.small_run import ROOT


@pytest.fixture
def root(tmp_path):
    """Twelve labelled pictures and four of the test part; headers tell nothing of what is wrong."""
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


def test_all_that_headers_do_not_show_is_named_at_once(root, tmp_path, capsys):
    prepare(root, tmp_path / "work", code=2)
    message = capsys.readouterr().err
    assert "error: 3 problems" in message and message.count("(id ") == 3
    for id in ("t1", "t2", "x3"):
        assert f"(id {id})" in message


def test_what_is_left_out_is_in_no_later_stage(root, tmp_path):
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
    ids, filled, count = finish._with_left_out(context, order, test, decided)
    assert count == 1 and ids[-1] == "x3" and np.flatnonzero(filled[-1]).tolist() == [25]


def test_verify_reads_every_byte(root, tmp_path, capsys):
    work = tmp_path / "work"
    prepare(root, work, "--config.data.on_bad_image=skip")
    prepare(root, work, "--config.data.on_bad_image=skip", "--verify", verbs=("records",))
    assert "2 shards are as they were written" in capsys.readouterr().out
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
