"""On which scale total energies lie. A potential says it of its own, a hull of what it holds."""

from __future__ import annotations

from typing import Any

from chemeleon.errors import ConfigError, nearest

MP2020 = "mp2020"  # PBE and PBE+U of the Materials Project's settings, with its corrections of 2020
RAW = "raw"  # the same without corrections, which `corrections` adds
OWN = "own"  # any other: comparable with energies of the same potential alone
SCALES = (MP2020, RAW, OWN)
# trained on MPtrj, or on it and sAlex, whose calculations have the Materials Project's settings
RAW_MACE = ("small", "medium", "large", "small-0b", "medium-0b", "small-0b2", "medium-0b2",
            "large-0b2", "medium-0b3", "medium-mpa-0")  # fmt: skip


def stated_scale(thing: Any, name: str) -> str:
    """Return the scale that a calculator or potential of the user states, `OWN` if none.

    Raises:
        ConfigError: if it is no scale.
    """
    scale = str(getattr(thing, "energy_scale", None) or OWN).lower()
    check_scale(scale, f"energy_scale of potential '{name}':")
    return scale


def check_scale(scale: str, what: str) -> None:
    """Raise ConfigError for what is no scale."""
    if scale not in SCALES:
        raise ConfigError(
            f"{what} '{scale}' is no scale{nearest(scale, SCALES)}; known: {', '.join(SCALES)}"
        )
