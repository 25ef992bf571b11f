"""Find a hull by its name, and the one that the energies of a potential are measured against.

The package has two: ``mp`` holds the DFT formation energies of the MP-20 crystals, ``mp_all``
CHGNet's estimates of further crystals beside them. `scripts/pack_hull.py` wrote the files, and the
card in their folder tells the source. Others are made by `hull_tables` and `hull_crystals`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chemeleon.data.parse import Crystal
from chemeleon.energy.corrections import corrections
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_tables import TABLE_NAMES, from_table, table_in
from chemeleon.energy.scales import MP2020, RAW
from chemeleon.errors import ConfigError, nearest
from chemeleon.storage import at_home, is_there

if TYPE_CHECKING:
    from chemeleon.energy.compositions import Formula
    from chemeleon.energy.potential import Potential

logger = logging.getLogger(__name__)
SHIPPED = Path(__file__).parents[1] / "datasets" / "hulls"
SHIPPED_FILES = {"mp": ("mp.json.gz",), "mp_all": ("mp.json.gz", "mp_estimates.json.gz")}


class FoundHull(NamedTuple):
    """Where a hull is.

    Attributes:
        name: as it was asked for.
        files: what holds its phases: a file of `Hull.save`, a CSV or its folder; of a hull of the
            package all files whose phases belong together.
    """

    name: str
    files: tuple[Path, ...]

    @property
    def shipped(self) -> bool:
        """Whether it is a hull of the package."""
        return self.files[0].parent == SHIPPED

    @property
    def label(self) -> str:
        """What messages and manifests call it."""
        return self.name if self.shipped else str(self.files[0])

    @property
    def is_table(self) -> bool:
        """Whether it is a CSV or the folder of one."""
        return self.files[0].is_dir() or self.files[0].name.endswith((".csv", ".csv.gz"))

    def load(self) -> Hull:
        """Read it; say so if it stands in for a hull of the package.

        Raises:
            DataError: if it is no hull, or is damaged.
        """
        if self.name in SHIPPED_FILES and not self.shipped:
            logger.warning("hull %s: read from %s, not the package's", self.name, self.files[0])
        if self.is_table:
            return from_table(self.files[0])
        found = [Hull.load(file) for file in self.files]
        return found[0] if len(found) == 1 else _beside(*found)


def find_hull(name: str | Path) -> FoundHull:
    """Find a hull: a path, the same under the root of the data sets, or one of the package.

    A path is a file of ``chemeleon data hull``, a CSV of formation energies, or a folder with
    formation_energies.csv.gz in it. What is there by that path goes before the package's.

    Raises:
        ConfigError: if there is none; says what was looked for and what there is.
    """
    from chemeleon.config.schema import DataConfig
    from chemeleon.data.dataset import data_root

    asked, root = str(name), data_root(DataConfig())
    places = [path for path in (at_home(asked), root / at_home(asked)) if is_there(path)]
    for path in places:
        if path.is_file() or table_in(path) is not None:
            return FoundHull(asked, (path,))
    if asked in SHIPPED_FILES:
        return FoundHull(asked, tuple(SHIPPED / file for file in SHIPPED_FILES[asked]))
    folder = next((f"; {path} holds no {TABLE_NAMES[0]}" for path in places if path.is_dir()), "")
    raise ConfigError(
        f"there is no hull '{asked}', neither here nor in {root}{folder}"
        f"{nearest(asked, SHIPPED_FILES)}; the package has {' and '.join(SHIPPED_FILES)}, and"
        " `chemeleon data hull SRC -o hull.json.gz` makes one"
    )


class Ground(NamedTuple):
    """A hull, and how total energies of a potential come to lie on it.

    Attributes:
        hull: the known phases.
        label: what messages and manifests call it.
        corrected: whether MP2020 corrections are added to the potential's energies.
    """

    hull: Hull
    label: str
    corrected: bool

    def formation_energies(
        self,
        formulas: Sequence[Formula],
        total_ev: Sequence[float],
        crystals: Sequence[Crystal | None],
    ) -> tuple[np.ndarray, list[str | None]]:
        """Turn a potential's total energies of crystals into formation energies, eV/atom.

        Args:
            formulas: ``M`` formulas or compositions.
            total_ev: ``(M,)`` NaN where there is none.
            crystals: ``M``, as the energies belong to them; corrections depend on their bonds.

        Returns:
            ``(M,)`` NaN where there is none, and for each None or why there is no correction.
        """
        totals = np.array(total_ev, dtype=np.float64)
        reasons: list[str | None] = [None] * len(totals)
        if self.corrected:
            rows = np.flatnonzero(np.isfinite(totals)).tolist()
            added, why = corrections([crystals[row] for row in rows])
            totals[rows] += added
            for row, reason in zip(rows, why, strict=True):
                reasons[row] = reason
        return self.hull.formation_energies(formulas, totals.tolist()), reasons


def default_hull(potential: Potential) -> str | None:
    """Return the name of the package's hull that takes the energies of a potential, if one does."""
    return "mp" if potential.energy_scale in (MP2020, RAW) else None


def hull_for(potential: Potential, name: str | Path | None, asked: str) -> Ground | None:
    """Return the hull for the energies of a potential.

    Without a name it is the `default_hull`, which is said, or none.

    Args:
        potential: the judge.
        name: see `find_hull`.
        asked: the potential as the user names it.

    Raises:
        ChemeleonError: if there is no such hull, or it takes no energies of this potential.
    """
    chosen = default_hull(potential) if name is None else name
    if chosen is None:
        return None
    found = find_hull(chosen)
    hull = found.load()
    corrected = hull.corrects(potential, found.label, asked)
    if name is None:
        logger.warning(
            "no hull was named: %s is judged against '%s', %d phases of %s",
            asked, found.label, len(hull), hull.manifest.get("source"),
        )  # fmt: skip
    return Ground(hull, found.label, corrected)


def _beside(measured: Hull, estimated: Hull) -> Hull:
    """Join phases; of equal compositions the lowest counts."""
    energies = f"{measured.manifest['energies']}, and beside them {estimated.manifest['energies']}"
    parts = (measured, estimated)
    joined = Hull(
        [phase for part in parts for phase in part.phases],
        [energy for part in parts for energy in part.phases.values()],
        measured.references,
        {**measured.manifest, "energies": energies, "estimates": len(estimated)},
    )
    joined.manifest["estimates_from"] = estimated.manifest["source"]
    joined.manifest["phases"] = len(joined)
    return joined
