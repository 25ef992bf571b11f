"""Building blocks of reports: histograms, ticks, columns, the choice of crystals, pictures."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from energy_helpers import rocksalt_cube
from pymatgen.core import Lattice, Structure
from report_fixture import make_report

from chemeleon.evaluation.metrics.sections import Bars
from chemeleon.evaluation.report.columns import column_table
from chemeleon.evaluation.report.crystal_view import (
    MOST_ATOMS_IN_ALL,
    crystal_record,
    crystal_views,
    select,
)
from chemeleon.evaluation.report.figures import (
    histogram,
    histogram_chart,
    paired_bars,
    write_figures,
)
from chemeleon.evaluation.report.page import (
    data_block,
    definition_list,
    figure_text,
    interval_bar,
    interval_text,
    number,
)
from chemeleon.evaluation.report.periodic import place
from chemeleon.evaluation.report.picture import picture
from chemeleon.evaluation.report.sections import elements_section

SALT = rocksalt_cube()
IRON = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_histogram_of_whole_numbers() -> None:
    bins = histogram([1, 2, 2, 4, None, float("nan")], [1, 1])
    assert bins is not None
    assert bins.discrete
    assert bins.edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert bins.sample.tolist() == [25, 50, 0, 25]
    assert bins.reference is not None
    assert bins.reference.tolist() == [100, 0, 0, 0]
    assert bins.counts == (4, 2)
    assert histogram([], [float("nan")]) is None


def test_histogram_states_what_lies_beyond_its_axis() -> None:
    values = np.random.default_rng(0).normal(5, 1, 1000).tolist()
    bins = histogram([*values, 1e6, float("inf")])
    assert bins is not None
    assert bins.reference is None
    assert bins.edges[-1] < 12
    assert bins.counts[0] == 1001
    assert bins.sample.sum() + bins.beyond[0] == pytest.approx(100)
    assert 0 < bins.beyond[0] < 1.5
    constant = histogram([2.5, 2.5])
    assert constant is not None
    assert constant.sample.sum() == 100


def test_numbers() -> None:
    assert [number(v) for v in (12345, 4321.6, -0.12346, 1.0, 2e7, None, float("nan"))] == [
        "12,345", "4,322", "−0.1235", "1", "2e+07", "–", "–"]  # fmt: skip
    share = {"value": 0.5, "low": 0.25, "high": 0.751, "of": 8}
    assert (figure_text(share), interval_text(share)) == ("50.0 %", "25.0 to 75.1")
    assert figure_text({"value": 0.5, "unit": "eV"}) == "0.5 eV"
    assert figure_text({**share, "value": None}) == figure_text({}) == "–"


def svg_parts(drawn: str) -> tuple[list[ElementTree.Element], list[str]]:
    """The areas of a chart that can be pointed at, and what they say."""
    space = "{http://www.w3.org/2000/svg}"
    xlink = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    hits = ElementTree.fromstring(drawn.replace("<svg", xlink, 1)).findall(f"{space}rect")
    return hits, [hit.findtext(f"{space}title") or "" for hit in hits]


def test_a_histogram_of_a_page_tells_each_bin_and_takes_its_colours_from_the_page() -> None:
    bins = histogram([1, 2, 2, 4], [1, 1])
    assert bins is not None
    drawn = histogram_chart(bins, "cost <b> in $x$ # \\1", "eV")
    hits, texts = svg_parts(drawn)
    assert texts[1] == "2 eV\nours 50.0 %\nreference 0.0 %"
    assert len(texts) == 4
    left, right = (float(hits[0].attrib["x"]), float(hits[-1].attrib["x"]))
    assert right - left == pytest.approx(3 * float(hits[0].attrib["width"]), abs=0.2)
    assert "cost &lt;b&gt; in $x$ # \\1 (eV)" in drawn
    assert {"var(--ours-fill)", "var(--theirs)", "var(--soft)"} <= set(
        re.findall(r"var\(--[a-z-]+\)", drawn)
    )
    assert not re.search("#[0-9a-f]{6}|<style|<metadata| id=.figure", drawn)


def test_bars_and_intervals_of_a_page() -> None:
    both = Bars("", ["P1", "<i>"], {"P1": 75.0, "<i>": 25.0}, {"<i>": 100.0}, "base model")
    hits, texts = svg_parts(paired_bars(both))
    assert texts == ["P1\nours 75.0 %\nbase model 0.0 %", "<i>\nours 25.0 %\nbase model 100.0 %"]
    assert float(hits[0].attrib["y"]) < float(hits[1].attrib["y"])
    assert svg_parts(paired_bars(Bars("", ["P1"], {}, {})))[1] == ["P1\nours 0.0 %"]
    assert svg_parts(paired_bars(Bars("", [], {}, {})))[1] == []
    bar = interval_bar(0.5, 0.25, 0.75, 0.9)
    assert '"whisker" style="left:25.00%;width:50.00%"' in bar
    assert '"control" style="left:90.00%;width:0.00%"' in bar
    assert "whisker" not in interval_bar(0.5, None, None)


def test_places_in_the_periodic_table() -> None:
    known = {"H": (1, 1), "He": (1, 18), "Fe": (4, 8), "O": (2, 16), "La": (8, 3), "Lu": (8, 17),
             "U": (9, 6), "Hf": (6, 4), "Ra": (7, 2)}  # fmt: skip
    assert {symbol: place(symbol) for symbol in known} == known


def test_shares_of_elements_are_of_whole_sets() -> None:
    # of a large set the summary keeps some values alone, but counts the elements of all
    values = {"a": {"sample": [1.0], "reference": [1.0]}}
    counts = {"sample": {"O": 2}, "reference": {"O": 10_000}}
    against = {"name": "train", "crystals": 40_000}
    summary = {"manifest": {"references": [against]}, "elements": counts, "distributions": values}
    assert "Oxygen\nours 50.00 %\nreference 25.00 %" in elements_section(summary, 4).body
    assert elements_section({"manifest": {}, "elements": {}}, 4).body == ""


def test_columns_are_compact_and_mark_what_is_missing() -> None:
    frame = pd.DataFrame(
        {
            "id": ["a", "x" * 500, None],
            "density_g_cm3": [1.23456, np.nan, np.inf],
            "unique": [True, False, None],
            "novel_train set": [True, None, False],
            "space_group": [225.0, np.nan, 1.0],
            "relaxed_density_g_cm3": [2.0, 3.0, 4.0],
            "unknown_column": [1, 2, 3],
        }
    )
    table = column_table(frame, [0, 2, 1])
    values = table["values"]
    assert table["rows"] == [1, 3, 2]
    assert values["density_g_cm3"] == [1.235, None, None]
    assert values["unique"] == [1, None, 0]
    assert values["novel_train set"] == [1, 0, None]
    assert values["space_group"] == [225, 1, None]
    assert values["id"][1] is None
    assert len(values["id"][2]) == 160
    assert "unknown_column" not in values
    json.dumps(table, allow_nan=False)


def test_data_block_is_inert_and_refuses_nan() -> None:
    block = data_block("x", {"a": "</script><b>", "b": [1.5, None]})
    assert block.count("<") == 2
    packed = block.split(">")[1].split("<")[0]
    assert json.loads(gzip.decompress(base64.b64decode(packed)))["a"] == "</script><b>"
    with pytest.raises(ValueError, match="Out of range"):
        data_block("x", [float("nan")])
    assert definition_list({"<a>": ["<b>", 1], "c": None}) == (
        "<dl><dt>&lt;a&gt;</dt><dd>&lt;b&gt;, 1</dd><dt>c</dt><dd>none</dd></dl>"
    )


def test_salt_is_drawn_with_its_faces_and_bonds() -> None:
    seen = picture(SALT.get_primitive_structure())
    assert (
        sorted(seen.numbers.tolist()) == [11] * 13 + [17] * 14
        or sorted(seen.numbers.tolist()) == [11] * 14 + [17] * 13
    )
    assert len(seen.bonds) == 54
    lengths = np.linalg.norm(
        seen.centres[seen.bonds[:, 0]] - seen.centres[seen.bonds[:, 1]], axis=1
    )
    assert np.allclose(lengths, 2.82, atol=1e-6)
    assert np.allclose(seen.cell, 5.64 * np.eye(3), atol=1e-6)


def test_raw_is_drawn_in_the_cell_of_the_relaxed_one() -> None:
    relaxed = SALT.get_primitive_structure()
    raw = relaxed.copy().translate_sites([0], [0.03, 0.06, 0.01])
    alone, beside = picture(raw), picture(raw, relaxed)
    assert abs(np.linalg.det(alone.cell)) < 3 * raw.volume
    assert abs(np.linalg.det(beside.cell)) == pytest.approx(4 * raw.volume)
    other = picture(raw, IRON)  # other atoms: no use
    assert np.allclose(other.cell, alone.cell)


def test_records() -> None:
    record = crystal_record(IRON)
    assert record is not None
    assert Structure.from_str(record["cif"], fmt="cif") == IRON
    assert len(record["at"]) == 3 * len(record["z"]) == 27
    assert len(record["corners"]) == len(record["edges"]) == 24
    flat = Structure(np.diag([4.0, 4.0, 0.0]), ["C"], [[0, 0, 0]])
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    nan = Structure(Lattice.cubic(3), ["Fe"], [[0, float("nan"), 0]])
    assert crystal_record(mixed) is None
    assert crystal_record(nan) is None
    assert crystal_record(flat) is None
    assert crystal_record(None) is None
    many = [(IRON, SALT), (None, None), (SALT, None)] * 40  # enough to go to other processes
    views = crystal_views(many)
    assert views == crystal_views(many[:3]) * 40
    assert views[1] == {"raw": None, "relaxed": None}


def test_selection() -> None:
    every = select([IRON, SALT], [None, None])
    assert every.positions == [0, 1]
    assert every.words == "3-D views of all 2 crystals."
    structures = [IRON] * 500 + [None]
    none = [None] * 501
    spread = select(structures, none, most=50)
    assert len(spread.positions) == 50
    assert max(np.diff(spread.positions)) <= 11
    energies = [float(500 - i) for i in range(500)] + [float("nan")]
    best = select(structures, none, energies, most=50)
    assert set(range(475, 500)) <= set(best.positions)
    assert "50 of 501 crystals: the 25 lowest in energy above hull and 25 spread" in best.words
    large = [SALT * (2, 2, 2)] * 3000  # 64 atoms each
    held = select(large, [None] * 3000, most=2500)
    assert len(held.positions) == MOST_ATOMS_IN_ALL // 64
    assert max(np.diff(held.positions)) <= 4


def test_figures(tmp_path: Path) -> None:
    from matplotlib.image import imread

    summary = make_report([SALT, IRON, None], [IRON]).summary
    summary["distributions"]["../x y"] = {**summary["distributions"]["a"], "label": "cost in $"}
    summary["distributions"]["empty"] = {"label": "-", "unit": "", "sample": [], "reference": []}
    paths = write_figures(summary, tmp_path)
    assert len(paths) == len(summary["distributions"]) - 1
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    assert all(imread(path).shape[1] == 840 for path in paths)
