"""Read a text as a file of some name, as every verb does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from pymatgen.core import Element

from chemeleon.data.building import parse_source
from chemeleon.data.cache import ParsedSet
from chemeleon.data.limits import Limits
from chemeleon.data.sources import has_column

CASES = Path(__file__).parent / "reading"


class Read(NamedTuple):
    """What came of a source: formulas, names, shortest distances and reasons."""

    formulas: list[str]
    ids: list[str]
    nearest: list[float]
    problems: list[str]
    parsed: ParsedSet


def read(path: Path, limits: Limits | None = None) -> Read:
    """Read a file or folder with its cells as they are."""
    named = "material_id" if has_column(path, "material_id") else None
    parsed = parse_source(path, id_column=named, niggli=False, limits=limits)
    crystals = parsed.crystals()
    formulas, nearest, end = [], [], 0
    for size, lattice in zip(crystals.num_atoms.tolist(), crystals.lattice.double(), strict=True):
        numbers = crystals.atomic_numbers[end : end + size].tolist()
        frac = crystals.frac_coords[end : end + size].double()
        counts = Counter(Element.from_Z(z).symbol for z in numbers)
        formulas.append(" ".join(f"{symbol}{n}" for symbol, n in sorted(counts.items())))
        shifts = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3).double()
        delta = (frac[:, None, None] - frac[None, :, None] + shifts) @ lattice
        distances = delta.norm(dim=-1)
        nearest.append(float(distances[distances > 1e-6].min()))
        end += size
    reasons = [str(problem) for problem in parsed.problems]
    return Read(formulas, parsed.ids, nearest, reasons, parsed)


def read_text(folder: Path, name: str, content: str | bytes) -> Read:
    """Write a file and read it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read(path)
