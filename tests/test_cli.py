"""The command line: fast help, one-line errors that name what is wrong, exit codes."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import pytest

from hpa_jax.cli import VERBS, main
from hpa_jax.data.synthetic import dataset
from hpa_jax.pipeline import runner


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_verb_without_heavy_imports():
    code = (
        "import sys; from hpa_jax.cli import VERBS, main; main(['--help']); "
        "heavy = {'jax', 'tensorflow', 'xgboost', 'pandas'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for verb in VERBS:
        assert f"  {verb} " in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_reads_and_writes(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "reads" in out and "writes" in out and "--workdir" in out


def test_help_shows_what_holds_where_a_flag_is_left_out(capsys):
    _, out, _ = run(capsys, "lr_find", "--help")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  --")}
    assert lines["--low"].endswith("(1e-7)") and lines["--iterations"].endswith("(1000)")
    assert "(" not in lines["--only"].replace("(a name of config.models)", "")
    assert "(False)" not in out and "(None)" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "train"]),
        (["run", "--config=configs/demmo.py"], ["demmo", "configs/demo.py"]),
        (["run", "--config=configs/demo.py", "--config.sed=1"], ["sed", "seed"]),
        (
            ["run", "--config=configs/demo.py", "--config.split.fractoin=1"],
            ["fractoin", "fraction"],
        ),
        (["run", "--config=configs/demo.py", "--config.seed=x"], ["seed", "x"]),
        (
            ["run", "--config=configs/demo.py", "--config.models.tiny.checkpoint=bst"],
            ["checkpoint", "best"],
        ),
        (["run", "--config=configs/demo.py", "--config.split.fraction=2.0"], ["fraction", "2.0"]),
        (["run", "--config=configs/demo.py", "--config.models.tiny.phases[3].lr=1"], ["phases"]),
        (["run", "--config=configs/demo.py", "--wrokdir=/tmp/x"], ["wrokdir", "run --help"]),
        (["classes", "word"], ["'word' is not a flag", "classes --help"]),
        (
            ["run", "--config=configs/demo.py", "--config.models.tiny.epochs=3"],
            ["keep_epochs", "models.tiny.phases[0].epochs"],
        ),
        (["run", "--config=configs/demo.py"], ["--workdir"]),
        (["run", "--config=configs/demo.py", "--config.leak=maybe"], ["leak", "maybe", "off"]),
        (["run", "--config=configs/one_more_layer/solution.py:smok"], ["smok", "smoke"]),
        (
            ["run", "--config=configs/demo.py", "--config.models.tiny.init_from=model:tinny"],
            ["models.tiny.init_from", "tinny", "tiny"],
        ),
        (["run", "--config=configs/demo.py", "--only=tiny", "--collect"], ["only", "collect"]),
    ],
)
def test_bad_arguments_give_one_line_and_code_2(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_stack_on_gpus_without_one_is_refused_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("hpa_jax.decision.stack.runner.gpus", lambda: 0)
    arguments = ["--config=configs/demo.py", f"--workdir={tmp_path}", "--config.stack.device=cuda"]
    code, out, err = run(capsys, "run", *arguments)
    assert code == 2 and "stack.device" in err and err.count("\n") == 1
    assert "[data]" not in out


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "hpa_jax", "run", "--config=nothing.py", "--debug"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "Traceback" in result.stderr


def test_unwritable_workdir_is_named(capsys, tmp_path):
    (tmp_path / "file").touch()
    arguments = ["catalog", "--config=configs/demo.py", f"--workdir={tmp_path}/file"]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "file" in err


def test_hosts_that_start_at_once_can_all_write(monkeypatch, tmp_path):
    """Another host may remove the probe before this one does."""
    monkeypatch.setattr(Path, "touch", lambda path: None)
    assert runner._writable({"workdir": str(tmp_path)}) == tmp_path.resolve()


def test_a_missing_folder_is_named(capsys, tmp_path):
    arguments = ["catalog", "--config=configs/demo.py", f"--workdir={tmp_path}"]
    arguments += ["--config.data.source=kaggle", f"--config.data.root={tmp_path}/nothing"]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "nothing" in err and "data.root" in err


def test_a_phase_without_its_input_names_what_is_missing(capsys, tmp_path):
    arguments = ["split", "--config=configs/demo.py", f"--workdir={tmp_path}"]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "catalog.parquet is not there; the step catalog makes it" in err
    code, _, err = run(capsys, "stack", *arguments[1:])
    assert code == 2 and "valid.parquet is not there; the step predict makes it" in err


def test_writes_that_end_after_a_full_disk_print_no_traceback(capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored at the end
    monkeypatch.setattr(sys, "__unraisablehook__", mock.Mock())
    run(capsys, "--help")
    closed, other = (
        types.SimpleNamespace(exc_value=RuntimeError(text))
        for text in ("Event loop is closed", "another")
    )
    sys.unraisablehook(closed)
    sys.unraisablehook(other)
    assert sys.__unraisablehook__.call_args_list == [mock.call(other)]


def test_a_killed_worker_is_said_in_one_line(capsys, tmp_path, monkeypatch):
    """As the kernel kills one for its memory; this one draws images."""
    monkeypatch.setattr(dataset, "_save", killed)
    numbers = [f"--config.data.synthetic.{part}=30" for part in ("train", "test", "external")]
    arguments = ["--config=configs/demo.py", f"--workdir={tmp_path}", "--config.train.workers=2"]
    assert main(["run", *arguments, *numbers]) == 2
    error = capsys.readouterr().err
    assert "a worker process was killed" in error and "Traceback" not in error


def killed(*planned):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_run_on_the_same_workdir_is_refused(capsys, tmp_path):
    from filelock import FileLock

    code = f"from filelock import FileLock\nwith FileLock(r'{tmp_path}/.lock'): print(1); input()"
    other = subprocess.Popen(
        [sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline()
    arguments = ["catalog", "--config=configs/demo.py", f"--workdir={tmp_path}"]
    code, _, err = run(capsys, *arguments)
    other.communicate(b"\n")
    assert code == 2 and "another run" in err
    FileLock(tmp_path / ".lock", timeout=5).acquire()


def test_recipes_anywhere_import_each_other(capsys, tmp_path):
    folder = tmp_path / "configs" / "of_this_test"
    folder.mkdir(parents=True)
    (folder / "shared.py").write_text("SEED = 'x'\n")
    (folder / "recipe.py").write_text(
        "from configs.of_this_test.shared import SEED\n"
        "from hpa_jax.config import defaults as base\n"
        "def get_config(arg=''):\n"
        "    config = base.default().unlock()\n"
        "    config.submission.method = SEED\n"
        "    return config.lock()\n"
    )
    code, _, err = run(capsys, "run", f"--config={folder}/recipe.py")
    assert code == 2 and "config.submission.method='x'" in err


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, {"XLA_CLIENT_MEM_FRACTION": ".75"}),
        ({"XLA_CLIENT_MEM_FRACTION": ".5"}, {"XLA_CLIENT_MEM_FRACTION": ".5"}),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}),
    ],
)
def test_jax_leaves_a_quarter_of_a_gpu_unless_told(monkeypatch, given, left):
    """Both names at once, an old and a new one, JAX refuses."""
    monkeypatch.setattr(os, "environ", dict(given))
    main(["--help"])
    found = {name: value for name, value in os.environ.items() if "MEM_FRACTION" in name}
    assert found == left
