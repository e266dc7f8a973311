"""Early stopping ends a phase, not the plan; a stop during validation loses nothing."""

import math
import os
import shutil
import signal
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.training import checkpoint, logs, loop, network, phases, preemption, validation
from hpa_jax.training.phases import Phase
from tests.training import tiny

phase = configs.phase
OF_STEPS = dict(start=10, end=50, epoch_ends=(20, 30, 40, 50))
STILL = phase(epochs=30, lr=1e-12, schedule="constant")


@pytest.mark.parametrize(
    ("values", "monitor", "stops"),
    [
        ([3.0, 2.0, 1.0], "loss", False),
        ([1.0, 2.0, 3.0], "loss", True),
        ([1.0, 2.0, 3.0], "map", False),
        ([0.5, 0.5, 0.5], "macro_f1", True),  # no better is no better
        ([math.nan, 0.1, 0.2], "map", False),
        ([None, 0.1, 0.2], "map", False),  # as a restart reads it
        ([0.3, math.nan, None], "map", True),
        ([None, None, None], "map", True),
        ([0.3, 0.2], "map", False),
        ([], "map", False),
    ],
)
def test_a_phase_stalls_after_two_epochs_without_a_better_score(values, monitor, stops):
    before = [[10, 0.0], [5, 1e9]]  # an earlier phase's do not count
    history = before + [[20 + 10 * i, value] for i, value in enumerate(values)]
    phase = object.__new__(Phase)
    phase.__dict__.update(OF_STEPS)
    assert phase.stalled(history, 2, monitor) == stops
    assert not phase.stalled(history, 0, monitor)
    assert phase.ended(30, history, 2, monitor) == stops and not phase.ended(
        31, history, 2, monitor
    )
    assert phase.ended(50, history, 0, monitor)


def test_a_score_that_is_no_number_is_never_the_best():
    metas = {step: {"kind": "epoch", "metrics": {"map": x}}
             for step, x in ((1, math.nan), (2, None), (3, 0.2), (4, 0.1))}  # fmt: skip
    assert checkpoint.best_step(metas, "map") == 3
    assert checkpoint.best_step({1: metas[1], 2: metas[2]}, "map") is None


def rows_of(folder):
    clock = ("images_per_second", "data_wait", "seconds_left", "memory_mib")
    return [
        {k: v for k, v in row.items() if k not in clock}
        for row in logs.read(folder / "metrics.jsonl")
    ]


def test_early_stopping_ends_and_stays_ended(tmp_path):
    config = tiny.model(phases=(STILL,), head="no_norm")
    tiny.train(tmp_path, config, patience=2, monitor="macro_f1")
    rows = logs.read(tmp_path / "metrics.jsonl")
    assert rows[-1]["epoch"] == 3
    tiny.train(tmp_path, config, patience=2, monitor="macro_f1")
    assert logs.read(tmp_path / "metrics.jsonl") == rows


def test_later_phases_go_on_after_one_that_ended_early(tmp_path, capsys):
    plan = (STILL, phase(epochs=1, lr=1e-2), phase(epochs=1, lr=1e-2, start_from="0"))
    config = tiny.model(phases=plan, head="no_norm")
    how = dict(patience=2, monitor="macro_f1", keep=1)
    tiny.train(tmp_path / "whole", config, **how)
    rows = rows_of(tmp_path / "whole")
    train = [row for row in rows if row["split"] == "train"]
    # the plan's numbers: phase 2 begins at step 120, after 30 epochs, of which 3 ran
    assert [(r["phase"], r["epoch"], r["step"]) for r in train] == [
        (0, 1, 4), (0, 2, 8), (0, 3, 12), (1, 31, 124), (2, 32, 128)
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "phase 1 of 3 ends early" in said
    assert "phase 3 starts from the weights of step 12" in said
    assert checkpoint.snapshots(tmp_path / "whole") == [12, 124, 128]
    for step in (128, 124):  # killed in phase 3, and in phase 2
        shutil.rmtree(tmp_path / "whole" / "checkpoints" / str(step))
        shutil.copytree(tmp_path / "whole", tmp_path / str(step))
        tiny.train(tmp_path / str(step), config, **how)
        assert rows_of(tmp_path / str(step)) == rows


def test_told_to_stop_while_validating_leaves_and_ends_the_same(tmp_path, capsys):
    config = tiny.model(phases=(phase(epochs=3, lr=1e-2),))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    tiny.train(whole, config)
    evaluate, calls = validation.evaluate, []

    def told(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **options)

    for step in (8, 12):  # in the second epoch's validation; again in the last one's
        calls.clear()
        with mock.patch.object(validation, "evaluate", told), pytest.raises(SystemExit) as left:
            tiny.train(stopped, config)
        assert left.value.code == 75
        assert f"stopped: saved at step {step}" in capsys.readouterr().out
        assert checkpoint.read_meta(stopped / "checkpoints", step)["kind"] == "middle"
    tiny.train(stopped, config)
    assert rows_of(stopped) == rows_of(whole)
    with tiny.in_place():
        one, other = (network.split(checkpoint.load(f, 12)[0])[1:] for f in (whole, stopped))
    for a, b in zip(one, other):
        for name, x in a.items():
            np.testing.assert_array_equal(x, b[name], err_msg=name)


def test_planned_curves_span_all_phases():
    config = tiny.model(
        phases=(phase(epochs=1, lr=1e-2), {"epochs": 2, "lr": 1e-3, "schedule": "constant"})
    )
    found = phases.learning_rates(config, 64)
    assert found["epoch"][0] == 0 and found["epoch"][-1] == pytest.approx(2.75)
    assert found["lr"].max() == pytest.approx(1e-2) and found["lr"][-1] == 1e-3
    assert found["beta1"][0] == 0.95 and found["beta1"][-1] == 0.9
    assert found["borders"].tolist() == [1.0]
    layered = (
        phase(lr=1e-2, freeze="backbone"),
        phase(lr=1e-2, lr_decay=16.0, schedule="constant"),
    )
    found = phases.learning_rates(tiny.model(phases=layered), 64)
    later = found["epoch"] >= 1
    assert np.isnan(found["stem"][~later]).all()
    np.testing.assert_allclose(found["stem"][later], 1e-2 / 16)


def test_several_hosts_agree_by_the_count_of_their_calls():
    seen = []
    with (
        mock.patch("jax.process_count", lambda: 2),
        mock.patch(
            "jax.experimental.multihost_utils.reached_preemption_sync_point",
            lambda step: seen.append(step) or step == 3,
        ),
        preemption.Preemption() as stop,
    ):
        assert [stop.requested() for _ in range(4)] == [False, False, True, False]
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("source", ["best", "epoch:7"])
def test_a_phase_that_starts_from_weights_that_are_gone_is_refused(source):
    """No epoch has a finite score, or the checkpoint was removed: the newest is none of them."""
    metas = {30: {"kind": "epoch", "epoch": 3, "metrics": {"loss": math.nan}}}
    run = SimpleNamespace(
        checkpoints=mock.Mock(metas=metas),
        setup=SimpleNamespace(settings=SimpleNamespace(monitor="loss")),
    )
    second = SimpleNamespace(index=1, options=phase(start_from=source))
    with pytest.raises(InputError, match=rf"phases\[1\]\.start_from='{source}'.* \[30\]"):
        loop._Run.enter(run, second, SimpleNamespace(params={}, stats={}))
    run.checkpoints.weights.assert_not_called()
