"""The result of an evaluation: a table of crystals, a summary, and the crystals themselves."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon.data.tables import safe_cells
from chemeleon.evaluation.report.basis import side_by_side
from chemeleon.evaluation.report.figures import write_figures
from chemeleon.evaluation.report.html import write_html
from chemeleon.evaluation.settings import REPORT_PARTS
from chemeleon.storage import replacing, write_text

if TYPE_CHECKING:
    import pandas
    from pymatgen.core import Structure

    from chemeleon.crystals.symmetry import Cell

CIF_LIMIT = 20_000


class Result(ABC):
    """What an evaluation found, of one set or several, as it is written into a folder."""

    summary: Any  # can be written as JSON

    def save(self, folder: str | Path, *, cif: bool | None = None, overwrite: bool = False) -> Path:
        """Write what `write` does, all or nothing.

        Args:
            folder: made if it is missing.
            cif: also write each crystal as a CIF, and its relaxed and idealised forms; by default
                if there are at most `CIF_LIMIT`. Of more, the relaxed ones go to one
                ``relaxed.extxyz``.
            overwrite: replace an earlier evaluation there.

        Raises:
            ConfigError: if the folder holds one and it may not be replaced.
            DataError: without a manifest.
        """
        with replacing(Path(folder), REPORT_PARTS, overwrite) as draft:
            self.write(draft, Path(folder), cif=cif)
        return Path(folder)

    @abstractmethod
    def write(self, folder: Path, home: Path, *, cif: bool | None = None) -> None:
        """Write into a new folder.

        Args:
            folder: exists, and holds no evaluation.
            home: where it will be, to which links of pages are relative.
            cif: as with `save`.
        """

    def write_summary(self, folder: Path) -> None:
        """Write ``summary.json``."""
        text = json.dumps(self.summary, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / "summary.json", text + "\n")

    @staticmethod
    def write_table(path: Path, table: pandas.DataFrame) -> None:
        """Write a CSV that spreadsheets take for text alone."""
        safe_cells(table).to_csv(path, index=False, errors="backslashreplace")


def figures_frame(sets: Mapping[str, Mapping[str, Any]]) -> pandas.DataFrame:
    """Return a row for each figure of summaries, by its name: ``label``, ``group``, value and ends
    of the 95 % interval of each set, headed by its name, and the ``control`` row's value."""
    import pandas

    rows = []
    for entry in side_by_side(sets):
        row = {key: entry[key] for key in ("name", "label", "group")}
        for name in sets:
            found = entry["sets"].get(name, {})
            row |= {f"{name} {key}".strip(): found.get(key) for key in ("value", "low", "high")}
        rows.append({**row, "control": entry["control"]})
    frame = pandas.DataFrame(rows).set_index("name")
    numbers = frame.columns[2:]
    return frame.astype(dict.fromkeys(numbers, float))


@dataclass(frozen=True)
class Report(Result):
    """What `evaluate` found.

    Attributes:
        crystals: one row for each crystal asked for, in input order; see ``docs/evaluate.md``.
        summary: figures that can be written as JSON: ``manifest``, ``headline``,
            ``distributions``, ``elements``, ``space_groups``, ``bins`` and more.
        structures: the crystals, None where there is none to show.
        relaxed: the relaxed crystals, None where there is none.
        idealised: the idealised crystals, None where there is none; None without idealising.
    """

    crystals: pandas.DataFrame
    summary: dict[str, Any]
    structures: Sequence[Structure | None] = field(repr=False)
    relaxed: Sequence[Structure | None] = field(repr=False)
    idealised: Sequence[Structure | None] | None = field(default=None, repr=False)

    @property
    def headline(self) -> pandas.DataFrame:
        """The first figures of the report: value, 95 % interval, and the control row's value.

        Shares are from 0 to 1. The names of the rows are those of ``summary["headline"]``; match
        rates of structure prediction are among them.
        """
        return figures_frame({"": self.summary}).drop(columns="group")

    def write(self, folder: Path, home: Path, *, cif: bool | None = None) -> None:
        """Write ``summary.json``, ``crystals.csv``, ``cif/`` and ``report.html``."""
        self.write_table(folder / "crystals.csv", self.crystals)
        files = None
        if cif or (cif is None and len(self.structures) <= CIF_LIMIT):
            files = self._write_cifs(folder / "cif")
        elif "relax_steps" in self.crystals:
            self._write_relaxed(folder / "relaxed.extxyz")
        write_figures(self.summary, folder)
        write_html(self, folder, files, home)
        self.write_summary(folder)

    def _write_relaxed(self, path: Path) -> None:
        """Append one crystal after the other: a list of all would take gigabytes."""
        from ase.io import write

        ids = self.crystals["id"].tolist()
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for name, structure in zip(ids, self.relaxed, strict=True):
                if structure is not None:
                    atoms = structure.to_ase_atoms()
                    atoms.info["id"] = name
                    write(file, atoms, format="extxyz")

    def _write_cifs(self, folder: Path) -> list[str | None]:
        """Write them, and return the path of each raw one within the report's folder."""
        from chemeleon.crystals.files import cif_text

        folder.mkdir(exist_ok=True)
        files: list[str | None] = [None] * len(self.structures)
        names = cif_names(self.crystals["id"].tolist())
        sets = {"": self.structures, "_relaxed": self.relaxed, "_idealised": self.idealised}
        for suffix, structures in sets.items():
            if structures is None:
                continue
            exact = self.crystals["idealised"] if suffix == "_idealised" else [False] * len(names)
            cells: list[Cell | None] = ["conventional" if flag else None for flag in exact]
            for row, (name, structure) in enumerate(zip(names, structures, strict=True)):
                if structure is not None:
                    text = cif_text(structure, cells[row])
                    (folder / f"{name}{suffix}.cif").write_text(text, encoding="utf-8")
                    if not suffix:
                        files[row] = f"{folder.name}/{name}.cif"
        return files


def cif_names(ids: Sequence[str]) -> list[str]:
    """Return different file names, without suffix, of row number and harmless characters."""
    width = max(5, len(str(len(ids))))
    return [
        f"{row:0{width}d}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-.')[:60]}"
        for row, name in enumerate(ids, start=1)
    ]
