"""Pack tables of the project's layout into the archives of ``chemeleon/datasets``.

    python scripts/pack_dataset.py data/mp -o chemeleon/datasets/mp

Each of train, val and test that SRC_DIR holds (in any form that ``chemeleon data describe`` reads)
becomes one ``.safetensors.xz``; the same tables give the same bytes. Each archive is read again and
compared with what training would make of the table, as given and reduced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from chemeleon.config.schema import DataConfig
from chemeleon.data.archive import read_archive
from chemeleon.data.building import collect
from chemeleon.data.dataset import SPLITS, split_path
from chemeleon.data.names import ARCHIVE_SUFFIX
from chemeleon.data.packing import write_archive
from chemeleon.data.sources import read_records
from chemeleon.errors import DataError

_TOLERANCE = 1e-6  # of the cell, and angstrom; beyond what float32 resolves


def pack(source: Path, path: Path) -> None:
    """Write one archive and hold it against its table."""
    records = list(read_records(source, "material_id", "cif"))
    write_archive(path, records)
    worst = []
    for niggli in (False, True):
        wanted = collect(iter(records), niggli)
        found = read_archive(path, niggli).parsed
        same = [torch.equal(wanted.atomic_numbers, found.atomic_numbers)]
        same += [torch.equal(wanted.num_atoms, found.num_atoms), wanted.ids == found.ids]
        same += [list(wanted.columns) == list(found.columns)]
        same += [
            torch.equal(values.nan_to_num(torch.inf), found.columns[name].nan_to_num(torch.inf))
            for name, values in wanted.columns.items()
        ]
        away = (wanted.frac_coords - found.frac_coords).abs()
        coords = float(torch.minimum(away, 1 - away).max())
        # float32 itself resolves no more of a long cell
        step = wanted.lattice.abs().amax().item() * torch.finfo(torch.float32).eps
        cells = float((wanted.lattice - found.lattice).abs().max())
        worst += [coords, cells]
        if not all(same) or coords > _TOLERANCE or cells > max(_TOLERANCE, step):
            raise DataError(f"{path} does not give {source} back: {coords:.2g}, {cells:.2g} A")
    print(f"{path}: {len(records):,} crystals, {path.stat().st_size:,} bytes; away from the table")
    print("  by {:.2g} and {:.2g} A as given, {:.2g} and {:.2g} A reduced".format(*worst))


def main() -> None:
    """Pack every split that is there."""
    parser = argparse.ArgumentParser(description="Pack tables into archives.")
    parser.add_argument("source", type=Path, metavar="SRC_DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    asked = parser.parse_args()
    source = asked.source.resolve()
    config = DataConfig(name=source.name, root=str(source.parent))
    asked.output.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        try:
            path = split_path(config, split)
        except DataError as error:
            print(f"{split}: {error}")
            continue
        pack(path, asked.output / f"{split}{ARCHIVE_SUFFIX}")


if __name__ == "__main__":
    main()
