"""How much may be asked for in one go. Whatever is beyond is refused before work begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from chemeleon.errors import ConfigError, nearest

# keywords and keys of a sample's manifest that say what its crystals are conditioned on
CONDITIONING = (
    "space_group",
    "conditions",
    "guidance",
    "guidance_interval",
    "allow_elements",
    "forbid_elements",
)
MAX_CRYSTALS = 1_000_000  # of one sample: all of them are held in memory
MAX_ATOMS = 1_000  # of a cell or a formula; published sets have at most 52 in a cell
MAX_SEED = 2**64 - 1  # what keyed random numbers can tell apart
MAX_RELAX_STEPS = 10_000  # what has not come to rest by then never will
MAX_JOBS = 1_024  # processes of one command
MAX_GUIDANCE = 1_000.0  # 2 is usual; far beyond, nothing but guidance is left
MAX_SECONDS = 86_400.0  # for two crystals: a day
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")


def whole_number(text: str) -> int | None:
    """Return the number of plain digits, or None for any other text: ``²``, ``1_0``, ``１０``."""
    return int(text) if _WHOLE.fullmatch(text) else None


def names_of(given: str | Sequence[str] | None) -> list[str]:
    """Return the names of which one may be given by itself, or none."""
    return [given] if isinstance(given, str) else list(given or ())


def check_request(num_samples: int, num_atoms: Sequence[int] | None = None) -> None:
    """Refuse numbers of crystals and of atoms that make no sense, or are too large.

    Raises:
        ConfigError: naming the limit.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples must be at least 1, got {num_samples}")
    if num_samples > MAX_CRYSTALS:
        raise ConfigError(
            f"{_shown(num_samples)} crystals are requested, and one sample has at most"
            f" {MAX_CRYSTALS:,}: make several with different seeds"
        )
    if num_atoms is None:
        return
    if not num_atoms or min(num_atoms) < 1:
        raise ConfigError(f"num_atoms must be positive numbers, got {list(num_atoms)}")
    check_atoms("num_atoms", max(num_atoms))


def check_atoms(what: str, atoms: float) -> None:
    """Refuse more atoms than a cell may have.

    Args:
        what: asks for them, for the message.
        atoms: how many.

    Raises:
        ConfigError: naming the limit.
    """
    if atoms > MAX_ATOMS:
        raise ConfigError(
            f"{what} requests {_shown(atoms)} atoms, and a cell has at most {MAX_ATOMS:,}"
        )


def check_seed(seed: int) -> int:
    """Return a seed of random numbers, of which there are 2^64.

    Raises:
        ConfigError: if it is none of these.
    """
    check_range("seed", seed, 0, MAX_SEED)
    return seed


def check_range(what: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside of two bounds, and what is no number.

    Raises:
        ConfigError: naming the bound.
    """
    if not least <= value <= most:
        raise ConfigError(
            f"{what} must be from {_shown(least)} to {_shown(most)}, got {_shown(value)}"
        )


def check_word(what: str, given: str, allowed: Iterable[str]) -> str:
    """Return a word that is one of those allowed.

    Raises:
        ConfigError: naming these, and the nearest.
    """
    known = tuple(allowed)
    if given not in known:
        raise ConfigError(f"{what} {given}: must be {either(known)}{nearest(str(given), known)}")
    return given


def either(words: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def guided_steps(interval: tuple[float, float], steps: int) -> range:
    """Return the numbers of the steps that lie between two shares of a trajectory.

    Raises:
        ConfigError: if none does, or it is no interval.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ConfigError(
            "the guidance interval is two shares of the sampling trajectory, 0 its beginning and 1"
            f" its end, such as 0.2,0.8; got {low:g},{high:g}"
        )
    first, last = round(low * steps), round(high * steps)
    if first >= last:
        raise ConfigError(
            f"the guidance interval {low:g},{high:g} holds none of the {steps} denoising steps:"
            " widen it, or take more steps"
        )
    return range(first, last)


def _shown(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**24:
        return f"about 10^{int(value.bit_length() * 0.30103)}"
    if isinstance(value, int) or (abs(value) < 1e15 and value == round(value)):
        return f"{value:,.0f}" if isinstance(value, float) else f"{value:,}"
    return f"{value:.6g}"
