"""Write docs/results.md from what `chemeleon evaluate` and benchmarks/csp.py wrote down.

    python scripts/results_page.py \
        --de-novo "in the package=out/shipped/evaluation" --relaxed "in the package=out/relaxed" \
        --csp csp.jsonl --vae "in the package=vae.json" \
        --speed "in the package=two CPU cores=29" --picture images/twelve.png

LABEL=FOLDER is an evaluation (its summary.json). Of csp.jsonl the lines of test splits are taken,
the last of each. Published figures stand beside, with what differs in the protocol and their
source. No figure is typed in here but those.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

# (name in summary.json, title, factor, digits)
SHARES = (
    ("valid_structure", "structure %", 100, 1),
    ("valid_composition", "SMACT %", 100, 1),
    ("unique", "unique %", 100, 1),
    ("unique_novel", "unique and new %", 100, 1),
    ("metastable", "E ≤ 0.1 %", 100, 1),
    ("sun", "SUN %", 100, 1),
    ("msun", "MSUN %", 100, 1),
    ("wasserstein_density", "density", 1, 3),
    ("wasserstein_elements", "elements", 1, 3),
)
RELAXED = (
    ("relaxed_metastable", "E ≤ 0.1 %", 100, 1),
    ("relaxed_sun", "SUN %", 100, 1),
    ("relaxed_msun", "MSUN %", 100, 1),
)
KNOWN = ("system in hull %", "MSUN of these %")
CRYSTALITE = "Crystalite, arXiv:2604.02270"
# structure, composition, unique and novel, stable (<= 0.1), SUN, density, N-ary, s per 1,000
PUBLISHED = (
    ("FlowMM", 93.0, 83.2, 84.0, 46.1, 31.6, 1.389, 0.075, "1560"),
    ("DiffCSP", 99.9, 82.1, 87.9, 50.3, 38.6, 0.192, 0.344, "237"),
    ("MatterGen", 99.8, 83.7, 90.3, 51.7, 42.3, 0.088, 0.184, "2639"),
    ("ADiT", 99.5, 90.2, 56.9, 76.9, 36.8, 0.231, 0.089, "84.8"),
    ("Crystalite", 99.6, 81.9, 77.1, 71.0, 48.6, 0.046, 0.125, "22.4"),
)
# model, at 1: match %, RMSE
PUBLISHED_CSP = {
    "mp_20_open": (
        ("CDVAE", 33.90, 0.1045),
        ("DiffCSP", 51.49, 0.0631),
        ("FlowMM", 61.39, 0.0566),
        ("OMatG", 63.75, 0.0720),
        ("Crystalite", 66.05, 0.0329),
    ),
    "perov_5": (
        ("CDVAE", 45.31, 0.1138),
        ("DiffCSP", 52.02, 0.0760),
        ("CrystalFlow", 53.69, 0.0953),
    ),
}


INTRO = """
Made by `scripts/results_page.py` from the files of `chemeleon evaluate` and `benchmarks/csp.py`.
Test splits were looked at once, for this page; choices were made on validation
([recipe.md](recipe.md)).
"""
RAW = """
As they come, no relaxation. Shares are of all crystals asked for; E is the energy above the hull of
`mp_20_hull` by CHGNet 0.3.0, eV/atom; density (g/cm³) and elements are Wasserstein distances to the
test split, in the control row those between its two halves. Where the hull has no phase of all of a
crystal's elements, its E is likely too low; the last columns tell how many are of known systems,
and MSUN among these alone.
"""
AFTER = """
The first of them after at most 50 steps of relaxation by the same potential (`--relax 50`):
"""
PROTOCOL = f"""
Published ({CRYSTALITE}). The protocol differs: models saw twice the crystals (MP-20's whole train
split), crystals were relaxed to the end, stable and SUN mean E ≤ 0.1 against the hull of the
Materials Project, so their SUN stands beside our MSUN after relaxation; novelty is against MP-20;
times are of their GPUs.
"""
CSP_PROTOCOL = {
    "mp_20_open": "Published models trained on twice the crystals; test is half of MP-20's own.",
    "perov_5": "Train and validation splits are the official ones, test is half of the official.",
}


def prose(text: str) -> str:
    """Return a paragraph in one line, as Markdown likes it."""
    return " ".join(text.split())


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def named(word: str) -> tuple[str, dict[str, Any], pd.DataFrame]:
    """Read LABEL=FOLDER: the summary and the table of crystals."""
    label, _, folder = word.partition("=")
    summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    return label, summary, pd.read_csv(Path(folder) / "crystals.csv")


def fully_judged(crystals: pd.DataFrame, prefix: str = "") -> list[str]:
    """Return the share whose whole system the hull knows, and MSUN among these, per cent."""
    novel = next(name for name in crystals.columns if name.startswith(f"{prefix}novel_"))
    known = crystals[crystals[f"{prefix}hull_state"] == "ok"]
    msun = (known[f"{prefix}e_above_hull_ev"] <= 0.1) & known[f"{prefix}unique"].astype(bool)
    msun &= known[novel].astype(bool)
    return [f"{100 * len(known) / len(crystals):.1f}", f"{100 * msun.mean():.1f}"]


def cells(summary: dict[str, Any], columns: Any, key: str = "value") -> list[str]:
    """Return one row's figures."""
    entries = {entry["name"]: entry for entry in summary["headline"]}
    found = []
    for name, _, factor, digits in columns:
        value = entries.get(name, {}).get(key)
        found.append("" if value is None else f"{factor * value:.{digits}f}")
    return found


