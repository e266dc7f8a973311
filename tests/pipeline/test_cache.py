"""Which results hold: steps that copy a file, through the real runner."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts, provenance
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import cache, runner
from hpa_jax.pipeline.context import Context

CODE = ("training/losses.py",)


@pytest.fixture
def step(tmp_path, capsys):
    """Runs a step that copies in.txt; returns what the runner said."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "in.txt").write_text("a")

    def run(dropout=0.5, force=False, **changes) -> str:
        flags = {"force": "all" if force else None}
        context = Context(configs.default(), run.workdir, flags)
        source, target = context.path("in.txt"), context.path("models", "tiny", "out.txt")

        def work() -> str:
            artifacts.write_json(target, f"{source.read_text()} by {dropout} {run.salt}")
            return "copied"

        options = {"models.tiny": configs.model(dropout=dropout)}
        one = cache.Task(
            "train", "train-tiny", work, options, (source,), (target,), fitted=True, code=CODE
        )
        runner.do(context, dataclasses.replace(one, **changes))
        return capsys.readouterr().out

    run.workdir, run.salt = workdir, ""
    run.result = lambda: artifacts.read_json(run.workdir / "models" / "tiny" / "out.txt")
    run.replaced = lambda: sorted(path.name for path in (run.workdir / "replaced").glob("*"))
    return run


def test_done_until_settings_inputs_or_output_change(step):
    assert "copied" in step()
    assert step() == "[train-tiny] done before, unchanged\n"
    assert "copied" in step(dropout=0.1)
    (step.workdir / "in.txt").write_text("b")
    assert "in.txt changed" in step(dropout=0.1) and step.result() == "b by 0.1 "
    (step.workdir / "models" / "tiny" / "out.txt").write_text('"tampered"')
    assert "the outputs are not as they were left" in step(dropout=0.1)
    assert step.result() == "b by 0.1 "


def test_a_damaged_stamp_says_what_to_do_and_loses_nothing(step):
    step()
    stamp = cache.path(step.workdir, "train-tiny")
    stamp.write_text("")  # as after a power failure
    with pytest.raises(InputError, match="remove this file"):
        step()
    stamp.unlink()
    assert "copied" in step() and step.replaced() == ["train-tiny-1"]


def test_time_and_place_do_not_count(step):
    step()
    os.utime(step.workdir / "in.txt", ns=(1, 1))
    os.utime(step.workdir / "models" / "tiny" / "out.txt", ns=(1, 1))
    assert "done before" in step()
    step.workdir = step.workdir.rename(step.workdir.parent / "elsewhere")
    assert "done before" in step()


def test_a_library_that_was_upgraded_is_said_in_one_line_and_nothing_is_done(step, monkeypatch):
    step()
    monkeypatch.setattr(provenance, "version", lambda module: "99.1")
    said = step()
    assert said.count("\n") == 1 and "99.1" in said
    assert said.endswith(", kept; --force=train repeats it\n")
    assert not step.replaced()


def test_an_edited_source_is_said_in_one_line_and_nothing_is_done(step, monkeypatch):
    step()
    whole = provenance._read
    monkeypatch.setattr(
        provenance, "_read", lambda file: ((), "edited") if "losses" in file.name else whole(file)
    )
    line = "[train-tiny] made by an older losses.py, kept; --force=train repeats it\n"
    assert step() == line == step()
    assert "copied" in step(force=True) and "done before" in step()


def test_an_older_version_is_kept_with_a_warning_until_it_is_forced(step):
    step()
    said = step(version=2)
    assert said == (
        "[train-tiny] made by version 1 of this step (now 2), kept; --force=train repeats it\n"
    )
    step.salt = "anew"
    assert "copied" in step(version=2, force=True) and step.result() == "a by 0.5 anew"
    assert step.replaced() == ["train-tiny-1"]
    assert "done before" in step(version=2)


def test_an_option_that_was_added_or_has_moved_reruns_nothing(step, monkeypatch):
    step()
    file = cache.path(step.workdir, "train-tiny")
    stamp = json.loads(file.read_text())
    options = stamp["key"]["settings"]
    assert options.pop("models.tiny.width") == 1.0  # as if a program had not known it
    options["models.tiny.drop"] = options.pop("models.tiny.dropout")
    file.write_text(json.dumps(stamp))
    monkeypatch.setattr(cache.settings.renamed, "RENAMED", {"models.*.drop": "models.*.dropout"})
    assert step() == "[train-tiny] done before, unchanged\n"
    assert "models.tiny.dropout: 0.5 -> 0.1" in step(dropout=0.1)


def test_an_option_that_is_gone_keeps_the_result_and_is_said(step):
    step()
    file = cache.path(step.workdir, "train-tiny")
    stamp = json.loads(file.read_text())
    stamp["key"]["settings"]["models.tiny.magic"] = 3
    file.write_text(json.dumps(stamp))
    assert "made with models.tiny.magic=3, an option that no longer exists, kept" in step()


def test_parts_of_files_count_by_what_is_read_of_them(step):
    table = step.workdir / "in.txt"
    part = cache.Part("first letter", (table,), lambda: table.read_text()[0])
    step(inputs=(part,))
    table.write_text("abc")
    assert "done before" in step(inputs=(part,))
    table.write_text("b")
    assert "first letter changed" in step(inputs=(part,))


def test_files_outside_of_the_workdir_count_without_their_place(step):
    outside = step.workdir.parent / "truth.csv"
    outside.write_text("1")
    step(inputs=(outside,))
    moved = outside.rename(outside.with_name("other.csv"))
    assert "done before" in step(inputs=(moved,))
    moved.write_text("2")
    assert "copied" in step(inputs=(moved,))


@pytest.mark.parametrize(("resume", "kept"), [("same", True), ("always", True), ("never", True)])
def test_what_was_begun_goes_on_with_the_same_key(step, resume, kept):
    def dies() -> str:
        path = step.workdir / "models" / "tiny" / "out.txt"
        artifacts.write_json(path, "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(work=dies, resume=resume)
    seen = []
    step(work=lambda: seen.append(step.result()) or "goes on", resume=resume)
    assert (seen == ["half"]) is kept and not step.replaced()


def test_a_workdir_of_the_program_before_is_refused_and_stays_as_it_is(tmp_path):
    """A stamp as commit 99c8d35 wrote it: its key is a hash that nothing can be compared with."""
    network = tmp_path / "models" / "tiny" / "checkpoints" / "1" / "weights"
    network.parent.mkdir(parents=True)
    network.write_text("a week of training")
    stamp = {"key": "0b56" * 16, "outputs": ["a" * 64, "b" * 64], "seconds": 14.55}
    artifacts.write_json(cache.path(tmp_path, "train-tiny"), stamp)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"stamps hold no settings.*nothing was changed"):
        runner.run(configs.default(), {"workdir": str(tmp_path)}, ["train"])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_seconds_are_of_finished_tasks(step):
    step()
    assert set(cache.seconds(step.workdir)) == {"train-tiny"}
    assert not cache.seconds(step.workdir, beyond=step.workdir)
    assert not Path(step.workdir, "replaced").exists()
