"""Verbs on a finished run: a stopped prediction goes on as if it had not been; Dask's stack."""

import shutil

import pandas as pd
import pytest

from hpa_jax.__main__ import main
from hpa_jax.inference import predict, sweep
from tests.small_run import CONFIG, call


def test_predict_by_a_bundle_goes_on_where_it_was(done, tmp_path, monkeypatch):
    workdir, _ = done
    assert main(["export", *CONFIG, f"--workdir={workdir}"]) == 0
    given = [f"--model={workdir}/bundle", f"--config.data.root={workdir}/data/test"]
    given += ["--config.predict.batch_size=8"]
    assert main(["predict", *given, f"--workdir={tmp_path}/whole"]) == 0
    monkeypatch.setattr(sweep, "SAVE_SECONDS", 0.0)
    plain, asked = predict.stream, []

    def stops(forward, batches, rows):
        for number, found in enumerate(plain(forward, batches, rows)):
            if number == 2:
                raise KeyboardInterrupt
            yield found

    def counts(forward, batches, rows):
        asked.append(len(rows))
        return plain(forward, batches, rows)

    again = ["predict", *given, f"--workdir={tmp_path}/again"]
    monkeypatch.setattr(predict, "stream", stops)
    assert main(again) == 130
    assert not (tmp_path / "again" / "predictions.csv").exists()
    assert len(list((tmp_path / "again" / "predict_parts").rglob("part-*.npz"))) == 2
    monkeypatch.setattr(predict, "stream", counts)
    assert main(again) == 0
    assert asked[0] == 30 - 2 * 8  # the first network's other images
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
