"""Names of earlier versions, which stand in scripts, configs, models and folders of results.

Everything that reads names looks them up here, so an old one does what today's does.
"""

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
    found = {}
    for name, value in given.items():
        now = _current(name, known, given)
        if now in known and isinstance(value, str):
            value = VALUES.get(now, {}).get(value, value)
        found[now] = value
    return found


def current_flags(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the words of a command with today's options, of which ``known`` are its own.

    Raises:
        ConfigError: if an option is given by both names.
    """
    parts = [word.partition("=") for word in words]
    given = [flag for flag, _, _ in parts]
    return [_current(flag, known, given) + equals + text for flag, equals, text in parts]


def _current(name: str, known: Collection[str], given: Collection[str]) -> str:
    dashes = "--" if name.startswith("--") else ""
    now = NAMES.get(name.removeprefix("--").replace("-", "_"), "")
    now = dashes + now.replace("_", "-") if dashes else now
    if now not in known:
        return name
    if now in given:
        raise ConfigError(f"{name} is the earlier name of {now}, which is given too: leave one out")
    return now
