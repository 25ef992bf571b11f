"""docs/results.md is made from the rows in docs/results.json, and new rows replace their like."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from conftest import load_script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("results_page")


def test_the_page_says_what_the_rows_say(script):
    kept = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))
    assert script.page(kept) == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_new_rows_replace_those_of_the_same_label_and_data(script):
    old = [{"label": script.CONTROL, "data": "d"}, {"label": "ours", "data": "d", "unique %": "1"}]
    new = [{"label": "ours", "data": "d", "unique %": "2"}, {"label": "ours", "data": "e"}]
    assert script.keep(old, new) == [old[0], *new]


def test_rows_are_made_of_an_evaluation(script, tmp_path):
    import chemeleon

    golden = ROOT / "tests" / "golden"
    known = str(golden / "known.csv")
    chemeleon.evaluate(
        str(golden / "crystals"), references=[known], control=known, output=tmp_path / "out"
    )
    control, ours = script.evaluation(f"ours={tmp_path / 'out'}")
    assert control["label"] == script.CONTROL
    assert (ours["label"], ours["number"], ours["data"]) == ("ours", "31", known)
    assert ours["structure %"] != control["structure %"] == "100.0"
