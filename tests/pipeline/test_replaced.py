"""What was trained or fitted is set aside and brought back, and lost at no instant."""

import errno
import os
import shutil

import pytest

from hpa_jax.__main__ import main
from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts, contents
from hpa_jax.core.contents import Contents
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import cache, replaced
from hpa_jax.pipeline.cache import Task

CODE = ("training/losses.py",)
OLD, NEW = 0.5, 0.1


@pytest.fixture
def trained(tmp_path):
    """A workdir with a network that was trained at dropout .5; `run` asks for another."""

    def task(dropout):
        folder = tmp_path / "models" / "tiny"
        outputs = (folder / "checkpoints", folder / "metrics.jsonl")

        def work() -> str:
            (folder / "checkpoints" / "1").mkdir(parents=True)
            (folder / "checkpoints" / "1" / "weights").write_text(f"trained by {dropout}")
            outputs[1].write_text(f"curve of {dropout}")
            return "trained"

        options = {"models.tiny": configs.model(dropout=dropout)}
        return Task(
            "train", "train-tiny", work, options, (), outputs, "same", fitted=True, code=CODE
        )

    def run(dropout, force=False, finish=True):
        """Whether it held, and what was said."""
        said = []
        one, known = task(dropout), Contents()
        held = replaced.holds_or_begins(tmp_path, one, known, force, said.append)
        if not held and finish:
            one.work()
            cache.finish(tmp_path, one, 1.0, known)
        return held, said

    run.workdir = tmp_path
    run(OLD)
    return run


def weights(workdir):
    """Every trained network that the workdir holds, wherever it lies."""
    return sorted(path.read_text() for path in workdir.rglob("weights"))


def curves(workdir):
    return sorted(path.read_text() for path in workdir.rglob("metrics.jsonl"))


def test_changed_settings_set_the_old_network_aside_and_say_how_to_get_it_back(trained):
    held, (said,) = trained(NEW)
    assert not held and weights(trained.workdir) == ["trained by 0.1", "trained by 0.5"]
    assert "models.tiny.dropout: 0.5 -> 0.1" in said and "replaced/train-tiny-1 (0.0 MB)" in said
    assert "restores it" in said and "verb clean" in said
    there = trained.workdir / "replaced" / "train-tiny-1" / "models" / "tiny"
    assert (there / "checkpoints" / "1" / "weights").read_text() == "trained by 0.5"
    about = artifacts.read_json(trained.workdir / "replaced" / "train-tiny-1" / "stamp.json")
    assert about["key"]["settings"]["models.tiny.dropout"] == 0.5 and about["task"] == "train-tiny"


def test_the_settings_of_before_bring_it_back(trained):
    trained(NEW)
    for dropout in (OLD, NEW, OLD):
        held, said = trained(dropout)
        assert held and "restored from" in said[1] and said[-1] == "done before, unchanged"
        place = trained.workdir / "models" / "tiny" / "checkpoints" / "1" / "weights"
        assert place.read_text() == f"trained by {dropout}"
        assert weights(trained.workdir) == ["trained by 0.1", "trained by 0.5"]


def test_force_trains_anew_and_keeps_the_other(trained):
    trained(OLD, force=True)
    trained(OLD, force=True)
    assert weights(trained.workdir) == ["trained by 0.5"] * 3
    assert trained(OLD)[0]


def half_trained(trained, dropout):
    trained(dropout, finish=False)
    folder = trained.workdir / "models" / "tiny" / "checkpoints" / "1"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"half by {dropout}")


def test_half_a_training_is_set_aside_and_goes_on_when_its_settings_return(trained):
    half_trained(trained, NEW)
    held, said = trained(0.3)
    assert not held and "replaced/train-tiny-2" in said[0]
    held, said = trained(NEW, finish=False)
    assert not held and "restored from replaced/train-tiny-2" in said[1]
    place = trained.workdir / "models" / "tiny" / "checkpoints" / "1" / "weights"
    assert place.read_text() == "half by 0.1"
    assert weights(trained.workdir) == ["half by 0.1", "trained by 0.3", "trained by 0.5"]


def test_a_network_that_no_stamp_knows_is_set_aside(trained):
    cache.path(trained.workdir, "train-tiny").unlink()
    held, (said,) = trained(OLD)
    assert not held and "no stamp of its settings and inputs" in said
    assert weights(trained.workdir) == ["trained by 0.5"] * 2


