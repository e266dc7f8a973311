from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError, near


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), artifacts.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert artifacts.read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("no room")])
def test_a_full_disk_names_the_file_that_was_not_written(tmp_path, error):
    path = tmp_path / "a.parquet"
    said = r"(?i)a\.parquet: can't be written \(no"
    with pytest.raises(InputError, match=said) as caught, artifacts.atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(InputError, match=r"models/a\.json: can't be written \(File exists"):
        artifacts.write_json(tmp_path / "models" / "a.json", {})


def test_an_error_of_another_file_is_not_said_of_the_target(tmp_path):
    with pytest.raises(FileNotFoundError), artifacts.atomic(tmp_path / "a.json"):
        Path("/nowhere/source.png").read_bytes()


def test_a_folder_replaces_the_folder_before(tmp_path):
    for name in ("one", "two"):
        with artifacts.atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["two"]


def test_json_takes_numpy_and_nan(tmp_path):
    value = {"a": np.arange(2), "b": np.float32(0.5), "c": float("nan"), "d": np.bool_(True)}
    artifacts.write_json(tmp_path / "a.json", value)
    found = artifacts.read_json(tmp_path / "a.json")
    assert found == {"a": [0, 1], "b": 0.5, "c": None, "d": True}


def test_json_takes_configs_inside_of_lists(tmp_path):
    nested = {"variations": [{"set": {"phases": (ConfigDict({"lr": 1e-3}),)}}]}
    artifacts.write_json(tmp_path / "a.json", nested)
    found = artifacts.read_json(tmp_path / "a.json")
    assert found["variations"][0]["set"]["phases"] == [{"lr": 1e-3}]


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json"):
        artifacts.read_json(tmp_path / "nothing.json")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        artifacts.read_table(tmp_path / "broken.parquet")


def test_text_that_is_damaged_is_no_table(tmp_path):
    """Bytes that are no UTF-8 pass Parquet; they would break the first comparison of an id."""
    path = tmp_path / "t.parquet"
    pd.DataFrame({"id": ["abcdefgh", "ijklmnop"]}).to_parquet(path, compression=None)
    whole = path.read_bytes()
    assert b"abcdefgh" in whole
    path.write_bytes(whole.replace(b"abcdefgh", b"abc\xecefgh"))
    with pytest.raises(InputError, match=r"t\.parquet: not a readable Parquet table"):
        artifacts.read_table(path)


def test_table_round_trip(tmp_path):
    table = pd.DataFrame({"id": ["a", "b"], "labels": [[1, 2], None]})
    artifacts.write_table(tmp_path / "t.parquet", table)
    found = artifacts.read_table(tmp_path / "t.parquet")
    assert found["labels"][0].tolist() == [1, 2]
    assert found["labels"][1] is None


def test_near_names():
    assert near("trian", ["train", "stack"]) == ", did you mean 'train'?"
    assert near("zzz", ["train"]) == ""
