"""Whole data sets written as orbits: on all cores, and once.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from chemeleon.caching import cache_file, digest_of, keep
from chemeleon.crystals.batch import Array, Crystals
from chemeleon.crystals.canonical import in_assigned_orbits, in_orbits
from chemeleon.crystals.orbits import crystals_of
from chemeleon.errors import DataError
from chemeleon.workers import run_parallel, worker_count

logger = logging.getLogger(__name__)
_VERSION = 1  # of canonical descriptions; those of another are made again
_CHUNK = 128
_ARRAYS = ("atomic_numbers", "frac_coords", "lattice", "num_atoms", "sites")
_LONG = 10_000  # crystals, of which one waits for half a minute
_IN_PROCESS = 200  # starting workers takes longer than writing so few


def write_as_orbits(crystals: Crystals, keep: bool = True, by_letters: bool = False) -> Crystals:
    """Return the crystals with one atom for each orbit, see `Crystals.sites`.

    Args:
        crystals: ``M``, on the CPU.
        keep: take them from the cache if they were written before, and put them there.
        by_letters: in the settings of `canonical.by_letters`.

    Raises:
        DataError: if there are some that no symmetry can be looked for in, as their cells are flat.
    """
    found = (_kept if keep else _written)(crystals.arrays(), by_letters)
    none = np.flatnonzero(found.num_atoms == 0)
    if len(none):
        first = crystals.ids[none[0]] if crystals.ids else f"number {none[0]}"
        raise DataError(
            f"{len(none):,} of {len(crystals):,} crystals cannot be written as orbits: their cells"
            f" are flat or hold numbers that are not finite, as in {first}; leave them out"
        )
    made = found.tensors()
    floats = {"frac_coords": made.frac_coords.float(), "lattice": made.lattice.float()}
    return replace(made, targets=crystals.targets, ids=crystals.ids, **floats)


def with_all_atoms(crystals: Crystals) -> Crystals:
    """Return crystals with all atoms of their primitive cells, in single precision if written so.

    Crystals without sites are returned as they are. See `orbits.crystals_of`.

    Args:
        crystals: on the CPU.
    """
    if crystals.sites is None:
        return crystals
    whole = crystals_of(crystals.arrays()).tensors()
    return whole.with_geometry(
        whole.frac_coords.to(crystals.frac_coords), whole.lattice.to(crystals.lattice)
    )


def _kept(crystals: Crystals[Array], by_letters: bool) -> Crystals[Array]:
    content = crystals.atomic_numbers, crystals.frac_coords, crystals.lattice, crystals.num_atoms
    made_by = [_VERSION, version("moyopy"), *(["by letters"] if by_letters else [])]
    file = cache_file("orbits", [*made_by, digest_of(*content)], ".npz")
    found = _read(file)
    if found is None:
        if len(crystals) >= _LONG:
            logger.warning(
                "%s crystals are written as orbits, once: that takes minutes", f"{len(crystals):,}"
            )
        found, packed = _written(crystals, by_letters), io.BytesIO()
        np.savez(packed, **{name: getattr(found, name) for name in _ARRAYS})
        keep(file, packed.getvalue(), "orbits are")
    return found


def _written(crystals: Crystals[Array], by_letters: bool) -> Crystals[Array]:
    parts: Iterator[Crystals[Array]] = crystals.cut(_CHUNK)
    write = in_assigned_orbits if by_letters else in_orbits
    if len(crystals) < _IN_PROCESS or worker_count() == 1:
        return Crystals.join([write(part) for part in parts])
    place = f"{write.__module__}:{write.__name__}"
    return Crystals.join(list(run_parallel(place, parts, worker_count())))


def _read(file: Path) -> Crystals[Array] | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Crystals(**{name: arrays[name] for name in _ARRAYS})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, DataError) as error:
        logger.warning("the cached orbits %s are damaged (%s); made again", file, error)
        return None
