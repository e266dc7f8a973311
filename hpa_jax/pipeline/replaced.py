"""What training and fitting made is never removed: it moves to WORKDIR/replaced/TASK-K/ and back.

A folder there holds the outputs under their paths in the workdir, and stamp.json, written last:
what they were made with.  While outputs move, the task's own stamp says where to ("moving") or
from where ("returning"), so that a move that was cut off at any instant is ended by the next run.
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
    """Whether a task's result holds; if it does not, makes room for the work and marks it as begun.

    What was trained or fitted, and what no stamp knows, is set aside.  Of the rest, what is made
    with another key is removed.  force: a result that holds is made anew all the same.

    Raises:
        InputError: nothing can be written; everything is then in its old place or in replaced/.
    """
    settle(workdir, task)
    key = cache.key(workdir, task, contents)
    found = cache.judge(workdir, task, key, contents)
    other = found.state in (State.CHANGED, State.ABSENT) and task.fitted and not force
    if other and take_back(workdir, task, key, found.why, say):
        found = cache.judge(workdir, task, key, contents)
    if found.holds and not force:
        kept = f"{found.why}, kept; --force={task.step} computes anew"
        say("done before, unchanged" if found.state is State.DONE else kept)
        return True
    own = found.state is State.UNFINISHED
    own |= task.resume == "same" and found.state is State.DAMAGED  # it mends what is there
    if task.resume == "always" or (own and not force):
        if own and found.why:
            say(f"goes on; {found.why}")
    elif task.fitted or found.state is State.ABSENT:
        set_aside(workdir, task, "--force" if force else found.why, say)
    else:
        for path in task.outputs:
            artifacts.remove(path)
    if found.state is not State.UNFINISHED or force:
        cache.begin(workdir, task, key)
    return False


def settle(workdir: Path, task: Task) -> None:
    """Ends a move of the task's outputs that was cut off."""
    stamp = cache.read(workdir, task)
    if "moving" in stamp:
        _move_away(workdir, task, stamp)
    elif "returning" in stamp:
        _move_back(workdir, task, stamp["returning"])


def set_aside(workdir: Path, task: Task, why: str, say: Callable[[str], None]) -> None:
    """Moves the outputs that are there to replaced/, and says so."""
    if not any(os.path.lexists(path) for path in task.outputs):
        return
    stamp = cache.read(workdir, task)
    stamp |= {"moving": _free_name(workdir, task), "why": why}
    artifacts.write_json(cache.path(workdir, task.name), stamp)
    folder = _move_away(workdir, task, stamp)
    say(
        f"{why}: the result before is kept in {folder.relative_to(workdir)} "
        f"({described(size(folder))}); a run with the settings and inputs that it was made with "
        "brings it back, the verb clean removes it"
    )


def take_back(
    workdir: Path, task: Task, key: Mapping[str, Any], why: str, say: Callable[[str], None]
) -> bool:
    """Brings back a result of this key (a finished one first) that was set aside; False: none.

    What lies in its place is set aside, because of `why`.
    """
    order = {State.DONE: 0, State.KEPT: 1}
    if task.resume == "same":
        order[State.UNFINISHED] = 2
    ranked = []
    for folder in folders(workdir):
        stamp = artifacts.read_json(folder / STAMP)
        there = any(os.path.lexists(folder / path.relative_to(workdir)) for path in task.outputs)
        if there and stamp["task"] == task.name and "key" in stamp:
            state = cache.compare(task, stamp, key).state
            ranked += [(order[state], -stamp["moved at"], folder.name)] if state in order else []
    if not ranked:
        return False
    name = min(ranked)[2]
    set_aside(workdir, task, why, say)
    artifacts.write_json(cache.path(workdir, task.name), {"returning": name})
    _move_back(workdir, task, name)
    say(f"brought back from {FOLDER}/{name}, which was made with these settings and inputs")
    return True


def folders(workdir: Path) -> list[Path]:
    """All that was set aside and lies there whole, by name."""
    return sorted(file.parent for file in (workdir / FOLDER).glob(f"*/{STAMP}"))


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def described(count: int) -> str:
    """Bytes as people say them: "3.1 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def clean(workdir: Path, agreed: Callable[[str], bool]) -> str:
    """Removes all that was set aside, if `agreed` says yes to what it is told; what was done."""
    stored = [artifacts.read_json(file) for file in (workdir / ".stamps").glob("*.json")]
    moving = {stamp.get(way) for stamp in stored for way in ("moving", "returning")}
    there = [path for path in sorted((workdir / FOLDER).glob("*")) if path.name not in moving]
    if not there:
        return f"{workdir / FOLDER}: nothing there to remove"
    sizes = {folder: size(folder) for folder in there}
    for folder, count in sizes.items():
        about = artifacts.read_json(folder / STAMP) if (folder / STAMP).is_file() else {}
        print(f"{folder.relative_to(workdir)}: {described(count)} ({about.get('why', 'unknown')})")
    total = f"{len(there)} results, {described(sum(sizes.values()))}"
    if not agreed(f"remove these for good: {total}?"):
        return "nothing was removed"
    for folder in there:
        (folder / STAMP).unlink(missing_ok=True)  # first: half of it can't be brought back
        artifacts.remove(folder)
    return f"removed {total}"


def _free_name(workdir: Path, task: Task) -> str:
    number = 1
    while os.path.lexists(workdir / FOLDER / f"{task.name}-{number}"):
        number += 1
    return f"{task.name}-{number}"


def _move_away(workdir: Path, task: Task, stamp: dict[str, Any]) -> Path:
    """Outputs -> replaced/, then their stamp, then the task has none."""
    folder = workdir / FOLDER / stamp["moving"]
    folder.mkdir(parents=True, exist_ok=True)
    for path in task.outputs:
        _move(path, folder / path.relative_to(workdir))
    about = {name: value for name, value in stamp.items() if name != "moving"}
    about |= {"task": task.name, "moved at": time.time()}
    artifacts.write_json(folder / STAMP, about)
    cache.path(workdir, task.name).unlink(missing_ok=True)
    return folder


def _move_back(workdir: Path, task: Task, name: str) -> None:
    """The reverse: outputs, then the task's stamp, then the folder is gone."""
    folder = workdir / FOLDER / name
    for path in task.outputs:
        _move(folder / path.relative_to(workdir), path)
    about = artifacts.read_json(folder / STAMP)
    own = {key: about[key] for key in ("key", "made by", "outputs", "seconds") if key in about}
    artifacts.write_json(cache.path(workdir, task.name), own)
    (folder / STAMP).unlink()
    artifacts.remove(folder)


def _move(source: Path, target: Path) -> None:
    """Renames; to another disk, copies first, so that one of both is whole at any instant."""
    if not os.path.lexists(source):
        return  # moved before, or never there
    target.parent.mkdir(parents=True, exist_ok=True)
    copied = os.path.lexists(target)
    if copied and source.parent.stat().st_dev == target.parent.stat().st_dev:
        raise InputError(f"{source} and {target}: both are there; move one of them away")
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
