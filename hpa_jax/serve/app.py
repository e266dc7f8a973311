"""`serve --model=MODEL`: a small local web server for one user.

Dropped files are written to a temporary folder, read by the folder source and labelled as by
`predict --model`; the folder is removed on exit.  The server listens on 127.0.0.1 unless --host is
set.  Requests need the header X-Requested-By, which pages of other sites can't send, and (on local
addresses) a local name in Host.
"""

import asyncio
import dataclasses
import json
import os
import secrets
import shutil
import signal
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults
from hpa_jax.core.errors import InputError
from hpa_jax.data import reader
from hpa_jax.pipeline import bundles, predict_images
from hpa_jax.pipeline.context import Context
from hpa_jax.report import page

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle

try:
    from tornado import httpserver, web
except ImportError:
    raise InputError('serve: tornado is not installed; pip install "hpa_jax[serve]"') from None

PORT = 8765
FILE_BYTES = 500_000_000
ALL_BYTES = 10_000_000_000
FILES = 8_000  # per session
SESSIONS = 8  # more remove the oldest
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
OPTIONS = ("pattern", "channels", "planes", "yellow", "table")


@dataclasses.dataclass
class Session:
    """The files of one page load. folder: of its input and output."""

    folder: Path
    size: int = 0
    count: int = 0

    @property
    def files(self) -> Path:
        """The folder of dropped files."""
        return self.folder / "files"

    def place(self, name: str) -> Path:
        """Return the path for a dropped file. name: its path in the dropped folder.

        Raises:
            InputError: a path that leaves the folder, or too many files.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        safe = parts and not any(p in ("..", "/") or "\0" in p or len(p) > 200 for p in parts)
        if not safe or len(parts) > 12:
            raise InputError(f"{name!r}: not a valid file name")
        if self.count >= FILES:
            raise InputError(f"more than {FILES:,} files; use predict --model instead")
        return self.files.joinpath(*parts)


class App:
    """The model, the sessions and the prediction thread."""

    def __init__(self, packed: "Bundle", name: str, folder: Path) -> None:
        self.packed, self.name, self.folder = packed, name, folder
        self.sessions: dict[str, Session] = {}
        self.worker = ThreadPoolExecutor(1)

    def session(self, name: str) -> Session:
        """Return a session by its name.

        Raises:
            InputError: it has expired.
        """
        if name not in self.sessions:
            raise InputError("this page has expired; load it again")
        return self.sessions[name]

    def begin(self) -> str:
        """Start a session and return its name."""
        name = secrets.token_urlsafe(16)
        while len(self.sessions) >= SESSIONS:
            oldest = next(iter(self.sessions))
            shutil.rmtree(self.sessions.pop(oldest).folder, ignore_errors=True)
        self.sessions[name] = Session(self.folder / name)
        self.sessions[name].files.mkdir(parents=True)
        return name

    def context(self, session: Session, options: dict[str, str]) -> Context:
        """Return the context of a session's prediction; options: OPTIONS, as entered.

        Raises:
            InputError: an option that is unknown or not a string, or a table that was not dropped.
        """
        config = defaults.default()
        config.data.source, config.data.root = "folder", str(session.files)
        config.data.on_bad_image = "skip"
        for name, value in options.items():
            if name not in OPTIONS or not isinstance(value, str) or len(value) > 500:
                raise InputError(f"{name}: unknown option")
        config.data.folder.pattern = options.get("pattern", "")
        config.data.folder.channels = options.get("channels", "")
        table = options.get("table", "")
        if table and not reader.inside(session.files, session.files / table):
            raise InputError(f"table {table!r}: not among the dropped files")
        config.data.folder.table = table
        planes = options.get("planes", "").replace(",", " ").split()
        config.data.folder.planes = tuple(planes)
        if options.get("yellow"):
            config.data.folder.missing.yellow = options["yellow"]
        return Context(config, session.folder / "work", {"maps": "300"})

    def match(self, session: Session, options: dict[str, str]) -> dict[str, Any]:
        """Return the ids and channels that the folder source finds in the files.

        Raises:
            InputError: no file matches, or an option is invalid.
        """
        from hpa_jax.data.problems import Problems
        from hpa_jax.data.sources import folder, imported

        settings = self.context(session, options).config.data.folder
        problems = Problems()
        names = imported.channel_names(settings.channels)
        if settings.table:
            classes = self.packed.class_names
            images, _ = folder.listed(session.files, settings.table, names, classes, problems)
        else:
            images = folder.find(session.files, settings.pattern, names, problems)
        rows = [
            {"id": id, "channels": [channel or "all in one file" for channel in match.paths]}
            for id, match in sorted(images.items())
        ]
        return {"images": rows[:2000], "count": len(rows)}

    def predict(self, session: Session, options: dict[str, str]) -> dict[str, Any]:
        """Label a session's files; return a summary and the files left out.

        Raises:
            InputError: no images, or unusable ones.
        """
        context = self.context(session, options)
        context.workdir.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = predict_images.predict(context, self.packed, self.name)
        bad = context.path("bad_images.csv")
        return {
            "said": text.split(" -> ")[0],
            "bad": bad.read_text("utf-8").splitlines()[1:101] if bad.is_file() else [],
            "csv": (context.path("predictions.csv")).is_file(),
        }


class _Handler(web.RequestHandler):
    """Base of all handlers: access checks, and errors in one line."""

    def initialize(self, app: App, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts

    def prepare(self) -> None:
        """Reject requests for another host name (DNS rebinding) or from other sites' pages."""
        if self.hosts and self.request.host not in self.hosts:
            raise web.HTTPError(403, reason="unknown host name")
        if self.request.method != "GET" and "X-Requested-By" not in self.request.headers:
            raise web.HTTPError(403, reason="not a request of this page")

    def set_default_headers(self) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish({"error": self._reason})

    def fail(self, error: BaseException) -> None:
        """Respond with an error in one line."""
        text, code = str(error), 400
        if isinstance(error, OSError) and not isinstance(error, InputError):
            text, code = error.strerror or text, 507
        self.set_status(code)
        self.finish({"error": " ".join(text.split())[:2000]})


