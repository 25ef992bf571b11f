"""Crystals as files: CIF with the operations of their group, POSCAR, extxyz, JSON. No torch here.

Shapes: ``N`` atoms.
"""

from __future__ import annotations

import gzip
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.crystals.idealise import Exact, exact, orbits
from chemeleon.crystals.lattice import cells_of
from chemeleon.crystals.symbols import symbol
from chemeleon.crystals.symmetry import Axes, gemmi_operations
from chemeleon.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure

FORMATS = ("cif", "extxyz", "json", "poscar")
_LONGEST_NAME = 240  # bytes, as a suffix is to come
_WIDTH = 70  # of lines of a CIF, in characters
_ATOM_LOOP = (
    "loop_",
    " _atom_site_type_symbol",
    " _atom_site_label",
    " _atom_site_symmetry_multiplicity",
    *(f" _atom_site_fract_{x}" for x in "xyz"),
    " _atom_site_occupancy",
)
FOLDER_FORMATS = {"cif": ".cif", "poscar": ".vasp"}  # one file each, in a folder of that name


def write_structures(
    structures: Sequence[Structure],
    folder: str | Path,
    formats: Iterable[str] = ("cif",),
    names: Sequence[str] | None = None,
    symmetric: Sequence[Axes | None] | None = None,
) -> list[Path]:
    """Write crystals in one or more formats.

    Args:
        structures: what to write; a structure that a format cannot hold stops with an error.
        folder: made if missing.
        formats: of ``cif`` (one file per crystal in ``cif/``), ``poscar`` (the same in
            ``poscar/``), ``extxyz`` (``structures.extxyz``) and ``json`` (``structures.json.gz``, a
            list of pymatgen dictionaries).
        names: file names without suffix and ids; numbers with leading zeros if not given.
        symmetric: for exactly symmetric crystals, the cell in which their CIFs list one atom of
            each orbit and the operations; None, for one or all, lists all atoms. See `crystal_cif`.

    Returns:
        The files written.

    Raises:
        DataError: for an unknown format or a name that is no plain file name.
    """
    folder, formats = Path(folder), list(formats)
    if unknown := [f for f in formats if f not in FORMATS]:
        raise DataError(f"unknown format {', '.join(unknown)}; known are {', '.join(FORMATS)}")
    digits = max(5, len(str(len(structures))))
    names = [f"{i:0{digits}d}" for i in range(len(structures))] if names is None else list(names)
    each = [form for form in formats if form in FOLDER_FORMATS]
    if each:
        check_file_names(names)
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for form in each:
        (folder / form).mkdir(exist_ok=True)
        cells = symmetric or [None] * len(names)
        for name, structure, cell in zip(names, structures, cells, strict=True):
            written.append(_write(folder, form, name, _arrays(structure), cell))
    if "extxyz" in formats:
        from ase.io import write
        from pymatgen.io.ase import AseAtomsAdaptor  # a second, for integrals of ASE's

        frames = []
        for name, structure in zip(names, structures, strict=True):
            atoms: Any = AseAtomsAdaptor.get_atoms(structure, msonable=False)
            atoms.info = {**structure.properties, "material_id": name}
            frames.append(atoms)
        written.append(folder / "structures.extxyz")
        with written[-1].open("w", encoding="utf-8", errors="backslashreplace") as file:
            write(file, frames, format="extxyz")
    if "json" in formats:
        items = []
        for name, structure in zip(names, structures, strict=True):
            item = structure.as_dict()
            item["properties"] = {**structure.properties, "material_id": name}
            items.append(json.dumps(item))  # in C, which json.dump is not
        written.append(folder / "structures.json.gz")
        with gzip.open(written[-1], "wt", encoding="utf-8") as file:
            file.write(f"[{', '.join(items)}]")
    return written


def check_file_names(names: Iterable[str]) -> None:
    """Refuse names of crystals that cannot be names of files.

    Raises:
        DataError: naming the first one.
    """
    for name in names:
        plain = name == Path(name).name and name not in {"", ".", ".."} and "\0" not in name
        written = name.encode(errors="replace")
        if not plain or len(written) > _LONGEST_NAME or written.decode() != name:
            raise DataError(
                f"{name[:80]!r} is no name for a file, and CIF and POSCAR are one file each: rename"
                " the crystal, or choose another format"
            )


def _write(folder: Path, form: str, name: str, crystal: Crystal, cell: Axes | None) -> Path:
    """Write one crystal as CIF or POSCAR into the folder of that name."""
    text = crystal_cif(crystal, cell) if form == "cif" else _poscar(crystal, name)
    path = folder / form / f"{name}{FOLDER_FORMATS[form]}"
    path.write_text(text, encoding="utf-8")
    return path


def write_chunk(job: tuple[str, list[str], list[tuple[str, Crystal, Axes | None]]]) -> int:
    """Write crystals in a worker process: folder, formats, and name, crystal and cell of each."""
    folder, formats, rows = job
    for name, crystal, cell in rows:
        for form in formats:
            _write(Path(folder), form, name, crystal, cell)
    return len(rows)


def cif_text(structure: Structure, axes: Axes | None = None) -> str:
    """Return an ordered structure as CIF; see `crystal_cif`."""
    return crystal_cif(_arrays(structure), axes)


def crystal_cif(crystal: Crystal, axes: Axes | None = None) -> str:
    """Return a crystal as CIF.

    Args:
        crystal: what to write.
        axes: of an exactly symmetric crystal, the cell to write, a standard one or the given one,
            with one atom of each orbit and the operations; None lists all atoms as given, in P1.
            In the given axes the group is that which the crystal has exactly, whatever it is.
    """
    found = None if axes is None else exact(crystal, axes)
    return _p1(crystal) if found is None else _cif(found)


