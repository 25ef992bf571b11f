"""Models of the hub: name to local folder, import of published files, upload of our own.

A repository in our own form is used where huggingface_hub's cache has it. A Lightning checkpoint is
imported once into ``$CHEMELEON_CACHE/models`` (by default under ``~/.cache/chemeleon``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from chemeleon.checkpoints.card import model_card
from chemeleon.checkpoints.fetch import cached_file, fetch, is_commit, push_in_words
from chemeleon.checkpoints.registry import Entry, Named, entries, find
from chemeleon.config.hubname import is_name
from chemeleon.config.modelfile import read_model_config
from chemeleon.config.plain_yaml import MOST_BYTES, dump_yaml
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_PARTS, at_home, hold
from chemeleon.version import __version__

# the names of store.py, which is imported late: with it comes torch, which `hub list` needs not
CONFIG, WEIGHTS, CARD = *MODEL_PARTS, "README.md"
# the same as config.yaml: what the hub and its other clients look for; nothing here reads it
MIRROR = "config.json"


def resolve(reference: str, *, revision: str | None = None) -> Path:
    """Return the local model folder of a hub model, fetching and importing it if needed.

    Args:
        reference: ``hub:NAME`` or ``hub:OWNER/REPO``, also with ``@REVISION``.
        revision: branch, tag or commit, instead of the one in the reference or the registry.

    Raises:
        CheckpointError: one line that says what to do.
    """
    named = find(reference, revision)
    entry = named.entry
    if entry.file is not None:
        return _imported(named, fetch(entry.repo, entry.file, entry.revision))
    config = fetch(entry.repo, CONFIG, entry.revision, MOST_BYTES)
    read_model_config(config)  # refused before the weights are fetched
    # the commit of the config, so that both files belong together even if a push comes between
    commit = config.parent.name
    return fetch(entry.repo, WEIGHTS, commit if is_commit(commit) else entry.revision).parent


class Listed(NamedTuple):
    """A named model, its other names, where it lies, and whether it can be used offline."""

    name: str
    aliases: tuple[str, ...]
    entry: Entry
    cached: bool


def list_models() -> list[Listed]:
    """Return the models that have a name.

    Raises:
        ConfigError: if a user's file of names is wrong.
    """
    listed = []
    for name, entry, aliases in entries().values():
        files = [CONFIG, WEIGHTS] if entry.file is None else [entry.file]
        cached = all(cached_file(entry.repo, file, entry.revision) for file in files)
        listed.append(Listed(name, aliases, entry, cached))
    return listed


def convert(
    file: str | Path,
    output: str | Path,
    *,
    weights: Literal["raw", "ema"] = "raw",
    vae: str | Path | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
    overwrite: bool = False,
    fits: Callable[[Any], object] = lambda folder: None,
) -> Path:
    """Import a Lightning checkpoint into a model folder, or write a model folder anew.

    Nothing in a checkpoint is executed. Adapters are merged with their base.

    Args:
        file: the checkpoint; or a run or model folder, ``hub:NAME`` or ``shipped:NAME``.
        output: folder to make.
        weights: as trained, or their running average where the file holds it.
        vae: VAE of an LDM or predictor that does not hold its own: a folder or ``hub:NAME``.
        dtype: of the weights in ``output``; bf16 halves it. Statistics are float32 in any case.
        overwrite: replace a model in ``output``.
        fits: see ``store.read_model``; a folder is written anew only if it does.

    Raises:
        CheckpointError: if the file cannot be imported.
        ConfigError: if there is a model in ``output`` already.
    """
    from chemeleon.checkpoints.lightning import convert as convert_file
    from chemeleon.checkpoints.store import read_model, write_model

    path = Path(file)
    if not (is_name(str(file)) or path.exists()):
        raise CheckpointError(
            f"{file} does not exist: name a Lightning checkpoint (.ckpt), or a run or model folder"
        )
    output = at_home(output)
    with hold(output, MODEL_PARTS, overwrite=overwrite):
        if path.is_file():
            return convert_file(file, output, weights=weights, vae=vae, dtype=dtype)
        if weights != "raw" or vae is not None:
            raise CheckpointError(
                f"{file} is no Lightning checkpoint: leave out --weights and --vae"
            )
        folder = read_model(file, ("vae", "ldm", "predictor"), fits=fits)
        fits(folder)
        write_model(output, folder.kind, folder.content, folder.tensors, dtype)
    return output


def models_cache() -> Path:
    """Return where imported models are kept: beside the cache of parsed data sets."""
    root = os.environ.get("CHEMELEON_CACHE")
    return at_home(root or "~/.cache/chemeleon") / "models"


def _imported(named: Named, source: Path) -> Path:
    """Import a Lightning file once; its content and our version decide whether that was done."""
    entry = named.entry
    name = f"{named.name}-{_content_id(source)}-{entry.weights}-{__version__}"
    folder = models_cache() / name
    if _is_complete(folder):
        return folder

    try:
        # one process imports, the others wait and find it
        with hold(folder, MODEL_PARTS, wait=True):
            if not _is_complete(folder):
                _import(named, source, folder)
    except OSError as error:
        raise CheckpointError(
            f"{named.name} cannot be kept in {folder.parent} ({error}): make room there, or name"
            " another folder in CHEMELEON_CACHE"
        ) from error
    return folder


def _import(named: Named, source: Path, folder: Path) -> None:
    from chemeleon.checkpoints.lightning import convert

    vae = named.entry.vae
    if vae is not None and not is_name(vae) and not at_home(vae).exists():
        vae = f"hub:{vae}"
    convert(source, folder, weights=named.entry.weights, vae=vae)


def _content_id(source: Path) -> str:
    """Return the start of the file's hash, else (a cache without links) of its commit."""
    blob = source.resolve()
    if blob.parent.name == "blobs":
        return blob.name[:12]
    parts = source.parts
    return parts[parts.index("snapshots") + 1][:12]


def _is_complete(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


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

    from chemeleon.checkpoints.store import find_model

    if "/" not in repo or is_name(repo) or "@" in repo:
        raise CheckpointError(f"'{repo}' is not OWNER/REPO, for example me/my-model")
    find(repo)  # refuses other malformed names before anything is read
    path = find_model(folder)
    config = without_local_paths(read_model_config(path / CONFIG))
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
        mirror = _as_json(config)
        files: dict[str, bytes | Path] = {CONFIG: text, MIRROR: mirror, WEIGHTS: path / WEIGHTS}
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
    finite = json.loads(json.dumps(config), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2).encode()


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
