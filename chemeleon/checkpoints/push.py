"""Upload of models to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from chemeleon.checkpoints.card import model_card
from chemeleon.checkpoints.fetch import push_in_words
from chemeleon.checkpoints.load import find_model
from chemeleon.checkpoints.registry import find
from chemeleon.config.hubname import is_name
from chemeleon.config.modelfile import read_model_config
from chemeleon.config.plain_json import parse_json
from chemeleon.config.plain_yaml import dump_yaml
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_CONFIG, MODEL_WEIGHTS
from chemeleon.version import __version__

CARD = "README.md"
# the same as config.yaml: what the hub and its other clients look for; nothing here reads it
MIRROR = "config.json"


class PushOptions(TypedDict, total=False):
    """The options of ``push``."""

    private: bool
    revision: str | None
    message: str | None
    license: str


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str = "other",
) -> str:
    """Upload a model: config, weights and a model card; make the repository if needed.

    The config goes up as ``config.yaml``, and once more as ``config.json`` for other clients.

    A ``README.md`` in the folder is taken as the card. Otherwise one is written from the config,
    unless the repository has a card already: somebody may have worked on it.

    Args:
        folder: run or model folder, or ``hub:NAME``.
        repo: ``OWNER/REPO``.
        private: only you and your organisation see it (when it is made).
        revision: branch; made if it does not exist.
        message: of the commit.
        license: identifier of the hub for the card, such as ``mit``.

    Returns:
        Address of the commit.

    Raises:
        CheckpointError: one line that says what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if "/" not in repo or is_name(repo) or "@" in repo:
        raise CheckpointError(f"'{repo}' is not OWNER/REPO, for example me/my-model")
    find(repo)  # refuses other malformed names before anything is read
    path = find_model(folder)
    config = without_local_paths(read_model_config(path / MODEL_CONFIG))
    if config.get("adapter") is not None:
        raise CheckpointError(
            f"{path} holds adapters, which are of no use without their base: publish both as one"
            f" model, made with `chemeleon ldm merge {path} -o DIR`"
        )
    api = HfApi(library_name="chemeleon", library_version=__version__)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        text = dump_yaml(config).encode()
        files: dict[str, bytes | Path] = {MODEL_CONFIG: text, MIRROR: _as_json(config)}
        files[MODEL_WEIGHTS] = path / MODEL_WEIGHTS
        if (path / CARD).is_file():
            files[CARD] = path / CARD
        elif not api.file_exists(repo, CARD, revision=revision):
            files[CARD] = model_card(config, repo, license).encode()
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"{config['kind']} model of chemeleon {__version__}",
            revision=revision,
        )
    except Exception as error:
        raise CheckpointError(push_in_words(error, repo)) from error
    return str(commit.commit_url)


def _as_json(config: dict[str, Any]) -> bytes:
    """Return JSON as others read it: without NaN, which a metric may be."""
    return json.dumps(parse_json(json.dumps(config), finite=True), indent=2).encode()


def without_local_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Forget where the VAE, the start of training and the base of adapters lay on this computer.

    Their weights are in the model, so nothing needs them; names (hub:, shipped:) are kept.
    """
    adapted = config.get("adapted_from")
    if isinstance(adapted, dict) and not is_name(str(adapted.get("base"))):
        config = {**config, "adapted_from": {**adapted, "base": None}}
    ldm = config.get("ldm")
    if not isinstance(ldm, dict):
        return config
    paths = ("vae_ckpt_path", "init_ckpt_path")
    local = [key for key in paths if ldm.get(key) and not is_name(str(ldm[key]))]
    return {**config, "ldm": {**ldm, **dict.fromkeys(local)}}
