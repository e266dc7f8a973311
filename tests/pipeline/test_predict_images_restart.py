"""Verbs on a finished run: a stopped prediction goes on as if it had not been; Dask's stack."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest
import tifffile

from hpa_jax.__main__ import main
from hpa_jax.data.reader import CHANNELS
from hpa_jax.data.sources import imported
from hpa_jax.pipeline import answers, arrays
from tests.small_run import CONFIG, call


def test_predict_by_a_bundle_goes_on_where_it_was(done, tmp_path, monkeypatch):
    workdir, _ = done
    assert main(["export", *CONFIG, f"--workdir={workdir}"]) == 0
    given = [f"--model={workdir}/bundle", f"--config.data.root={workdir}/data/test"]
    given += ["--config.predict.batch_size=8"]
    assert main(["predict", *given, f"--workdir={tmp_path}/whole"]) == 0
    monkeypatch.setattr(answers, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(answers, "AT_ONCE", 8)
    plain, asked = arrays.run_network, []

    def stops(member, images, *rest):
        asked.append(len(images))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(member, images, *rest)

    def counts(member, images, *rest):
        asked.append(len(images))
        return plain(member, images, *rest)

    again = ["predict", *given, f"--workdir={tmp_path}/again"]
    monkeypatch.setattr(arrays, "run_network", stops)
    assert main(again) == 130
    assert not (tmp_path / "again" / "predictions.csv").exists()
    _, damaged = sorted((tmp_path / "again" / "predict_parts").glob("part-*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    asked.clear()
    monkeypatch.setattr(arrays, "run_network", counts)
    assert main(again) == 0
    assert sum(asked) == 30 - 8  # the other images, of the one network
    files = {
        str(path.relative_to(tmp_path / "whole"))
        for path in (tmp_path / "whole").rglob("*")
        if path.suffix in (".csv", ".parquet")
    }
    assert {"predictions.csv", "predictions.parquet"} <= files
    for name in sorted(files):
        one, other = tmp_path / "whole" / name, tmp_path / "again" / name
        if name.endswith(".csv"):
            assert one.read_text() == other.read_text(), name
        else:
            pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other), atol=1e-6)
    assert not (tmp_path / "again" / "predict_parts").exists()


def write_tiffs(folder, count):
    """Images i0, i1, ... of 12 bits, a file a channel, which are converted before they are read."""
    rng = np.random.default_rng(0)
    for image in range(count):
        for channel in CHANNELS:
            pixels = rng.integers(0, 4096, (64, 64), np.uint16)
            tifffile.imwrite(folder / f"i{image}_{channel}.tif", pixels)


def test_first_answers_can_be_read_while_later_images_are_converted(done, tmp_path, monkeypatch):
    workdir, _ = done
    monkeypatch.setattr(answers, "AT_ONCE", 4)
    write_tiffs(tmp_path, 9)
    part, read = tmp_path / "out" / "predict_parts" / "part-00000.csv", []
    convert = imported.convert

    def waits(id, *rest):
        if id == "i8":
            until = time.monotonic() + 60
            while not part.is_file() and time.monotonic() < until:
                time.sleep(0.05)
            read.append(pd.read_csv(part))
        return convert(id, *rest)

    monkeypatch.setattr(imported, "convert", waits)
    arguments = [f"--model={workdir}/models/tiny", f"--config.data.root={tmp_path}"]
    arguments += ["--config.predict.batch_size=4"]
    assert main(["predict", *arguments, f"--workdir={tmp_path}/out"]) == 0
    whole = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(whole) == 9 and read[0]["id"].tolist() == ["i0", "i1", "i2", "i3"]
    pd.testing.assert_frame_equal(read[0], whole.head(4)[read[0].columns], atol=1e-4)


def test_no_answer_is_computed_once_an_image_is_refused(done, tmp_path, monkeypatch, capsys):
    workdir, _ = done
    monkeypatch.setattr(answers, "AT_ONCE", 2)
    write_tiffs(tmp_path, 6)
    (tmp_path / "i0_red.tif").write_bytes(b"no image")
    arguments = [f"--model={workdir}/models/tiny", f"--config.data.root={tmp_path}"]
    arguments += ["--config.predict.batch_size=2"]
    assert main(["predict", *arguments, f"--workdir={tmp_path}/out"]) == 2
    assert "i0_red.tif" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("part-*"))


def test_the_stack_on_a_cluster_through_the_command_line(done, tmp_path):
    pytest.importorskip("distributed")
    workdir, _ = done
    here = tmp_path / "run"
    shutil.copytree(workdir, here)
    shutil.rmtree(here / "stack")
    refused = call("stack", here, "--distributed=nowhere://x", code=2)
    assert "Dask scheduler nowhere://x: can't be reached" in refused  # the flag arrives
    assert "units" in call("stack", here, "--distributed=local")
    for name in ("valid", "test"):
        one, other = (pd.read_parquet(w / "stack" / f"{name}.parquet") for w in (workdir, here))
        pd.testing.assert_frame_equal(one, other)
    assert (here / "stack" / "stack.json").is_file()
