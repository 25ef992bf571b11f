"""Names of earlier versions, which stand in scripts, configs, models and folders of results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from chemeleon.errors import ConfigError

# settings, keywords, options and keys of manifests; each only where today's name is known
NAMES = {
    "broken": "invalid",
    "bucket": "pad_to_multiple",
    "drop_flat_groups": "filter_zero_variance",
    "element_price": "composition_penalty",
    "--element-price": "--composition-penalty",
    "keep": "checkpoint_selection",
    "keep_share": "top_fraction",
    "same_noise": "shared_noise",
}
VALUES = {"schedule": {"clock": "time_budget"}}


def current(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return what is given under today's names, of which ``known`` are meant.

    Raises:
        ConfigError: if something is given by both names.
    """
    found = {_current(name, known, given): value for name, value in given.items()}
    for name in found.keys() & VALUES.keys() & set(known):
        if isinstance(found[name], str):
            found[name] = VALUES[name].get(found[name], found[name])
    return found


def current_flags(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the words of a command with today's options; see `current`."""
    parts = [word.partition("=") for word in words]
    given = [flag for flag, _, _ in parts]
    return [_current(flag, known, given) + equals + text for flag, equals, text in parts]


def _current(name: str, known: Collection[str], given: Collection[str]) -> str:
    now = NAMES.get(name, "")
    if now not in known:
        return name
    if now in given:
        raise ConfigError(f"{name} is the earlier name of {now}, which is given too: leave one out")
    return now