class _Start(_Handler):
    def get(self) -> None:
        count, classes = len(self.app.packed.members), len(self.app.packed.class_names)
        html = page.environment().get_template("serve.html.j2").render(
            model=self.app.name,
            about=f"{count} network{'s' * (count > 1)}, {classes} classes",
            session=self.app.begin(),
            styles=page.asset("components.css"),
            script=page.asset("serve.js"),
        )  # fmt: skip
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Frame-Options", "DENY")
        self.finish(html)


@web.stream_request_body
class _File(_Handler):
    """One dropped file, written as it arrives."""

    def prepare(self) -> None:
        super().prepare()
        self.file, self.problem = None, None
        connection: Any = self.request.connection
        connection.set_max_body_size(FILE_BYTES)
        try:
            self.session = self.app.session(self.path_args[0])
            self.target = self.session.place(self.get_query_argument("name"))
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.target, "wb")  # noqa: SIM115 (closed in put)
            self.session.count += 1
        except (InputError, OSError) as error:
            self.problem = error

    def data_received(self, chunk: bytes) -> None:
        if self.file is None or self.problem is not None:
            return
        try:
            self.session.size += len(chunk)
            if self.session.size > ALL_BYTES:
                raise InputError(f"more than {ALL_BYTES / 1e9:g} GB; use predict --model")
            self.file.write(chunk)
        except (InputError, OSError) as error:
            self.problem = error

    def put(self, _: str) -> None:
        self._close()
        if self.problem is not None:
            return self.fail(self.problem)
        self.finish({"count": self.session.count})

    def on_connection_close(self) -> None:
        self._close()

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()


class _Work(_Handler):
    """found and predict: options in JSON -> the matched images, or the predictions."""

    async def post(self, name: str, verb: str) -> None:
        try:
            options = json.loads(self.request.body or b"{}")
            if not isinstance(options, dict):
                raise InputError("options: not a JSON object")
            session = self.app.session(name)
            work = self.app.match if verb == "found" else self.app.predict
            loop = asyncio.get_running_loop()
            self.finish(await loop.run_in_executor(self.app.worker, work, session, options))
        except (InputError, OSError, ValueError, RecursionError) as error:
            self.fail(error)


class _Result(_Handler):
    """The predictions page, its images and the table of a session."""

    def get(self, name: str, file: str) -> None:
        try:
            work = self.app.session(name).folder / "work"
        except InputError:
            raise web.HTTPError(404) from None
        inside = work if file == "predictions.csv" else work / "predictions"
        if "\0" in file:
            raise web.HTTPError(404)
        path = (inside / file).resolve()
        if not path.is_relative_to(inside.resolve()) or not path.is_file():
            raise web.HTTPError(404)
        kinds = {".html": "text/html; charset=utf-8", ".csv": "text/csv", ".jpg": "image/jpeg"}
        self.set_header("Content-Type", kinds.get(path.suffix, "application/octet-stream"))
        if path.suffix == ".csv":
            self.set_header("Content-Disposition", 'attachment; filename="predictions.csv"')
        self.finish(path.read_bytes())


def application(app: App, hosts: tuple[str, ...]) -> web.Application:
    """Return the web application. hosts: accepted values of Host, () for all."""
    options = {"app": app, "hosts": hosts}
    return web.Application(
        [
            (r"/", _Start, options),
            (r"/([\w-]+)/file", _File, options),
            (r"/([\w-]+)/(found|predict)", _Work, options),
            (r"/([\w-]+)/result/(.+)", _Result, options),
        ]
    )


async def _serve(app: App, host: str, port: int) -> None:
    hosts = tuple(f"{name}:{port}" for name in LOCAL) if host in LOCAL else ()
    server = httpserver.HTTPServer(application(app, hosts), max_body_size=1_000_000)
    try:
        server.listen(port, address=host)
    except OSError as error:
        raise InputError(
            f"serve: port {port} of {host}: {error.strerror or error}; try --port={port + 1}"
        ) from None
    print(f"serving {app.name} on http://{host}:{port}; Ctrl-C stops it", flush=True)
    if host not in LOCAL:
        print("every machine that reaches this address can use it", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.stop()


def verb(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The verb `serve`.

    Raises:
        InputError: no model, or the port is in use.
    """
    name, port = flags.get("model"), str(flags.get("port"))
    if not name:
        raise InputError("--model=MODEL is missing: a bundle, WORKDIR/models/NAME, or a name")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--port={port}: must be a number from 1 to 65535")
    packed = bundles.named(name, bool(flags.get("code")))
    folder = Path(tempfile.mkdtemp(prefix="hpa_jax_serve_"))
    app = App(packed, name, folder)
    try:
        asyncio.run(_serve(app, str(flags["host"]), int(port)))
    finally:
        app.worker.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(folder, ignore_errors=True)
    print("stopped; the files are removed", flush=True)
    if app.sessions:  # don't wait for a prediction that may still run in its thread
        os._exit(0)
    return 0
