"""Names and downloads: the real client against a server on the loopback, never the network."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
from hub_helpers import REPO, equal
from hub_server import TOKEN, HubServer

from chemeleon.checkpoints import fetch, hub, registry
from chemeleon.checkpoints.load import find_model
from chemeleon.checkpoints.push import push
from chemeleon.cli.app import main
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.models.vae import CrystalVAE

pytest_plugins = ["hub_fixtures"]


def one_line(caught: pytest.ExceptionInfo[CheckpointError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names


def test_names_and_aliases_of_the_published_models(monkeypatch, tmp_path):
    monkeypatch.delenv("CHEMELEON_HUB", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    known = registry.entries()
    assert set(known) == {
        f"{data}_{model}"
        for data in ("mp_20", "alex_mp_20")
        for model in ("vae", "ldm_base", "ldm_rl")
    }
    for data in ("mp_20", "alex_mp_20"):
        for form in ("hub:{}", "${{hub:{}}}", "{}"):
            found = registry.find(form.format(f"{data}_ldm"))
            assert found.name == f"{data}_ldm_rl"
            assert (found.entry.repo, found.entry.revision) == (
                "hspark1212/chemeleon2-checkpoints",
                "main",
            )
    assert registry.find("hub:mp_20_vae").entry.file == "v0.0.1/mp_20/vae/dng_m4owq4i5_v0.ckpt"
    assert registry.find("hub:mp_20_vae@abc").entry.revision == "abc"
    assert registry.find("hub:me/x@v2").entry.model_dump(include={"repo", "file", "revision"}) == {
        "repo": "me/x",
        "file": None,
        "revision": "v2",
    }


def test_unknown_name_lists_the_nearest(server: HubServer):
    with pytest.raises(CheckpointError, match=r"no 'mp20_vea'; nearest: mp_20_vae") as caught:
        find_model("hub:mp20_vea")
    assert "chemeleon hub list" in one_line(caught)
    assert not server.asked


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: {file: x.ckpt}}", "models.a.repo: Field required"),
        ("models: {a/b: {repo: me/x}}", "String should match pattern"),
        ("models: {a: {repo: me/x, colour: red}}", "models.a.colour: Extra inputs"),
        ("aliases: {a: nothing}", "aliases name no model: a -> nothing"),
        ("models: {a: {repo: me/x, file: weights.bin}}", "models.a.file"),
    ],
)
def test_a_wrong_list_of_names_is_refused(server: HubServer, tmp_path: Path, text, words):
    (tmp_path / "hub.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        registry.entries()
    assert str(tmp_path / "hub.yaml") in str(caught.value)


# --- repositories in our own form


def test_pull_by_name_and_by_repository(server: HubServer, model: CrystalVAE):
    assert equal(CrystalVAE.from_pretrained("hub:mine"), model)
    loaded = CrystalVAE.from_pretrained(f"${{hub:{REPO}}}")
    assert equal(loaded, model)
    assert loaded.origin == model.origin
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}", revision="v1"), model)
    assert len(server.downloads()) == 1


def test_both_files_are_of_one_commit(server: HubServer, model: CrystalVAE, monkeypatch):
    first = hub.resolve(f"hub:{REPO}")
    config = (first / "config.yaml").read_bytes() + b"# changed\n"
    weights = (first / "model.safetensors").read_bytes()
    server.commit(REPO, {"config.yaml": config})
    load = huggingface_hub.hf_hub_download

    def push_in_between(repo: str, file: str, **options: Any) -> str:
        path = load(repo, file, **options)
        server.commit(REPO, {"model.safetensors": b"other"})
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", push_in_between)
    second = hub.resolve(f"hub:{REPO}")
    assert second != first
    assert (second / "config.yaml").read_bytes() == config
    assert (second / "model.safetensors").read_bytes() == weights


def test_a_pinned_commit_asks_nothing_twice(server: HubServer, model: CrystalVAE):
    pinned = f"hub:{REPO}@{server.refs[REPO]['main']}"
    folder = hub.resolve(pinned)
    server.asked.clear()
    assert hub.resolve(pinned) == folder
    assert not server.asked


def test_offline_second_use(server: HubServer, model: CrystalVAE, monkeypatch, capsys):
    folder = hub.resolve(f"hub:{REPO}")
    server.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve(f"hub:{REPO}") == folder
    with pytest.raises(CheckpointError, match=r"not in the cache .*HF_HUB_OFFLINE is set") as info:
        hub.resolve(f"hub:{REPO}@v1")
    one_line(info)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set: unset it"):
        push(folder, "me/other")
    monkeypatch.setattr(sys, "argv", ["chemeleon", "hub", "pull", "mine"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not server.asked


def test_a_hub_that_is_down_leaves_the_cached_copy(server: HubServer, model, caplog):
    folder = hub.resolve(f"hub:{REPO}")
    server.errors["HEAD"] = [503]
    assert hub.resolve(f"hub:{REPO}") == folder
    assert "answers 503" in caplog.text
    assert "the copy in the cache" in caplog.text


def test_no_network(server: HubServer, monkeypatch):
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(fetch, "LOOK_WAITS_SECONDS", (0.01, 60))  # the second is never waited for
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"cannot be reached .*check the network") as caught:
        hub.resolve(f"hub:{REPO}")
    one_line(caught)
    assert time.monotonic() - start < 10


def test_a_hub_that_swallows_requests_is_asked_once(server: HubServer, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(fetch, "LOOK_PATIENCE_SECONDS", 0.2)
    server.silent = 9
    with pytest.raises(CheckpointError, match="cannot be reached"):
        hub.resolve(f"hub:{REPO}")
    assert len(server.asked) == 1


def test_interrupted_download_goes_on(server: HubServer, model: CrystalVAE, monkeypatch):
    # what has not filled a block is lost: 10 MB in earnest, less here
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    size = len(server.commits[REPO][server.refs[REPO]["main"]]["model.safetensors"])
    assert size > 30_000
    server.break_after = [10_000, 5_000]
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}"), model)
    ranges = [asked.range for asked in server.downloads()]
    assert ranges == [None, "bytes=8192-", "bytes=12288-"]


def test_a_download_that_fails_leaves_nothing_wrong(server, model, monkeypatch, tmp_path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.break_after = [10_000] + [0] * 30
    with pytest.raises(CheckpointError, match="cannot be reached") as caught:
        hub.resolve(f"hub:{REPO}")
    one_line(caught)
    server.break_after = []
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}"), model)
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


def test_a_killed_download_leaves_nothing_wrong(server: HubServer, model: CrystalVAE):
    code = f"from chemeleon.checkpoints.hub import resolve; resolve('hub:{REPO}')"
    server.stall_after = [10_000]
    killed = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert server.stalled.wait(60)
    finally:
        killed.kill()
        killed.wait()
    assert not hub.list_models()[-1].cached
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}"), model)


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 500), ("HEAD", 503), ("HEAD", 429), ("GET", 500), ("GET", 503)]
)
def test_server_error_then_success(server: HubServer, model: CrystalVAE, method, status):
    server.errors[method] = [status]
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}"), model)
    assert server.errors[method] == []


def test_server_error_without_end(server: HubServer, model: CrystalVAE):
    server.errors["HEAD"] = [500] * 50
    with pytest.raises(CheckpointError, match=r"answers 500 .*try again later") as caught:
        hub.resolve(f"hub:{REPO}")
    one_line(caught)
    assert len(server.asked) == 3


def test_silence_is_waited_for_not_for_ever(server: HubServer, model: CrystalVAE, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    server.silent = 1
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}"), model)
    server.silent = 1  # with a copy at hand nothing is tried again
    server.asked.clear()
    assert hub.resolve(f"hub:{REPO}").is_dir()
    assert len(server.asked) == 1
    server.silent = 9
    with pytest.raises(CheckpointError, match="cannot be reached"):
        hub.resolve(f"hub:{REPO}@v1")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (f"hub:{REPO}@v9", "no revision 'v9'"),
        (f"hub:{REPO}@{'a' * 40}", "no revision 'a+'"),
        ("hub:me/nothing", r"does not exist, or .* answers 401\).*hf auth login.*HF_TOKEN"),
        ("hub:me/secret", r"does not exist, or .* answers 401\).*hf auth login.*HF_TOKEN"),
        ("hub:me/gated", r"is gated: accept its conditions at .*/me/gated, then .*HF_TOKEN"),
        ("hub:me/empty", r"no file 'config.yaml' at revision 'main'; a model has"),
        ("hub:small_vae", r"them/checkpoints does not exist"),
        ("hub:a/b/c", "is not hub:OWNER/REPO"),
    ],
)
def test_each_refusal_says_what_to_do(server: HubServer, model: CrystalVAE, reference, words):
    for repo in ("me/secret", "me/gated", "me/empty"):
        server.commit(repo, {"README.md": b"hello"})
    server.private.add("me/secret")
    server.gated.add("me/gated")
    with pytest.raises(CheckpointError, match=words) as caught:
        find_model(reference)
    one_line(caught)


def test_private_model_with_a_token(server: HubServer, model: CrystalVAE, monkeypatch):
    server.private.add(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert equal(CrystalVAE.from_pretrained(f"hub:{REPO}"), model)
    assert [asked.token for asked in server.downloads()] == [None]  # it stays with the hub


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")],
)
def test_local_trouble(server: HubServer, model: CrystalVAE, monkeypatch, code, words):
    def fail(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(CheckpointError, match=f"{words}.*HF_HOME") as caught:
        hub.resolve(f"hub:{REPO}")
    one_line(caught)


def test_a_config_that_is_none_is_refused_before_weights_are_fetched(server: HubServer):
    for config, words in (
        (b"kind: &a vae", "an anchor"),
        (b"kind: vae\nvae: {width: 1000000}", r"vae\.width: .* equal to 16384"),
        (b"#" * 200_000, r"config\.yaml \(main\) has 200,000 bytes, over 131,072"),
    ):
        server.commit("me/odd", {"config.yaml": config, "model.safetensors": b"x" * 100_000})
        with pytest.raises(CheckpointError, match=words) as caught:
            find_model("hub:me/odd")
        one_line(caught)
    fetched = [asked.path for asked in server.asked if asked.method == "GET"]
    assert not [path for path in fetched if "model.safetensors" in path or "/cdn/" in path]
    assert len([path for path in fetched if "config.yaml" in path]) == 2
