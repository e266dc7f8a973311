"""What crosses between host and device in the training loop, and what is compiled: counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STEPS, EPOCHS = 4, 3  # of the last training that `watched` does
OF_A_STEP = 6  # images, labels, mask; seed, rates and momentum: a few bytes each
WITHIN = [step for step in range(STEPS * EPOCHS) if step % STEPS]  # no epoch ends before them


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}  # one device
    environment["TF_CPP_MIN_LOG_LEVEL"] = "0"  # the guard's lines are warnings
    command = [sys.executable, "-m", "tests.training.watched", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    return json.loads((folder / "seen.json").read_text())


def test_a_batch_is_sent_once_and_beside_it_a_few_bytes(seen):
    assert [seen["sent"][step] for step in WITHIN] == [OF_A_STEP] * len(WITHIN)
    needed = STEPS * EPOCHS + 2 * EPOCHS  # steps, and two batches of validation an epoch
    assert seen["batches"] == [needed] * 3


def test_nothing_comes_back_within_an_epoch(seen):
    assert [seen["fetches"][step] for step in WITHIN] == [0] * len(WITHIN)
    assert seen["fetches"][STEPS] > 0  # the epoch's totals and scores


def test_longer_training_compiles_no_more(seen):
    _, short, long = seen["compiled"]
    assert short == long and short["jit(step)"] == 2  # of training and of evaluation
    assert len(set(seen["programs"][STEPS:])) == 1  # the second epoch compiles nothing
