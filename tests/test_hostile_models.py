"""Hostile model folders are refused in a line, or inert; quickly, and in little memory."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_LDM
from forks import Done, Forks
from hostile_configs import CANARY, CONFIGS, Hostile
from hostile_states import ADAPTERS, RUNS
from hostile_weights import FILES
from pymatgen.core import Lattice, Structure

from chemeleon.checkpoints.adapters import base_hash
from chemeleon.checkpoints.store import write_model
from chemeleon.config.architecture import LDMConfig, VAEConfig
from chemeleon.config.predictor import PredictorConfig
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE

SECONDS, MEGABYTES, LONGEST = 2.0, 300, 2000
ALL = {**CONFIGS, **FILES, **ADAPTERS, **RUNS}
SAMPLE = ["sample", "-m", "MODEL", "-n", 2, "-o", "OUT"]
COMMANDS: dict[str, list[Any]] = {
    "sample": [*SAMPLE, "--steps", 2, "--scheduler", "ddim"],
    "plain": [*SAMPLE, "--steps", 2],
    "long": SAMPLE,
    "condition": [*SAMPLE, "--steps", 2, "--condition", "density=5"],
    "csp": [*SAMPLE, "--steps", 2, "--formula", "NaCl", "--rank-by", "model"],
    "convert": ["hub", "convert", "MODEL", "-o", "OUT"],
    "merge": ["ldm", "merge", "MODEL", "-o", "OUT"],
    "ldm": ["ldm", "train", "--preset", "demo/null", "ldm.vae_ckpt_path=MODEL", *TINY_LDM,
            "trainer.max_steps=1", "-o", "OUT"],
    "predict": ["predict", "run", "MODEL", "CIF", "-o", "OUT/out.csv"],
    "resume": ["vae", "train", "--resume", "MODEL"],
}  # fmt: skip
HONEST = {
    "ldm": ("sample", "plain", "long", "convert"), "vae": ("ldm", "convert"),
    "gap": ("sample", "condition", "convert"), "csp": ("csp", "convert"),
    "predictor": ("predict", "convert"), "lora": ("sample", "merge"), "run": ("resume",),
}  # fmt: skip


def make_honest(folder: Path, run: Path) -> None:
    """Write a folder of each kind, with small networks of random weights."""
    torch.manual_seed(0)
    small = {"width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 64}
    denoiser = {"width": 32, "layers": 2, "heads": 2}
    vae = CrystalVAE(VAEConfig.model_validate({**small, "atom_order": "canonical"}))
    csp = CrystalVAE(VAEConfig.model_validate({**small, "kind": "csp", "atom_order": "canonical"}))
    vae.save_pretrained(folder / "vae")
    gap = {"density": {"kind": "number", "column": "density"}}
    sizes = torch.zeros(21)
    sizes[2:5] = 1
    for name, encoder, more in (
        ("ldm", vae, {}), ("gap", vae, {"conditions": gap}), ("csp", csp, {"types": True}),
    ):  # fmt: skip
        types, conditions = more.get("types", False), more.get("conditions", {})
        config = {"denoiser": {**denoiser, "types": types}, "conditions": conditions}
        model = LatentDiffusion(LDMConfig.model_validate(config), encoder, sizes.clone())
        if types:
            model.formula_histogram = torch.ones(21, 21)
        model.origin = {"data": {"name": "demo", "niggli": True}}
        model.save_pretrained(folder / name)
    base = LatentDiffusion.from_pretrained(folder / "ldm")
    tensors = {"size_histogram": sizes}
    for layer, (rows, columns) in {"attn.qkv": (96, 32), "mlp.up": (128, 32)}.items():
        name = f"denoiser.blocks.0.{layer}.lora_"
        tensors |= {f"{name}A.weight": torch.randn(4, columns)}
        tensors |= {f"{name}B.weight": torch.randn(rows, 4)}
    adapter = {"base": str(folder / "ldm"), "base_weights": base_hash(base.state_dict())}
    config = {**base.architecture(), "adapter": {**adapter, "rank": 4, "alpha": 8.0}}
    write_model(folder / "lora", "ldm", config, tensors)
    words = {"targets": ["density"], "width": 32, "layers": 1, "heads": 2, "radial": 8}
    Predictor(PredictorConfig.model_validate(words), vae).save_pretrained(folder / "predictor")
    shutil.copytree(run, folder / "run")
    salt = Structure(Lattice.cubic(3), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.to(str(folder / "salt.cif"))


class Attack:
    """Give folders to commands, and judge what these say."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks, self.folder = forks, folder
        self.canary = folder / "canary.txt"
        (folder / f"{CANARY}.py").write_text(
            f"open({str(self.canary)!r}, 'w').write('x')\nthing = Thing = dict\n"
        )
        self.honest: dict[tuple[str, str], Done] = {}
        for kind, commands in HONEST.items():
            for command in commands:
                done = self.run(command, self.copy(kind, f"honest_{kind}_{command}"))
                assert done.code == 0, (kind, command, done)
                self.honest[kind, command] = done

    def copy(self, kind: str, name: str) -> Path:
        """Return a copy of an honest folder."""
        place = self.folder / "hostile" / "".join(c if c.isalnum() else "_" for c in name)
        return Path(shutil.copytree(self.folder / kind, place))

    def run(self, command: str, model: Path) -> Done:
        """Give a folder to a command."""
        out = model.with_name(f"{model.name}_{command}_out")
        named = {"MODEL": str(model), "OUT": str(out), "CIF": str(self.folder / "salt.cif")}
        words = [str(word) for word in COMMANDS[command]]
        for name, value in named.items():
            words = [word.replace(name, value) for word in words]
        more = {"PYTHONPATH": str(self.folder), "HF_HUB_OFFLINE": "1"}
        return self.forks.run(*words, seconds=60, memory=3000, environment=more)

    def complaints(self, name: str, hostile: Hostile) -> list[str]:
        """Return what is wrong with how a folder is taken."""
        model = self.copy(hostile.kind, name)
        hostile.make(model)
        wrong = []
        for command in hostile.commands:
            done = self.run(command, model)
            usual = self.honest.get((hostile.kind, command)) or self.honest["ldm", command]
            wrong += [f"{command}: {text}" for text in judge(done, usual, hostile.refused)]
            if self.canary.exists():
                self.canary.unlink()
                wrong.append(f"{command}: it ran code")
        shutil.rmtree(model)
        return wrong


