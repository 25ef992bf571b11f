"""What the options of `chemeleon sample` may say, as values; they raise ConfigError."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from chemeleon.generation.sampling import Format

FORMATS = ("cif", "extxyz", "json", "poscar")


def formats(text: str) -> tuple[Format, ...]:
    """Return the formats of a list of words."""
    from chemeleon.errors import ConfigError, nearest

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise ConfigError(
                f"--format has no '{name}'{nearest(name, FORMATS)}; known: {', '.join(FORMATS)}"
            )
    return cast("tuple[Format, ...]", tuple(dict.fromkeys(names)))


def whole_numbers(text: str | None, option: str) -> list[int] | None:
    """Return the whole numbers of a list."""
    from chemeleon.config.requests import whole_number
    from chemeleon.errors import ConfigError

    if text is None:
        return None
    found = [whole_number(part.strip()) for part in text.split(",")]
    if None in found:
        raise ConfigError(f"{option} takes whole numbers such as 5,8, got '{text}'")
    return cast("list[int]", found)


def conditions(given: list[str] | None) -> dict[str, str] | None:
    """Return values by the names of conditions."""
    from chemeleon.errors import ConfigError

    found: dict[str, str] = {}
    for word in given or ():
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (name and equals and value):
            raise ConfigError(f"--condition takes NAME=VALUE such as band_gap=2.0, got '{word}'")
        if name in found:
            raise ConfigError(f"--condition {name} is given twice")
        found[name] = value
    return found or None


def interval(text: str | None) -> tuple[float, float] | None:
    """Return the two ends of an interval."""
    from chemeleon.errors import ConfigError

    if text is None:
        return None
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--guidance-interval takes two numbers such as 0.2,0.8, got '{text}'"
        ) from None
    return first, last


def symbols(text: str | None) -> list[str] | None:
    """Return the symbols of a list."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def batch_size(text: str) -> int | None:
    """Return a number, None for auto."""
    from chemeleon.config.requests import whole_number
    from chemeleon.errors import ConfigError

    if text == "auto":
        return None
    size = whole_number(text)
    if size is None or size < 1:
        raise ConfigError(f"--batch-size takes a positive number or auto, got '{text}'")
    return size
