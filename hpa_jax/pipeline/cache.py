"""Which tasks of a work directory are done, and whether they still hold.

A stamp under WORKDIR/.stamps records, for one task, its key: settings, content of the inputs and
VERSION of the step; beside it what made the result (code, libraries) and the content of what was
written.  Place, time, libraries and source text are no part of the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hpa_jax.config import settings
from hpa_jax.core import artifacts, own_code, provenance
from hpa_jax.core.contents import Contents
from hpa_jax.core.errors import InputError


@dataclass(frozen=True)
class Part:
    """An input that is a part of what files hold: the rows of a table that a step reads.

    name: in stamps.  files: what must be there.  content: returns a digest of the part.
    """

    name: str
    files: tuple[Path, ...]
    content: Callable[[], str]


@dataclass(frozen=True)
class Task:
    """One restartable unit of work; a step has one, or one for each model and fold."""

    step: str
    name: str  # unique, also the stamp's file name
    work: Callable[[], str]  # returns a summary for the log
    settings: Mapping[str, Any]  # what of the config it depends on, by config path
    inputs: tuple[Path | Part, ...]
    outputs: tuple[Path, ...]
    resume: str = "never"  # its own partial output is kept: never | same (key) | always
    fitted: bool = False  # took training or fitting: its outputs are never removed
    # Of its step, by the table of steps:
    version: int = 1  # raised by whoever makes it give other results for the same key
    code: tuple[str, ...] = ()  # files and folders of the package that it computes with

    @property
    def files(self) -> tuple[Path, ...]:
        """What it reads."""
        parts = (one.files if isinstance(one, Part) else (one,) for one in self.inputs)
        return tuple(dict.fromkeys(path for files in parts for path in files))


class State(Enum):
    """How what lies in a workdir stands to a task."""

    ABSENT = "no stamp"
    CHANGED = "made with other settings or inputs"
    UNFINISHED = "begun with this key"
    DAMAGED = "finished with this key, but the outputs are not as they were left"
    KEPT = "done by an older version of the step, of its code or of a library"
    DONE = "done"


@dataclass(frozen=True)
class Verdict:
    """A task's state, and why it is not DONE, in words."""

    state: State
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the result is used as it is."""
        return self.state in (State.DONE, State.KEPT)


def key(workdir: Path, task: Task, contents: Contents) -> dict[str, Any]:
    """What the task's result depends on: settings, inputs and version."""
    inputs, outside = {}, 0
    for one in task.inputs:
        if isinstance(one, Part):
            inputs[one.name] = one.content()
        elif one.is_relative_to(workdir):
            inputs[one.relative_to(workdir).as_posix()] = contents.of(one)
        else:  # its place is no part of the key
            inputs[f"outside {outside}"] = contents.of(one)
            outside += 1
    return {
        "settings": settings.flat(own_code.by_content(task.settings)),
        "inputs": inputs,
        "version": task.version,
    }


def judge(workdir: Path, task: Task, task_key: Mapping[str, Any], contents: Contents) -> Verdict:
    """How the stamp, and the outputs beside it, stand to the task with this key."""
    stamp = read(workdir, task)
    found = compare(task, stamp, task_key)
    if found.holds and stamp["outputs"] != _outputs(workdir, task, contents):
        return Verdict(State.DAMAGED, "the outputs are not as they were left")
    return found


def compare(task: Task, stamp: Mapping[str, Any], task_key: Mapping[str, Any]) -> Verdict:
    """How a stamp stands to a task with this key; the outputs are not looked at."""
    if not stamp:
        return Verdict(State.ABSENT, "nothing tells what it was made with")
    old = stamp["key"]
    changed, gone = settings.differences(old["settings"], task_key["settings"])
    before, now = old["inputs"], task_key["inputs"]
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    changed += [f"{name} changed" for name in names]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return Verdict(State.CHANGED, "; ".join(changed[:3]) + more)
    why = [f"made with {setting}, an option that is gone" for setting in gone]
    if old["version"] != task_key["version"]:
        why.append(f"made by version {old['version']} of this step (now {task_key['version']})")
    if not why:
        made_by = provenance.difference(stamp["made by"], provenance.of(task.code))
        why += [f"made by {made_by}"] if made_by else []
    state = State.KEPT if why else State.DONE
    return Verdict(state if "outputs" in stamp else State.UNFINISHED, "; ".join(why))


def begin(workdir: Path, task: Task, task_key: Mapping[str, Any]) -> None:
    """Marks the task as begun."""
    stamp = {"key": task_key, "made by": provenance.of(task.code)}
    artifacts.write_json(path(workdir, task.name), stamp)


def finish(workdir: Path, task: Task, seconds: float, contents: Contents) -> None:
    """Marks a task that was begun as done."""
    outputs = _outputs(workdir, task, contents)
    stamp = read(workdir, task) | {"outputs": outputs, "seconds": round(seconds, 2)}
    artifacts.write_json(path(workdir, task.name), stamp)


def read(workdir: Path, task: Task) -> dict[str, Any]:
    """The task's stamp; {} if there is none."""
    file = path(workdir, task.name)
    return artifacts.read_json(file) if file.is_file() else {}


def path(workdir: Path, name: str) -> Path:
    """Where the stamp of a task lies."""
    return workdir / ".stamps" / f"{name}.json"


def check_format(workdir: Path) -> None:
    """Looks at the stamps of a workdir before any work.

    Raises:
        InputError: they are those of a program that could not compare settings.
    """
    for file in sorted((workdir / ".stamps").glob("*.json")):
        if not isinstance(artifacts.read_json(file).get("key", {}), dict):
            raise InputError(
                f"{workdir}: made by a program whose stamps don't tell its settings, so nothing "
                "says whether its results are those of this config; nothing was changed. Name "
                f"another --workdir; `predict --model={workdir}/models/NAME` and `export` "
                "still read this one, and init_from takes its networks"
            )


def seconds(workdir: Path, beyond: Path | None = None) -> dict[str, float]:
    """Measured time of each finished task, by name.

    beyond: another workdir; tasks that depend on the same there are its own, and left out here.
    """
    found = {}
    for file in sorted((workdir / ".stamps").glob("*.json")):
        stamp = artifacts.read_json(file)
        there = beyond / ".stamps" / file.name if beyond else None
        theirs = artifacts.read_json(there) if there and there.is_file() else {}
        if "seconds" in stamp and stamp["key"] != theirs.get("key"):
            found[file.stem] = stamp["seconds"]
    return found


def _outputs(workdir: Path, task: Task, contents: Contents) -> dict[str, str]:
    return {path.relative_to(workdir).as_posix(): contents.of(path) for path in task.outputs}
