"""Trained and fitted results are never removed but moved to WORKDIR/replaced/TASK-K/ and back.

A folder there holds the outputs under their paths in the workdir and their stamp.json, written
last.  During a move the task's stamp records the target ("moving") or the source ("returning"), so
that the next run finishes an interrupted move.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpa_jax.core import artifacts
from hpa_jax.core.contents import Contents
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import cache
from hpa_jax.pipeline.cache import State, Task

FOLDER, STAMP = "replaced", "stamp.json"


def holds_or_begins(
    workdir: Path, task: Task, contents: Contents, force: bool, say: Callable[[str], None]
) -> bool:
    """Return whether a task's result is valid; if not, make room for the work and mark it begun.

    Trained or fitted outputs and those without a stamp are set aside; others made with another key
    are removed.  force: compute even if the result is valid.

    Raises:
        InputError: nothing can be written; all outputs are then in their old place or in replaced/.
    """
    settle(workdir, task)
    key = cache.key(workdir, task, contents)
    verdict = cache.judge(workdir, task, key, contents)
    reusable = verdict.state in (State.CHANGED, State.ABSENT) and task.fitted and not force
    if reusable and take_back(workdir, task, key, verdict.why, say):
        verdict = cache.judge(workdir, task, key, contents)
    if verdict.holds and not force:
        message = f"{verdict.why}, kept; --force={task.step} repeats it"
        say("done before, unchanged" if verdict.state is State.DONE else message)
        return True
    resumable = verdict.state is State.UNFINISHED
    if task.resume == "same":  # such a task completes partial output
        resumable |= verdict.state is State.DAMAGED
    if task.resume == "always" or (resumable and not force):
        if resumable and verdict.why:
            say(f"resumes; {verdict.why}")
    elif task.fitted or verdict.state is State.ABSENT:
        set_aside(workdir, task, "--force" if force else verdict.why, say)
    else:
        for path in task.outputs:
            artifacts.remove(path)
    if verdict.state is not State.UNFINISHED or force:
        cache.begin(workdir, task, key)
    return False


def settle(workdir: Path, task: Task) -> None:
    """Finish an interrupted move of the task's outputs."""
    stamp = cache.read(workdir, task)
    if "moving" in stamp:
        _move_away(workdir, task, stamp)
    elif "returning" in stamp:
        _move_back(workdir, task, stamp["returning"])


def set_aside(workdir: Path, task: Task, why: str, say: Callable[[str], None]) -> None:
    """Move existing outputs to replaced/ and report it."""
    if not any(os.path.lexists(path) for path in task.outputs):
        return
    stamp = cache.read(workdir, task)
    stamp |= {"moving": _free_name(workdir, task), "why": why}
    artifacts.write_json(cache.path(workdir, task.name), stamp)
    folder = _move_away(workdir, task, stamp)
    say(
        f"{why}: the previous result is kept in {folder.relative_to(workdir)} "
        f"({described(size(folder))}); a run with its settings and inputs "
        "restores it, the verb clean removes it"
    )


def take_back(
    workdir: Path, task: Task, key: Mapping[str, Any], why: str, say: Callable[[str], None]
) -> bool:
    """Restore a result of this key that was set aside, finished ones first; False if none.

    The outputs in its place are set aside because of `why`.
    """
    order = {State.DONE: 0, State.KEPT: 1}
    if task.resume == "same":
        order[State.UNFINISHED] = 2
    ranked = []
    for folder in folders(workdir):
        stamp = artifacts.read_json(folder / STAMP)
        present = any(os.path.lexists(folder / path.relative_to(workdir)) for path in task.outputs)
        if present and stamp["task"] == task.name and "key" in stamp:
            state = cache.compare(task, stamp, key).state
            ranked += [(order[state], -stamp["moved at"], folder.name)] if state in order else []
    if not ranked:
        return False
    name = min(ranked)[2]
    set_aside(workdir, task, why, say)
    artifacts.write_json(cache.path(workdir, task.name), {"returning": name})
    _move_back(workdir, task, name)
    say(f"restored from {FOLDER}/{name}, which was made with these settings and inputs")
    return True


