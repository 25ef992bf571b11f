"""Published checkpoints are imported; what is broken or hostile gets nowhere."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
import torch
from hostile import Case, opcodes, reducers, saved, sound, tensors
from hostile_files import archives, contents, others
from parity import REFERENCE

from chemeleon.checkpoints.lightning import convert
from chemeleon.errors import CheckpointError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE

CHECKPOINTS = REFERENCE / "checkpoints"
CASES = [*reducers(), *opcodes(), *tensors(), *archives(), *contents(), *others()]
needs_reference = pytest.mark.skipif(
    not CHECKPOINTS.is_dir(), reason=f"{CHECKPOINTS} is missing: it is not part of the repository"
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_hostile_and_broken_files_get_nowhere(case: Case, tmp_path):
    path, canary, output = tmp_path / "model.ckpt", tmp_path / "canary", tmp_path / "out"
    case.make(path, canary)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if case.outcome == "import":
        CrystalVAE.from_pretrained(convert(path, output))
    else:
        with pytest.raises(CheckpointError) as caught:
            convert(path, output)
        assert str(path) in str(caught.value)
        assert case.message in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert not output.exists()
    assert time.monotonic() - start < 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 512 * 1024, f"took {grown // 1024} MB"
    assert not canary.exists()


def test_there_are_more_than_fifty_cases():
    assert len({case.name for case in CASES}) == len(CASES) > 50


def test_a_sound_file_is_imported(tmp_path):
    torch.save(sound(), tmp_path / "model.ckpt")
    vae = CrystalVAE.from_pretrained(convert(tmp_path / "model.ckpt", tmp_path / "out"))
    weight = sound()["state_dict"]["encoder.transformer.layers.0.self_attn.in_proj_weight"]
    torch.testing.assert_close(vae.encoder.blocks[0].attn.qkv.weight, weight)
    assert not vae.config.wrap_input
    assert vae.config.coordinate_head == "raw"


def test_averages_are_refused_where_there_are_none(tmp_path):
    saved(lambda content, canary: None)(tmp_path / "model.ckpt", tmp_path)
    with pytest.raises(CheckpointError, match="weights=raw"):
        convert(tmp_path / "model.ckpt", tmp_path / "out", weights="ema")


def _import(name: str, folder: Path, **options) -> Path:
    vae = CHECKPOINTS / "vae_dng_small.ckpt" if "ldm" in name else None
    return convert(CHECKPOINTS / f"{name}_small.ckpt", folder / name, **{"vae": vae, **options})


@needs_reference
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("vae_dng", CrystalVAE),
        ("vae_csp", CrystalVAE),
        ("ldm_null", LatentDiffusion),
        ("ldm_composition", LatentDiffusion),
        ("predictor_bandgap", Predictor),
    ],
)
def test_published_models_are_imported(name, model, tmp_path):
    folder = _import(name, tmp_path)
    loaded = model.from_pretrained(folder)
    assert sum(p.numel() for p in loaded.parameters()) == {
        "vae_dng": 158_244,
        "vae_csp": 151_744,
        "predictor_bandgap": 160_387,
    }.get(name, sum(p.numel() for p in loaded.parameters()))
    assert loaded.origin["imported"]["file"] == f"{name}_small.ckpt"
    again = model.from_pretrained(loaded.save_pretrained(tmp_path / "again"))
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@needs_reference
def test_averaged_weights_can_be_chosen(tmp_path):
    raw = LatentDiffusion.from_pretrained(_import("ldm_null", tmp_path))
    ema = LatentDiffusion.from_pretrained(_import("ldm_null", tmp_path / "ema", weights="ema"))
    content = torch.load(
        CHECKPOINTS / "ldm_null_small.ckpt", weights_only=False, pickle_module=_Lax
    )
    first, last = (
        content["ema_state"]["shadow_params"][0],
        content["ema_state"]["shadow_params"][-1],
    )
    assert torch.equal(ema.denoiser.embed.weight, first)
    assert torch.equal(ema.vae.from_latent.weight, last)
    assert not torch.equal(raw.denoiser.embed.weight, ema.denoiser.embed.weight)
    assert (
        float(raw.latent_std[0])
        == float(ema.latent_std[0])
        == float(content["state_dict"]["latent_std"])
    )


class _Lax:
    """The standard pickle, but with classes that do not exist here replaced: the file is ours."""

    import pickle

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                return type(name, (), {"__init__": lambda self, *a, **k: None})

    load = pickle.load
    loads = pickle.loads
