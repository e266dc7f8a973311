"""The whole way through the command line on about a hundred small drawn images.

One run serves all tests of the session; they check contracts and promises, not scores: a network
trained for seconds knows little.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config.defaults import METHODS
from tests.small_run import CONFIG, ROOT, call


def test_submission_has_the_ids_and_order_of_the_sample(done):
    workdir, _ = done
    sample = pd.read_csv(workdir / "data" / "sample_submission.csv")
    submission = pd.read_csv(workdir / "submission.csv", dtype=str)
    assert submission["Id"].tolist() == sample["Id"].tolist()
    assert submission["Predicted"].str.fullmatch(r"\d+( \d+)*").all()


def test_every_contract_file_is_there(done):
    workdir, _ = done
    names = ["catalog", "duplicates", "groups", "leak", "splits", "features/valid", "features/test"]
    tables = {name: pd.read_parquet(workdir / f"{name}.parquet") for name in names}
    assert len(tables["catalog"]) == 132
    assert set(tables["splits"]["split"]) >= {"train", "valid", "test"}
    assert tables["features/valid"].shape[1] == 16
    probs = pd.read_parquet(workdir / "models" / "tiny" / "predictions" / "valid.parquet")
    assert list(probs.columns) == ["id", *(f"p{number:02d}" for number in range(28))]
    lines = (workdir / "models" / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["split"] for line in lines} == {"train", "valid"}


def test_no_group_of_duplicates_spans_train_and_validation(done):
    workdir, _ = done
    table = pd.read_parquet(workdir / "splits.parquet")
    table = table.merge(pd.read_parquet(workdir / "groups.parquet"), on="id")
    sides = table[table["split"].isin(["train", "valid"])].groupby("group")["split"].nunique()
    assert sides.max() == 1


def test_scores_are_tables_of_every_method(done):
    workdir, _ = done
    methods = {"tiny", "tiny_wide", *METHODS} - {"ensemble"}
    for name in ("metrics.json", "evaluation.json"):
        table = json.loads((workdir / name).read_text())
        assert set(table["scores"]) == methods
        assert all(0 <= score["macro_f1"] <= 1 for score in table["scores"].values())
        assert "image" in table["rows"]
    weights = json.loads((workdir / "metrics.json").read_text())["blends"]["weighted mean"]
    assert set(weights["weights"]) == {"tiny", "tiny_wide"}


def test_the_overlay_on_and_off_are_both_reported(done):
    workdir, out = done
    overlay = pd.read_parquet(workdir / "leak_overlay.parquet")
    assert f"labels of {len(overlay)} test images" in out and "the leak table changes" in out
    assert re.search(r"submission \d\.\d+ \(leak table off \d\.\d+, on \d\.\d+\)", out)
    submission = pd.read_csv(workdir / "submission.csv", dtype=str).set_index("Id")["Predicted"]
    lent = [" ".join(map(str, numbers)) for numbers in overlay["labels"]]
    assert submission[overlay["id"]].tolist() == lent
    off = call("submit", workdir, "--config.leak=off")
    assert "is off, would change" in off
    plain = pd.read_csv(workdir / "submission.csv", dtype=str).set_index("Id")["Predicted"]
    changed = int(re.search(r"would change (\d+)", off)[1])
    assert (plain != submission).sum() == changed > 0
    call("run", workdir)  # as the other tests expect it


def test_evaluation_scores_the_written_submission(done):
    from sklearn.metrics import f1_score

    workdir, _ = done
    truth = pd.read_csv(workdir / "data_truth.csv", dtype=str).set_index("Id")
    submission = pd.read_csv(workdir / "submission.csv", dtype=str).set_index("Id")

    def hot(table):
        rows = np.zeros((len(submission), 28), int)
        for row, text in enumerate(table.loc[submission.index].iloc[:, 0]):
            rows[row, [int(number) for number in text.split()]] = 1
        return rows

    expected = f1_score(hot(truth), hot(submission), average="macro", zero_division=0)
    found = json.loads((workdir / "evaluation.json").read_text())["submission"]["macro_f1"]
    assert found == pytest.approx(expected, abs=1e-9)


def test_report_is_whole_and_offline(done):
    workdir, _ = done
    html = (workdir / "report" / "index.html").read_text()
    written = json.loads((workdir / "evaluation.json").read_text())["submission"]["macro_f1"]
    last = re.search(r"submitted: [\w ]+, leak table on \(30 rows\).*?</tr>", html, re.DOTALL)
    assert f">{written:.3f}<" in last[0]  # the chain ends with what was written
    sections = (
        "result steps classes curves calibration confusions missed false_positives importance "
    )
    sections += "training examples frequencies leak duplicates cost"
    for section in sections.split():
        assert f'<h2 id="{section}"' in html and f'href="#{section}"' in html
    assert ", no test-time views" in html and "+ test-time views (d4)" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)


@pytest.mark.browser
def test_report_opens_in_a_browser(done, tmp_path):
    from tests.report import browser

    workdir, _ = done
    seen, console = browser.opened(workdir / "report" / "index.html", tmp_path)
    assert seen["images"] + seen["cells"] > 40 and seen["links"] >= 15
    assert seen["broken"] == seen["lost"] == seen["hidden"] == seen["cut"] == []
    assert seen["wide"] == 0
    assert console == ""


def test_the_run_can_be_traced(done):
    workdir, _ = done
    run = json.loads((workdir / "run.json").read_text())
    assert run["config"]["data"]["synthetic"]["train"] == 90
    assert run["command"][1] == "run" and run["seed"] == 0
    assert "jax" in run["versions"] and run["devices"]


def test_a_second_run_does_nothing_again(done):
    workdir, first = done
    before = (workdir / "submission.csv").stat().st_mtime_ns
    again = call("run", workdir)
    assert again.count("done before") == first.count(" -> ")
    assert (workdir / "submission.csv").stat().st_mtime_ns == before


def test_what_was_written_without_the_truth_is_kept(done):
    """The truth was no table until `evaluate` (conftest): a step that reads it would have failed
    before, or be done again."""
    _, printed = done
    before, after = printed.split("error: ")
    assert "[submit] reads" in before and "data_truth.csv" in after.split("\n")[0]
    assert "[submit] done before" in after and "[evaluate] reads data_truth.csv" in after


@pytest.mark.slow
def test_nothing_before_evaluate_reads_the_truth(done, tmp_path):
    workdir, _ = done
    call("catalog", tmp_path)  # draws the images
    (tmp_path / "data_truth.csv").unlink()
    out = call("run", tmp_path)
    assert "not known" in out and not (tmp_path / "evaluation.json").exists()
    names = ["catalog", "duplicates", "groups", "leak", "splits", "features/valid", "features/test"]
    names += [f"models/tiny/predictions/{part}" for part in ("valid", "test")]
    names += ["stack/valid", "stack/test", "decisions", "leak_overlay"]
    names += [f"ensemble/{blend}/test" for blend in ("weighted_mean", "logistic_regression")]
    files = [f"{name}.parquet" for name in names] + ["thresholds.json", "metrics.json"]
    for name in [*files, "submission.csv"]:
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes(), name


def test_only_what_changed_is_done_again(done):
    workdir, _ = done
    out = call("run", workdir, "--config.thresholds.repeats=2")
    for task in ("catalog", "train-tiny", "stack"):
        assert f"[{task}] done before" in out
    assert "[thresholds] reads" in out
    call("run", workdir)  # as the other tests expect it


@pytest.mark.slow
def test_a_copied_workdir_is_done_and_other_settings_lose_nothing(done, tmp_path):
    import shutil

    workdir, first = done
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    assert call("run", copy).count("done before") == first.count(" -> ")
    rate = "--config.models.tiny.phases[0].lr=0.0002"
    out = call("run", copy, rate)
    assert "phases[0].lr" in out and "kept in replaced/train-tiny-1" in out
    assert "[train-tiny_wide] done before" in out and "[records] done before" in out
    back = call("run", copy)
    for task in ("train-tiny", "predict-tiny", "stack", "ensemble", "thresholds"):
        assert f"[{task}] restored from replaced/{task}-1" in back
    for name in ("submission.csv", "metrics.json", "models/tiny/predictions/test.parquet"):
        assert (copy / name).read_bytes() == (workdir / name).read_bytes(), name


@pytest.mark.slow
def test_a_run_killed_twice_ends_in_the_same_files(done, tmp_path):
    import time

    workdir, _ = done
    command = [sys.executable, "-m", "hpa_jax", "run", *CONFIG, f"--workdir={tmp_path}"]
    for until in ("models/tiny/metrics.jsonl", "stack/stack.json"):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while not (tmp_path / until).exists() and process.poll() is None:
            time.sleep(0.02)
        process.kill()  # SIGKILL, in the middle of the phase that writes the file
        process.wait()
    call("run", tmp_path)
    for name in ("submission.csv", "metrics.json", "models/tiny/predictions/test.parquet"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes(), name


@pytest.mark.slow
def test_two_hosts_give_one_submission(tmp_path):
    import os
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "hpa_jax", "run", *CONFIG, f"--workdir={tmp_path}"]
    hosts = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {"HPA_COORDINATOR": address, "HPA_PROCESSES": "2", "HPA_PROCESS": str(number)},
        )
        for number in range(2)
    ]
    texts = [host.communicate(timeout=600)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], texts[0][-3000:] + texts[1][-3000:]
    assert len(pd.read_csv(tmp_path / "submission.csv")) == 30
    assert "[submit]" in texts[0] and "[submit]" not in texts[1]


@pytest.mark.slow
def test_near_labelled_images_replace_decisions(tmp_path):
    model = "--config.retrieval.model"
    extra = ["--config.retrieval.mode=replace", "--config.retrieval.tau=0.5"]
    extra += [f"{model}.backbone=se_resnext_tiny", f"{model}.phases[0].epochs=2"]
    extra += [f"{model}.image_size=64", f"{model}.batch_size=16"]
    extra += ["--config.data.synthetic.external=60", "--config.split.external=train"]
    extra += ["--config.models.tiny_wide.phases[0].epochs=1"]
    out = call("run", tmp_path, *extra)
    assert re.search(r"\[retrieve\] recall@1 \d\.\d+ \(chance", out)
    taken = int(re.search(r"(\d+) by their neighbours", out)[1])
    pairs = pd.read_parquet(tmp_path / "retrieval" / "test.parquet")
    assert taken == (pairs["similarity"] >= 0.5).sum() > 0
    catalog = pd.read_parquet(tmp_path / "catalog.parquet").set_index("id")["labels"]
    near = pairs[pairs["similarity"] >= 0.5].iloc[-1]
    submission = pd.read_csv(tmp_path / "submission.csv", dtype=str).set_index("Id")["Predicted"]
    lent = pd.read_parquet(tmp_path / "leak_overlay.parquet").set_index("id")
    if near["id"] not in lent.index:
        want = " ".join(str(number) for number in catalog[near["neighbour"]])
        assert submission[near["id"]] == want
    assert "Nearest labelled images" in (tmp_path / "report" / "index.html").read_text()
    scored = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert all("macro_f1_with_neighbours" in score for score in scored.values())
    assert "retrieval_off" in json.loads((tmp_path / "evaluation.json").read_text())
    assert "[retrieve] done before" in call("retrieve", tmp_path, *extra)
    off = call("retrieve", tmp_path, "--config.retrieval.mode=off", code=2)
    assert "retrieval.mode=off" in off
