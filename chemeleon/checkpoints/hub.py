"""Models of the hub: name to local folder, and import of published files.

A repository in our own form is used where huggingface_hub's cache has it. A Lightning checkpoint is
imported once into ``$CHEMELEON_CACHE/models`` (by default under ``~/.cache/chemeleon``).
"""

from __future__ import annotations

import os
from pathlib import Path

from chemeleon.checkpoints import shipped
from chemeleon.checkpoints.fetch import fetch, is_commit
from chemeleon.checkpoints.registry import Named, entries, find
from chemeleon.config.hubname import hub_name, shipped_name
from chemeleon.config.modelfile import read_model_config
from chemeleon.config.plain_yaml import MOST_BYTES
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_CONFIG, MODEL_PARTS, MODEL_WEIGHTS, at_home, hold
from chemeleon.version import __version__


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
    config = fetch(entry.repo, MODEL_CONFIG, entry.revision, MOST_BYTES)
    read_model_config(config)  # refused before the weights are fetched
    # the commit of the config, so that both files belong together even if a push comes between
    commit = config.parent.name
    return fetch(entry.repo, MODEL_WEIGHTS, commit if is_commit(commit) else entry.revision).parent


def list_models() -> list[Named]:
    """Return the models that have a name.

    Raises:
        ConfigError: if a user's file of names is wrong.
    """
    return list(entries().values())


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
    from chemeleon.checkpoints.chemeleon2.lightning import convert

    vae: str | Path | None = named.entry.vae
    if vae is not None and shipped_name(vae) is not None:
        vae = shipped.resolve(vae)
    elif vae is not None and (hub_name(vae) is not None or not at_home(vae).exists()):
        vae = resolve(vae if hub_name(vae) is not None else f"hub:{vae}")
    convert(source, folder, weights=named.entry.weights, vae=vae)


def _content_id(source: Path) -> str:
    """Return the start of the file's hash, else (a cache without links) of its commit."""
    blob = source.resolve()
    if blob.parent.name == "blobs":
        return blob.name[:12]
    parts = source.parts
    return parts[parts.index("snapshots") + 1][:12]


def _is_complete(folder: Path) -> bool:
    return (folder / MODEL_CONFIG).is_file() and (folder / MODEL_WEIGHTS).is_file()
