"""Folders of adapters of anybody: they fit the model that they name, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_opened import HEAD, SIZES, Sound, nan, refused

from chemeleon import api
from chemeleon.checkpoints.adapters import base_hash
from chemeleon.checkpoints.load import read_model
from chemeleon.errors import CheckpointError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE

QKV = "denoiser.blocks.0.attn.qkv"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Sound:
    return Sound(tmp_path_factory.mktemp("sound") / "dng", types=False)


@pytest.fixture
def adapters(sound, tmp_path):
    """Return what writes a folder of adapters of the sound model, changed in places."""
    told = {"base": str(sound.folder), "rank": 2, "alpha": 4.0}
    told["base_weights"] = base_hash(read_model(sound.folder).tensors)
    parts = {f"{QKV}.lora_A.weight": torch.ones(2, 32), f"{QKV}.lora_B.weight": torch.ones(96, 2)}
    only = dict.fromkeys(sound.tensors) | {SIZES: sound.tensors[SIZES]} | parts

    def write(name: str = "adapters", tensors: Any = (), kind: str = "ldm", **changes: Any) -> Path:
        new = {"adapter": {**told, **changes}, "kind": kind}
        return sound.but(tmp_path / name, tensors={**only, **dict(tensors)}, **new)

    return write


def test_sound_adapters_act(adapters, sound):
    weight = LatentDiffusion.from_pretrained(adapters()).state_dict()[f"{QKV}.weight"]
    torch.testing.assert_close(weight, sound.tensors[f"{QKV}.weight"] + 4.0)


def test_adapters_that_lead_back_to_themselves(adapters, tmp_path):
    refused(adapters("a", base=str(tmp_path / "a")), "a holds adapters of adapters that lead back")
    for one, other in (("b", "c"), ("c", "b")):
        folder = adapters(one, base=str(tmp_path / other))
    refused(folder, "that lead back to themselves: .* ldm merge DIR --base")
    (tmp_path / "run").mkdir()
    refused(adapters("run/init"), "init holds adapters of adapters that lead back")  # its own base
    for i in range(9):
        folder = adapters(f"chain{i}", base=str(tmp_path / f"chain{i - 1}") if i else "nowhere")
    refused(folder, "chain0 holds adapters of adapters, over 8")


A, B = f"{QKV}.lora_A.weight", f"{QKV}.lora_B.weight"
ADAPTERS = {
    "rank 0": ({"rank": 0}, r"adapter\.rank: .* greater than 0"),
    "no rank": ({"rank": "x"}, r"adapter\.rank: .* integer"),
    "rank": ({"rank": 10**9}, r"adapter\.rank: .* equal to 1024"),
    "NaN rank": ({"rank": float("nan")}, r"adapter\.rank: .* finite"),
    "alpha": ({"alpha": float("nan")}, r"adapter\.alpha: .* finite"),
    "huge alpha": ({"alpha": 1e300}, r"adapter\.alpha: .* equal to 1000000"),
    "base": ({"base": [1]}, r"adapter\.base: .* valid string"),
    "no base": ({"base": None}, "does not say of which model: chemeleon ldm merge .* --base"),
    "far base": ({"base": "../../../../../../../etc"}, r"etc holds no model\.safetensors"),
    "base of nobody": ({"base": "~nobody-here/x"}, "there is no model at ~nobody-here/x"),
    "long base": ({"base": "x" * 4000}, "no model can be read at xxx"),
    "other weights": ({"base_weights": "0" * 16}, "had the hash 0000000000000000, but"),
    "hash": ({"base_weights": {}}, r"adapter\.base_weights: .* valid string"),
    "more": ({"more": 1}, r"adapter\.more: Extra inputs"),
    "other rank": ({"rank": 4}, "the adapter on .*qkv does not fit base"),
    "misshapen": ({"tensors": {A: torch.ones(2, 31)}}, "qkv does not fit base"),
    "one axis": ({"tensors": {A: torch.ones(2), B: torch.ones(2)}}, "qkv does not fit base"),
    "whole": ({"tensors": {A: torch.ones(2, 32, dtype=torch.int32)}}, "qkv does not fit base"),
    "elsewhere": ({"tensors": {"x.lora_A.weight": torch.ones(2, 2)}}, "no tensor 'x.lora_B"),
    "half": ({"tensors": {B: None}}, f"no tensor '{B}'"),
    "stray": ({"tensors": {HEAD: torch.ones(1)}}, f"{HEAD} is no part of adapters"),
    "NaN": ({"tensors": {A: nan(torch.ones(2, 32))}}, "qkv.weight holds numbers that are not"),
    "kind": ({"kind": "vae"}, "kind 'vae', but ldm is needed"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_that_do_not_fit(name, adapters):
    changes, said = ADAPTERS[name]
    folder = adapters(**changes)
    refused(folder, said)
    refused(folder, said, lambda folder: api.ldm.merge(folder, folder.parent / "merged"))
    assert not (folder.parent / "merged").exists()


def test_a_base_is_compared_before_its_weights_are_hashed(adapters, sound, tmp_path):
    for changes, said in (
        ({"tensors": {HEAD: torch.ones(3)}}, rf"base/model.safetensors: .*{HEAD} has shape"),
        ({"kind": "vae"}, "base is a model of kind 'vae', but ldm is needed here"),
    ):
        folder = adapters(base=str(sound.but(tmp_path / "base", **changes)))
        refused(folder, said)
    with pytest.raises(CheckpointError, match="a vae has no adapters"):
        CrystalVAE.from_pretrained(adapters(kind="vae"))
