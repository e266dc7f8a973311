"""The loop: what it writes, restarts, phases, averages, and what it refuses to begin."""

import json
import re
import shutil
import threading
import time
import types
from unittest import mock

import jax
import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.training import (
    checkpoint,
    distributed,
    logs,
    loop,
    losses,
    network,
)
from tests.training import tiny

phase = configs.phase


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, config) of three epochs, every checkpoint kept."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.model(phases=(phase(epochs=3, lr=1e-2),))
    tiny.train(folder, config, keep=9, tensorboard=True)
    return folder, config


def same_weights(one, other):
    a, b = tiny.final_weights(one), tiny.final_weights(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def numbers(folder):
    """The rows of metrics.jsonl without what depends on the clock."""
    clock = ("images_per_second", "data_wait", "seconds_left", "memory_mib")
    return [
        {k: v for k, v in row.items() if k not in clock}
        for row in logs.read(folder / "metrics.jsonl")
    ]


def test_learns_and_writes_a_line_for_each_epoch_and_part(trained):
    rows = logs.read(trained[0] / "metrics.jsonl")
    assert [(row["split"], row["epoch"], row["step"]) for row in rows] == [
        (split, e, 4 * e) for e in (1, 2, 3) for split in ("train", "valid")
    ]
    train, valid = rows[0], rows[-1]
    for key in ("loss", "lr", "lr_groups", "grad_norm", "images_per_second", "data_wait",
                "seconds_left", "memory_mib", "skipped"):  # fmt: skip
        assert key in train
    assert 0 <= train["data_wait"] <= 1
    assert len(valid["ap"]) == len(tiny.CLASSES)
    assert valid["macro_f1"] > 0.5 and valid["loss"] < rows[1]["loss"]
    assert list((trained[0]).glob("events.out.tfevents*"))


def test_model_opens_without_its_config(trained):
    folder, config = trained
    with tiny.in_place():
        model, found, names = checkpoint.load(folder)
    assert names == tiny.CLASSES
    assert found.channels == config.channels and found.phases[0]["lr"] == 1e-2
    logits = model(np.zeros((2, 8, 8, 4), np.float32))
    assert logits.shape == (2, 5)
    np.testing.assert_array_equal(logits[0], logits[1])  # evaluation mode: no dropout


def test_a_checkpoint_with_the_former_names_of_options_is_opened():
    stored = {"stages": [{"epochs": 2, "lr_noise_every": "stage"}], "checkpoint": "stage:0"}
    found = checkpoint.config_of({"model": stored})
    assert found.checkpoint == "phase:0"
    assert found.phases == (configs.phase(epochs=2, lr_noise_every="phase"),)


def test_best_and_last_and_steps(trained):
    folder = trained[0] / "checkpoints"
    losses = {r["step"]: r["loss"] for r in logs.read(trained[0] / "metrics.jsonl")
              if r["split"] == "valid"}  # fmt: skip
    assert checkpoint.find(folder, "best") == min(losses, key=losses.get)
    assert checkpoint.find(folder, "last") == checkpoint.find(folder, 12) == 12
    with pytest.raises(InputError, match="no checkpoint of step 5"):
        checkpoint.find(folder, 5)
    with pytest.raises(InputError, match="no checkpoint 'average'"):
        checkpoint.find(folder, "average")
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoint.find(folder.parent, "best")


def test_restart_from_every_epoch_gives_the_same_bits(trained, tmp_path):
    folder, config = trained
    for step in (4, 8):
        again = tmp_path / str(step)
        shutil.copytree(folder, again)
        for path in (again / "checkpoints").iterdir():
            if int(path.name) > step:
                shutil.rmtree(path)
        tiny.train(again, config, keep=9)
        same_weights(again, folder)
        assert numbers(again) == numbers(folder)


def test_a_damaged_checkpoint_is_passed_over(trained, tmp_path):
    folder, config = trained
    shutil.copytree(folder, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "12"
    data = max((newest / "weights").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-7])
    with pytest.raises(InputError, match="truncated"), tiny.in_place():
        checkpoint.load(tmp_path / "run", "last")
    tiny.train(tmp_path / "run", config, keep=9)
    same_weights(tmp_path / "run", folder)
    assert checkpoint.damage(tmp_path / "run" / "checkpoints", 12) == ""


def test_a_checkpoint_cut_short_before_its_checksums_is_passed_over(trained, tmp_path):
    folder, config = trained
    shutil.copytree(folder, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "12"
    (newest / checkpoint.CHECKSUMS).unlink()
    (newest / "training" / "_METADATA").unlink()
    tiny.train(tmp_path / "run", config, keep=9)
    same_weights(tmp_path / "run", folder)


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
def test_a_full_disk_is_one_line_with_folder_and_step(tmp_path, monkeypatch, method):
    def full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Failed writing:\n No space left on device [28]")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, method, full)
    with pytest.raises(
        InputError, match=r"checkpoints/[04]: not saved, the disk is full"
    ) as caught:
        tiny.train(tmp_path, tiny.model(phases=(phase(epochs=1, lr=1e-2),)), keep=1)
    assert "\n" not in str(caught.value)


def test_checksums_without_room_are_left_out(tmp_path, monkeypatch):
    full = mock.Mock(side_effect=InputError("checksums.json: can't be written (No space left)"))
    monkeypatch.setattr(checkpoint, "write_checksums", full)
    monkeypatch.setattr(threading, "excepthook", mock.Mock())
    config = tiny.model(phases=(phase(epochs=1, lr=1e-2),))
    tiny.train(tmp_path, config, keep=1)
    assert full.called and not threading.excepthook.called
    tiny.train(tmp_path, config, keep=1)  # reads it whole: it is intact


def test_another_training_in_the_folder_is_refused(trained, tmp_path):
    folder, config = trained
    for other, key in (
        (tiny.model(phases=config.phases, batch_size=8), "batch_size: 16 -> 8"),
        (tiny.model(phases=(phase(epochs=4, lr=1e-2),)), "different phases"),
    ):
        with pytest.raises(InputError, match=key):
            tiny.train(folder, other)
    with pytest.raises(InputError, match="different data"):
        tiny.train(folder, config, records=tiny.Records(seed=5))
    with pytest.raises(InputError, match="different seeds"):
        tiny.train(folder, config, seed=1)
    only_views = tiny.model(phases=config.phases, views="none")
    tiny.train(folder, only_views, keep=9)  # inference's options are free


def test_restoring_another_architecture_is_refused(trained):
    meta = checkpoint.read_meta(trained[0] / "checkpoints", 12)
    shapes = {name: jax.ShapeDtypeStruct(s, np.float32) for name, s in meta["shapes"].items()}
    other = {**shapes, "fc.kernel": jax.ShapeDtypeStruct((16, 9), np.float32)}
    with pytest.raises(InputError, match=r"fc.kernel is \(16, 5\), the network has \(16, 9\)"):
        checkpoint.check_architecture(meta, other, trained[0])
    with pytest.raises(InputError, match=r"the network has no fc\.kernel"):
        checkpoint.check_architecture(
            meta, {k: v for k, v in shapes.items() if k != "fc.kernel"}, trained[0]
        )


def test_phases_freeze_change_and_go_back(tmp_path, capsys):
    """Head alone with still norms; all at layered rates; again from phase 0 with other settings."""
    plan = (
        phase(epochs=1, lr=1e-2, freeze="backbone", freeze_bn=True, schedule="constant"),
        phase(epochs=1, lr=1e-2, lr_decay=16.0, dropout=0.2, augment="none", lr_noise=0.01),
        phase(epochs=1, lr=5e-3, start_from="0", loss={"bce": 1.0}, batch_size=32,
              lr_decay=(0.1, 0.5, 1.0), schedule="cyclic_cosine"),
    )  # fmt: skip
    config = tiny.model(phases=plan)
    tiny.train(tmp_path, config, keep=9)
    rows = [r for r in logs.read(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    assert [row["step"] for row in rows] == [4, 8, 10]
    low, _, high = rows[1]["lr_groups"]
    assert low / high == pytest.approx(1 / 16, rel=0.1) and low / high != pytest.approx(1 / 16)
    assert rows[2]["lr_groups"][0] / rows[2]["lr"] == pytest.approx(0.1)
    assert "phase 3 starts from the weights of step 4" in capsys.readouterr().out
    weights = {}
    with tiny.in_place():
        for step in (4, 8, 10):
            model, _, _ = checkpoint.load(tmp_path, step)
            weights[step] = network.split(model)[1]
        fresh = network.split(tiny.make(config, 5, seed=_seed(0, 0)))[1]
    for name, x in fresh.items():
        moved = not np.array_equal(x, weights[4][name])
        assert moved == name.startswith("fc."), name

    def distance(a, b):
        return float(np.abs(weights[a]["fc.kernel"] - weights[b]["fc.kernel"]).max())

    assert distance(4, 10) < 2 * 5e-3 * 1.5  # two Adam steps away from phase 0, not from phase 1
    # a kill inside phase 2: the checkpoint of phase 1's end, then phase 2 from phase 0 again
    before = tiny.final_weights(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "10")
    tiny.train(tmp_path, config, keep=9)
    for name, x in tiny.final_weights(tmp_path).items():
        np.testing.assert_array_equal(x, before[name])


def _seed(seed, model_seed):
    return int(np.random.SeedSequence([seed, model_seed]).generate_state(1)[0])


def test_snapshots_of_cycles_and_the_newest_are_kept(tmp_path):
    cyclic = phase(epochs=4, cycles=2, schedule="cyclic_cosine", lr=1e-2)
    tiny.train(tmp_path, tiny.model(phases=(cyclic, phase(epochs=1))), keep=1)
    metas = {int(p.name): checkpoint.read_meta(p.parent, int(p.name))
             for p in (tmp_path / "checkpoints").iterdir()}  # fmt: skip
    best = checkpoint.best_step(metas, "loss")
    assert {8, 16, 20} <= set(metas) <= {8, 16, 20, best}
    assert checkpoint.snapshots(tmp_path) == [8, 16, 20]


def test_named_epochs_are_kept_found_and_gone_back_to(tmp_path, capsys):
    plan = (phase(epochs=3, lr=1e-2), phase(epochs=2, lr=1e-2, start_from="epoch:2"))
    config = tiny.model(phases=plan, keep_epochs=(2, 4), checkpoint="epoch:4")
    tiny.train(tmp_path, config, keep=1)
    folder = tmp_path / "checkpoints"
    found = [checkpoint.find(folder, f"epoch:{epoch}") for epoch in (2, 4)]
    assert found == [8, 16] and checkpoint.find(folder, "final") == 16
    assert [checkpoint.find(folder, f"phase:{number}") for number in (0, 1)] == [12, 20]
    assert checkpoint.snapshots(tmp_path) == [12, 20]  # a named epoch is no end of a cycle
    assert "phase 2 starts from the weights of step 8" in capsys.readouterr().out
    with pytest.raises(InputError, match="no checkpoint 'phase:2'"):
        checkpoint.find(folder, "phase:2")


def test_a_non_finite_loss_stops_with_the_batchs_ids(tmp_path):
    config = tiny.model(phases=(phase(epochs=2, lr=1e30, schedule="constant"),))
    with pytest.raises(FloatingPointError, match="step"):
        tiny.train(tmp_path, config)
    told = json.loads((tmp_path / "nonfinite.json").read_text())
    assert len(told["ids"]) == 16 and told["ids"][0].startswith("id")
    # the batch that is named is the one that was shown
    from hpa_jax.training import examples

    order = examples.uniform(64, seed=_seed(0, 0))(0)
    at = told["step"] * 16
    assert told["ids"] == [f"id{32 + row}" for row in order[at : at + 16]]


def test_skipped_steps_are_counted(tmp_path):
    config = tiny.model(phases=(phase(epochs=1, lr=1e30, schedule="constant"),))
    tiny.train(tmp_path, config, on_nonfinite="skip")
    row = logs.read(tmp_path / "metrics.jsonl")[0]
    assert row["skipped"] >= 1 and row["loss"] > 0


def test_an_epoch_without_a_finite_step_has_no_loss(tmp_path):
    nothing = mock.patch.object(losses, "from_config", lambda *_: lambda x, *_: x.sum() * np.nan)
    with nothing:
        tiny.train(tmp_path, tiny.model(), on_nonfinite="skip", patience=1)
    rows = [r for r in logs.read(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    assert [(row["skipped"], row["loss"], row["grad_norm"]) for row in rows] == [
        (4, None, None)
    ] * 2


def test_no_state_is_saved_from_a_non_finite_step_on(tmp_path):
    config = tiny.model(phases=(phase(epochs=9, lr=1e30, schedule="constant"),))
    with pytest.raises(FloatingPointError, match="step"):
        tiny.train(tmp_path, config, checkpoint_minutes=0.0, keep=99)
    bad = json.loads((tmp_path / "nonfinite.json").read_text())["step"]
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved and max(saved) <= bad  # the state before a step has its number


@pytest.mark.parametrize(("hosts", "steps"), [(1, []), (2, [100, 200])])
def test_several_hosts_check_for_non_finite_steps_after_the_same_steps(hosts, steps):
    run = object.__new__(loop._Run)
    run.checked_at = time.monotonic()
    with mock.patch.object(jax, "process_count", lambda: hosts):
        assert [step for step in range(1, 201) if run.check_is_due(step)] == steps


def test_nothing_compiles_twice(tmp_path, capsys):
    """Phases that differ in rates alone share the compiled step; the loop adds no compilation."""
    config = tiny.model(phases=(phase(epochs=2, lr=1e-2), phase(epochs=2, lr=1e-3, lr_decay=4.0)))
    tiny.train(tmp_path, config)
    compiled = re.findall(r"(\w+) step.* compiled in", capsys.readouterr().out)
    assert compiled == ["training", "evaluation"]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (dict(phases=()), {}, "phases is empty"),
        (dict(phases=(phase(), phase(lr=0.0))), {}, r"phases\[1\]: lr: must be > 0, not 0"),
        (dict(phases=(phase(epochs=0),)), {}, r"phases\[0\]: epochs: .* not 0"),
        (dict(phases=(phase(freeze="stem"),)), {}, "unknown group 'stem'"),
        (dict(phases=(phase(freeze=3),)), {}, "3 of 3 depth groups"),
        (dict(phases=(phase(lr_decay=(1.0, 1.0)),)), {}, "3 factors"),
        (dict(phases=(phase(start_from="0"),)), {}, "start_from='0'"),
        (dict(phases=(phase(), phase(start_from="epoch:2")), keep_epochs=(2,)), {}, "epoch:2"),
        (dict(phases=(phase(), phase(start_from="epoch:1"))), {}, "in keep_epochs"),
        (dict(phases=(phase(dropout=(0.1, 0.2)),)), {}, "1 dropout layer"),
        (dict(phases=(phase(epochs=3, cycles=2),)), {}, "cycles=2"),
        (dict(phases=(phase(loss={"focl": 1.0}),)), {}, r"phases\[0\]: loss: unknown"),
        (dict(phases=(phase(augment="d5"),)), {}, "d5"),
        (dict(batch_size=16, accumulate=3), {}, "batch_size=16: not divisible by accumulate=3"),
        (dict(sampling="rar"), {}, "did you mean 'rare'"),
        (dict(average=dict(kind="sma")), {}, "did you mean 'swa'"),
        (dict(average=dict(kind="chosen", epochs=(1, 3))), {}, "epochs 1 to 2"),
        (dict(average=dict(kind="ema", decay=1.0)), {}, "decay"),
        (dict(average=dict(kind="chosen", epochs=(2,))), dict(patience=1), "train.patience=1"),
        (dict(optimizer=dict(name="adm")), {}, "did you mean"),
        ({}, dict(monitor="f1"), "train.monitor"),
        ({}, dict(on_nonfinite="ignore"), "train.on_nonfinite"),
    ],
)
def test_bad_options_are_refused_before_the_first_step(tmp_path, change, settings, message):
    with pytest.raises(InputError, match=message):
        tiny.train(tmp_path, tiny.model(**change), **settings)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused_before_the_first_step(tmp_path):
    three = types.SimpleNamespace(mesh=types.SimpleNamespace(size=3))
    with (
        mock.patch.object(distributed, "layout", lambda: three),
        pytest.raises(InputError, match=r"phases\[1\]: batch_size=16: .* on 3 devices"),
    ):
        tiny.train(tmp_path, tiny.model(phases=(phase(batch_size=12), phase())))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("part", ["train", "valid"])
def test_empty_parts_are_refused(tmp_path, part):
    with pytest.raises(InputError, match="part is empty"):
        tiny.train(tmp_path, tiny.model(), held=96 if part == "train" else 0)