def _p1(crystal: Crystal) -> str:
    """Return a CIF of all atoms: the text of pymatgen's CifWriter, in a third of its time."""
    from pymatgen.core import Composition, Lattice

    symbols = [symbol(z) for z in crystal.atomic_numbers.tolist()]
    composition, lattice = Composition(Counter(symbols)), Lattice(crystal.lattice)
    formula, units = composition.get_reduced_formula_and_factor()
    lines = [
        "# generated using pymatgen",
        f"data_{formula[:74]}",
        "_symmetry_space_group_name_H-M   'P 1'",
        *(f"_cell_length_{x}   {v:.8f}" for x, v in zip("abc", lattice.abc, strict=True)),
        *(f"_cell_angle_{x}   {v:.8f}"
          for x, v in zip(("alpha", "beta", "gamma"), lattice.angles, strict=True)),
        "_symmetry_Int_Tables_number   1",
        _item("_chemical_formula_structural", formula),
        _item("_chemical_formula_sum", composition.formula),
        f"_cell_volume   {lattice.volume:.8f}",
        f"_cell_formula_units_Z   {int(units)}",
        "loop_",
        " _symmetry_equiv_pos_site_id",
        " _symmetry_equiv_pos_as_xyz",
        "  1  'x, y, z'",
        *_ATOM_LOOP,
    ]  # fmt: skip
    rows = zip(symbols, crystal.frac_coords.tolist(), strict=True)
    lines += (
        f"  {name}  {name}{i}  1  {x:.8f}  {y:.8f}  {z:.8f}  1"
        for i, (name, (x, y, z)) in enumerate(rows)
    )
    return "\n".join(lines) + "\n"


def _item(key: str, text: str) -> str:
    """Return a key of a CIF with its value; a long one stands on lines of its own."""
    if len(text) > _WIDTH:
        return f"{key}\n;\n{textwrap.fill(text, _WIDTH)}\n;"
    value = f"'{text}'" if " " in text else text
    gap = "   " if len(key) + len(value) + 3 < _WIDTH else "\n"
    return f"{key}{gap}{value}"


def _arrays(structure: Structure) -> Crystal:
    numbers = np.array(structure.atomic_numbers)
    return Crystal(numbers, structure.frac_coords, structure.lattice.matrix)


def _cif(found: Exact) -> str:
    """Return a CIF of the operations of a group, its names, and an atom and the size of orbits."""
    numbers, coords, lattice = found.crystal
    triplets, names = _named(found)
    symbols = [symbol(z) for z in numbers.tolist()]
    lengths, angles = np.split(cells_of(lattice), 2)
    counts = Counter(symbols)
    units = int(np.gcd.reduce(list(counts.values())))
    lines = [
        f"data_{_formula(counts, units)}",
        *names,
        f"_space_group_IT_number  {found.number}",
        *(f"_cell_length_{x}  {v:.10f}" for x, v in zip("abc", lengths, strict=True)),
        *(f"_cell_angle_{x}  {v:.10f}"
          for x, v in zip(("alpha", "beta", "gamma"), np.degrees(angles), strict=True)),
        f"_cell_volume  {abs(np.linalg.det(lattice)):.8f}",
        f"_cell_formula_units_Z  {units}",
        f"_chemical_formula_structural  {_formula(counts, units)}",
        f"_chemical_formula_sum  '{' '.join(f'{s}{n}' for s, n in counts.items())}'",
        "loop_",
        " _space_group_symop_id",
        " _space_group_symop_operation_xyz",
        *(f"  {i}  '{triplet}'" for i, triplet in enumerate(triplets, start=1)),
        *_ATOM_LOOP,
    ]  # fmt: skip
    for label, (first, multiplicity) in enumerate(orbits(found)):
        name, place = symbols[first], "  ".join(f"{x:.12f}" for x in coords[first])
        lines.append(f"  {name}  {name}{label}  {multiplicity}  {place}  1")
    return "\n".join(lines) + "\n"


def _poscar(crystal: Crystal, comment: str) -> str:
    """Return a crystal as POSCAR: comment, direct coordinates, like atoms together."""
    symbols = [symbol(z) for z in crystal.atomic_numbers.tolist()]
    counts = Counter(symbols)  # in the order in which elements come first
    rank = {symbol: i for i, symbol in enumerate(counts)}
    order = sorted(range(len(symbols)), key=lambda i: rank[symbols[i]])
    rows = ["  ".join(f"{x:.12f}" for x in row) for row in crystal.frac_coords[order].tolist()]
    vectors = ["  ".join(f"{x:.10f}" for x in row) for row in crystal.lattice.tolist()]
    heads = [" ".join(counts), " ".join(map(str, counts.values()))]
    lines = [" ".join(comment.split()), "1.0", *vectors, *heads, "direct", *rows]
    return "\n".join(lines) + "\n"


def _named(found: Exact) -> tuple[list[str], list[str]]:
    """Return operations as ``x,y,z``, and names of the group where its axes are those of a name."""
    import gemmi

    every = gemmi_operations(found.rotations, found.shifts)
    group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(every))
    triplets = [operation.triplet() for operation in every]
    if group is None or group.number != found.number:
        return triplets, []
    names = [
        f"_space_group_name_H-M_alt  '{group.xhm()}'",
        f"_space_group_name_Hall  '{group.hall}'",
    ]
    return triplets, names


def _formula(counts: Counter[str], units: int) -> str:
    return "".join(f"{s}{n // units if n > units else ''}" for s, n in counts.items())
