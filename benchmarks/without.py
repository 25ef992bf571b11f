"""A training set without the crystals that other sets hold, so that it may be measured on these.

    chemeleon data export mp --format csv -o data/mp_all
    python benchmarks/without.py data/mp_all/train.csv.gz mpts_52/val mpts_52/test \
        --ids mpts_52/holdout_ids.txt.gz -o data/mp_free

Left out is what matches one of them (pymatgen's matcher, default tolerances) and what has one of
the ids. The new set has the other rows of the table, as its train split.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from chemeleon.crystals.batch import Crystals
from chemeleon.data.named import find_set
from chemeleon.evaluation.matching.lookup import Lookup


def main() -> None:
    """Write the folder and say how many rows went."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path, help="CSV with material_id and cif")
    parser.add_argument("others", nargs="+", help="SETs whose crystals must not be in it")
    parser.add_argument("--ids", type=Path, help="file of further ids, one a line (.gz)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    words = parser.parse_args()
    held = Lookup(Crystals.join([find_set(name).load().crystals for name in words.others]))
    crystals = find_set(str(words.table)).load().crystals
    left_out = set(np.array(crystals.ids)[held.holds(crystals)].tolist())
    matched = len(left_out)
    if words.ids is not None:
        with gzip.open(words.ids, "rt") as file:
            left_out |= set(file.read().split())
    table = pd.read_csv(words.table, dtype=str, keep_default_na=False)
    kept = table[~table["material_id"].isin(list(left_out))]
    words.output.mkdir(parents=True)
    kept.to_csv(words.output / "train.csv.gz", index=False)
    print(f"{words.output}: {len(kept):,} of {len(table):,} rows; {matched:,} match a crystal")


if __name__ == "__main__":
    main()
