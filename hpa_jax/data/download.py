"""A well-kept HTTP client for many files: each whole under its name, or a reason why not.

Several files at once, but no more requests a second than allowed; what fails in passing (a stall, a
cut, 429, 5xx) is tried again with growing pauses or when the server says; what won't change (404,
403) is not.  A file that was cut goes on where it stopped if the server can prove that it is still
the same (If-Range).  It is renamed to its name only when size, checksum and content fit.
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

from hpa_jax.artifacts import read_json, write_json
from hpa_jax.errors import InputError

if TYPE_CHECKING:
    import httpx

PASSING = (408, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 120.0


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
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleeps until it is this caller's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        time.sleep(max(0.0, turn - now))


def download(
    files: Sequence[Wanted],
    *,
    workers: int = 4,
    per_second: float = 10.0,
    retries: int = 5,
    timeout: float = 30.0,
    first_pause: float = 1.0,
    check: Callable[[Path], None] | None = None,
) -> dict[str, str]:
    """Fetches what is not there yet; returns url -> reason of what could not be had.

    timeout: seconds without a byte after which a connection counts as stalled.
    first_pause: seconds before the second try; doubles from try to try.
    check: looks at a complete file and raises InputError if it is not what it should be; the file
      is then fetched anew.

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
            return _with_retries(client, wanted, pace, retries, first_pause, check)

        todo = [wanted for wanted in files if not wanted.path.is_file()]
        try:
            results = pool.map(fetch, todo)
            bar = tqdm(results, total=len(todo), unit="files", desc="download", disable=None)
            for wanted, reason in zip(todo, bar):
                if reason is not None:
                    failed[wanted.url] = reason
        finally:
            pool.shutdown(cancel_futures=True)
    return failed


def _with_retries(
    client: "httpx.Client",
    wanted: Wanted,
    pace: Pace,
    retries: int,
    first_pause: float,
    check: Callable[[Path], None] | None,
) -> str | None:
    """None when the file is there, else the last reason."""
    import httpx

    reason = ""
    for attempt in range(retries + 1):
        pause = None
        pace.wait()
        try:
            _once(client, wanted, check)
            return None
        except Refused as error:
            return str(error)
        except Passing as error:
            reason, pause = str(error), error.pause
        except httpx.TimeoutException:
            reason = f"stalled: no byte for {client.timeout.read:g} s"
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
        except httpx.InvalidURL as error:
            return f"no URL: {error}"
        if attempt < retries:
            time.sleep(min(LONGEST_PAUSE, first_pause * 2**attempt if pause is None else pause))
    return f"{reason} (after {retries + 1} tries)"


def _once(client: "httpx.Client", wanted: Wanted, check: Callable[[Path], None] | None) -> None:
    part = wanted.path.with_name(f".part-{wanted.path.name}")
    about = part.with_name(part.name + ".json")
    part.parent.mkdir(parents=True, exist_ok=True)
    start, headers = _resume(part, about, wanted.url)
    with client.stream("GET", wanted.url, headers=headers) as answer:
        _check_status(answer.status_code, answer.headers)
        if answer.status_code == 206:
            whole = _range_total(answer.headers, start)
        else:
            start = 0
            whole = _length(answer.headers)
        if wanted.size is not None and whole is not None and whole != wanted.size:
            raise Refused(f"has {whole} bytes, {wanted.size} expected")
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        write_json(about, {"url": wanted.url, "mark": mark, "size": whole})
        with open(part, "ab" if start else "wb") as handle:
            for chunk in answer.iter_raw():
                handle.write(chunk)
    _accept(wanted, part, about, whole, check)


def _resume(part: Path, about: Path, url: str) -> tuple[int, dict[str, str]]:
    """Byte to go on from and the headers that ask for it; 0 if the rest may be of another file."""
    plain = {"Accept-Encoding": "identity"}  # sizes and ranges are of the stored bytes
    if not part.is_file() or not about.is_file():
        return 0, plain
    try:
        known = read_json(about)
    except InputError:
        return 0, plain
    size = part.stat().st_size
    mark = known.get("mark", "")
    if known.get("url") != url or not size or not mark or mark.startswith("W/"):
        return 0, plain
    return size, {**plain, "Range": f"bytes={size}-", "If-Range": mark}


def _check_status(status: int, headers: "httpx.Headers") -> None:
    if status in (200, 206):
        return
    if status == 416:  # what is there is as long as the file, or longer: start again
        raise Passing("HTTP 416", pause=0.0)
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


def _range_total(headers: "httpx.Headers", start: int) -> int | None:
    """The file's size from "bytes 10-99/100".

    Raises:
        Passing: the server sends another range than asked for.
    """
    sent, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if sent.partition("-")[0] != str(start):
        raise Passing("the server sent another range")
    return int(total) if total.isdigit() else None


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
    reason = None
    if expected is not None and size != expected:
        reason = f"{size} bytes instead of {expected}"
    elif wanted.sha256 is not None and _sha256(part) != wanted.sha256:
        reason = "another checksum than expected"
    elif check is not None:
        try:
            check(part)
        except InputError as error:
            reason = str(error).removeprefix(f"{part}: ")
    about.unlink(missing_ok=True)
    if reason is not None:
        part.unlink()
        raise Passing(reason)
    os.replace(part, wanted.path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
