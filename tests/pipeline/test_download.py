"""The verb `download` needs an atlas source, and says what could not be had."""

import httpx
import pytest

from hpa_jax.config import defaults
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.download import download


def settings(root):
    config = defaults.default()
    config.data.source, config.data.root = "atlas", str(root)
    config.data.download.update(retries=0, per_second=0.0)
    return config


def test_only_the_atlas_is_downloaded():
    with pytest.raises(InputError, match="only the atlas"):
        download(defaults.default(), {"workdir": "w"})


def test_a_server_without_the_images_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "external.csv").write_text("Id,Target\n1_2_C3_4,5\n")
    plain = httpx.Client
    transport = httpx.MockTransport(lambda request: httpx.Response(404))
    monkeypatch.setattr(httpx, "Client", lambda **o: plain(**o, transport=transport))
    with pytest.raises(InputError, match="all 4 downloads failed: HTTP 404"):
        download(settings(tmp_path), {})
    assert (tmp_path / "download_failed.csv").read_text().count("404") == 4
