"""Packing with Beam's DirectRunner gives the files that threads give."""

import pytest

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import beam, catalog, records
from hpa_jax.data.batches import Records
from tests.data.layouts import competition


def pack(table, out, **options):
    settings = dict(image_size=16, encoding="zstd", shard_images=2)
    return records.write(table, out, **settings, **options)


def test_without_beam_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"requirements-beam\.txt"):
        beam.runner((), records.write_shard)


def test_direct_runner_writes_the_same_shards(tmp_path):
    pytest.importorskip("apache_beam")
    root = competition(tmp_path / "data")
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    broken = root / "train" / "t2_green.png"
    broken.write_bytes(broken.read_bytes()[:50])
    options = ("--runner=DirectRunner",)
    by_beam = pack(table, tmp_path / "beam", beam=options, on_bad_image="skip")
    by_threads = pack(table, tmp_path / "threads", on_bad_image="skip")
    records.verify(by_beam)
    one, other = Records(by_beam), Records(by_threads)
    assert one.ids.tolist() == other.ids.tolist() and "t2" not in one.ids
    shards = [path.name for path in sorted(by_threads.glob("*.array_record"))]
    assert len(shards) == 5
    assert all(
        records.sha256(by_beam / name) == records.sha256(by_threads / name) for name in shards
    )
    assert not list(by_beam.glob(".partial-*"))
    with pytest.raises(InputError, match=r"t2_green.png \(id t2\): truncated"):
        pack(table, tmp_path / "again", beam=options)
