"""Put crystals that a model made beside a data set, to train the next model on both.

    chemeleon data export mp --where "e_above_hull <= 0.1" --format csv -o data/mp_stable
    chemeleon data hull mp --split all --potential chgnet:0.2.0 -o hull020.json.gz
    chemeleon sample -n 30000 --relax 30 --potential chgnet:0.2.0 -o made
    chemeleon evaluate made -r mp_stable --potential chgnet:0.2.0 --hull hull020.json.gz -o judged
    python scripts/extend_data.py mp_stable made judged -o data/mp_more

Kept are valid crystals that are unique, in none of the sets that they were evaluated against and at
most `--highest` eV/atom above the hull; of those with a number of elements, no more than its share
of the data set times all such candidates. Name with `-r` all that must not come in, such as a
validation set that the model which made them knew. For models on orbits leave out those without
symmetry (`--symmetric`). The new set has the rows of the old train split (a CSV) first; crystals
that were made have a name and a CIF, and nothing in other columns, so train with data.targets=[]
and data.where=null. val and test are copied. Relax and select with another potential than the one
that will judge, as above.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd

from chemeleon.config.schema import DataConfig
from chemeleon.data.dataset import load_split, split_path
from chemeleon.data.names import TABLE_SUFFIXES
from chemeleon.evaluation.metrics.stability import METASTABLE_EV
from chemeleon.evaluation.reference import novel_column


def select(
    judged: pd.DataFrame,
    data: str,
    shares: Counter[int],
    highest: float = METASTABLE_EV,
    symmetric: bool = False,
) -> pd.DataFrame:
    """Return the rows to keep, in their order.

    Args:
        judged: crystals.csv of an evaluation against ``data`` that had energies.
        data: name of the set.
        shares: how many of its crystals have each number of elements.
        highest: energy above hull, eV/atom.
        symmetric: leave out crystals of space group 1.
    """
    wanted = ["valid_structure", "valid_composition", "unique", novel_column(data)]
    wanted += [name for name in judged if name.startswith(novel_column("")) and name not in wanted]
    needed = [*wanted, "e_above_hull_ev", *["space_group"] * symmetric]
    missing = [name for name in needed if name not in judged]
    if missing:
        raise SystemExit(
            f"crystals.csv has no {', '.join(missing)}: evaluate with -r {data}, --potential and"
            " --hull"
        )
    flags = judged[wanted]
    # flags are empty where there is no verdict
    wanted_rows = (flags == True).all(axis=1) & (judged["e_above_hull_ev"] <= highest)  # noqa: E712
    if symmetric:
        wanted_rows &= judged["space_group"] > 1
    good = judged.loc[wanted_rows]
    total = sum(shares.values())
    most = {n: round(len(good) * count / total) for n, count in shares.items()}
    place = good.groupby("num_elements").cumcount()
    kept = good.loc[place < good["num_elements"].map(most).fillna(0)]
    print(f"{len(judged)} made, {len(good)} of them good, {len(kept)} kept")
    return kept


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="data set, looked for as `chemeleon` does")
    parser.add_argument("made", type=Path, help="folder of `chemeleon sample`")
    parser.add_argument("judged", type=Path, help="folder of `chemeleon evaluate`")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--highest", type=float, default=METASTABLE_EV, help="eV/atom above hull")
    parser.add_argument("--symmetric", action="store_true", help="none of space group 1")
    words = parser.parse_args()
    config = DataConfig(name=words.data)
    known = load_split(config, "train")
    parts = known.atomic_numbers.split(known.num_atoms.tolist())
    shares = Counter(len(set(part.tolist())) for part in parts)
    judged = pd.read_csv(words.judged / "crystals.csv", keep_default_na=False, na_values=[""])
    kept = select(judged, words.data, shares, words.highest, words.symmetric)
    if not (words.made / "cif").is_dir():
        raise SystemExit(f"{words.made} has no cif/: sample with --format cif")
    old = split_path(config, "train")
    if not old.name.endswith(TABLE_SUFFIXES):
        raise SystemExit(f"{old} is no CSV: `chemeleon data prepare` makes one")
    texts = [(words.made / "cif" / f"{name}.cif").read_text("utf-8") for name in kept["id"]]
    names = [f"{words.output.name}-{name}" for name in kept["id"]]  # each round has its own
    made = pd.DataFrame({"material_id": names, "cif": texts})
    words.output.mkdir(parents=True)
    before = pd.read_csv(old, dtype=str, keep_default_na=False)
    together = pd.concat([before, made], ignore_index=True)
    together.to_csv(words.output / "train.csv.gz", index=False)
    for split in ("val", "test"):
        path = split_path(config, split)
        shutil.copy(path, words.output / path.name)
    print(f"{words.output}: {len(before)} crystals of {words.data} and {len(made)} that were made")


if __name__ == "__main__":
    main()
