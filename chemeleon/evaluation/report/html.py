"""``report.html``: what `chemeleon evaluate` found, in one file that opens without a network.

It stays below 10 MB with texts of usual length: at most 20,000 rows of the table and 2,000
crystals in 3-D (`crystal_view`) are embedded, and the page says so; ``crystals.csv`` has every row.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from chemeleon.errors import DataError
from chemeleon.evaluation.metrics.statistics import evenly
from chemeleon.evaluation.report import sections
from chemeleon.evaluation.report.columns import column_table
from chemeleon.evaluation.report.crystal_view import crystal_views, select, viewer_settings
from chemeleon.evaluation.report.page import Section, asset, escape, page
from chemeleon.storage import write_text

if TYPE_CHECKING:
    import pandas

    from chemeleon.evaluation.report.data import Report

MOST_ROWS = 20_000


def write_html(
    report: Report,
    folder: str | Path,
    files: Sequence[str | None] | None = None,
    home: Path | None = None,
) -> Path:
    """Write ``report.html``.

    Crystals are linked to ``files``, else to their ``source`` where that is a CIF file that exists;
    all crystals with a 3-D view can be saved as CIF from the page.

    Args:
        report: per-crystal table, summary and structures.
        folder: where the file goes; made if it is missing.
        files: path of the CIF of each crystal within the folder, None where there is none.
        home: folder to which links are relative, if the file will be moved there.

    Raises:
        DataError: without a manifest, or if the parts differ in length.
    """
    crystals, summary = report.crystals, report.summary
    total = len(crystals)
    if not summary.get("manifest"):
        raise DataError("the summary has no manifest; figures without one are not shown")
    relaxed = report.relaxed or [None] * total
    if not len(report.structures) == len(relaxed) == total:
        raise DataError(
            f"{total} rows but {len(report.structures)} structures and {len(relaxed)} relaxed ones"
        )
    target = Path(folder) / "report.html"
    chosen = select(report.structures, relaxed, _hull_energies(crystals))
    rows = _rows(total, chosen.positions)
    data = column_table(crystals, rows)
    if files is None:
        data["files"] = _files(crystals, rows, home or target.parent)
    else:
        data["files"] = [(name := files[i]) and f"./{quote(name)}" for i in rows]
    pairs = [(report.structures[i], relaxed[i]) for i in chosen.positions]
    views = {i + 1: view for i, view in zip(chosen.positions, crystal_views(pairs), strict=True)}
    words = chosen.words
    if len(rows) < total:
        words = f"{len(rows):,} of {total:,} rows; crystals.csv has all. {words}"
    parts = (
        sections.headline_section(summary),
        sections.distributions_section(summary),
        sections.elements_section(summary, total),
        *sections.metric_sections(summary),
        sections.bins_section(summary),
        Section("Crystals", asset("crystals.html"), words),
        sections.manifest_section(summary),
    )
    title = str(summary["manifest"].get("title") or "Evaluation of generated crystals")
    text = page(
        title,
        _facts(crystals, summary["manifest"]),
        parts,
        warnings=summary.get("warnings") or (),
        scripts=("base.js", "viewer.js", "table.js", "report.js"),
        data={"table-data": data, "crystal-data": views, "viewer-data": viewer_settings()},
    )
    write_text(target, text)
    return target


def _facts(crystals: pandas.DataFrame, manifest: Mapping[str, Any]) -> list[str]:
    """One line below the title: how many were asked for and how many failed, and when."""
    total = len(crystals)
    failed = crystals["status"].tolist().count("failed") if "status" in crystals else 0
    parts = [f"<b>{total:,}</b> crystals requested", f"<b>{failed:,}</b> failed"]
    for key in ("source", "created"):
        value = manifest.get(key)
        if isinstance(value, (str, int, float)):
            parts.append(f"{key} <b>{escape(value)}</b>")
    return parts


def _hull_energies(crystals: pandas.DataFrame) -> np.ndarray | None:
    for name in ("relaxed_e_above_hull_ev", "e_above_hull_ev"):
        if name in crystals:
            values = np.array(crystals[name].tolist(), float)
            if np.isfinite(values).any():
                return values
    return None


def _rows(total: int, drawn: Sequence[int]) -> list[int]:
    """All rows, or those with a 3-D view and others evenly over the rest."""
    if total <= MOST_ROWS:
        return list(range(total))
    others = np.setdiff1d(np.arange(total), drawn)
    return sorted([*drawn, *others[evenly(len(others), MOST_ROWS - len(drawn))].tolist()])


def _files(crystals: pandas.DataFrame, rows: Sequence[int], folder: Path) -> list[str | None]:
    """Relative links to the CIFs that the rows came from, where those are files."""
    if "source" not in crystals:
        return [None] * len(rows)
    sources = crystals["source"].tolist()
    return [_link(sources[i], folder) for i in rows]


def _link(source: object, folder: Path) -> str | None:
    if not isinstance(source, str) or not source.lower().endswith(".cif"):
        return None
    try:
        path = Path(source).resolve()
        if not path.is_file():
            return None
        relative = os.path.relpath(path, folder.resolve())
    except (OSError, ValueError):  # names that no file can have; another drive
        return None
    return "./" + quote(Path(relative).as_posix())
