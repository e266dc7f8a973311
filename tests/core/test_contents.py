"""What a file holds counts, wherever it lies and whenever it was written; it is read once."""

import os
import shutil
import time

import numpy as np
import pytest

from hpa_jax.core import contents


@pytest.fixture
def reads(monkeypatch):
    """Names of the files whose bytes were read."""
    read, whole = [], contents.sha256
    monkeypatch.setattr(contents, "sha256", lambda path: read.append(str(path)) or whole(path))
    return read


def made(root, **files):
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    time.sleep(2 * contents.TICK)
    return root


def test_a_folder_counts_by_relative_paths_and_bytes(tmp_path):
    root, found = made(tmp_path / "a", x="1", y="2"), contents.Contents()
    before = found.of(root)
    shutil.copytree(root, tmp_path / "b")
    assert found.of(tmp_path / "b") == before
    os.utime(tmp_path / "b" / "x", ns=(1, 1))
    assert found.of(tmp_path / "b") == before
    (tmp_path / "b" / "x").write_text("3")
    assert found.of(tmp_path / "b") != before
    (root / "x").rename(root / "z")
    assert found.of(root) not in (before, contents.ABSENT)
    assert found.of(tmp_path / "nothing") == contents.ABSENT


def test_large_files_count_by_their_bytes_too(tmp_path):
    root, found = made(tmp_path / "a", x="1" * 200_000), contents.Contents()
    before = found.of(root)
    (root / "x").write_text("1" * 199_999 + "2")
    assert found.of(root) != before


def test_a_file_is_read_once_by_all_runs_also_after_a_move(tmp_path, reads):
    root, memory = made(tmp_path / "a", x="1", y="2"), tmp_path / "memory.txt"
    before = contents.Contents(memory).of(root)
    assert len(reads) == 2
    assert contents.Contents(memory).of(root) == before
    root.rename(tmp_path / "b")
    assert contents.Contents(memory).of(tmp_path / "b") == before and len(reads) == 2
    shutil.copytree(tmp_path / "b", tmp_path / "c", copy_function=shutil.copy2)
    time.sleep(2 * contents.TICK)
    for _ in range(2):
        assert contents.Contents(memory).of(tmp_path / "c") == before
    assert len(reads) == 4


def test_a_file_of_the_same_name_size_and_time_is_another(tmp_path, reads):
    root, memory = made(tmp_path / "a", x="1"), tmp_path / "memory.txt"
    os.utime(root / "x", ns=(1, 1))
    time.sleep(2 * contents.TICK)
    found = contents.Contents(memory)
    before = found.of(root)
    (root / "x").write_text("2")
    os.utime(root / "x", ns=(1, 1))
    assert found.of(root) != before


def test_a_damaged_memory_costs_reading_again(tmp_path, reads):
    root, memory = made(tmp_path / "a", x="1"), tmp_path / "memory.txt"
    before = contents.Contents(memory).of(root)
    memory.write_text(memory.read_text()[:-20] + "\n\xff nonsense 1 2 x\n")
    assert contents.Contents(memory).of(root) == before and len(reads) == 2


def test_a_memory_that_can_not_be_written_is_no_error(tmp_path):
    root = made(tmp_path / "a", x="1")
    (tmp_path / "file").touch()
    assert contents.Contents(tmp_path / "file" / "memory.txt").of(root)


def test_a_workdir_inside_of_the_data_does_not_count(tmp_path):
    root = made(tmp_path / "a", x="1")
    before = contents.Contents().of(root, leaving_out=root / "run")
    made(root / "run", y="2")
    assert contents.Contents().of(root, leaving_out=root / "run") == before
    assert contents.Contents().of(root) != before


def test_digest_tells_types_shapes_and_values_apart():
    values = [np.arange(4), np.arange(4).reshape(2, 2), np.arange(4.0), [0, 1, 2, 3], "0123"]
    values += [np.array(["a", "b"]), np.array(["ab"]), ["a", "b"]]
    found = [contents.digest(value) for value in values]
    assert len(set(found)) == len(found) - 1  # an array of texts is the list of them
