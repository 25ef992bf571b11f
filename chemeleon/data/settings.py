"""What `prepare` takes: each keyword, its default and what it means, said once.

Nothing here imports torch or pymatgen, so that the command line can read it for its help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from chemeleon.config.requests import check_seed, check_word
from chemeleon.data.problems import OnError

if TYPE_CHECKING:
    from pymatgen.core import Structure

SplitBy = Literal["random", "formula"]


@dataclass(frozen=True)
class PrepareSettings:
    """Which crystals to make a data set of, and how.

    Attributes:
        source: CSV (plain or gz), CIF, POSCAR, extxyz or JSON, a folder or zip of these; or
            pymatgen structures, whose ``properties`` may hold a ``material_id`` and numbers.
        output: new folder, to be named with ``data.root=PARENT data.name=NAME`` (the ``words`` of
            what is returned); what is in it is complete.
        split: shares of train, val and test; they sum to 1. A share of 0 writes no file.
        seed: decides which crystal goes where.
        max_atoms: leave out larger crystals.
        where: leave out rows of which this is not true, e.g. 'num_elements > 1'; see `data.where`.
        on_error: bad rows: few (up to 1 % may be left out), skip (any number) or fail.
        deduplicate: keep one of crystals that pymatgen's StructureMatcher finds equal.
        split_by: random, or formula: one reduced formula stays in one split.
        id_column: CSV column of names; by default material_id if there is one, else numbers.
        cif_column: CSV column of CIF text.
        properties: CSV of numbers for the crystals, joined by their names in its column
            ``id_column``; see `data.properties`.
        limits: bounds on what one file may hold, see ``data.limits``.
        overwrite: replace what an earlier run wrote to the output folder.
        progress: show a bar.
    """

    source: str | Path | Sequence[Structure]
    output: str | Path
    split: Sequence[float] = (0.9, 0.05, 0.05)
    seed: int = 0
    _: KW_ONLY
    max_atoms: int | None = None
    where: str | None = None
    on_error: OnError = "few"
    deduplicate: bool = False
    split_by: SplitBy = "random"
    id_column: str | None = None
    cif_column: str = "cif"
    properties: str | Path | None = None
    limits: Mapping[str, int] | None = None
    overwrite: bool = False
    progress: bool = False

    def check(self) -> None:
        """Raise ConfigError for a seed or a word that there is not."""
        check_seed(self.seed)
        check_word("split_by", self.split_by, get_args(SplitBy))
