"""docs/tutorial.ipynb runs from top to bottom, offline, and shows what its text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'chemeleon[dev]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'chemeleon[dev]'")
NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def texts(notebook: Any) -> str:
    """Return all that was printed, and the plain form of all that was shown."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(found)


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, f"nothing like '{pattern}' in:\n{text}"
    return float(found[1])


def test_outputs_are_not_in_git() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("CHEMELEON_DATA", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows plots in the page
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # a cell that raises fails the test, with the cell and its traceback
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()

    shown = texts(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5
    assert len(re.findall(r"^SrTiO3-\d +SrTiO3 ", shown, re.MULTILINE)) == 6
    light = number(r"requested 3 g/cm³: mean ([\d.]+)", shown)
    heavy = number(r"requested 9 g/cm³: mean ([\d.]+)", shown)
    assert heavy > light + 1  # 4.5 and 9 where it was written
    assert number(r"with caesium: (\d+) of 12", shown) >= 8  # 12; 0 or 1 before
    before = number(r"before: ([\d.]+) atoms", shown)
    assert number(r"after: ([\d.]+) atoms", shown) > 1.15 * before  # 0.057 and 0.084
    assert (tmp_path / "tutorial_files" / "out" / "report" / "report.html").is_file()
    assert len(list((tmp_path / "tutorial_files" / "out" / "first" / "cif").glob("*.cif"))) == 12
