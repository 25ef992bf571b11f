"""What options may say, as values; options that commands share, or that follow from a dataclass.

Parsers raise ConfigError, which names the option and what it takes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from chemeleon.config.keywords import texts
from chemeleon.config.requests import check_word, whole_number
from chemeleon.data.problems import OnError
from chemeleon.errors import ConfigError, nearest, visible


def of_settings(settings: type, *without: str) -> Callable[[Callable[..., None]], Any]:
    """Give a command an option for each field of a dataclass; it gets them as keywords.

    A parameter of the command's own goes before the field of its name. Where it has no help, that
    is what the docstring of the dataclass says, as for all others.

    Args:
        settings: the dataclass.
        without: fields that are no options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        names = {field.name: field for field in fields(settings) if field.name not in without}
        kinds = {name: field.type for name, field in names.items() if name not in own}
        scope = vars(sys.modules[settings.__module__])  # where names in these can be looked up
        kinds = get_type_hints(SimpleNamespace(__annotations__=kinds), scope)
        said, found = texts(settings), []
        for name, field in names.items():
            parameter = own.pop(name, None) or Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[kinds[name], typer.Option()],
            )
            found.append(_completed(parameter, said.get(name, "")))
        found += [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own.values()][:-1]
        vars(command)["__signature__"] = Signature(found)
        return command

    return decorate


def _completed(parameter: Parameter, text: str) -> Parameter:
    """Return an option with what its type and the text say of it."""
    kind, option = get_args(parameter.annotation)
    flag = "--" + parameter.name.replace("_", "-")
    if option.default is ...:  # where Typer keeps the first flag of an annotation
        option.param_decls = (flag,)
    told, _, _ = text.partition("; see `")  # names of functions are for Python
    text = " ".join(told.split()).rstrip(".").replace("``", "")
    option.help = option.help or f"{text[:1].upper()}{text[1:]}."
    main = next((one for one in get_args(kind) if type(None) in get_args(kind)), kind)
    if option.parser is None and get_origin(main) is Literal:
        option = choice(flag, main, option.help)
    elif option.parser is None and main in _PARSERS:
        option.parser, option.metavar, kind = _PARSERS[main](flag), "TEXT", str | None
    return parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])


def choice(flag: str, kind: Any, help: str) -> OptionInfo:
    """Return an option that takes the words of a Literal, and proposes the nearest for others."""
    allowed = get_args(kind)

    def parse(given: str) -> str:
        return check_word(flag, given, allowed)

    return typer.Option(flag, help=help, parser=parse, metavar="|".join(allowed))


def say(text: str, err: bool = False) -> None:
    """Print text of any origin, see `chemeleon.errors.visible`."""
    typer.echo(visible(text), err=err)


Root = Annotated[
    Path | None, typer.Option(help="Folder of data sets [$CHEMELEON_DATA, else ./data].")
]
OnErrorWord = Annotated[
    OnError,
    choice(
        "--on-error",
        OnError,
        "Bad rows of a set: few (up to 1 % may be left out), skip (any number) or fail.",
    ),
]


def several(flag: str, allowed: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of some of the words that are allowed."""
    known = tuple(allowed)

    def parse(text: str) -> list[str]:
        names = listed(text)
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{flag} has no '{name}'{nearest(name, known)}; known: {', '.join(known)}"
                )
        return list(dict.fromkeys(names))

    return parse


def listed(text: str) -> list[str]:
    """Return the words of a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(text: str) -> int:
    """Return a whole number; raises ValueError for any other text."""
    number = whole_number(text)
    if number is None:
        raise ValueError(text)
    return number


def whole_numbers(flag: str) -> Callable[[str], list[int]]:
    """Return a parser of lists of whole numbers."""

    def parse(text: str) -> list[int]:
        try:
            return [whole(part.strip()) for part in text.split(",")]
        except ValueError:
            raise ConfigError(f"{flag} takes whole numbers such as 5,8, got '{text}'") from None

    return parse


def interval(flag: str) -> Callable[[str], tuple[float, float]]:
    """Return a parser of the two ends of an interval."""

    def parse(text: str) -> tuple[float, float]:
        try:
            first, last = (float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(f"{flag} takes two numbers such as 0.2,0.8, got '{text}'") from None
        return first, last

    return parse


_PARSERS: dict[Any, Callable[[str], Callable[[str], Any]]] = {
    Sequence[int]: whole_numbers,
    Sequence[str]: lambda flag: listed,
    tuple[float, float]: interval,
}


def batch_size(text: str) -> int | None:
    """Return a number, None for auto."""
    if text == "auto":
        return None
    size = whole_number(text)
    if size is None or size < 1:
        raise ConfigError(f"--batch-size takes a positive number or auto, got '{text}'")
    return size


def named(
    flag: str, words: Iterable[str], example: str, read: Callable[[str], Any]
) -> dict[str, Any]:
    """Return the values of NAME=VALUE words by their names.

    Args:
        flag: of the option, for errors.
        words: as given.
        example: what the option takes, for errors.
        read: text to a value; raises ValueError where it is none.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        try:
            if not (name and equals and text):
                raise ValueError
            value = read(text)
        except ValueError:
            raise ConfigError(f"{flag} takes {example}, got '{word}'") from None
        if name in found:
            raise ConfigError(f"{flag} {name} is given twice")
        found[name] = value
    return found
