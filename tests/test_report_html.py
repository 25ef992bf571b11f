"""The report in a real browser: it opens offline, shows crystals, filters, and stays inert."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_browser
from energy_helpers import rocksalt_cube
from pymatgen.core import Lattice, Structure
from report_fixture import FakeReport, make_report

from chemeleon.errors import DataError
from chemeleon.evaluation.report.html import MOST_ROWS, _rows, write_html

READY = "document.body?.dataset.ready === 'yes'"
EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium here (apt-get install chromium)"
)
SALT = rocksalt_cube()
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
IRON = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def small_report(folder: Path) -> FakeReport:
    source = folder / "cifs" / "odd name #1.cif"
    source.parent.mkdir()
    SALT.to(filename=str(source), fmt="cif")
    raw = [SALT.copy().translate_sites([0], [0.02, 0.01, 0.0]), RUTILE, IRON, None]
    return make_report(
        raw, [SALT, IRON], [SALT, RUTILE, None, None], [0.0, 0.05, 0.4, 0.0],
        ids=["salt", EVIL, "iron", "broken"],
        sources=[str(source), EVIL + ".cif", "javascript:alert(1)//.cif", "x.csv"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report = small_report(folder)
    report.summary["manifest"]["note"] = EVIL
    report.summary["headline"][0]["label"] = EVIL
    report.summary["distributions"]["a"]["label"] = EVIL
    report.crystals.loc[3, "reason"] = EVIL
    path = write_html(report, folder / "out")
    with Page(tmp_path_factory.mktemp("profile")) as page:
        page.open(path, READY)
        yield page


def cells(page: Page, key: str) -> list[str]:
    """Texts of one column, in the order shown."""
    return page.eval(
        "(() => { const k = [...document.querySelectorAll('#list th')].findIndex((h) => "
        f"h.querySelector('[data-key={key}]')); return [...document.querySelectorAll("
        "'#list tr[data-row]')].map((r) => r.cells[k].textContent); })()"
    )


def query(page: Page, text: str) -> list[str]:
    """Type into the filter; the formulas that are left."""
    page.eval("document.getElementById('query').value = ''")
    page.click("#query")
    page.type(text) if text else page.eval(
        "document.getElementById('query').dispatchEvent(new Event('input'))"
    )
    page.eval("new Promise((done) => setTimeout(done, 200))")
    return cells(page, "formula")


def ink(page: Page, canvas: str) -> int:
    """How many pixels of a canvas are painted, but for its axes in the corner."""
    return page.eval(
        f"(() => {{ const c = document.getElementById('{canvas}'); "
        "const s = new OffscreenCanvas(c.width - 60, c.height - 60).getContext('2d', "
        "{willReadFrequently: true}); s.drawImage(c, -60, 0); const d = s.getImageData(0, 0, "
        "c.width - 60, c.height - 60).data; let n = 0; for (let i = 3; i < d.length; i += 4) "
        "n += d[i] > 0; return n; })()"
    )


def settle(page: Page) -> None:
    page.eval("new Promise((done) => setTimeout(done, 350))")


@needs_browser
def test_opens_without_network_and_without_errors(shown: Page) -> None:
    assert shown.problems == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
    assert shown.eval("document.querySelectorAll('#distributions .card svg').length") == 6
    assert shown.eval("document.querySelectorAll('.ptable').length") == 2
    assert "Control" in shown.eval("document.getElementById('headline').textContent")


@needs_browser
def test_hostile_text_is_shown_as_text(shown: Page) -> None:
    assert shown.eval("window.pwned === undefined")
    assert shown.eval("document.querySelectorAll('main img').length") == 0
    assert cells(shown, "id")[1] == EVIL
    for part in ("manifest", "headline", "distributions"):
        assert EVIL in shown.eval(f"document.getElementById('{part}').textContent")
    shown.click("tr[data-row='1']")
    assert shown.eval("document.getElementById('detail-id').textContent") == EVIL
    shown.click("tr[data-row='3']")
    assert shown.eval("document.getElementById('detail-reason').textContent") == EVIL
    assert shown.eval("window.pwned === undefined")
    # even markup that got in would not run: the policy knows the hash of one script only
    shown.eval("document.body.append(Object.assign(document.createElement('script'), "
               "{textContent: 'window.pwned = 1'}))")  # fmt: skip
    assert shown.eval("window.pwned === undefined")
    shown.problems.clear()


@needs_browser
def test_a_click_on_a_row_shows_its_crystal(shown: Page) -> None:
    shown.click("tr[data-row='0']")
    settle(shown)
    assert shown.eval("document.getElementById('detail-title').textContent") == "Na4Cl4"
    salt = ink(shown, "view-raw"), ink(shown, "view-relaxed")
    assert min(salt) > 5000
    shown.click("tr[data-row='2']")
    settle(shown)
    assert shown.eval("document.getElementById('detail-title').textContent") == "Fe2"
    assert shown.eval("document.getElementById('none-relaxed').textContent") == "not relaxed"
    assert ink(shown, "view-raw") > 5000
    assert ink(shown, "view-relaxed") == 0
    legend = shown.eval("document.getElementById('legend').textContent")
    assert legend == "Fe"
    shown.click("tr[data-row='3']")
    settle(shown)
    assert ink(shown, "view-raw") == 0
    assert shown.eval("document.getElementById('none-raw').textContent") == "no crystal"
    assert shown.problems == []


@needs_browser
def test_a_drag_turns_both_crystals_and_reset_turns_them_back(shown: Page) -> None:
    shown.click("tr[data-row='0']")
    settle(shown)
    picture = "document.getElementById('{}').toDataURL()"
    views = [picture.format("view-raw"), picture.format("view-relaxed")]
    before = [shown.eval(view) for view in views]
    x, y = shown.middle("#view-raw")
    shown.mouse("mousePressed", x, y)
    shown.mouse("mouseMoved", x + 60, y + 25)
    shown.mouse("mouseReleased", x + 60, y + 25)
    settle(shown)
    after = [shown.eval(view) for view in views]
    assert before[0] != after[0]
    assert before[1] != after[1]
    shown.click("[data-view='home']")
    settle(shown)
    assert [shown.eval(view) for view in views] == before
    shown.click("[data-view='bonds']")
    settle(shown)
    assert ink(shown, "view-raw") > 3000
    assert shown.eval(views[0]) != before[0]
    shown.click("[data-view='bonds']")


@needs_browser
def test_pointing_at_a_bond_tells_its_length(shown: Page) -> None:
    shown.click("tr[data-row='1']")
    shown.click("[data-view='c']")
    settle(shown)
    shown.eval("document.getElementById('view-raw').scrollIntoView({block: 'center'})")
    box = shown.eval(
        "(() => { const r = document.getElementById('view-raw').getBoundingClientRect(); "
        "return [r.x, r.y, r.width, r.height]; })()"
    )
    seen = set()
    for u in np.linspace(0.2, 0.8, 15):
        for v in np.linspace(0.2, 0.8, 15):
            shown.hover(box[0] + u * box[2], box[1] + v * box[3])
            seen.add(shown.eval("document.querySelector('#view-raw + output').textContent"))
    assert {"Ti", "O"} <= seen
    lengths = {float(t.split()[1]) for t in seen if "–" in t}
    nearest = sorted(site.nn_distance for site in RUTILE.get_neighbors(RUTILE[0], 2.1))
    assert lengths
    for length in lengths:
        assert min(abs(length - d) for d in nearest) < 0.006


@needs_browser
def test_filters_narrow_the_table(shown: Page) -> None:
    everything = query(shown, "")
    assert everything == ["Na4Cl4", "Ti2O4", "Fe2", "–"]
    assert query(shown, "Ti-O") == ["Ti2O4"]
    assert query(shown, "O") == ["Ti2O4"]  # the element, not the letter
    assert query(shown, "iron") == ["Fe2"]
    assert query(shown, "atoms>=6") == ["Na4Cl4", "Ti2O4"]
    assert query(shown, "relaxed_e_above_hull_ev<0.01 unique=yes") == ["Na4Cl4"]
    assert query(shown, "status=failed") == ["–"]
    assert shown.eval("document.getElementById('count').textContent") == "1 of 4"
    query(shown, "nonsense<3")
    assert "nonsense" in shown.eval("document.getElementById('query-message').textContent")
    assert query(shown, "xyzzy") == []
    query(shown, "")
    shown.eval("[...document.querySelectorAll('#chips button')]"
               ".find((chip) => chip.textContent === 'Failed').click()")  # fmt: skip
    assert cells(shown, "formula") == ["–"]
    shown.eval("document.querySelector('#chips [aria-pressed=true]').click()")
    shown.click("[data-element='Fe']")
    assert cells(shown, "formula") == ["Fe2"]
    query(shown, "")


@needs_browser
def test_headers_sort_and_missing_values_come_last(shown: Page) -> None:
    query(shown, "")
    shown.eval("document.querySelector('[data-key=density_g_cm3]').click()")
    assert cells(shown, "formula") == ["Na4Cl4", "Ti2O4", "Fe2", "–"]
    shown.eval("document.querySelector('[data-key=density_g_cm3]').click()")
    assert cells(shown, "formula") == ["Fe2", "Ti2O4", "Na4Cl4", "–"]
    shown.eval("document.querySelector('[data-key=density_g_cm3]').click()")
    assert cells(shown, "id")[2] == "iron"


@needs_browser
def test_links_and_saved_cif(shown: Page) -> None:
    shown.click("tr[data-row='0']")
    link = shown.eval("document.querySelector('#links a')?.getAttribute('href')")
    assert link == "./../cifs/odd%20name%20%231.cif"
    shown.click("tr[data-row='2']")
    assert shown.eval("document.querySelector('#links a')") is None
    shown.click("tr[data-row='1']")
    text = shown.eval(
        "new Promise((done) => { URL.createObjectURL = (blob) => { blob.text().then(done); return"
        " 'data:,'; }; document.querySelector('#links button').click(); })"
    )
    again = Structure.from_str(text, fmt="cif")
    assert again.composition == RUTILE.composition
    assert np.allclose(again.lattice.parameters, RUTILE.lattice.parameters, atol=1e-6)
    assert np.allclose(again.frac_coords, RUTILE.frac_coords, atol=1e-6)


@needs_browser
def test_dark_theme(shown: Page, tmp_path: Path) -> None:
    from matplotlib.image import imread

    shown.click("tr[data-row='0']")
    light = imread(shown.screenshot(tmp_path / "light.png"))[..., :3].mean()
    shown.click("#theme")
    settle(shown)
    dark = imread(shown.screenshot(tmp_path / "dark.png"))[..., :3].mean()
    shown.click("#theme")
    assert light > 0.8
    assert dark < 0.3


@needs_browser
def test_ten_thousand_rows(tmp_path: Path) -> None:
    small = make_report([SALT, RUTILE, IRON, None], [SALT])
    crystals = small.crystals.iloc[np.arange(10_000) % 4].reset_index(drop=True)
    crystals["id"] = [f"gen-{i}" for i in range(10_000)]
    structures = [*small.structures, *[None] * 9996]
    report = replace(small, crystals=crystals, structures=structures, relaxed=[None] * 10_000)
    path = write_html(report, tmp_path)
    assert path.stat().st_size < 3_000_000
    with Page(tmp_path / "profile") as page:
        page.open(path, READY)
        assert page.eval("document.getElementById('count').textContent") == "10,000 of 10,000"
        assert page.eval("document.querySelectorAll('#list tr[data-row]').length") < 80
        page.eval("document.getElementById('list').scrollTop = 5000 * 33")
        page.wait("!!document.querySelector(\"tr[data-row='5005']\")", 5)
        assert query(page, "gen-9999") == ["–"]
        assert page.problems == []


def test_rows_beyond_the_bound() -> None:
    assert _rows(5, [2]) == [0, 1, 2, 3, 4]
    many = _rows(200_000, [7, 8, 150_000])
    assert len(many) == len(set(many)) == MOST_ROWS
    assert many == sorted(many)
    assert {7, 8, 150_000, 199_999} <= set(many)


def test_what_is_refused(tmp_path: Path) -> None:
    report = make_report([SALT], [])
    with pytest.raises(DataError, match="no manifest"):
        write_html(replace(report, summary={**report.summary, "manifest": {}}), tmp_path)
    with pytest.raises(DataError, match="1 rows but 2 structures"):
        write_html(replace(report, structures=[SALT, SALT]), tmp_path)


def test_a_report_of_failures_alone(tmp_path: Path) -> None:
    report = make_report([None, None])
    for missing in ("headline", "distributions", "elements", "space_groups", "bins"):
        del report.summary[missing]
    text = write_html(report, tmp_path).read_text(encoding="utf-8")
    assert "3-D views of 0 of 2 crystals" in text
    assert "Distributions" not in text


def test_nothing_hostile_reaches_the_markup(tmp_path: Path) -> None:
    report = make_report([SALT], [IRON], ids=[EVIL])
    report.summary["bins"] = {EVIL: [{EVIL: EVIL}]}
    report.summary["space_groups"] = {"sample": {EVIL: 3}, "reference": {EVIL: 4}}
    report.summary["manifest"] = json.loads(json.dumps({EVIL: {EVIL: [EVIL, {EVIL: 1}]}}))
    text = write_html(report, tmp_path).read_text(encoding="utf-8")
    assert "<img" not in text
    assert len(re.findall("<script", text)) == 4  # the three data elements and the program
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
