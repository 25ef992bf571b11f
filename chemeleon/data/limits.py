"""How much one file may ask of a reader; `config.schema.LimitsConfig` lets a user set it."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Bounds that are checked before memory is taken. No torch here: workers take it along.

    Attributes:
        bytes: of one structure file after decompression.
        atoms: of one crystal, after symmetry was applied.
        operations: symmetry operations of one CIF.
        frames: crystals of one file that is not a table.
    """

    bytes: int = 1 << 28
    atoms: int = 10_000
    operations: int = 1_000
    frames: int = 1_000_000

    def over(self, name: str, found: int | str) -> str:
        """Return the sentence that refuses ``found`` (a number, or words) of what ``name`` bounds.

        It reads ``20,000 atoms are over data.limits.atoms=10000``.
        """
        count = f"{found:,} {name}" if isinstance(found, int) else found
        return f"{count} are over data.limits.{name}={getattr(self, name)}"
