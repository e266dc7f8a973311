"""A well-kept HTTP client for many files: each whole under its name, or a reason why not.

Several files at once, but no more requests a second than allowed; a passing failure (a stall, 429,
5xx) is retried with growing pauses or when the server asks for it (all downloads then wait, as they
share it); a lasting one (404, 403) is not.  An incomplete file goes on where it stopped
if the server can prove that it is still the same (If-Range).  It is renamed to its name only when
size, checksum and content fit; a damaged one is fetched again.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpa_jax.core.artifacts import read_json, write_json
from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import httpx

PASSING = (408, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 120.0
_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)")


@dataclass(frozen=True)
class Wanted:
    """One file. size, sha256: what it must have, where that is known."""

    url: str
    path: Path
    size: int | None = None
    sha256: str | None = None


class Refused(Exception):
    """The server's answer won't change by asking again."""


class Passing(Exception):
    """Worth another try, after `pause` seconds if the server named some."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Pace:
    """At most `per_second` starts a second over all threads; 0 is no limit."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1.0 / per_second if per_second > 0 else 0.0
        self._next = self._held = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleeps until it is this caller's turn.

        Raises:
            Refused: the server wants more patience than `LONGEST_PAUSE`.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                if self._held - now > LONGEST_PAUSE:
                    raise Refused(f"the server asks to wait {self._held - now:.0f} s; call again")
                turn = max(now, self._next, self._held)
                self._next = turn + self._gap
            time.sleep(max(0.0, turn - now))
            if self._held <= turn:  # else all had to wait meanwhile
                return

    def hold(self, seconds: float) -> None:
        """Nobody's turn comes before `seconds` from now."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)


def download(
    files: Sequence[Wanted],
    *,
    workers: int = 4,
    per_second: float = 10.0,
    retries: int = 5,
    timeout: float = 30.0,
    deadline: float = 600.0,
    first_pause: float = 1.0,
    check: Callable[[Path], None] | None = None,
    on_bytes: Callable[[int, int | None], None] | None = None,
) -> dict[str, str]:
    """Fetches what is not there yet, or not as it should be; returns url -> reason of what could
    not be had.

    timeout: seconds without a byte after which a connection counts as stalled.
    deadline: seconds for the body of one file; what came by then is kept for the next try.
    first_pause: seconds before the second try; doubles from try to try.
    check: inspects a complete file and raises InputError if it is not what it should be; the file
      is then fetched anew.
    on_bytes: called with (bytes that are there, size of the file or None) as they come, in place of
      the bar that counts files.

    Raises:
        OSError: the disk is full or not writable; what is finished stays.
    """
    import httpx
    from tqdm import tqdm

    pace, failed = Pace(per_second), {}
    limits = httpx.Limits(max_connections=workers, max_keepalive_connections=workers)
    headers = {"User-Agent": "hpa_jax (research; one polite client)"}
    pool = ThreadPoolExecutor(workers)
    with httpx.Client(
        timeout=timeout, limits=limits, headers=headers, follow_redirects=True
    ) as client:

        def fetch(wanted: Wanted) -> str | None:
            if _is_whole(wanted, check):
                return None
            return _with_retries(
                client, wanted, pace, retries, first_pause, deadline, check, on_bytes
            )

        try:
            results = pool.map(fetch, files)
            hidden = True if on_bytes else None
            bar = tqdm(results, total=len(files), unit="files", desc="download", disable=hidden)
            for wanted, reason in zip(files, bar):
                if reason is not None:
                    failed[wanted.url] = reason
        finally:
            pool.shutdown(cancel_futures=True)
    return failed


def _is_whole(wanted: Wanted, check: Callable[[Path], None] | None) -> bool:
    """Whether the file is there, complete and undamaged."""
    return wanted.path.is_file() and _fault(wanted, wanted.path, wanted.size, check) is None


def _with_retries(
    client: "httpx.Client",
    wanted: Wanted,
    pace: Pace,
    retries: int,
    first_pause: float,
    deadline: float,
    check: Callable[[Path], None] | None,
    on_bytes: Callable[[int, int | None], None] | None,
) -> str | None:
    """None when the file is there, else the last reason."""
    import httpx

    reason = ""
    for attempt in range(retries + 1):
        pause = None
        try:
            pace.wait()
            _once(client, wanted, deadline, check, on_bytes)
            return None
        except Refused as error:
            return str(error)
        except Passing as error:
            reason, pause = str(error), error.pause
            if pause:
                pace.hold(pause)  # all downloads wait, not only this file
        except httpx.TimeoutException:
            reason = f"stalled: no byte for {client.timeout.read:g} s"
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
        except httpx.InvalidURL as error:
            return f"no URL: {error}"
        if attempt < retries:
            time.sleep(0.0 if pause is not None else min(LONGEST_PAUSE, first_pause * 2**attempt))
    return f"{reason} (after {retries + 1} tries)"