def of_other(workdir: Path, name: str, item: str) -> list[Path]:
    """Return the finished results of a begun task, made by the same code, of another `item`.

    name: of the task.  item: the name in stamps of the only input that differs.
    """

    def rest(key: Mapping[str, Any]) -> Any:
        inputs = {name: content for name, content in key["inputs"].items() if name != item}
        return {**key, "inputs": inputs}

    begun = artifacts.read_json(cache.path(workdir, name))
    stamps = {folder: artifacts.read_json(folder / STAMP) for folder in folders(workdir)}
    return [
        folder
        for folder, stamp in stamps.items()
        if stamp["task"] == name and "outputs" in stamp
        if rest(stamp["key"]) == rest(begun["key"]) and stamp["made by"] == begun["made by"]
    ]


def folders(workdir: Path) -> list[Path]:
    """Return the folders of complete results that were set aside, by name."""
    return sorted(file.parent for file in (workdir / FOLDER).glob(f"*/{STAMP}"))


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def described(count: int) -> str:
    """Format bytes as "3.1 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def clean(workdir: Path, confirm: Callable[[str], bool]) -> str:
    """Remove all results that were set aside if `confirm` agrees; return what was done."""
    stamps = [artifacts.read_json(file) for file in (workdir / ".stamps").glob("*.json")]
    moving = {stamp.get(way) for stamp in stamps for way in ("moving", "returning")}
    results = [path for path in sorted((workdir / FOLDER).glob("*")) if path.name not in moving]
    if not results:
        return f"{workdir / FOLDER}: nothing to remove"
    sizes = {folder: size(folder) for folder in results}
    for folder, count in sizes.items():
        stamp = artifacts.read_json(folder / STAMP) if (folder / STAMP).is_file() else {}
        print(f"{folder.relative_to(workdir)}: {described(count)} ({stamp.get('why', 'unknown')})")
    total = f"{len(results)} results, {described(sum(sizes.values()))}"
    if not confirm(f"remove these for good: {total}?"):
        return "nothing was removed"
    for folder in results:
        (folder / STAMP).unlink(missing_ok=True)  # first: a partial result can't be restored
        artifacts.remove(folder)
    return f"removed {total}"


def _free_name(workdir: Path, task: Task) -> str:
    number = 1
    while os.path.lexists(workdir / FOLDER / f"{task.name}-{number}"):
        number += 1
    return f"{task.name}-{number}"


def _move_away(workdir: Path, task: Task, stamp: dict[str, Any]) -> Path:
    """Move outputs, then their stamp, to replaced/; then remove the task's stamp."""
    folder = workdir / FOLDER / stamp["moving"]
    folder.mkdir(parents=True, exist_ok=True)
    for path in task.outputs:
        _move(path, folder / path.relative_to(workdir))
    record = {name: value for name, value in stamp.items() if name != "moving"}
    record |= {"task": task.name, "moved at": time.time()}
    artifacts.write_json(folder / STAMP, record)
    cache.path(workdir, task.name).unlink(missing_ok=True)
    return folder


def _move_back(workdir: Path, task: Task, name: str) -> None:
    """Move outputs back, then the task's stamp; then remove the folder."""
    folder = workdir / FOLDER / name
    for path in task.outputs:
        _move(folder / path.relative_to(workdir), path)
    record = artifacts.read_json(folder / STAMP)
    stamp = {key: record[key] for key in ("key", "made by", "outputs", "seconds") if key in record}
    artifacts.write_json(cache.path(workdir, task.name), stamp)
    (folder / STAMP).unlink()
    artifacts.remove(folder)


def _move(source: Path, target: Path) -> None:
    """Rename; to another disk, copy first, so that one of both is always complete."""
    if not os.path.lexists(source):
        return  # moved before, or never existed
    target.parent.mkdir(parents=True, exist_ok=True)
    copied = os.path.lexists(target)
    if copied and source.parent.stat().st_dev == target.parent.stat().st_dev:
        raise InputError(f"{source} and {target}: both exist; move one of them away")
    try:
        if not copied:
            os.rename(source, target)
            return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with artifacts.atomic(target) as temporary:
            if source.is_dir():
                shutil.copytree(source, temporary, symlinks=True)
            else:
                shutil.copy2(source, temporary)
    artifacts.remove(source)