def median(summary: dict[str, Any], name: str, side: str = "sample") -> str:
    """Return the median of a distribution; crystals of the sample without a value are the worst."""
    values = sorted((summary["distributions"].get(name) or {}).get(side) or [])
    total = summary["headline"][0]["of"] if side == "sample" else len(values)
    return f"{values[total // 2]:.3f}" if total // 2 < len(values) else ""


def de_novo(words: list[str], relaxed: list[str]) -> list[str]:
    """Return the part about crystals of the model's own choice."""
    found = [named(word) for word in words]
    if not found:
        return []
    first = found[0][1]
    titles = [title for _, title, _, _ in SHARES]
    control = ["real crystals (control)", "", *cells(first, SHARES, "control")]
    control.append(median(first, "e_above_hull_ev", "reference"))
    rows = [control]
    control += ["", ""]
    for label, summary, crystals in found:
        count = str(summary["headline"][0]["of"])
        last = [median(summary, "e_above_hull_ev"), *fully_judged(crystals)]
        rows.append([f"**{label}**", count, *cells(summary, SHARES), *last])
    parts = [
        "## De novo, mp_20_open",
        prose(RAW),
        table(["crystals of", "number", *titles, "median E", *KNOWN], rows),
    ]
    after = [named(word) for word in relaxed]
    if after:
        rows = [
            [
                f"**{label}**",
                str(summary["headline"][0]["of"]),
                *cells(summary, RELAXED),
                median(summary, "relaxed_e_above_hull_ev"),
                *fully_judged(crystals, "relaxed_"),
            ]
            for label, summary, crystals in after
        ]
        parts += [
            prose(AFTER),
            table(
                ["crystals of", "number", *(t for _, t, _, _ in RELAXED), "median E", *KNOWN],
                rows,
            ),
        ]
    header = ["model", "structure %", "SMACT %", "unique and new %", "E ≤ 0.1 %", "SUN %"]
    header += ["density", "elements", "s per 1,000"]
    rows = [[name, *map(str, values)] for name, *values in PUBLISHED]
    parts += [
        prose(PROTOCOL),
        table(header, rows),
    ]
    return parts


def autoencoders(words: list[str]) -> list[str]:
    """Return the part about reconstruction, from what `chemeleon vae reconstruct` printed."""
    rows = []
    for word in words:
        label, _, path = word.partition("=")
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        rate = found["match_rate"]
        share = f"{100 * rate['value']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
        place = f"{found['dataset']}/{found['split']}"
        rows.append([f"**{label}**", place, str(found["crystals"]), share, f"{found['rmse']:.4f}"])
    header = ["VAE", "crystals", "number", "match %, `cdvae`", "RMSE"]
    return ["## Reconstruction", table(header, rows)] if rows else []


def csp(path: Path | None) -> list[str]:
    """Return the part about structures of given formulas."""
    if path is None:
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    last = {line["split"]: line for line in lines if line["split"].endswith("/test")}
    parts = ["## Formula to structure"]
    for split, line in last.items():
        name = split.partition("/")[0]
        one, k = line["at_1"], line["at_k"]
        ours = [
            "**ours**",
            f"{100 * one['value']:.2f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})",
            f"{one['rmse']:.4f}",
            f"{100 * k['value']:.2f} / {k['rmse']:.4f} at {line['k']}" if line["k"] > 1 else "",
        ]
        rows = [
            [who, f"{match:.2f}", f"{rmse:.4f}", ""] for who, match, rmse in PUBLISHED_CSP[name]
        ]
        parts += [
            f"{split}, {one['of']} formulas, matcher `cdvae`. {CSP_PROTOCOL[name]}",
            table(["model", "match % at 1", "RMSE", "at k, match % / RMSE"], [*rows, ours]),
        ]
    return parts


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--de-novo", action="append", default=[], metavar="LABEL=FOLDER")
    parser.add_argument("--relaxed", action="append", default=[], metavar="LABEL=FOLDER")
    parser.add_argument("--vae", action="append", default=[], metavar="LABEL=FILE")
    parser.add_argument("--csp", type=Path)
    parser.add_argument("--speed", action="append", default=[], metavar="LABEL=MACHINE=PER_SECOND")
    parser.add_argument("--picture", help="of the first crystals, relative to the page")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results.md"))
    words = parser.parse_args()
    parts = [
        "# Results",
        prose(INTRO),
        *de_novo(words.de_novo, words.relaxed),
        *csp(words.csp),
        *autoencoders(words.vae),
    ]
    if words.speed:
        rows = [word.split("=") for word in words.speed]
        header = ["crystals of", "machine", "crystals per second"]
        parts += ["## Speed", "DDIM, 50 steps, noise to crystals.", table(header, rows)]
    if words.picture:
        parts += ["## The first twelve", "Seed 0, none left out.", f"![Crystals]({words.picture})"]
    words.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(words.output)


if __name__ == "__main__":
    main()