def judge(done: Done, usual: Done, refused: bool) -> list[str]:
    """Return what is wrong with an answer."""
    wrong = []
    shown = set(done.out + done.err) - set("\n\r\t")
    odd = {character for character in shown if unicodedata.category(character)[0] == "C"}
    if odd:
        wrong.append(f"raw characters {sorted(map(ascii, odd))}")
    extra = [line for line in done.errors if line not in usual.errors]
    if done.code == 2:
        several = done.errors and "in the configuration:" in done.errors[0]  # a line for each
        if not (several or len(done.errors) == 1) or not done.errors[0].startswith("error: "):
            wrong.append(f"not one line: {done.errors[:2]} ... {done.errors[-1:]}")
        elif len(done.errors[0]) > LONGEST:
            wrong.append(f"a line of {len(done.errors[0])} characters: {done.errors[0][:200]}")
    elif done.code != 0:
        wrong.append(f"exit code {done.code}: {extra[-2:]}")
    elif refused:
        wrong.append(f"taken: {done.out[:100]!r}")
    if "Traceback" in done.err:
        wrong.append("a traceback")
    if done.seconds > usual.seconds + SECONDS:
        wrong.append(f"{done.seconds:.1f} s instead of {usual.seconds:.1f} s")
    if done.megabytes > usual.megabytes + MEGABYTES:
        wrong.append(f"{done.megabytes:.0f} MB instead of {usual.megabytes:.0f} MB")
    return [text[:400] for text in wrong]


@pytest.fixture(scope="module")
def attack(forks: Forks, tiny_vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Attack:
    folder = tmp_path_factory.mktemp("models")
    make_honest(folder, tiny_vae)
    assert CANARY not in sys.modules
    return Attack(forks, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_hostile_folder_is_refused_or_inert(name: str, attack: Attack) -> None:
    assert not attack.complaints(name, ALL[name])
