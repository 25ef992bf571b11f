"""Make the data set mp_52 (42,487 crystals of the Materials Project) from a public repository.

    git clone https://github.com/fxcoudert/topology_databases
    git -C topology_databases checkout 9fd8ac744
    python scripts/build_mp.py topology_databases -o data/mp_52

The repository has one CIF without symmetry per material, under cif/, with a list of bonds behind
the atoms. Read are the ids of mp_52_ids.txt.gz beside this script: stored cells of 21 to 52 atoms,
without ids of the validation and test sets of MP-20 and MPTS-52. A stored cell that spglib finds to
be a multiple of a primitive cell (0.01 A) is brought to that one; `spacegroup.number` is spglib's
at 0.1 A. The folder appears complete or not at all; ids without a usable file are listed in its
problems.csv and end the command with status 1. Licence of the crystals: CC BY 4.0, Materials
Project.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import spglib

from chemeleon.crystals.symbols import symbol
from chemeleon.data.niggli import cell_parameters
from chemeleon.data.parse import BadCrystalError, Crystal, parse_as_given
from chemeleon.workers import run_parallel, worker_count

COMMIT = "9fd8ac744"
PRIMITIVE_ANGSTROM, GROUP_ANGSTROM = 0.01, 0.1
COLUMNS = ("material_id", "spacegroup.number", "cif")
CHUNK = 100  # files a worker process reads at a time
SHOWN = 10  # problems printed; all are in problems.csv
_BONDS = re.compile(r"^\s*loop_\s+_geom_bond", re.MULTILINE)


class Row(NamedTuple):
    """What became of one id: `reason` is empty, or says why there is no crystal."""

    id: str
    group: int
    cif: str
    reason: str


def _cell(crystal: Crystal) -> Any:  # spglib's own type asks for lists
    return crystal.lattice, crystal.frac_coords, crystal.atomic_numbers


def primitive(crystal: Crystal) -> Crystal:
    """Return the primitive cell if spglib finds one of fewer atoms, else the cell as it is."""
    found = spglib.find_primitive(_cell(crystal), symprec=PRIMITIVE_ANGSTROM)
    if found is None or len(found[2]) >= len(crystal.atomic_numbers):
        return crystal
    return Crystal(np.asarray(found[2], np.int64), np.asarray(found[1]), np.asarray(found[0]))


def space_group(crystal: Crystal) -> int:
    """Return spglib's space group number.

    Raises:
        BadCrystalError: if it finds none.
    """
    found = spglib.get_symmetry_dataset(_cell(crystal), symprec=GROUP_ANGSTROM)
    if found is None:
        raise BadCrystalError("spglib finds no space group")
    return int(found.number)


def write_cif(name: str, crystal: Crystal) -> str:
    """Return a CIF of all atoms of the cell, without symmetry: 1e-6 of lengths and coordinates."""
    lengths, angles = cell_parameters(crystal.lattice)
    lines = [f"data_{name}", "_symmetry_space_group_name_H-M 'P 1'"]
    lines += [f"_cell_length_{x} {v:.6f}" for x, v in zip("abc", lengths, strict=True)]
    names = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{x} {np.degrees(v):.5f}" for x, v in zip(names, angles, strict=True)]
    lines += ["loop_", "_atom_site_type_symbol", "_atom_site_label"]
    lines += [f"_atom_site_fract_{x}" for x in "xyz"]
    # rounded before it is wrapped, so that no 1.000000 and no -0.000000 is written
    frac = crystal.frac_coords.round(6) % 1.0
    for i, (z, at) in enumerate(zip(crystal.atomic_numbers.tolist(), frac.tolist(), strict=True)):
        element = symbol(z)
        lines.append(f"{element} {element}{i} {at[0]:.6f} {at[1]:.6f} {at[2]:.6f}")
    return "\n".join([*lines, ""])


def read_row(folder: Path, name: str) -> Row:
    """Read one material; whatever is wrong with its file becomes the reason."""
    try:
        text = (folder / f"{name}.cif").read_text("utf-8")
        bonds = _BONDS.search(text)
        crystal = primitive(parse_as_given("cif", text[: bonds.start()] if bonds else text))
        return Row(name, space_group(crystal), write_cif(name, crystal), "")
    except FileNotFoundError:
        reason = "no such file"
    except (OSError, UnicodeDecodeError, BadCrystalError) as error:
        reason = str(error)
    return Row(name, 0, "", reason)


def read_rows(job: tuple[str, Sequence[str]]) -> list[Row]:
    """Read some materials of a folder, in a worker process."""
    folder, names = job
    return list(map(partial(read_row, Path(folder)), names))


def build(folder: Path, names: Sequence[str], workers: int) -> Iterator[Row]:
    """Yield a row for each id, in their order, and say how far it is."""
    jobs = [(str(folder), names[i : i + CHUNK]) for i in range(0, len(names), CHUNK)]
    for done, rows in enumerate(run_parallel("build_mp:read_rows", jobs, workers), 1):
        yield from rows
        if done % 50 == 0:
            print(f"{min(done * CHUNK, len(names)):,} of {len(names):,}", file=sys.stderr)


def write(rows: Iterator[Row], output: Path) -> tuple[int, list[Row]]:
    """Write the folder, and return the number of its crystals and the problems."""
    count, problems = 0, []
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as beside:
        draft = Path(beside) / "set"
        draft.mkdir()
        with gzip.open(draft / "train.csv.gz", "wt", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for row in rows:
                if row.reason:
                    problems.append(row)
                else:
                    table.writerow((row.id, row.group, row.cif))
                    count += 1
        if not count:
            raise SystemExit(f"nothing is written: {_told(problems[0])}, and so on")
        if problems:
            with (draft / "problems.csv").open("w", encoding="utf-8", newline="") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerows([("material_id", "reason"), *((p.id, p.reason) for p in problems)])
        draft.rename(output)
    return count, problems


def _told(row: Row) -> str:
    return f"cif/{row.id}.cif: {row.reason}"


def checked_out(clone: Path) -> str:
    """Return the commit of the clone, or an empty text where git does not tell."""
    words = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def read_ids(path: Path) -> list[str]:
    """Return the ids of a list, one per line, plain or gz."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            names = file.read().split()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from None
    bad = [name for name in names if not re.fullmatch(r"[\w-]+", name)]
    if bad or not names or len(set(names)) < len(names):
        what = f"'{bad[0][:60]}' is no id" if bad else "empty, or an id occurs twice"
        raise SystemExit(f"{path}: {what}")
    return names


def main() -> None:
    """Write the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clone", type=Path, help="clone of fxcoudert/topology_databases")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder")
    ids = Path(__file__).with_name("mp_52_ids.txt.gz")
    parser.add_argument("--ids", type=Path, default=ids, help="other materials than those of mp_52")
    words = parser.parse_args()
    if not (words.clone / "cif").is_dir():
        raise SystemExit(f"{words.clone} has no folder cif: is it a clone of topology_databases?")
    if words.output.exists():
        raise SystemExit(f"{words.output} exists already; choose another folder")
    commit = checked_out(words.clone)
    if not commit.startswith(COMMIT):
        found = commit[:9] or "no commit that git knows"
        print(f"{words.clone} is at {found}, not at {COMMIT}: crystals may differ from mp_52's")
    names = read_ids(words.ids)
    count, problems = write(build(words.clone / "cif", names, worker_count()), words.output)
    for row in problems[:SHOWN]:
        print(_told(row), file=sys.stderr)
    print(f"{words.output}: {count:,} crystals of {len(names):,} ids, {len(problems):,} problems")
    if problems:
        raise SystemExit(f"{words.output / 'problems.csv'} lists {len(problems):,} problems")


if __name__ == "__main__":
    main()
