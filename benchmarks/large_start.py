"""Time and memory from the call of a training to its first batch, with a large set in the cache.

    python benchmarks/large_start.py [--crystals 600000]

Training and validation crystals (a tenth as many more) are copies of mp's, each with its
atoms moved by about 0.01 of the cell and the cell strained by about 1 %, under names of their own.
Parsing their CIFs would take minutes and is not what is measured (benchmarks/data_processing.py):
the crystals are put into a cache of the package's own form, under the content of the CSVs beside
it, which are as large as such sets are, since a start reads them to know them again.

Each training starts in a process of its own on the CPU, with models of the size tiny, and stops
when its first batch is made. Memory is the process's peak, code and libraries included, less the
bytes of the crystals' tensors as the loader holds them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from unittest import mock

WANTED_SECONDS, WANTED_GIB = 5.0, 1.0
SOURCE = "mp"
CASES = {  # presets of the VAE and the LDM, and what is set of the VAE
    "dng": ("mp_20/dng", "mp_20/null", []),
    "csp, number": ("mp/csp", "mp/csp", ["vae.atom_order=number"]),
    "csp, canonical": ("mp/csp", "mp/csp", ["vae.atom_order=canonical"]),
}
WORDS = [f"data.name={SOURCE}", "data.download=null", "data.targets=[]", "data.where=null"]
WORDS += ["trainer.tracker=none"]
TINY_VAE = ["vae.width=128", "vae.encoder_layers=3", "vae.decoder_layers=3", "vae.heads=4"]
TINY_VAE += ["vae.feedforward=512"]
TINY_LDM = [f"ldm.denoiser.{word}" for word in ("width=192", "layers=6", "heads=6")]


def write_split(split: str, count: int, root: Path) -> None:
    """Write the CSV of a split of perturbed copies, and put its crystals into the cache."""
    import torch

    from chemeleon.config.presets import load_data
    from chemeleon.data import building, dataset

    config = load_data(SOURCE)
    source = dataset.split_path(config, split)
    with gzip.open(source, "rt", newline="") as file:
        header, *rows = csv.reader(file)
    texts = {row[0]: row[1:] for row in rows}
    parsed = building.parse_source(source)
    chosen = torch.arange(count) % len(parsed.ids)
    copies = parsed.crystals().subset(chosen)
    generator = torch.Generator().manual_seed(0)
    moved = copies.frac_coords + 0.01 * torch.randn(copies.frac_coords.shape, generator=generator)
    strain = torch.eye(3) + 0.01 * torch.randn(copies.lattice.shape, generator=generator)
    names = [f"{name}-{i}" for i, name in enumerate(copies.ids)]
    (root / SOURCE).mkdir(parents=True, exist_ok=True)
    path = root / SOURCE / f"{split}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(
            [name, *texts[original]] for name, original in zip(names, copies.ids, strict=True)
        )
    made = replace(
        parsed,
        atomic_numbers=copies.atomic_numbers.to(torch.uint8),
        frac_coords=(moved - moved.floor()).clamp_max(1 - 2**-24),
        lattice=copies.lattice @ strain,
        num_atoms=copies.num_atoms.to(torch.int32),
        rows=torch.arange(count),
        files=torch.zeros(count, dtype=torch.int32),
        columns={name: value[chosen] for name, value in parsed.columns.items()},
        ids=names,
        file_names=[path.name],
        total=count,
    )
    # the loader says what the cache's keys are made of
    with mock.patch.object(dataset, "parse_source", return_value=made):
        dataset.load_source(config, path)


def start(stage: str, preset: str, words: list[str], folder: Path, began: float) -> None:
    """Train in this process until the first batch is made, and print one line of JSON."""
    from rich.console import Console

    from chemeleon import api
    from chemeleon.config.schema import STAGES
    from chemeleon.data.loader import Draw
    from chemeleon.training import launch

    stages = launch, resolve_name(STAGES[stage].stage)  # what the call would import
    assert all(stages)
    imported, at_first = time.time(), _peak_gib()
    gather = Draw.gather

    def first(draw: Draw) -> None:
        gather(draw)
        told = {
            "imports": imported - began,
            "seconds": time.time() - imported,
            "crystals": len(draw.source),
            "tensors_gib": draw.source.bytes() / 2**30,
            "imports_gib": at_first,
            "peak_gib": _peak_gib(),
        }
        print(json.dumps(told), flush=True)
        os._exit(0)

    Draw.gather = first  # pyright: ignore
    api.train(stage, preset, words, output=folder, console=Console(quiet=True))  # pyright: ignore


def _peak_gib() -> float:
    # not getrusage, whose number begins with that of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM"))


def measure(case: str, root: Path) -> None:
    """Start the VAE and the LDM of a case and print a line for each."""
    from chemeleon import api
    from chemeleon.models.vae import CrystalVAE

    vae_preset, ldm_preset, more = CASES[case]
    words = [*WORDS, *TINY_VAE, *more]
    vae = CrystalVAE(api.resolve("vae", vae_preset, overrides=words).config.vae)  # pyright: ignore
    model = vae.save_pretrained(root / case.replace(", ", "_"))
    jobs = {
        "vae": (vae_preset, words),
        "ldm": (ldm_preset, [*WORDS, *TINY_LDM, f"ldm.vae_ckpt_path={model}"]),
    }
    for stage, (preset, given) in jobs.items():
        job = {"stage": stage, "preset": preset, "words": given, "began": time.time()}
        command = [sys.executable, __file__, "--start", json.dumps(job)]
        told = json.loads(subprocess.check_output(command, text=True))
        beyond = told["peak_gib"] - told["tensors_gib"]
        good = told["seconds"] <= WANTED_SECONDS and beyond <= WANTED_GIB
        print(
            f"{case}, {stage}: {told['seconds']:.1f} s to the first batch (imports before it"
            f" {told['imports']:.1f} s); peak {told['peak_gib']:.2f} GiB, {beyond:.2f} beyond"
            f" {told['tensors_gib']:.2f} GiB of tensors ({told['imports_gib']:.2f} after the"
            f" imports){'' if good else '  MISSED'}",
            flush=True,
        )


def main() -> None:
    """Make the set, start a training of each kind, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--crystals", type=int, default=600_000)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--start", help=argparse.SUPPRESS)  # what a process of its own is told
    arguments = parser.parse_args()
    if arguments.start:
        start(**{**json.loads(arguments.start), "folder": Path(tempfile.mkdtemp())})
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["CHEMELEON_CACHE"] = str(root / "cache")
        write_split("train", arguments.crystals, root)
        write_split("val", arguments.crystals // 10, root)
        os.environ["CHEMELEON_DATA"] = str(root)
        print(f"{arguments.crystals} crystals; wanted: {WANTED_SECONDS:g} s, {WANTED_GIB:g} GiB")
        for case in CASES:
            if arguments.only in (None, case):
                measure(case, root)


if __name__ == "__main__":
    main()
