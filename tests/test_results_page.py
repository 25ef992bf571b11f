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


def test_new_rows_replace_old_ones_but_do_not_empty_the_control(script):
    old = [
        {"label": script.CONTROL, "data": "d", "MSUN %": "95.0", "unique %": "99.8"},
        {"label": "ours", "data": "d", "MSUN %": "29.4"},
    ]
    new = [
        {"label": script.CONTROL, "data": "d", "MSUN %": "", "unique %": "99.9"},
        {"label": "ours", "data": "d", "MSUN %": "31.0"},
        {"label": "ours", "data": "e", "MSUN %": "12.0"},
    ]
    control, ours, other = script.keep(old, new)
    assert (control["MSUN %"], control["unique %"]) == ("95.0", "99.9")
    assert (ours["MSUN %"], other["MSUN %"]) == ("31.0", "12.0")
