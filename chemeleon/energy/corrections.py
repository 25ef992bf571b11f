"""Corrections of the Materials Project (2020) to total energies of PBE and PBE+U.

Wang et al., Sci. Rep. 11, 15496 (2021), as pymatgen has them. Calculations of the Materials Project
have a Hubbard U for V, Cr, Mn, Fe, Co, Ni, Mo and W in compounds with O or F, and potentials that
were trained on them without corrections are corrected as they are.

No torch here: worker processes import this.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chemeleon.crystals.symbols import symbol
from chemeleon.data.crystal import Crystal, structure_of
from chemeleon.workers import run_parallel, worker_count, workers_wait

OXYGEN, SULFUR = 8, 16
STRONG = frozenset({7, 8, 9, 17, 35, 36, 53, 54})  # more electronegative than sulfur
GUESSED = frozenset({1, 7, 9, 14, 17, 34, 35, 51, 52, 53})  # corrected if they are anions
PEROXIDE_WITHIN = 1.05  # of pymatgen's lengths of bonds, as its corrections ask for
_CHUNK = 50  # crystals of a job, about 0.1 s
_WORTH = {False: 4000, True: 200}  # crystals that are worth starting workers, or waking them


def corrections(crystals: Sequence[Crystal | None]) -> tuple[np.ndarray, list[str | None]]:
    """Return what is to be added to uncorrected total energies.

    Args:
        crystals: ``M`` crystals, or None.

    Returns:
        ``(M,)`` float64 eV/atom, NaN where there is none, and for each None or the reason.
    """
    workers = worker_count() if len(crystals) >= _WORTH[workers_wait()] else 1
    if workers > 1:
        jobs = [list(crystals[i : i + _CHUNK]) for i in range(0, len(crystals), _CHUNK)]
        found = run_parallel(f"{__name__}:_some", jobs, workers)
        rows = [row for part in found for row in part]
    else:
        rows = _some(crystals)
    return np.array([ev for ev, _ in rows], dtype=np.float64), [reason for _, reason in rows]


def _some(crystals: Sequence[Crystal | None]) -> list[tuple[float, str | None]]:
    return [_one(crystal) for crystal in crystals]


def _one(crystal: Crystal | None) -> tuple[float, str | None]:
    if crystal is None:
        return np.nan, "there is no crystal"
    try:
        counts = Counter(crystal.atomic_numbers.tolist())
        return _correction(tuple(counts.items()), *_kinds(crystal, counts)), None
    except Exception as error:  # pymatgen raises many kinds
        text = " ".join(str(error).split())[:200]
        return np.nan, f"no MP2020 correction: {type(error).__name__}: {text}"


def _kinds(crystal: Crystal, counts: Counter[int]) -> tuple[str, str]:
    """Return the kinds of oxide and sulfide; pymatgen looks only where there is a choice."""
    from pymatgen.analysis.structure_analyzer import oxide_type, sulfide_type

    oxide, sulfide = "oxide", "sulfide"
    if len(counts) > 1 and counts[OXYGEN] > 1:
        oxide = str(oxide_type(structure_of(crystal), PEROXIDE_WITHIN))
    if counts[SULFUR] and STRONG & counts.keys():
        sulfide = sulfide_type(structure_of(crystal)) or "sulfate"
    return oxide, sulfide


@functools.lru_cache(maxsize=100_000)
def _correction(counts: tuple[tuple[int, int], ...], oxide: str, sulfide: str) -> float:
    """Return eV/atom of a composition whose kinds of oxide and sulfide are known.

    Elements come in the order of the sites: of equally electronegative ones pymatgen takes the last
    for the anion.
    """
    from pymatgen.core import Composition
    from pymatgen.entries.computed_entries import ComputedEntry

    composition = Composition({symbol(z): n for z, n in counts})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheme = _scheme()
        strongest = max(composition.elements, key=lambda element: element.X).symbol
        settings = scheme.u_settings.get(strongest, {})
        hubbards = {e.symbol: settings.get(e.symbol, 0) for e in composition.elements}
        if not any(hubbards.values()):
            hubbards = {}
        entry = ComputedEntry(
            composition,
            0.0,
            parameters={
                "run_type": "GGA+U" if hubbards else "GGA",
                "hubbards": hubbards,
                "software": "a potential",  # which has no pseudopotentials to be checked
            },
            data={"oxide_type": oxide, "sulfide_type": sulfide},
        )
        if not GUESSED & {z for z, _ in counts}:  # most of the time goes into guessing states
            entry.data["oxidation_states"] = {"not guessed": 0}
        adjustments = scheme.get_adjustments(entry)
    return sum(adjustment.value for adjustment in adjustments) / composition.num_atoms


@functools.cache
def _scheme() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    described: dict[str, Any] = scheme.as_dict()  # which each adjustment asks for anew
    as_dict: Callable[[], dict[str, Any]] = lambda: described  # noqa: E731
    scheme.as_dict = as_dict
    return scheme
