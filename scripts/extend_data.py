"""Make a data set of crystals that a model made, to train the next model on beside another set.

    chemeleon sample -n 30000 --redraw 4 --relax 30 --symmetrize -o made
    chemeleon evaluate made -r mp -r mp/val -r mp/test --potential chgnet -o judged
    python scripts/extend_data.py mp made judged --highest 0.08 --symmetric -o data/made
    chemeleon ldm train --preset mp/null data.also=[made] ldm.vae_ckpt_path=runs/vae

Kept are valid crystals that are unique, in none of the sets that they were evaluated against (nor
with like elements in the place of theirs) and at most `--highest` eV/atom above the hull; of those
with a number of elements, no more than its share of the data set times all such candidates. Name
with `-r` all that must not come in, such as a validation set that the model which made them knew,
and the sets of earlier rounds. For models on orbits leave out those without symmetry
(`--symmetric`). The new set has a train split, of names and CIFs. Relax and select with another
potential than the one that will judge, and evaluate what is trained on it with `-r` of this set,
too: copies of it are not new.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import pandas as pd

from chemeleon.data.named import find_set
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
    parser.add_argument("data", help="data set that it will stand beside, as evaluate was told")
    parser.add_argument("made", type=Path, help="folder of `chemeleon sample`")
    parser.add_argument("judged", type=Path, help="folder of `chemeleon evaluate`")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--highest", type=float, default=METASTABLE_EV, help="eV/atom above hull")
    parser.add_argument("--symmetric", action="store_true", help="none of space group 1")
    words = parser.parse_args()
    known = find_set(words.data).load().crystals
    parts = known.atomic_numbers.split(known.num_atoms.tolist())
    shares = Counter(len(set(part.tolist())) for part in parts)
    judged = pd.read_csv(words.judged / "crystals.csv", keep_default_na=False, na_values=[""])
    kept = select(judged, words.data, shares, words.highest, words.symmetric)
    if not (words.made / "cif").is_dir():
        raise SystemExit(f"{words.made} has no cif/: sample with --format cif")
    texts = [(words.made / "cif" / f"{name}.cif").read_text("utf-8") for name in kept["id"]]
    names = [f"{words.output.name}-{name}" for name in kept["id"]]  # each round has its own
    words.output.mkdir(parents=True)
    made = pd.DataFrame({"material_id": names, "cif": texts})
    made.to_csv(words.output / "train.csv.gz", index=False)


if __name__ == "__main__":
    main()