def test_what_is_only_computed_is_removed_but_not_what_nobody_made(trained):
    """Someone's images in WORKDIR/data are not this program's to remove."""
    folder = trained.workdir / "data"
    folder.mkdir()
    (folder / "mine.png").write_text("mine")
    one = Task("data", "data", lambda: "", {"data.synthetic.train": 1}, (), (folder,), code=CODE)
    assert not replaced.holds_or_begins(trained.workdir, one, Contents(), False, print)
    assert (trained.workdir / "replaced" / "data-1" / "data" / "mine.png").read_text() == "mine"


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


def dying_at(monkeypatch, number, error):
    """Lets the n-th change of the disk that a move makes fail; returns how many there were."""
    done = [0]

    def counted(function):
        def call(*arguments, **options):
            done[0] += 1
            if done[0] == number:
                raise error
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(artifacts, "write_json", counted(artifacts.write_json))
    monkeypatch.setattr(os, "rename", counted(os.rename))
    monkeypatch.setattr(replaced.Path, "mkdir", counted(replaced.Path.mkdir))
    monkeypatch.setattr(replaced.Path, "unlink", counted(replaced.Path.unlink))
    return done


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [Killed(), FULL], ids=["killed", "full disk"])
@pytest.mark.parametrize("back", [False, True], ids=["away", "and back"])
def test_a_move_that_fails_at_any_point_loses_nothing_and_is_ended_by_the_next_run(
    trained, monkeypatch, tmp_path_factory, error, back
):
    if back:
        trained(NEW)
    wanted, expected = (OLD, ["trained by 0.1", "trained by 0.5"]) if back else (NEW, None)
    whole = tmp_path_factory.mktemp("whole") / "workdir"
    trained.workdir.rename(whole)
    number, ended = 1, False
    while not ended:
        shutil.rmtree(trained.workdir, ignore_errors=True)
        shutil.copytree(whole, trained.workdir)
        with monkeypatch.context() as patch:
            done = dying_at(patch, number, error)
            try:
                trained(wanted, finish=False)
                ended = done[0] < number
            except (Killed, OSError, InputError):
                pass
        present = weights(trained.workdir)
        assert "trained by 0.5" in present and (not back or present == expected), number
        assert "curve of 0.5" in curves(trained.workdir), number
        trained(wanted)
        place = trained.workdir / "models" / "tiny"
        assert (place / "checkpoints" / "1" / "weights").read_text() == f"trained by {wanted}"
        assert weights(trained.workdir) == ["trained by 0.1", "trained by 0.5"], number
        assert curves(trained.workdir) == ["curve of 0.1", "curve of 0.5"], number
        assert trained(wanted) == (True, ["done before, unchanged"])
        number += 1
    assert number > 6  # there were so many points


def test_another_disk_gets_a_whole_copy_first(trained, monkeypatch):
    """models/ may be a link to another disk, where a rename is refused."""

    def refused(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", refused)
    trained(NEW)
    assert weights(trained.workdir) == ["trained by 0.1", "trained by 0.5"]


def test_two_of_one_name_are_an_error_and_both_stay(trained):
    trained(NEW)
    stamp = cache.path(trained.workdir, "train-tiny")
    artifacts.write_json(stamp, {"returning": "train-tiny-1"})
    with pytest.raises(InputError, match="both exist"):
        trained(OLD)
    assert weights(trained.workdir) == ["trained by 0.1", "trained by 0.5"]


def test_clean_names_what_it_frees_and_asks(trained, capsys, monkeypatch):
    trained(NEW)
    workdir = f"--workdir={trained.workdir}"
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["clean", workdir]) == 2
    said = capsys.readouterr()
    assert "replaced/train-tiny-1" in said.out and "dropout: 0.5 -> 0.1" in said.out
    assert "add --yes" in said.err and len(weights(trained.workdir)) == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["clean", workdir]) == 0 and len(weights(trained.workdir)) == 2
    assert main(["clean", workdir, "--yes"]) == 0
    assert "removed 1 results" in capsys.readouterr().out
    assert weights(trained.workdir) == ["trained by 0.1"] and trained(NEW)[0]
    assert main(["clean", workdir, "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_clean_leaves_what_is_on_its_way(trained):
    trained(NEW)
    stamp = cache.path(trained.workdir, "train-tiny")
    artifacts.write_json(stamp, artifacts.read_json(stamp) | {"moving": "train-tiny-1"})
    assert "nothing to remove" in replaced.clean(trained.workdir, lambda question: True)
    assert contents.ABSENT not in weights(trained.workdir) and len(weights(trained.workdir)) == 2
