"""How much may be asked for in one go. Whatever is beyond is refused before work begins."""

from __future__ import annotations

from collections.abc import Sequence

from chemeleon.errors import ConfigError

MAX_CRYSTALS = 1_000_000  # of one sample: all of them are held in memory
MAX_ATOMS = 1_000  # of a cell or a formula; published sets have at most 52 in a cell


def check_request(num_samples: int, num_atoms: Sequence[int] | None = None) -> None:
    """Refuse numbers of crystals and of atoms that make no sense, or are too large.

    Raises:
        ConfigError: naming the limit.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples must be at least 1, got {num_samples}")
    if num_samples > MAX_CRYSTALS:
        raise ConfigError(
            f"{num_samples:,} crystals are asked for, and one sample has at most {MAX_CRYSTALS:,}:"
            " make several with different seeds"
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
        count = f"{atoms:,.0f}" if atoms < 1e15 else f"{atoms:.3g}"
        raise ConfigError(f"{what} asks for {count} atoms, and a cell has at most {MAX_ATOMS:,}")
