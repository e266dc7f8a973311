"""Stamps of a work directory: which tasks are done, and whether their results are still valid.

A stamp under WORKDIR/.stamps records, for one task, its key: settings, content of the inputs and
version of the step; beside it the code and libraries that made the result, and digests of the
outputs.  Paths, times, libraries and source text are not part of the key.
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
    """An input that is a part of files, such as the rows of a table that a step reads.

    name: in stamps.  files: must exist.  content: returns a digest of the part.
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
    settings: Mapping[str, Any]  # options that it depends on, by config path
    inputs: tuple[Path | Part, ...]
    outputs: tuple[Path, ...]
    resume: str = "never"  # when partial output is kept: never | same (key) | always
    fitted: bool = False  # trained or fitted: its outputs are never removed
    # Set from the table of steps:
    version: int = 1  # raise it when the step gives other results for the same key
    code: tuple[str, ...] = ()  # files and folders of the package that it computes with

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that it reads."""
        parts = (part.files if isinstance(part, Part) else (part,) for part in self.inputs)
        return tuple(dict.fromkeys(path for files in parts for path in files))


class State(Enum):
    """State of a task's result in a workdir."""

    ABSENT = "no stamp"
    CHANGED = "made with other settings or inputs"
    UNFINISHED = "begun with this key"
    DAMAGED = "finished with this key, but the outputs are not as they were left"
    KEPT = "done by an older version of the step, of its code or of a library"
    DONE = "done"


@dataclass(frozen=True)
class Verdict:
    """A task's state, and the reason if it is not DONE."""

    state: State
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the result is valid."""
        return self.state in (State.DONE, State.KEPT)


def key(workdir: Path, task: Task, contents: Contents) -> dict[str, Any]:
    """Return what the task's result depends on: settings, inputs and version."""
    inputs, outside = {}, 0
    for item in task.inputs:
        if isinstance(item, Part):
            inputs[item.name] = item.content()
        elif item.is_relative_to(workdir):
            inputs[item.relative_to(workdir).as_posix()] = contents.of(item)
        else:  # its path is not part of the key
            inputs[f"outside {outside}"] = contents.of(item)
            outside += 1
    return {
        "settings": settings.flat(own_code.by_content(task.settings)),
        "inputs": inputs,
        "version": task.version,
    }


def judge(workdir: Path, task: Task, task_key: Mapping[str, Any], contents: Contents) -> Verdict:
    """Compare the stored stamp and the outputs with this key."""
    stamp = read(workdir, task)
    verdict = compare(task, stamp, task_key)
    if verdict.holds and stamp["outputs"] != _outputs(workdir, task, contents):
        return Verdict(State.DAMAGED, "the outputs are not as they were left")
    return verdict


def compare(task: Task, stamp: Mapping[str, Any], task_key: Mapping[str, Any]) -> Verdict:
    """Compare a stamp with this key; the outputs are not checked."""
    if not stamp:
        return Verdict(State.ABSENT, "no stamp of its settings and inputs")
    old = stamp["key"]
    changed, gone = settings.differences(old["settings"], task_key["settings"])
    before, now = old["inputs"], task_key["inputs"]
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    changed += [f"{name} changed" for name in names]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return Verdict(State.CHANGED, "; ".join(changed[:3]) + more)
    why = [f"made with {setting}, an option that no longer exists" for setting in gone]
    if old["version"] != task_key["version"]:
        why.append(f"made by version {old['version']} of this step (now {task_key['version']})")
    if not why:
        made_by = provenance.difference(stamp["made by"], provenance.of(task.code))
        why += [f"made by {made_by}"] if made_by else []
    state = State.KEPT if why else State.DONE
    return Verdict(state if "outputs" in stamp else State.UNFINISHED, "; ".join(why))


def begin(workdir: Path, task: Task, task_key: Mapping[str, Any]) -> None:
    """Mark the task as begun."""
    stamp = {"key": task_key, "made by": provenance.of(task.code)}
    artifacts.write_json(path(workdir, task.name), stamp)


def finish(workdir: Path, task: Task, seconds: float, contents: Contents) -> None:
    """Mark a begun task as done."""
    outputs = _outputs(workdir, task, contents)
    stamp = read(workdir, task) | {"outputs": outputs, "seconds": round(seconds, 2)}
    artifacts.write_json(path(workdir, task.name), stamp)


def read(workdir: Path, task: Task) -> dict[str, Any]:
    """Return the task's stamp, {} if there is none.

    Raises:
        InputError: a damaged stamp.
    """
    file = path(workdir, task.name)
    return _stamp(file) if file.is_file() else {}


def _stamp(file: Path) -> dict[str, Any]:
    try:
        return artifacts.read_json(file)
    except InputError as error:  # a power failure may leave an empty file
        raise InputError(
            f"{error}; remove this file: its step runs again, and what it made is kept in replaced/"
        ) from None


def path(workdir: Path, name: str) -> Path:
    """Return the path of a task's stamp."""
    return workdir / ".stamps" / f"{name}.json"


def check_format(workdir: Path) -> None:
    """Check the format of a workdir's stamps before any work.

    Raises:
        InputError: they were written by a version that stored no settings, or one is damaged.
    """
    for file in sorted((workdir / ".stamps").glob("*.json")):
        if not isinstance(_stamp(file).get("key", {}), dict):
            raise InputError(
                f"{workdir}: made by a version whose stamps hold no settings, so its results "
                "cannot be compared with this config; nothing was changed. Name "
                f"another --workdir; `predict --model={workdir}/models/NAME` and `export` "
                "still read this one, and init_from takes its networks"
            )


def seconds(workdir: Path, beyond: Path | None = None) -> dict[str, float]:
    """Return the measured time of each finished task, by name.

    beyond: another workdir; tasks with the same key there are left out.
    """
    times = {}
    for file in sorted((workdir / ".stamps").glob("*.json")):
        stamp = artifacts.read_json(file)
        file_beyond = beyond / ".stamps" / file.name if beyond else None
        stamp_beyond = (
            artifacts.read_json(file_beyond) if file_beyond and file_beyond.is_file() else {}
        )
        if "seconds" in stamp and stamp["key"] != stamp_beyond.get("key"):
            times[file.stem] = stamp["seconds"]
    return times


def _outputs(workdir: Path, task: Task, contents: Contents) -> dict[str, str]:
    return {path.relative_to(workdir).as_posix(): contents.of(path) for path in task.outputs}
