"""YAML as configs need it: mappings, lists and scalars of YAML 1.2, within bounds.

A config may come from anybody, with a model. What configs have no use for is refused, so that
nothing grows, recurs or becomes an object: aliases, tags, keys that are no words, keys that stand
twice, characters that cannot be seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from chemeleon.errors import ConfigError

MOST_BYTES = 1 << 17  # of a file; with the next one, what is read within a second
MOST_VALUES = 5_000
DEEPEST = 40  # values within values
MOST_DIGITS = 30  # of a whole number
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
# `No` is nobelium, 0225 is 225 (not octal) and 1e-4 is a number
_SCALARS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"null|Null|NULL|~|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+", lambda text: int(text, 10)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|nan)", lambda text: float(text.replace(".", ""))),
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text; ``where`` names the source in errors.

    Raises:
        ConfigError: one line with the place, for whatever is wrong with it.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{where} is over {MOST_BYTES:,} characters long, which no config is")
    try:
        return _Builder(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = f"{place}{error.problem or error.context}"
    except yaml.reader.ReaderError as error:
        number = error.character if isinstance(error.character, int) else ord(error.character)
        problem = f"character {error.position + 1}, U+{number:04X}, cannot stand in a text"
    except (ValueError, OverflowError):
        problem = "an escape beyond Unicode, or thousands of digits behind %YAML"
    raise ConfigError(f"{where} is not YAML as it is read here: {problem[:200]}")


def read_yaml(path: Path) -> Any:
    """Parse a file.

    Raises:
        ConfigError: one line, for whatever is wrong with it.
    """
    if not path.is_file():  # to open a named pipe would mean to wait for its other end
        raise ConfigError(f"{path} {'is not a plain file' if path.exists() else 'does not exist'}")
    try:
        with path.open("rb") as handle:
            data = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} is over {MOST_BYTES:,} bytes long, which no config is")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: byte {error.start + 1}") from None
    return parse_yaml(text, str(path))


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return a config as YAML that `parse_yaml` reads as the same."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Writes texts such that they are no numbers, and what stands twice twice, without aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    other = any(re.fullmatch(pattern, text) for pattern, _ in _SCALARS)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if other else None)


_Dumper.add_representer(str, _represent_text)


class _Builder:
    """Values of the parser's events; PyYAML's own way recurs without bound and knows of objects."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.events, self.left = events, MOST_VALUES

    def document(self) -> Any:
        value, seen = None, False
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise _wrong(event, "a second document begins; a config is one")
                seen = True
                value = self.value(next(self.events), 0)
        return value

    def value(self, event: yaml.Event, depth: int) -> Any:
        self._check(event, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.value(event, depth + 1))
            return items
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth)
        assert isinstance(event, yaml.ScalarEvent)
        if _UNSEEN.search(event.value):
            raise _wrong(event, "a text holds a control character")
        if event.implicit[0]:  # not within quotes
            for pattern, make in _SCALARS:
                if re.fullmatch(pattern, event.value):
                    if make is not float and len(event.value) > MOST_DIGITS:
                        raise _wrong(event, f"a whole number of {len(event.value):,} digits")
                    return make(event.value)
        return event.value

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, depth + 1)
            if not isinstance(key, str):
                raise _wrong(event, "a key is no text: put it within quotes")
            if key in found:
                raise _wrong(event, f"the key '{key[:80]}' stands there twice")
            found[key] = self.value(next(self.events), depth + 1)
        return found

    def _check(self, event: yaml.Event, depth: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise _wrong(event, f"more than {MOST_VALUES:,} values, which no config has")
        if depth > DEEPEST:
            raise _wrong(event, f"values within values, {DEEPEST} deep, which no config has")
        if getattr(event, "anchor", None) is not None:
            raise _wrong(event, "an anchor (&) or an alias (*): write the value out, or quote it")
        if getattr(event, "tag", None) is not None:
            raise _wrong(event, "a tag (!): leave it out, or quote the text")


def _wrong(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
