"""Published checkpoints are imported; what is broken or hostile gets nowhere."""

from __future__ import annotations

import pickle
import resource
import time
from pathlib import Path

import pytest
import torch
from hostile import Case, Harm, harms, opcodes, reducers, saved, sound, tensors
from hostile_files import archives, contents, others
from hostile_tricks import overloads, tricks

from chemeleon.checkpoints.chemeleon2.lightning import convert
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.models.vae import CrystalVAE

CASES = [*reducers(), *opcodes(), *tensors(), *archives(), *contents(), *others(), *tricks()]
CASES += overloads()


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
        assert str(caught.value).isprintable()  # nothing that steers a terminal
        assert not output.exists()
    assert time.monotonic() - start < 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 512 * 1024, f"took {grown // 1024} MB"
    assert not canary.exists()


def test_there_are_more_than_fifty_cases():
    assert len({case.name for case in CASES}) == len(CASES) > 50


def test_the_harm_is_real(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(harms(canary)["os.system"]))
    assert canary.exists()


def test_what_another_library_allowed_is_not_called(tmp_path):
    path, canary = tmp_path / "model.ckpt", tmp_path / "canary"
    harm = Harm(_touch, str(canary))
    saved(lambda content, _: content["hyper_parameters"].update(optimizer=harm))(path, canary)
    refused = pytest.raises(CheckpointError, match=r"it calls test_lightning\._touch")
    with torch.serialization.safe_globals([_touch]), refused:
        convert(path, tmp_path / "out")
    assert not canary.exists()
    convert(path, tmp_path / "out")  # nobody allows it: it is inert
    assert not canary.exists()


def _touch(path: str) -> None:
    Path(path).touch()


def test_a_sound_file_is_imported(tmp_path):
    torch.save(sound(), tmp_path / "model.ckpt")
    vae = CrystalVAE.from_pretrained(convert(tmp_path / "model.ckpt", tmp_path / "out"))
    weight = sound()["state_dict"]["encoder.transformer.layers.0.self_attn.in_proj_weight"]
    torch.testing.assert_close(vae.encoder.blocks[0].attn.qkv.weight, weight)
    assert not vae.config.wrap_input
    assert vae.config.coordinate_head == "raw"


def test_words_that_there_are_not_are_refused(tmp_path):
    torch.save(sound(), tmp_path / "model.ckpt")
    for given, said in (
        ({"dtype": "fp16"}, "dtype fp16: must be fp32 or bf16"),
        ({"weights": "EMA"}, "weights EMA: must be raw or ema"),
    ):
        with pytest.raises(ConfigError, match=said):
            convert(tmp_path / "model.ckpt", tmp_path / "out", **given)
        assert not (tmp_path / "out").exists()
    vae = CrystalVAE.from_pretrained(convert(tmp_path / "model.ckpt", tmp_path / "out"))
    with pytest.raises(ConfigError, match="dtype fp16: must be fp32 or bf16"):
        vae.save_pretrained(tmp_path / "again", "fp16")
    assert not (tmp_path / "again").exists()


def test_averages_are_refused_where_there_are_none(tmp_path):
    saved(lambda content, canary: None)(tmp_path / "model.ckpt", tmp_path)
    with pytest.raises(CheckpointError, match="--weights raw"):
        convert(tmp_path / "model.ckpt", tmp_path / "out", weights="ema")
