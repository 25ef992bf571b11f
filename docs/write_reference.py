"""Pages of the reference that follow from the code: all commands, and all settings.

They are written when the site is built, and are not in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from chemeleon.cli.app import app
from chemeleon.config.schema import STAGES

_MARKUP = re.compile(r"\[/?(?:bold|dim|italic|cyan|green|yellow|red)?\]")
_STAGES = {
    "vae": "The autoencoder: `chemeleon vae train`",
    "ldm": "Latent diffusion: `chemeleon ldm train`",
    "rl": "Reinforcement learning: `chemeleon rl train`",
    "predict": "Predictors: `chemeleon predict train`",
    "assign": "Space groups and letters of formulas: `chemeleon assign train`",
}


def write_reference(folder: Path) -> None:
    """Write ``commands.md`` and ``settings.md``."""
    folder.mkdir(exist_ok=True)
    (folder / "commands.md").write_text("\n".join(_commands()), encoding="utf-8")
    (folder / "settings.md").write_text("\n".join(_settings()), encoding="utf-8")


def _cell(text: str) -> str:
    """Return text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield (
        "Every command explains itself with `--help`; this is the same text. `--debug` shows the"
        " traceback of an error.\n"
    )
    root = typer.main.get_command(app)
    for words, command in _walk(root, "chemeleon"):
        yield from _command(words, command)


def _walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _walk(child, f"{words} {name}")


def _command(words: str, command: Any) -> Iterator[str]:
    text, _, examples = _MARKUP.sub("", command.help or "").partition("Examples")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([words, *(p.metavar or p.name.upper() for p in arguments)])
    yield f"## {words}\n"
    yield f"```text\n{usage}{' [OPTIONS]' if options else ''}\n```\n"
    yield re.sub(r"\n{3,}", "\n\n", text.replace("\b", "")).strip() + "\n"
    if examples.strip():
        lines = [line.strip() for line in examples.replace("\b", "").strip().splitlines()]
        yield "```bash\n" + "\n".join(line for line in lines if line) + "\n```\n"
    if not (arguments or options):
        return
    yield "| option | what it says | default |\n|---|---|---|"
    for one in arguments:
        yield f"| `{one.metavar or one.name.upper()}` | {_cell(one.help or '')} | |"
    for one in options:
        flags = ", ".join(f"`{flag}`" for flag in [*one.opts, *one.secondary_opts])
        takes = "" if one.is_flag else f" `{_cell(one.metavar or 'TEXT')}`"
        yield f"| {flags}{takes} | {_cell(one.help or '')} | {_default(one.default)} |"
    yield ""


def _default(value: Any) -> str:
    if value in (None, False, "", ()) or callable(value):
        return ""
    if isinstance(value, Enum):
        value = value.value
    return f"`{_cell(str(value))}`"


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield (
        "All keys of a training's config, with their defaults. A preset, a `--config` file and"
        " `KEY=VALUE` words set them ([presets](../presets.md)); `--show-config` prints the result"
        " and who set each key. Sections that several stages share are listed once.\n"
    )
    seen: set[tuple[str, type]] = set()
    for stage, config in STAGES.items():
        yield f"## {_STAGES[stage]}\n"
        for name, kind, doc, rows in _sections(config, ""):
            if (name, kind) in seen or not rows:
                continue
            seen.add((name, kind))
            yield f"### {name or f'{stage}: top level'}\n"
            yield f"{doc}\n"
            yield "| key | takes | default | what it says |\n|---|---|---|---|"
            yield from rows
            yield ""


def _sections(
    kind: type[BaseModel], prefix: str
) -> Iterator[tuple[str, type[BaseModel], str, list[str]]]:
    """Yield a section and those in it: its key, class, first sentence and rows."""
    rows, inner = [], []
    for name, field in kind.model_fields.items():
        section = _section(field)
        if section is not None:
            inner.append((f"{prefix}.{name}" if prefix else name, section))
            continue
        text = _cell(field.description or "")
        rows.append(f"| `{name}` | {_named(field.annotation)} | {_field_default(field)} | {text} |")
    doc = " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
    yield prefix, kind, doc, rows
    for name, section in inner:
        yield from _sections(section, name)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a field that is a section, also one that may be missing or named."""
    for one in (field.annotation, *get_args(field.annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _named(kind: Any) -> str:
    """Return what a field takes, in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _named(inside[0])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inside)
    if origin in (Union, UnionType):
        return " or ".join(_named(one) for one in inside)
    if origin is dict:
        return f"{_named(inside[0])} to {_named(inside[1])}"
    if origin in (list, tuple):
        return f"list of {_named(inside[0])}"
    words = {int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return words.get(kind, "text" if kind in (str, Path) else getattr(kind, "__name__", "any"))


def _field_default(field: FieldInfo) -> str:
    value = (
        field.default
        if field.default_factory is None
        else field.get_default(call_default_factory=True, validated_data={})
    )
    if value is PydanticUndefined:
        return "needed"
    return f"`{_cell(json.dumps(value, default=str, ensure_ascii=False))}`"
