"""The client against a server that fails, stalls, cuts, lies about ranges, and says 404 and 429."""

import hashlib
import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.data.sources.download import Wanted, download

BODY = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()


class Handler(BaseHTTPRequestHandler):
    """The path says how to behave; `seen` counts requests, `ranges` keeps what was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        with server.lock:
            server.seen[self.path] = tries = server.seen.get(self.path, 0) + 1
            server.ranges.append(self.headers.get("Range"))
            server.times.append(time.monotonic())
        name = self.path.strip("/").split(".")[0].rstrip("0123456789")
        getattr(self, name)(tries)

    def send(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def good(self, tries):
        self.send(200, BODY)

    def absent(self, tries):
        self.send(404)

    def busy(self, tries):
        self.send(200, BODY) if tries > 1 else self.send(429, Retry_After="1")

    def dated(self, tries):
        """Says until when to wait, to the second."""
        date = formatdate(time.time() + 2, usegmt=True)
        self.send(200, BODY) if tries > 1 else self.send(503, Retry_After=date)

    def past(self, tries):
        date = formatdate(time.time() - 3600, usegmt=True)
        self.send(200, BODY) if tries > 1 else self.send(503, Retry_After=date)

    def vague(self, tries):
        self.send(200, BODY) if tries > 1 else self.send(503, Retry_After="soon")

    def broken(self, tries):
        self.send(200, BODY) if tries > 2 else self.send(503)

    def dead(self, tries):
        self.send(500)

    def stalls(self, tries):
        if tries == 1:
            self.send(200, BODY[:100], length=len(BODY))
            time.sleep(1.5)
            self.close_connection = True
        else:
            self.send(200, BODY)

    def cut(self, tries):
        """Sends a third a time, and honours ranges."""
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        end = min(len(BODY), start + 20_000)
        extra = {"ETag": '"one"'}
        if start:
            extra["Content_Range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        self.send(206 if start else 200, BODY[start:end], length=len(BODY) - start, **extra)
        self.close_connection = end < len(BODY)

    def changed(self, tries):
        """The file is another one after the first cut: If-Range makes the server send all."""
        if tries == 1:
            self.send(200, b"x" * 100, length=len(BODY), ETag='"one"')
            self.close_connection = True
        else:
            assert self.headers.get("If-Range") == '"one"'
            self.send(200, BODY, ETag='"two"')

    def ranged(self, tries):
        """Honours ranges to the letter: 416 where nothing is left."""
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(BODY):
            self.send(416, Content_Range=f"bytes */{len(BODY)}")
        elif start:
            extra = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
            self.send(206, BODY[start:], ETag='"one"', **extra)
        else:
            self.send(200, BODY, ETag='"one"')

    def astray(self, tries):
        """Sends another range than it was asked for."""
        if self.headers.get("Range"):
            self.send(206, BODY[7:], ETag='"one"', Content_Range=f"bytes 7-49999/{len(BODY)}")
        else:
            self.send(200, BODY, ETag='"one"')

    def drips(self, tries):
        """Never stalls, never ends."""
        self.send(200, length=len(BODY))
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass
        self.close_connection = True

    def closed(self, tries):
        self.send(429, Retry_After="7200")

    def other(self, tries):
        self.send(200, BODY if tries > 1 else b"not it")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.ranges, server.times, server.lock = {}, [], [], threading.Lock()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(server, folder, *names, **options):
    files = [Wanted(f"{server.url}/{name}", folder / name) for name in names]
    options = dict(per_second=0, first_pause=0.02, timeout=0.5, retries=3) | options
    return download(files, **options)


def test_whole_files_arrive_in_spite_of_everything(server, tmp_path):
    names = ["good.jpg", "broken.jpg", "stalls.jpg", "cut.jpg", "changed.jpg"]
    assert fetch(server, tmp_path, *names) == {}
    for name in names:
        assert (tmp_path / name).read_bytes() == BODY, name
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert "bytes=20000-" in server.ranges and "bytes=40000-" in server.ranges


def test_what_cannot_be_had_has_a_reason_and_leaves_nothing(server, tmp_path):
    failed = fetch(server, tmp_path, "absent.jpg", "dead.jpg", "good.jpg")
    assert failed == {
        f"{server.url}/absent.jpg": "HTTP 404",
        f"{server.url}/dead.jpg": "HTTP 500 (after 4 tries)",
    }
    assert server.seen["/absent.jpg"] == 1 and server.seen["/dead.jpg"] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["good.jpg"]


def test_429_waits_as_long_as_it_is_told(server, tmp_path):
    begin = time.monotonic()
    assert fetch(server, tmp_path, "busy.jpg") == {}
    assert time.monotonic() - begin > 0.95


def test_a_date_to_wait_for_is_kept(server, tmp_path):
    assert fetch(server, tmp_path, "dated.jpg") == {}
    assert 0.9 < np.ptp(server.times) < 8  # a machine may be slow, the date is at most 2 s away


@pytest.mark.parametrize("name", ["past.jpg", "vague.jpg"])
def test_a_date_that_is_over_and_words_are_no_reason_to_wait(server, tmp_path, name):
    begin = time.monotonic()
    assert fetch(server, tmp_path, name) == {}
    assert server.seen == {f"/{name}": 2} and time.monotonic() - begin < 10


def test_a_second_call_asks_for_nothing(server, tmp_path):
    fetch(server, tmp_path, "good.jpg")
    fetch(server, tmp_path, "good.jpg")
    assert server.seen == {"/good.jpg": 1}


def test_a_stopped_download_goes_on_where_it_was(server, tmp_path):
    assert len(fetch(server, tmp_path, "cut.jpg", retries=0)) == 1
    part = tmp_path / ".part-cut.jpg"
    assert part.stat().st_size == 20_000 and not (tmp_path / "cut.jpg").exists()
    assert fetch(server, tmp_path, "cut.jpg") == {}
    assert server.ranges[1] == "bytes=20000-"
    assert (tmp_path / "cut.jpg").read_bytes() == BODY


def left_over(folder, name, body, url, size=None):
    """What a kill leaves: the bytes so far and what is known of them."""
    (folder / f".part-{name}").write_bytes(body)
    about = {"url": f"{url}/{name}", "mark": '"one"', "size": size}
    (folder / f".part-{name}.json").write_text(json.dumps(about))


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_kill_before_the_last_rename_loses_nothing(server, tmp_path, size):
    left_over(tmp_path, "ranged.jpg", BODY, server.url, size)
    assert fetch(server, tmp_path, "ranged.jpg", retries=0) == {}
    assert (tmp_path / "ranged.jpg").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["ranged.jpg"]
    assert server.ranges == ([] if size else [f"bytes={len(BODY)}-"])


@pytest.mark.parametrize(("name", "length"), [("ranged.jpg", len(BODY) + 5), ("astray.jpg", 100)])
def test_a_rest_that_does_not_fit_is_thrown_away(server, tmp_path, name, length):
    left_over(tmp_path, name, b"x" * length, server.url)
    assert fetch(server, tmp_path, name, retries=1) == {}
    assert (tmp_path / name).read_bytes() == BODY


def test_a_file_that_drips_ends_at_the_deadline(server, tmp_path):
    begin = time.monotonic()
    failed = fetch(server, tmp_path, "drips.jpg", "good.jpg", retries=1, deadline=0.3)
    assert time.monotonic() - begin < 3
    assert "too slow" in failed[f"{server.url}/drips.jpg"] and len(failed) == 1


def test_a_wait_is_kept_by_all_workers(server, tmp_path):
    names = ["busy.jpg", *(f"good{i}.jpg" for i in range(6))]
    assert fetch(server, tmp_path, *names, per_second=5, workers=3) == {}
    gaps = np.diff(sorted(server.times))
    assert gaps.max() > 0.8  # one second of Retry-After in which nobody asked


def test_a_long_wait_ends_the_asking(server, tmp_path):
    names = ["closed.jpg", *(f"good{i}.jpg" for i in range(5))]
    failed = fetch(server, tmp_path, *names, per_second=20, workers=1)
    assert len(server.times) == 1 and len(failed) == 6
    assert all("asks to wait" in reason for reason in failed.values())


def test_a_damaged_file_in_place_is_fetched_again(server, tmp_path):
    def is_body(file):
        if file.read_bytes() != BODY:
            raise InputError("no image")

    for name in ("good1.jpg", "good2.jpg"):
        (tmp_path / name).write_bytes(BODY[:10])
    assert fetch(server, tmp_path, "good1.jpg", check=is_body) == {}
    wanted = Wanted(f"{server.url}/good2.jpg", tmp_path / "good2.jpg", size=len(BODY))
    assert download([wanted], per_second=0) == {}
    assert all((tmp_path / f"good{i}.jpg").read_bytes() == BODY for i in (1, 2))


def test_size_checksum_and_content_are_checked(server, tmp_path):
    url, path = f"{server.url}/good.jpg", tmp_path / "a"
    options = dict(per_second=0, first_pause=0.01, retries=1)
    assert download([Wanted(url, path, size=7)], **options) == {url: "has 50000 bytes, 7 expected"}
    failed = download([Wanted(url, path, sha256="0" * 64)], **options)
    assert "another checksum" in failed[url] and not path.exists()
    digest = hashlib.sha256(BODY).hexdigest()
    assert download([Wanted(url, path, size=50_000, sha256=digest)], **options) == {}

    def is_body(file):
        if file.read_bytes() != BODY:
            raise InputError("no image")

    assert fetch(server, tmp_path, "other.jpg", check=is_body) == {}
    assert server.seen["/other.jpg"] == 2


def test_the_rate_is_kept_over_all_workers(server, tmp_path):
    names = [f"good{i}.jpg" for i in range(11)]
    assert fetch(server, tmp_path, *names, per_second=20, workers=8) == {}
    assert max(server.times) - min(server.times) > 0.45
