"""Write the hulls that come with the package: DFT phases, and estimates of others beside them.

    python scripts/pack_hull.py FOLDER

It is a folder with formation_energies.csv.gz and elemental_references.json.gz, as `chemeleon
data hull` takes it. Where the train split of the set `mp` (or a file in its place) has no DFT
formation energy, its column formation_energy_chgnet is an estimate. Elements are left out of the
estimates, as DFT's lie at 0: chlorine would lie 22 meV/atom below itself. The same input gives the
same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from chemeleon.config.schema import DataConfig
from chemeleon.data.dataset import load_report, load_source
from chemeleon.energy.hull import Hull
from chemeleon.energy.hull_crystals import compositions_of
from chemeleon.energy.hull_sources import SHIPPED, SHIPPED_FILES
from chemeleon.energy.hull_tables import from_table
from chemeleon.energy.scales import MP2020

MEASURED, ESTIMATED = "formation_energy_per_atom", "formation_energy_chgnet"  # eV/atom
DECIMALS = 6


def measured(folder: Path) -> Hull:
    """Return the DFT phases with a manifest that names no place on this machine."""
    made = from_table(folder)
    manifest = {
        **made.manifest,
        "energy_scale": MP2020,
        "source": "the Materials Project (CC BY 4.0), crystals of MP-20",
        "references_from": "the elements' ground states in the Materials Project",
    }
    return _rounded(made, manifest)


def estimated(train: Path | None, base: Hull) -> Hull:
    """Return the phases of `mp` that have an estimate only; one for each composition."""
    config = DataConfig.model_validate({"name": "mp"})
    if train is None:
        found = load_report(config, "train", progress=True, partial="any")
    else:
        found = load_source(config, train, progress=True, partial="any")
    only = found.columns[MEASURED].isnan() & found.columns[ESTIMATED].isfinite()
    phases, energies = [], []
    for row, parts in enumerate(compositions_of(found.crystals)):
        if only[row] and len(parts) > 1 and all(symbol in base.references for symbol, _ in parts):
            phases.append(parts)
            energies.append(float(found.columns[ESTIMATED][row]))
    manifest = {
        "energies": "CHGNet 0.3.0 estimates of crystals without one",
        "energy_scale": MP2020,
        "source": "crystals of the Materials Project (CC BY 4.0), train split of mp",
        "rows": len(phases),
        "potential": None,
    }
    made = Hull(phases, energies, base.references, manifest)
    return _rounded(made, {**manifest, "phases": len(made)})


def _rounded(made: Hull, manifest: dict[str, object]) -> Hull:
    energies = [round(energy, DECIMALS) for energy in made.phases.values()]
    return Hull(list(made.phases), energies, made.references, manifest)


def main() -> None:
    """Read the words and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="folder of DFT formation energies")
    parser.add_argument("train", type=Path, nargs="?", help="train split of mp, if not the set's")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED, help="folder [the package's]")
    words = parser.parse_args()
    words.output.mkdir(parents=True, exist_ok=True)
    base = measured(words.table)
    made = (base, estimated(words.train, base))
    for name, hull in zip(SHIPPED_FILES["mp_all"], made, strict=True):
        hull.save(words.output / name)
        size = (words.output / name).stat().st_size
        print(f"{words.output / name}: {len(hull):,} phases, {size:,} bytes")


if __name__ == "__main__":
    main()
