"""The local app: who may ask, what may be sent, what is answered; in a browser by real files."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tornado")
from tornado import httpclient, httpserver, websocket

from hpa_jax.core.errors import InputError
from hpa_jax.serve import app as serving

ROOT = Path(__file__).parents[2]
FROM_PAGE = {"X-Requested-By": "test"}


class Packed:
    """A bundle that predicts nothing."""

    members, class_names, training_images = [None], ("a", "b"), {}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def app(tmp_path):
    return serving.App(Packed(), "runs/x", tmp_path / "all")


def asked(app, *requests):
    """The answers (code, body) of (path, method, body, headers), one after the other."""

    async def run():
        port = free_port()
        hosts = (f"127.0.0.1:{port}",)
        server = httpserver.HTTPServer(serving.application(app, hosts), max_body_size=1_000_000)
        server.listen(port, "127.0.0.1")
        client, answers = httpclient.AsyncHTTPClient(), []
        for path, method, body, headers in requests:
            url = f"http://127.0.0.1:{port}{path}"
            request = httpclient.HTTPRequest(url, method, headers, body)
            answer = await client.fetch(request, raise_error=False)
            answers.append((answer.code, answer.body.decode()))
        server.stop()
        return answers

    return asyncio.run(run())


def test_the_page_opens_a_session_and_files_arrive(app, tmp_path):
    ((code, html),) = asked(app, ("/", "GET", None, {}))
    name = re.search(r'data-session="([\w-]+)"', html)[1]
    assert code == 200 and "runs/x" in html and name in app.sessions
    image = tmp_path / "x.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    puts = [
        (f"/{name}/file?name=in%2F{id}_{c}.png", "PUT", image.read_bytes(), FROM_PAGE)
        for id in ("a%20😀".encode().decode(), "b")
        for c in ("red", "green")
    ]
    puts = [(path.replace("😀", "%F0%9F%98%80"), *rest) for path, *rest in puts]
    answers = asked(app, *puts, (f"/{name}/found", "POST", "{}", FROM_PAGE))
    assert [code for code, _ in answers] == [200] * 5
    found = json.loads(answers[-1][1])
    assert [row["id"] for row in found["images"]] == ["a 😀", "b"]
    assert set(found["images"][0]["channels"]) == {"red", "green"}


def test_a_table_of_paths_names_the_images(app):
    name = app.begin()
    folder = app.session(name).files
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "one.png")
    (folder / "paths.csv").write_text("id,red,green,blue\nmine,one.png,one.png,one.png\n")
    found = app.match(app.session(name), {"table": "paths.csv"})
    assert found == {"images": [{"id": "mine", "channels": ["red", "green", "blue"]}], "count": 1}


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/passwd", "a/../../x.png", "", "a" * 300, "..\\x.png", "a\0b"]
)
def test_no_name_leaves_the_folder(app, name):
    session = app.session(app.begin())
    with pytest.raises(InputError, match="not a valid file name"):
        session.place(name)


@pytest.mark.parametrize("table", ["/etc/passwd", "../../secret.csv", "link.csv"])
def test_a_table_is_one_of_the_dropped_files(app, table, tmp_path):
    session = app.session(app.begin())
    secret = session.files.parent.parent / "secret.csv"
    secret.write_text("password,hunter2\n")
    (session.files / "link.csv").symlink_to(secret)
    with pytest.raises(InputError, match="not among the dropped files") as caught:
        app.match(session, {"table": table})
    assert "hunter2" not in str(caught.value) and "root:" not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_no_request_ends_in_a_traceback(app, seed, monkeypatch):
    """Random paths, names, methods and bodies: 500 would be an error that nobody foresaw."""
    monkeypatch.setattr(app, "predict", lambda *_: {})
    rng, name = np.random.default_rng(seed), app.begin()
    values = [
        "",
        "x",
        3,
        None,
        [],
        {},
        "{id}",
        "{id}_{channel}",
        "*" * 40,
        "{",
        "a\0b",
        "/etc",
        "%",
    ]
    values += ["😀", "zeros", "red,green", "[[" * 50]

    def some(of):
        return of[rng.integers(len(of))]

    def encoded():
        return "".join(f"%{byte:02x}" for byte in rng.integers(0, 256, rng.integers(1, 30)))

    requests = []
    for _ in range(60):
        options = {some([*serving.OPTIONS, "root"]): some(values) for _ in range(rng.integers(3))}
        body = some([json.dumps(options), json.dumps(options), "[" * 100_000, "{"])
        name_or_not = some([name, name, name, "gone"])
        requests.append(
            some(
                [
                    (f"/{name_or_not}/found", "POST", body, FROM_PAGE),
                    (f"/{name_or_not}/predict", "POST", body, FROM_PAGE),
                    (f"/{name_or_not}/file?name={encoded()}", "PUT", "x", FROM_PAGE),
                    (f"/{name_or_not}/file", "PUT", "x", FROM_PAGE),
                    (f"/{name_or_not}/result/{encoded()}", "GET", None, {}),
                    (f"/{encoded()}", "GET", None, {}),
                ]
            )
        )
    answers = asked(app, *requests)
    unforeseen = [(request[:3], a) for request, a in zip(requests, answers) if a[0] == 500]
    assert not unforeseen, unforeseen[:3]


def test_other_pages_and_hosts_are_refused(app):
    name = app.begin()
    answers = asked(
        app,
        (f"/{name}/file?name=a.png", "PUT", "x", {}),
        (f"/{name}/predict", "POST", "{}", {"Host": "evil.example", **FROM_PAGE}),
        ("/", "GET", None, {"Host": "evil.example"}),
        (f"/{name}/result/..%2F..%2F..%2Fetc%2Fpasswd", "GET", None, {}),
        ("/nothing-there/result/index.html", "GET", None, {}),
    )
    assert [code for code, _ in answers] == [403, 403, 403, 404, 404]
    assert not list(app.session(name).files.iterdir())


def test_what_is_wrong_is_answered_in_one_line(app, monkeypatch):
    name = app.begin()
    answers = asked(
        app,
        (f"/{name}/found", "POST", "{}", FROM_PAGE),
        (f"/{name}/found", "POST", "[]", FROM_PAGE),
        (f"/{name}/found", "POST", "{", FROM_PAGE),
        (f"/{name}/found", "POST", '{"root": "/"}', FROM_PAGE),
        ("/gone/found", "POST", "{}", FROM_PAGE),
    )
    words = ["image", "options", "", "unknown option", "load it again"]
    for (code, body), expected in zip(answers, words, strict=True):
        error = json.loads(body)["error"]
        assert code == 400 and expected in error and "\n" not in error
    monkeypatch.setattr(serving, "FILES", 1)
    monkeypatch.setattr(serving, "ALL_BYTES", 3)
    sent = [(f"/{name}/file?name={n}.png", "PUT", "xxxx", FROM_PAGE) for n in "ab"]
    (_, large), (_, many) = asked(app, *sent)
    assert "GB" in large and "more than 1 files" in many


def test_a_full_disk_is_told(app, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(app, "predict", full)
    name = app.begin()
    ((code, body),) = asked(app, (f"/{name}/predict", "POST", "{}", FROM_PAGE))
    assert code == 507 and json.loads(body)["error"] == "No space left on device"


def test_old_sessions_go(app, monkeypatch):
    monkeypatch.setattr(serving, "SESSIONS", 2)
    names = [app.begin() for _ in range(3)]
    assert set(app.sessions) == set(names[1:])
    assert {path.name for path in app.folder.iterdir()} == set(names[1:])


@pytest.fixture(scope="module")
def served(done):
    """(address, process) of the command on the small run's network."""
    workdir, _ = done
    port = free_port()
    command = [sys.executable, "-m", "hpa_jax", "serve", f"--model={workdir}/models/tiny"]
    process = subprocess.Popen(
        [*command, f"--port={port}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert "serving" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}", process
    process.kill()


class Browser:
    """Chromium by its remote protocol."""

    async def open(self, url, folder):
        port = free_port()
        command = [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu"]
        command += [f"--remote-debugging-port={port}", f"--user-data-dir={folder}", url]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(100):
            await asyncio.sleep(0.2)
            try:
                pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
                target = next(p for p in pages if p["type"] == "page" and p["url"].startswith(url))
                break
            except (urllib.error.URLError, ConnectionError, StopIteration):
                continue
        request = httpclient.HTTPRequest(target["webSocketDebuggerUrl"])
        self.socket = await websocket.websocket_connect(request, max_message_size=2**28)
        self.number = 0

    async def call(self, method, **options):
        self.number += 1
        message = {"id": self.number, "method": method, "params": options}
        await self.socket.write_message(json.dumps(message))
        while True:
            answer = json.loads(await self.socket.read_message())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, code):
        options = {"expression": code, "returnByValue": True, "awaitPromise": True}
        result = await self.call("Runtime.evaluate", **options)
        return result["result"].get("value")

    async def until(self, code, seconds=240):
        end = time.monotonic() + seconds
        while not (found := await self.value(code)):
            assert time.monotonic() < end, await self.value("document.body.innerText")
            await asyncio.sleep(0.3)
        return found


@pytest.mark.browser
def test_files_are_dropped_and_answered(done, served, tmp_path):
    workdir, _ = done
    address, process = served
    folder = tmp_path / "cells"
    folder.mkdir()
    ids = sorted({path.name.rsplit("_", 1)[0] for path in (workdir / "data/test").glob("*_red*")})
    for n, id in enumerate(ids[:3]):
        for channel in ("red", "green", "blue", "yellow"):
            target = folder / f"cell's #{n} <b>😀_{channel}.png"
            target = folder / target.name.replace("<b>", "&")
            shutil.copy(workdir / f"data/test/{id}_{channel}.png", target)
    for channel in ("red", "green", "blue", "yellow"):
        (folder / f"text_{channel}.png").write_text("no image")

    async def run():
        browser = Browser()
        try:
            await browser.open(address + "/", tmp_path / "profile")
            await browser.until("document.getElementById('drop') !== null")
            drag = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
            for kind in ("dragEnter", "dragOver", "drop"):
                await browser.call("Input.dispatchDragEvent", type=kind, x=300, y=160, data=drag)
            count = await browser.until("document.getElementById('count').textContent")
            await browser.value("document.getElementById('go').click()")
            await browser.until(
                "document.querySelector('iframe')?.contentDocument?.querySelectorAll('.card').length"
            )
            inner = "document.querySelector('iframe').contentDocument"
            names = await browser.value(
                f"[...{inner}.querySelectorAll('.card .name')].map(e => e.textContent)"
            )
            bad = await browser.value("document.getElementById('bad').textContent")
            csv = await browser.value(
                "fetch(document.getElementById('csv').href).then(answer => answer.text())"
            )
            return count, names, bad, csv
        finally:
            browser.process.kill()

    count, names, bad, csv = asyncio.run(run())
    assert count == "4 images" and sorted(names) == [f"cell's #{n} &😀" for n in range(3)]
    assert "text" in bad and len(csv.strip().split("\n")) == 4
    process.terminate()
    assert process.wait(30) == 0
    assert "removed" in process.stdout.read()


def test_a_port_in_use_and_a_missing_model_are_one_line(done, capsys):
    from hpa_jax.__main__ import main

    assert main(["serve"]) == 2
    assert "--model=MODEL is missing" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", f"--model={done[0]}/models/tiny", f"--port={port}"]) == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error and error.count("\n") == 1