def _once(
    client: "httpx.Client",
    wanted: Wanted,
    deadline: float,
    check: Callable[[Path], None] | None,
    on_bytes: Callable[[int, int | None], None] | None,
) -> None:
    part = wanted.path.with_name(f".part-{wanted.path.name}")
    about = part.with_name(part.name + ".json")
    part.parent.mkdir(parents=True, exist_ok=True)
    start, whole, headers = _resume(part, about, wanted.url)
    if start and start == whole:  # stopped between the last byte and the file's name
        return _accept(wanted, part, about, whole, check)
    with client.stream("GET", wanted.url, headers=headers) as answer:
        if answer.status_code == 416 and start and _range_total(answer.headers) == start:
            return _accept(wanted, part, about, start, check)
        if answer.status_code == 416 or (
            answer.status_code == 206 and _range_start(answer.headers) != start
        ):
            part.unlink(missing_ok=True)
            raise Passing("the server sent another range", pause=0.0)
        _check_status(answer.status_code, answer.headers)
        if answer.status_code == 206:
            whole = _range_total(answer.headers)
        else:
            start = 0
            whole = _length(answer.headers)
        if wanted.size is not None and whole is not None and whole != wanted.size:
            raise Refused(f"has {whole} bytes, {wanted.size} expected")
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        write_json(about, {"url": wanted.url, "mark": mark, "size": whole})
        end = time.monotonic() + deadline
        with open(part, "ab" if start else "wb") as handle:
            for chunk in answer.iter_raw():
                handle.write(chunk)
                if on_bytes is not None:
                    on_bytes(handle.tell(), whole)
                if time.monotonic() > end:
                    raise Passing(f"too slow: {handle.tell()} bytes after {deadline:g} s")
    _accept(wanted, part, about, whole, check)


def _resume(part: Path, about: Path, url: str) -> tuple[int, int | None, dict[str, str]]:
    """Byte to go on from, the file's size if that is known, and the headers that ask for the rest;
    byte 0 if the rest may be of another file."""
    plain = {"Accept-Encoding": "identity"}  # sizes and ranges are of the stored bytes
    if not part.is_file() or not about.is_file():
        return 0, None, plain
    try:
        known = read_json(about)
    except InputError:
        return 0, None, plain
    size = part.stat().st_size
    mark = known.get("mark", "")
    if known.get("url") != url or not size or not mark or mark.startswith("W/"):
        return 0, None, plain
    return size, known.get("size"), {**plain, "Range": f"bytes={size}-", "If-Range": mark}


def _check_status(status: int, headers: "httpx.Headers") -> None:
    if status in (200, 206):
        return
    if status in PASSING:
        raise Passing(f"HTTP {status}", _retry_after(headers.get("Retry-After")))
    raise Refused(f"HTTP {status}")


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    from email.utils import parsedate_to_datetime

    if not text:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _length(headers: "httpx.Headers") -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _range_start(headers: "httpx.Headers") -> int | None:
    """First byte of "bytes 10-99/100"."""
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    return int(match["start"]) if match and match["start"] else None


def _range_total(headers: "httpx.Headers") -> int | None:
    """The file's size from "bytes 10-99/100" or "bytes */100"."""
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    return int(match["total"]) if match and match["total"] != "*" else None


def _accept(
    wanted: Wanted,
    part: Path,
    about: Path,
    whole: int | None,
    check: Callable[[Path], None] | None,
) -> None:
    """Renames a complete file; a wrong one is removed, a short one is left to go on from."""
    size = part.stat().st_size
    expected = wanted.size if wanted.size is not None else whole
    if expected is not None and size < expected:
        raise Passing(f"cut off after {size} of {expected} bytes")
    reason = _fault(wanted, part, expected, check)
    about.unlink(missing_ok=True)
    if reason is not None:
        part.unlink()
        raise Passing(reason)
    os.replace(part, wanted.path)


def _fault(
    wanted: Wanted, path: Path, size: int | None, check: Callable[[Path], None] | None
) -> str | None:
    """What is wrong with a complete file; None if nothing."""
    if size is not None and path.stat().st_size != size:
        return f"{path.stat().st_size} bytes instead of {size}"
    if wanted.sha256 is not None and _sha256(path) != wanted.sha256:
        return "another checksum than expected"
    try:
        if check is not None:
            check(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
