"""Awkward files of every format, each with its right answer by crystallographic sense.

``awkward.jsonl`` holds one a line: the file's name and text (for a folder or zip: of each file) and
what comes of it: formulas, shortest distances and names of crystals, words of each problem or of
the error that ends the reading, or of a note. ``gz`` and ``cut`` name files to pack and to cut in
half.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from reading_helpers import read

from chemeleon.errors import DataError

CASES = [json.loads(line) for line in Path(__file__).with_name("awkward.jsonl").open()]
# what so many texts hold that the words stand for it
SHORT = {
    "CUBE\n": "".join(f"_cell_length_{x} 4\n" for x in "abc")
    + "".join(f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")),
    "SITES\n": "loop_\n"
    + "".join(
        f"_atom_site_{x}\n" for x in ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    ),
}


def made(case: dict[str, Any], folder: Path) -> Path:
    """Write the file, folder or zip of a case."""
    path = folder / case["file"]
    if isinstance(case["text"], str):
        path.write_bytes(content(case, case["file"], case["text"]))
        return path
    parts = {name: content(case, name, text) for name, text in case["text"].items()}
    if case["kind"] == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        return path
    for name, data in parts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def content(case: dict[str, Any], name: str, text: str) -> bytes:
    for word, meant in SHORT.items():
        text = text.replace(word, meant)
    data = text.encode(case.get("encoding", "utf-8"))
    data = gzip.compress(data) if name in case.get("gz", ()) else data
    return data[: len(data) // 2] if name in case.get("cut", ()) else data


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['name']}"[:80])
def test_awkward(case: dict[str, Any], tmp_path: Path) -> None:
    path = made(case, tmp_path)
    if "error" in case:
        with pytest.raises(DataError, match=case["error"]):
            read(path)
        return
    found = read(path)
    assert found.formulas == case["formulas"], found.problems
    assert len(found.problems) == len(case.get("problems", ())), found.problems
    for said, words in zip(found.problems, case.get("problems", ()), strict=True):
        assert words in said
        assert "\n" not in said
    for words in case.get("notes", ()):
        assert any(words in note for note in found.parsed.notes)
    if "ids" in case:
        assert found.ids == case["ids"]
    for distance, right in zip(found.nearest, case.get("nearest", ()), strict=False):
        assert right is None or distance == pytest.approx(right, abs=2e-3)
