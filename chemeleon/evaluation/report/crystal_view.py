"""Crystals for the 3-D viewer of a report: small records of whole numbers, and which to embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.data.pool import Rescue, run_parallel, worker_count
from chemeleon.evaluation.report.draw import view_matrix
from chemeleon.evaluation.report.picture import (
    BOND_RADIUS,
    EDGE_SHARE,
    ball_radii,
    element_colours,
    picture,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_CRYSTALS = 2000  # crystals with a 3-D view in one file
MOST_ATOMS = 200  # of one crystal
MOST_ATOMS_IN_ALL = 100_000
_MILLI = 1000  # pictures are in 0.001 angstrom,
_FINE = 100_000  # cells in 0.00001 angstrom and fractional coordinates in 0.00001
_FEW = 100  # fewer pictures are made in this process


class Selection(NamedTuple):
    """Which crystals have a 3-D view, by position, and a sentence that says so."""

    positions: list[int]
    words: str


def crystal_record(
    structure: Structure | None, like: Structure | None = None
) -> dict[str, list[int]] | None:
    """Return one crystal as whole numbers, None where there is nothing that can be drawn.

    ``cell`` (9,), ``at`` (3K,) in 0.001 angstrom, ``z`` (K,) and ``bonds`` (2M,) are the picture
    (`picture`); ``frac`` (3N,), ``lattice`` (9,) in 1e-5 and ``numbers`` (N,) the crystal as given.
    """
    try:
        if structure is None or not 0 < len(structure) <= MOST_ATOMS:
            return None
        exact = (structure.frac_coords, structure.lattice.matrix)
        if not all(np.isfinite(part).all() for part in exact):
            return None
        seen = picture(structure, like)
        if not (np.isfinite(seen.cell).all() and np.isfinite(seen.centres).all()):
            return None
        return {
            "cell": _whole(seen.cell, _MILLI),
            "z": seen.numbers.tolist(),
            "at": _whole(seen.centres, _MILLI),
            "bonds": seen.bonds.ravel().tolist(),
            "frac": _whole(exact[0], _FINE),
            "lattice": _whole(exact[1], _FINE),
            "numbers": [int(z) for z in structure.atomic_numbers],
        }
    except Exception:  # pymatgen and disordered sites fail in many ways
        return None


def crystal_views(
    pairs: Sequence[tuple[Structure | None, Structure | None]],
) -> list[dict[str, dict[str, list[int]] | None]]:
    """Return ``{"raw": record, "relaxed": record}`` for each pair, on all cores for many.

    Both are shown in the conventional cell of the relaxed crystal, where there is one.
    """
    if len(pairs) < _FEW or worker_count() < 2:
        return _views(pairs)
    chunks = [pairs[i : i + 50] for i in range(0, len(pairs), 50)]
    nothing = {"raw": None, "relaxed": None}
    rescue = Rescue(
        split=lambda chunk: [[pair] for pair in chunk],
        join=lambda parts: [view for part in parts for view in part],
        give_up=lambda chunk, reason: [nothing] * len(chunk),
    )
    found = run_parallel(f"{__name__}:_views", chunks, worker_count(), rescue)
    return [view for chunk in found for view in chunk]


def _views(
    pairs: Sequence[tuple[Structure | None, Structure | None]],
) -> list[dict[str, dict[str, list[int]] | None]]:
    return [
        {"raw": crystal_record(raw, relaxed), "relaxed": crystal_record(relaxed)}
        for raw, relaxed in pairs
    ]


def select(
    structures: Sequence[Structure | None],
    relaxed: Sequence[Structure | None],
    energies: Sequence[float] | None = None,
    most: int = MOST_CRYSTALS,
) -> Selection:
    """Choose the crystals with a 3-D view: all, or a stated part.

    Of more than `most`, half are those of lowest energy (where there are energies) and the rest lie
    evenly over the input, as far as 100,000 atoms go.
    """
    drawn = [i for i, s in enumerate(structures) if s is not None and 0 < len(s) <= MOST_ATOMS]
    spread = drawn
    best: list[int] = []
    if len(drawn) > most:
        if energies is not None:
            finite = [i for i in drawn if np.isfinite(energies[i])]
            best = sorted(finite, key=lambda i: energies[i])[: most // 2]
        rest = sorted(set(drawn) - set(best))
        places = np.linspace(0, len(rest) - 1, most - len(best)).round().astype(int)
        spread = [rest[i] for i in places]
    chosen, atoms = set[int](), 0
    # the evenly spread ones in an order that stays even wherever the atoms run out
    order = np.argsort([_reversed_bits(i) for i in range(len(spread))])
    for i in [*best, *(spread[int(k)] for k in order)]:
        pair = [structure for structure in (structures[i], relaxed[i]) if structure is not None]
        atoms += sum(len(structure) for structure in pair)
        if atoms > MOST_ATOMS_IN_ALL:
            break
        chosen.add(i)
    positions, total = sorted(chosen), len(structures)
    if len(positions) == total:
        return Selection(positions, f"3-D views of all {total:,} crystals.")
    if len(positions) == len(drawn):
        rest = f"the others failed or have more than {MOST_ATOMS} atoms"
        return Selection(positions, f"3-D views of {len(drawn):,} of {total:,} crystals; {rest}.")
    low = len(chosen.intersection(best))
    parts = [f"the {low:,} lowest in energy above hull"] if low else []
    parts.append(f"{len(positions) - low:,} spread evenly over the input")
    words = f"3-D views of {len(positions):,} of {total:,} crystals: {' and '.join(parts)}."
    return Selection(positions, words)


def viewer_settings() -> dict[str, Any]:
    """Return what viewer.js must know: colours, radii, symbols by atomic number; the view."""
    from ase.data import chemical_symbols

    colours = np.clip(255 * element_colours(), 0, 255).round().astype(int)
    return {
        "symbols": chemical_symbols,
        "colours": colours.tolist(),
        "radii": ball_radii().round(3).tolist(),
        "bond": BOND_RADIUS,
        "edge": EDGE_SHARE,
        "view": view_matrix().round(6).tolist(),
    }


def _whole(values: np.ndarray, scale: int) -> list[int]:
    return np.round(np.asarray(values, float) * scale).astype(np.int64).ravel().tolist()


def _reversed_bits(index: int) -> float:
    """The van der Corput sequence: any first part of it lies evenly in 0 to 1."""
    value, weight = 0.0, 0.5
    while index:
        index, bit = divmod(index, 2)
        value += bit * weight
        weight /= 2
    return value
