"""Fetching published models: whole or not at all, checked, resumed, never against a licence."""

import dataclasses
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

import numpy as np
import pytest
from safetensors.numpy import save_file

from hpa_jax.__main__ import main
from hpa_jax.core.errors import InputError
from hpa_jax.models import fetch, pretrained, published, store
from tests.models import pinned

NAME = "tiny_published"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of a catalogue's entry that stands for a published model; the cache is empty."""
    monkeypatch.setenv("HPA_JAX_HOME", str(tmp_path / "home"))
    save_file(pinned.tensors("resnet18"), tmp_path / "w.safetensors")
    digits = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()[:8]
    path = (tmp_path / "w.safetensors").rename(tmp_path / f"tiny-{digits}.safetensors")
    network = dict(backbone="resnet18", head="gap", width=1 / 16, depth=(1, 1, 1, 1))
    entry = dataclasses.replace(
        published.find("hpa_densenet121"),
        channels=("red", "green", "blue"),
        class_names=tuple("abcdefg"),
        network=network,
        files=(published.File(path.name, size=path.stat().st_size),),
        store="",
    )
    enter(monkeypatch, entry)
    return path


def enter(monkeypatch, entry):
    catalogue = MappingProxyType({**published.PUBLISHED, NAME: entry})
    monkeypatch.setattr(published, "PUBLISHED", catalogue)


class Server(BaseHTTPRequestHandler):
    """Gives the file; under /cut only its first half at the first request."""

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if "absent" in self.path:
            self.send_response(404)
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        body = server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"one"')
        if start:
            whole = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if len(server.ranges) == 1 else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(weights):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.body, server.ranges = weights.read_bytes(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def content(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_a_local_file_is_stored_with_its_licence_and_fills_the_network(weights, tmp_path, capsys):
    assert main(["models", "fetch", NAME, f"--from={weights}"]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "home" / "models" / NAME
    assert "licence: MIT (Shubin Dai)" in shown and f"{NAME} -> {folder}" in shown
    assert content(folder) == ["LICENCE.txt", "fetched.json", weights.name]
    assert (folder / "LICENCE.txt").read_text() in shown
    known = json.loads((folder / "fetched.json").read_text())["files"][weights.name]
    assert known["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    model = pretrained.published_network(NAME)
    logits = pinned.logits(model, pinned.pictures("resnet18"))
    pinned.assert_close(logits, pinned.golden("resnet18")["logits"])
    assert main(["models", "list"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(NAME))
    assert row.endswith("yes")


def test_a_download_that_is_cut_goes_on_and_a_second_fetch_asks_nobody(server, tmp_path):
    place = f"--from=http://127.0.0.1:{server.server_port}/"
    assert main(["models", "fetch", NAME, place, f"--out={tmp_path}/out"]) == 0
    half = len(server.body) // 2
    assert server.ranges == [None, f"bytes={half}-"]
    assert pretrained.published_network(NAME, tmp_path / "out") is not None
    assert main(["models", "fetch", NAME, f"--out={tmp_path}/out"]) == 0
    assert len(server.ranges) == 2


def test_what_is_not_to_be_had_leaves_nothing(server, tmp_path, capsys):
    place = f"--from=http://127.0.0.1:{server.server_port}/absent/"
    assert main(["models", "fetch", NAME, place]) == 2
    error = capsys.readouterr().err
    assert "HTTP 404" in error and "--from=FILE" in error and error.count("\n") == 1
    assert content(tmp_path / "home" / "models") == []


def changed(weights, how, monkeypatch):
    """The file of another kind, and the entry that does not know its size and digits."""
    tensors = pinned.tensors("resnet18")
    how(tensors)
    save_file(tensors, weights)
    file = published.File("any.safetensors")
    enter(monkeypatch, dataclasses.replace(published.find(NAME), files=(file,)))


def drop(tensors):
    del tensors["layer2.0.bn1.weight"]


def other_classes(tensors):
    tensors["fc.weight"], tensors["fc.bias"] = (
        np.zeros((9, 32), np.float32),
        np.zeros(9, np.float32),
    )


def other_network(tensors):
    for name in list(tensors):
        del tensors[name]
    tensors.update(pinned.tensors("densenet121"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (drop, r"lacks 1 of the network's .*layer2\.0\.bn1\.scale"),
        (other_classes, r"fc\.weight \(9, 32\) is for other classes"),
        (other_network, "is for another network"),
    ],
)
def test_a_file_of_another_model_is_refused(weights, tmp_path, monkeypatch, how, words):
    changed(weights, how, monkeypatch)
    with pytest.raises(InputError, match=words) as refused:
        fetch.fetch(NAME, source=str(weights))
    assert str(refused.value).startswith("any.safetensors: ") and "\n" not in str(refused.value)
    assert content(tmp_path / "home" / "models") == []


def test_a_truncated_and_a_damaged_file_are_refused(weights, tmp_path):
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="truncated or another"):
        fetch.fetch(NAME, source=str(weights))
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match="SHA-256 begins with"):
        fetch.fetch(NAME, source=str(weights))
    assert content(tmp_path / "home" / "models") == []


def test_the_first_fetchs_checksum_is_held_to(weights, tmp_path, monkeypatch):
    file = published.File("any.safetensors")
    enter(monkeypatch, dataclasses.replace(published.find(NAME), files=(file,)))
    folder = fetch.fetch(NAME, source=str(weights))
    tensors = pinned.tensors("resnet18")
    tensors["fc.bias"] += 1
    save_file(tensors, weights)
    with pytest.raises(InputError, match="that of the first fetch was"):
        fetch.fetch(NAME, source=str(weights))
    assert content(folder) == ["LICENCE.txt", "any.safetensors", "fetched.json"]
    pretrained.published_network(NAME)
    save_file(tensors, folder / "any.safetensors")  # changed behind the program's back
    with pytest.raises(InputError, match="that of the first fetch was"):
        pretrained.published_network(NAME)


def test_a_licence_that_must_be_accepted(weights, tmp_path, monkeypatch, capsys):
    licence = published.find("cell_dino_cp").licence
    enter(monkeypatch, dataclasses.replace(published.find(NAME), licence=licence))
    call = ["models", "fetch", NAME]
    for more, words in (
        ([], "request the files at https://ai.meta.com"),
        ([f"--from={weights}"], f"add --accept-licence={NAME}"),
        ([f"--from={weights}", "--accept-licence=cell_dino_cp"], "give the name of the model"),
    ):
        assert main([*call, *more]) == 2
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1
        assert "FAIR Noncommercial" in captured.out  # the licence is shown all the same
        assert content(tmp_path / "home" / "models") == []
    assert main([*call, f"--from={weights}", f"--accept-licence={NAME}"]) == 0
    assert store.record(store.folder_of(NAME))["licence_accepted"] is True


def test_another_folder_with_files_is_left_alone(weights, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="contains other files"):
        fetch.fetch(NAME, out=tmp_path / "mine", source=str(weights))
    assert content(tmp_path / "mine") == ["thesis.tex"]


def test_before_the_fetch_the_command_is_told(weights):
    with pytest.raises(InputError, match=f"models fetch {NAME}"):
        pretrained.published_network(NAME)
