"""The models of the hub that have a name: `configs/hub.yaml`, and what a user adds to it."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from chemeleon.checkpoints.fetch import cached_file
from chemeleon.config.hubname import hub_name
from chemeleon.config.modelfile import in_one_line
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.config.presets import preset_root
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.storage import MODEL_PARTS, at_home

USER_FILE = "CHEMELEON_HUB"
_PART = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]  # also the name of a folder in the cache


def _repo(text: str) -> str:
    """Return OWNER/REPO if it is one that the hub can have."""
    odd = "--" in text or ".." in text or text.endswith(".git")
    if odd or not re.fullmatch(f"{_PART}/{_PART}", text):
        raise ValueError("it is not OWNER/REPO")
    return text


def _revision(text: str) -> str:
    """Return what may be a branch, a tag or a commit."""
    if ".." in text or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}", text):
        raise ValueError("it is no branch, tag or commit")
    return text


class Entry(BaseModel):
    """Where a named model lies; the fields are explained in `configs/hub.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: Annotated[str, AfterValidator(_repo)]
    file: str | None = Field(default=None, pattern=r"^[^/].*\.ckpt$")
    revision: Annotated[str, AfterValidator(_revision)] = "main"
    kind: str = "model"
    what: str = ""
    weights: Literal["raw", "ema"] = "raw"
    vae: str | None = None


class Named(NamedTuple):
    """An entry with its name and other names; a bare repository is called by its own name."""

    name: str
    entry: Entry
    aliases: tuple[str, ...] = ()

    @property
    def cached(self) -> bool:
        """Whether it can be used without network."""
        files = MODEL_PARTS if self.entry.file is None else (self.entry.file,)
        return all(cached_file(self.entry.repo, file, self.entry.revision) for file in files)


class _Registry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[_Name, Entry] = Field(default_factory=dict)
    aliases: dict[_Name, str] = Field(default_factory=dict)


def _user_files() -> list[Path]:
    home = at_home(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    files = [path for path in [home / "chemeleon" / "hub.yaml"] if path.is_file()]
    if named := os.environ.get(USER_FILE):
        files.append(at_home(named))
    return files


def _read(path: Path) -> _Registry:
    if not path.is_file():
        raise ConfigError(f"${USER_FILE} names {path}, which does not exist")
    content: Any = read_yaml(path) or {}
    try:
        return _Registry.model_validate(content)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a list of hub models: {in_one_line(error)}. Its shape is that of"
            f" {preset_root() / 'hub.yaml'}"
        ) from None


def entries() -> dict[str, Named]:
    """Return the named models in the order of the files; later files win.

    Raises:
        ConfigError: if a user's file is wrong, or an alias leads nowhere.
    """
    models: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    for path in [preset_root() / "hub.yaml", *_user_files()]:
        found = _read(path)
        models.update(found.models)
        aliases.update(found.aliases)
        lost = [f"{a} -> {name}" for a, name in found.aliases.items() if name not in models]
        if lost:
            raise ConfigError(f"{path}: these aliases name no model: {', '.join(lost)}")
    return {
        name: Named(name, entry, tuple(a for a, to in aliases.items() if to == name))
        for name, entry in models.items()
    }


def find(reference: str, revision: str | None = None) -> Named:
    """Return what ``hub:NAME``, ``hub:OWNER/REPO`` or either with ``@REVISION`` stands for.

    Args:
        reference: with or without ``hub:``.
        revision: branch, tag or commit; wins over the one in ``reference`` and in the registry.

    Raises:
        CheckpointError: if no model has this name; the nearest names are listed.
    """
    text, _, pinned = (hub_name(reference) or reference).strip().partition("@")
    revision = revision or pinned or None
    if "/" in text:
        try:
            return Named(text, Entry(repo=text, revision=revision or "main"))
        except ValidationError:
            raise CheckpointError(
                f"'{reference}' is not hub:OWNER/REPO[@REVISION], for example hub:me/my-model"
            ) from None
    known = entries()
    by_name = {word: named for named in known.values() for word in (named.name, *named.aliases)}
    by_name.update(known)  # a model's own name wins over an alias
    if text not in by_name:
        close = difflib.get_close_matches(text, by_name, n=3, cutoff=0.4) or list(by_name)
        raise CheckpointError(
            f"the hub list has no '{text}'; nearest: {', '.join(close)}. See `chemeleon hub list`,"
            " or name a repository as hub:OWNER/REPO"
        )
    named = by_name[text]
    if revision is None:
        return named
    try:
        entry = Entry.model_validate({**named.entry.model_dump(), "revision": revision})
    except ValidationError:
        raise CheckpointError(f"'{revision}' is no branch, tag or commit of {text}") from None
    return named._replace(entry=entry)
