"""Every command of README.md runs offline in an empty folder, one after another, on small budgets.

The commands are read from the page: lines of its code blocks, which share a folder, and `commands
in the text`, which have one each. Words are added where a command would take minutes; one that no
rule knows must run as it stands.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice, pairwise
from pathlib import Path

import pytest
import torch
from conftest import demo_crystals
from data_server import serving

from chemeleon.config.presets import load_data
from chemeleon.crystals.convert import to_structures

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
STARTS = ("chemeleon ", "accelerate ", "make ", "python ", "pip ")
SECONDS = 400  # of one command, on cores that are busy with other things

TINY = "trainer.max_steps=2 trainer.val_match_samples=4 data.batch_size=512 "
TINY_VAE = TINY + " ".join(
    f"vae.{word}"
    for word in ("width=32", "encoder_layers=1", "decoder_layers=1", "heads=2", "feedforward=64")
)
TINY_LDM = TINY + "ldm.denoiser.width=32 ldm.denoiser.layers=2 ldm.denoiser.heads=2"
# what a command begins with, as a pattern, and the words that are added to it
BUDGETS = (
    (r"chemeleon sample -n 20 --relax", "-n 2 --relax 2"),
    (r"chemeleon sample --formula", "-n 1 --relax 2"),
    (r"chemeleon sample --model runs/csp", "-n 2 --steps 2"),
    (r"chemeleon sample --model runs/my_ldm", "--num-samples 4 --steps 3"),
    (r"chemeleon vae train", TINY_VAE),
    (r"(accelerate launch .*)?chemeleon ldm train", TINY_LDM),
    (
        r"chemeleon rl train",
        "trainer.max_epochs=1 data.batch_size=1 rl.num_group_samples=4 rl.val_samples=4"
        " rl.sampler.steps=4 'data.where=num_atoms <= 2'",
    ),
    (
        r"chemeleon predict train",
        "trainer.max_steps=2 data.batch_size=16 predict.width=32 predict.layers=1"
        " predict.encoder_layers=1"
        " 'data.where=num_atoms <= 2 and known(formation_energy_per_atom)'",
    ),
    (
        r"chemeleon evaluate",
        "--control 'mp/test where num_atoms == 1 and num_elements == 1' --control-energies 8",
    ),
)
# a stranger's machine without a network: what is not the loopback cannot be reached
NO_NETWORK = """
import socket

connect = socket.socket.connect


def refused(self, address):
    if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise OSError(101, f"no network here: {address}")
    return connect(self, address)


socket.socket.connect = refused
"""


def commands() -> dict[str, bool]:
    """Return the commands of the page in its order, and whether they stand in a block."""
    page = PAGE.replace("\\\n", " ")
    blocks = r"^```\w*\n(?P<block>.*?)^```$"
    found: dict[str, bool] = {}
    for match in re.finditer(rf"{blocks}|`(?P<words>[^`\n]+)`", page, re.DOTALL | re.MULTILINE):
        for line in (match["block"] or match["words"]).splitlines():
            if line.startswith(STARTS):
                command = shlex.join(shlex.split(line, comments=True))
                found[command] = found.get(command, False) or match["block"] is not None
    return found


def cut(command: str) -> list[str]:
    """Return the words of a command, made smaller by the first rule that knows it."""
    more = next((words for start, words in BUDGETS if re.match(start, command)), "")
    words = [*shlex.split(command), *shlex.split(more)]
    for i, (option, _) in enumerate(pairwise(words), 1):
        if option == "--reference":  # to describe all of it takes minutes
            words[i] += " where num_elements == 1"
    return words


def mp_20() -> dict[str, bytes]:
    """Return files as large as those of MP-20, made of a few small crystals of the demo set."""
    download = load_data("mp_20").download
    assert download is not None
    some = to_structures(demo_crystals("train").subset(torch.arange(300)))
    small = [crystal for crystal in some if len(crystal) <= 4]
    elements = [crystal for crystal in small if len(crystal.elements) == 1]
    compounds = [crystal for crystal in small if len(crystal.elements) > 1]
    chosen = [elements[0], *compounds[:39]]
    texts = ['"' + crystal.to(fmt="cif").replace('"', '""') + '"' for crystal in chosen]
    files = {}
    for split, rows in download.rows.items():
        lines = (f"mp-{split}-{i},{t}" for i, t in enumerate(islice(cycle(texts), rows)))
        path = re.sub(r"^https://[^/]+", "", download.url.replace("{split}", split))
        files[path] = "\n".join(["material_id,cif", *lines, ""]).encode()
    return files


class Workplace:
    """An empty folder in which the commands run one after another, each once."""

    def __init__(self, folder: Path, mirror: str) -> None:
        site = folder / "site"
        self.folder = folder / "here"
        for made in (site, self.folder, folder / "home"):
            made.mkdir()
        (site / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("CHEMELEON_", "WANDB_"))}
        self.environment = {
            **mine,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), mine["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            "HOME": str(folder / "home"),  # no key of wandb, no cache
            "CHEMELEON_DATA_URL": mirror,
            "COLUMNS": "120",
        }
        self.done: dict[str, tuple[int, str]] = {}

    def run(self, command: str) -> tuple[int, str]:
        """Run what stands before a command, then the command; return its exit code and output."""
        for earlier in commands():
            if earlier not in self.done:
                self.done[earlier] = self._run(earlier)
            if earlier == command:
                break
        return self.done[command]

    def _run(self, command: str) -> tuple[int, str]:
        words = cut(command)
        place = self.folder if commands()[command] else self.folder.parent / f"{len(self.done)}"
        make = words[0] == "make"  # needs the clone, and minutes: make says what it would do
        place = ROOT if make else place
        place.mkdir(exist_ok=True)
        start = time.monotonic()
        try:
            result = subprocess.run(
                [*words, "--dry-run"] if make else words,
                cwd=place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            said = said.decode(errors="replace") if isinstance(said, bytes) else said
            return 124, f"not over after {SECONDS} s:\n{said}"
        print(f"{time.monotonic() - start:.1f} s: {shlex.join(words)}")
        return result.returncode, result.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with serving(mp_20()) as server:
        yield Workplace(tmp_path_factory.mktemp("readme"), server.address)


def test_the_page_has_the_commands_that_were_promised() -> None:
    found = commands()
    assert len(found) > 15
    for start in (
        "make demo",
        "chemeleon vae train --preset mp_20/dng",
        "chemeleon ldm train --preset mp_20/null -o runs/my_ldm ldm.vae_ckpt_path=runs/my_vae",
        "chemeleon sample --model runs/my_ldm --num-samples 1000 --output out/",
        "chemeleon evaluate out/ --reference",
        "chemeleon rl train --preset",
        "accelerate launch --num_processes 2 -m chemeleon ldm train --preset mp_20/null",
    ):
        assert any(command.startswith(start) for command in found), start
    for start, _ in BUDGETS:  # none is left behind by a command that went
        assert any(re.match(start, command) for command in found), start


@pytest.mark.slow
@pytest.mark.timeout(20 * SECONDS)  # alone, the last command runs all before it
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_runs(command: str, workplace: Workplace) -> None:
    code, output = workplace.run(command)
    assert code == 0, output
    assert "Traceback" not in output
    words = shlex.split(command)
    for option, value in pairwise(words):
        if option in {"-o", "--output"}:
            assert any((workplace.folder / value).iterdir()), value
