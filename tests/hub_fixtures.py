"""A hub on the loopback with models on it, and the client of this process turned to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_helpers import LIGHTNING, REPO, tiny_vae
from hub_server import HubServer, serve
from reference import checkpoint

from chemeleon.checkpoints import fetch
from chemeleon.models.vae import CrystalVAE

REGISTRY = """
models:
  small_vae: {repo: them/checkpoints, file: v0/vae.ckpt, kind: vae, what: small VAE}
  small_ldm: {repo: them/checkpoints, file: v0/ldm.ckpt, kind: ldm, vae: small_vae}
  mine: {repo: me/my-vae, revision: v1, kind: vae}
aliases:
  small: small_ldm
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub, and this process's client turned to it."""
    with serve() as server:
        home = tmp_path / "hf"
        names = tmp_path / "hub.yaml"
        names.write_text(REGISTRY, encoding="utf-8")
        env = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "CHEMELEON_CACHE": str(tmp_path / "cache"),
            "CHEMELEON_HUB": str(names),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        constants = huggingface_hub.constants  # the client reads the environment when imported
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(fetch, "LOOK_WAITS_SECONDS", (0.01, 0.01))
        monkeypatch.setattr(fetch, "LOAD_WAITS_SECONDS", (0.01, 0.01))
        yield server


@pytest.fixture
def model(server: HubServer, tmp_path: Path) -> CrystalVAE:
    """A model of our own form on the server, at main and v1."""
    vae = tiny_vae()
    folder = vae.save_pretrained(tmp_path / "vae")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.commit(REPO, files)
    server.commit(REPO, files, "v1")
    return vae


@pytest.fixture
def lightning(server: HubServer) -> HubServer:
    files = {"vae": "vae_dng", "ldm": "ldm_null"}
    content = {f"v0/{to}.ckpt": checkpoint(name).read_bytes() for to, name in files.items()}
    server.commit(LIGHTNING, content)
    return server
