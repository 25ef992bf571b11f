"""Small models that several tests share; they are trained for a few steps, once per session."""

from __future__ import annotations

import importlib.util
import os
import sys

os.environ.setdefault("WANDB_MODE", "offline")
# small models: threads that wait for each other would take the cores from worker processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chemeleon.crystals.batch import Crystals

TINY_VAE = [
    "vae.width=32",
    "vae.encoder_layers=1",
    "vae.decoder_layers=1",
    "vae.heads=2",
    "vae.feedforward=64",
    "trainer.tracker=none",
    "trainer.val_match_samples=0",
    "data.batch_size=32",
    "trainer.grad_accumulation=1",
]
TINY_LDM = [
    "ldm.denoiser.width=32",
    "ldm.denoiser.layers=2",
    "ldm.denoiser.heads=2",
    "trainer.tracker=none",
    "data.batch_size=32",
    "trainer.grad_accumulation=1",
]
# as the published models: noise is predicted, and the variance of the steps
EPSILON = ["ldm.diffusion={prediction: epsilon, learned_variance: true}"]
# crystals in the order and orientation of chance
ANY_FORM = ["data.augment={rotate: true, translate: true}"]
ANY_FORM_VAE = [*ANY_FORM, "vae.atom_order=file", "vae.loss={coords: 30, kl: 1e-4}"]


def demo_crystals(split: str) -> Crystals:
    """Return a split of the demo set."""
    from chemeleon.config.presets import load_data
    from chemeleon.data.dataset import load_split

    return load_split(load_data("demo"), split)


def load_script(name: str) -> ModuleType:
    """Return a file of scripts/ as a module."""
    path = Path(__file__).resolve().parents[1] / "scripts" / f"{name}.py"
    sys.path.append(str(path.parent))  # scripts import each other
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_vae(tmp_path_factory) -> Path:
    """A run folder of a VAE after a few steps on the demo set."""
    from chemeleon import api

    folder = tmp_path_factory.mktemp("runs") / "vae"
    api.vae_train("demo/dng", [*TINY_VAE, "trainer.max_steps=20"], output=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_ldm(tiny_vae, tmp_path_factory) -> Path:
    """A run folder of a latent diffusion model after a few steps on the demo set."""
    from chemeleon import api

    folder = tmp_path_factory.mktemp("runs") / "ldm"
    words = [*TINY_LDM, "trainer.max_steps=5", f"ldm.vae_ckpt_path={tiny_vae}"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


@pytest.fixture(scope="session")
def forks():
    """A process that runs `chemeleon` in a fork each time: see forks.py."""
    from forks import Forks

    with Forks() as process:
        yield process


@pytest.fixture(scope="session")
def six(forks):
    """The commands that write results: see six_commands.py. Their inputs can be read by others."""
    import tempfile

    from six_commands import make_inputs

    with tempfile.TemporaryDirectory(prefix="inputs-") as folder:
        Path(folder).chmod(0o755)
        yield make_inputs(Path(folder), forks)
