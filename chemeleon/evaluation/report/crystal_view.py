"""Crystals for the 3-D viewer of a report: small records of whole numbers, and which to embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chemeleon.crystals.files import cif_text
from chemeleon.evaluation.metrics.statistics import evenly
from chemeleon.evaluation.report.draw import EDGE_PIECE, HIGHLIGHT, SHARES, view_matrix
from chemeleon.evaluation.report.picture import BOND_RADIUS, ball_radii, element_colours, picture
from chemeleon.evaluation.work import Each, answers

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_CRYSTALS = 2000  # crystals with a 3-D view in one file
MOST_ATOMS = 200  # of one crystal
MOST_ATOMS_IN_ALL = 100_000

Record = dict[str, Any]  # see `crystal_record`


class Selection(NamedTuple):
    """Which crystals have a 3-D view, by position, and a sentence that says so."""

    positions: list[int]
    words: str


def crystal_record(structure: Structure | None, like: Structure | None = None) -> Record | None:
    """Return one crystal for the viewer, None where there is nothing that can be drawn.

    ``cell`` (9,), ``at`` (3K,) and ``corners`` (3C,) in 0.001 angstrom, ``z`` (K,), ``bonds`` (2M,)
    and ``edges`` (2E,) are the picture (`picture`); ``cif`` is the crystal as given.
    """
    try:
        if structure is None or not 0 < len(structure) <= MOST_ATOMS:
            return None
        if not np.isfinite([*structure.frac_coords, *structure.lattice.matrix]).all():
            return None
        seen = picture(structure, like)
        if not (np.isfinite(seen.cell).all() and np.isfinite(seen.centres).all()):
            return None
        return {
            "cell": _whole(seen.cell),
            "z": seen.numbers.tolist(),
            "at": _whole(seen.centres),
            "bonds": seen.bonds.ravel().tolist(),
            "corners": _whole(seen.corners),
            "edges": seen.edges.ravel().tolist(),
            "cif": cif_text(structure),
        }
    except Exception:  # pymatgen and disordered sites fail in many ways
        return None


def crystal_views(
    pairs: Sequence[tuple[Structure | None, Structure | None]],
) -> list[dict[str, Record | None]]:
    """Return ``{"raw": record, "relaxed": record}`` for each pair, on all cores for many.

    Both are shown in the conventional cell of the relaxed crystal, where there is one.
    """
    return list(answers(Views([]), pairs))


class Views(Each):
    """Records of pairs of a crystal as given and relaxed."""

    size = 50

    def lost(self, reason: str) -> dict[str, Record | None]:
        return {"raw": None, "relaxed": None}

    def answer(self, item: tuple[Structure | None, Structure | None]) -> dict[str, Record | None]:
        raw, relaxed = item
        return {"raw": crystal_record(raw, relaxed), "relaxed": crystal_record(relaxed)}


def select(
    structures: Sequence[Structure | None],
    relaxed: Sequence[Structure | None],
    energies: Sequence[float] | np.ndarray | None = None,
    most: int = MOST_CRYSTALS,
) -> Selection:
    """Choose the crystals with a 3-D view: all, or a stated part.

    Of more than `most`, half are those of lowest energy (where there are energies) and the rest lie
    evenly over the input, as far as 100,000 atoms go.
    """
    drawn = [i for i, s in enumerate(structures) if s is not None and 0 < len(s) <= MOST_ATOMS]
    best: list[int] = []
    if len(drawn) > most and energies is not None:
        finite = [i for i in drawn if np.isfinite(energies[i])]
        best = sorted(finite, key=lambda i: energies[i])[: most // 2]
    rest = sorted(set(drawn) - set(best))
    spread = [rest[k] for k in evenly(len(rest), most - len(best))]
    chosen, atoms = set[int](), 0
    # the evenly spread ones in an order that stays even wherever the atoms run out: those whose
    # multiple of the golden ratio has a small fraction
    order = np.argsort(np.arange(len(spread)) * 0.618033988749895 % 1)
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
    """Return what viewer.js must know: colours, radii, symbols by atomic number; view, shading."""
    from ase.data import chemical_symbols

    colours = np.clip(255 * element_colours(), 0, 255).round().astype(int)
    return {
        "symbols": chemical_symbols,
        "colours": colours.tolist(),
        "radii": ball_radii().round(3).tolist(),
        "bond": BOND_RADIUS,
        "edge_piece": EDGE_PIECE,
        "highlight": HIGHLIGHT,
        "shares": SHARES,
        "view": view_matrix().round(6).tolist(),
    }


def _whole(values: np.ndarray) -> list[int]:
    return np.round(values * 1000).astype(np.int64).ravel().tolist()
