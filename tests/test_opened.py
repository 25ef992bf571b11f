"""Model folders of anybody: refused in one line, quickly and without memory, or harmless."""

from __future__ import annotations

import copy
import json
import os
import resource
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_shipped import small_ldm
from torch import Tensor
from typer.testing import CliRunner

import chemeleon
from chemeleon import api
from chemeleon.cli.app import app
from chemeleon.config import presets
from chemeleon.config.schema import LDMTrainConfig, RLTrainConfig
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE

HEAD, SIZES, FORMULAS = "denoiser.head.weight", "size_histogram", "formula_histogram"


class Sound:
    """A sound model, from which others are made that are not."""

    def __init__(self, folder: Path, types: bool) -> None:
        small_ldm(types).save_pretrained(folder)
        self.folder = folder
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.tensors = load_file(folder / "model.safetensors")

    def but(self, folder: Path, **changes: Any) -> Path:
        """Write it with other settings (``a__b`` is a.b) and tensors (None takes one away)."""
        config, tensors = copy.deepcopy(self.config), dict(self.tensors)
        for key, value in changes.pop("tensors", {}).items():
            tensors[key] = value
        for key, value in changes.items():
            *sections, last = key.split("__")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        kept = {name: value for name, value in tensors.items() if value is not None}
        save_file(kept, folder / "model.safetensors")
        return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Sound:
    return Sound(tmp_path_factory.mktemp("sound") / "dng", types=False)


@pytest.fixture(scope="module")
def sound_csp(tmp_path_factory) -> Sound:
    return Sound(tmp_path_factory.mktemp("sound") / "csp", types=True)


def refused(folder: Path, said: str, load: Any = LatentDiffusion.from_pretrained) -> str:
    """Check that a folder is refused in time, without memory and in one line, and return it."""
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((CheckpointError, ConfigError), match=said) as caught:
        load(folder)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300 << 10
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1500
    return text


# --- settings

SETTINGS = {
    "layers": ({"ldm__denoiser__layers": 10**6}, r"denoiser\.layers: .* equal to 128, got 10000"),
    "width": ({"vae__width": 10**9}, r"vae\.width: .* equal to 16384"),
    "latents": ({"vae__latent_dim": 10**7}, r"vae\.latent_dim: .* equal to 1024"),
    "heads": ({"vae__heads": 10**6}, r"vae\.heads: .* equal to 256"),
    "ratio": ({"ldm__denoiser__mlp_ratio": 10**6}, r"mlp_ratio: .* equal to 64"),
    "waves": ({"vae__fourier_frequencies": [1] * 100}, "at most 64 items"),
    "times": ({"ldm__diffusion__steps": 3 * 10**8}, r"diffusion\.steps: .* equal to 10000"),
    "steps": ({"ldm__sampler__steps": 10**9}, r"sampler\.steps: .* equal to 10000"),
    "NaN": ({"ldm__diffusion__beta_end": float("nan")}, "beta_end: .* finite number, got nan"),
    "infinity": (
        {"ldm__sampler__composition_penalty": float("inf")},
        "composition_penalty: .* finite",
    ),
    "negative": ({"vae__width": -4}, "greater than 0, got -4"),
    "condition": ({"ldm__conditions": {"a/b": {"kind": "num_elements"}}}, "should match pattern"),
    "keys": ({"ldm__conditions": {"keys": {"kind": "num_elements"}}}, "called 'keys'.*the_keys"),
    "classes": (
        {"ldm__conditions": {"c": {"kind": "category", "column": "c", "categories": 10**9}}},
        r"conditions\.c\.categories: .* equal to 1000",
    ),
    "all classes": (
        {
            "ldm__conditions": {
                f"c{i}": {"kind": "category", "column": "c", "categories": 900} for i in range(3)
            }
        },
        "2,700 categories together",
    ),
    "conditions": (
        {"ldm__conditions": {f"c{i}": {"kind": "num_elements"} for i in range(65)}},
        "at most 64 items",
    ),
    "range": ({"data__conditions": {"x": {"low": "a", "high": 1}}}, r"x\.low: .* valid number"),
    "half a range": ({"data__conditions": {"x": {"low": 1}}}, "`low` and `high` go together"),
    "unit": ({"data__conditions": {"x": {"unit": "e\nV"}}}, r"x\.unit: .* match pattern"),
    "facts": ({"data__conditions": {"x": {"classes": "abc"}}}, r"x\.classes: .* valid list"),
    "data": ({"data": [1]}, "data: Input should be a valid dictionary"),
    "niggli": ({"data__niggli": "perhaps"}, r"data\.niggli: .* valid boolean"),
    "trained": ({"trained": "long"}, "trained: .* got 'long'"),
    "metrics": ({"trained": {"metrics": {"a": "b"}}}, r"metrics\.a: .* valid number"),
    "imported": ({"imported": 5}, "imported: .* got 5"),
    "adapted from": ({"adapted_from": {"base": [1]}}, r"adapted_from\.base: .* valid string"),
    "kind": ({"kind": ["ldm"]}, "kind: Input should be a valid string"),
    "section": ({"ldm": [1]}, "ldm: Input should be a valid dictionary"),
    "no section": ({"vae": None}, "has no section 'vae'"),
    "many problems": ({"vae": {f"x{i}": i for i in range(99)}}, "; and 96 more"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_checked_before_anything_is_made_of_them(name, sound, tmp_path):
    changes, said = SETTINGS[name]
    folder = sound.but(tmp_path / "model", **changes)
    assert str(folder / "config.yaml") in refused(folder, said)


def test_networks_at_the_bounds_are_compared_with_the_file_in_time(sound, tmp_path):
    bounds = {"vae__encoder_layers": 128, "vae__width": 16_384, "ldm__denoiser__width": 16_384}
    refused(sound.but(tmp_path / "model", **bounds), "does not fit its config.yaml: missing")


# --- weights


def nan(tensor: Tensor, value: float = float("nan")) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


WEIGHTS = {
    "NaN": ({HEAD: nan}, f"{HEAD} holds numbers that are not finite"),
    "infinity": ({HEAD: lambda x: nan(x, float("-inf"))}, "not finite"),
    "NaN in bf16": ({HEAD: lambda x: nan(x).bfloat16()}, "not finite"),
    "whole numbers": ({HEAD: lambda x: x.int()}, f"{HEAD} is of torch.int32"),
    "flags": ({HEAD: lambda x: x > 0}, "is of torch.bool"),
    "complex": ({HEAD: lambda x: x.to(torch.complex64)}, "is of torch.complex64"),
    "missing": ({HEAD: lambda x: None}, f"missing {HEAD}"),
    "misshapen": ({HEAD: lambda x: x[:, :-1].contiguous()}, r"shape \(16, 31\), expected"),
    "empty": ({HEAD: lambda x: x[:0]}, r"shape \(0, 32\), expected"),
    "superfluous": ({"\x1b[2J": lambda x: torch.ones(1)}, r"unexpected \\x1b\[2J"),
    "no sizes": ({SIZES: lambda x: None}, "no tensor 'size_histogram'"),
    "sizes without axis": ({SIZES: lambda x: x[1]}, r"shape \(\)\) should count"),
    "sizes with two": ({SIZES: lambda x: torch.ones(3, 3)}, r"shape \(3, 3\)\) should count"),
    "sizes of 300,000": ({SIZES: lambda x: torch.ones(300_000)}, "up to 1,000 atoms"),
    "sizes in int64": ({SIZES: lambda x: x.long()}, "torch.int64, .* should count"),
    "NaN sizes": ({SIZES: nan}, "size_histogram counts less than"),
    "negative sizes": ({SIZES: lambda x: nan(x, -1.0)}, "size_histogram counts less than"),
    "no crystals": ({SIZES: lambda x: 0 * x}, "or none at all"),
    "crystals of nothing": ({SIZES: lambda x: x + 1}, "those without atoms"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_of_the_network_and_finite(name, sound, tmp_path):
    changes, said = WEIGHTS[name]
    made = {key: make(sound.tensors.get(key)) for key, make in changes.items()}
    folder = sound.but(tmp_path / "model", tensors=made)
    assert str(folder / "model.safetensors") in refused(folder, said)
    output = tmp_path / "converted"
    refused(folder, said, lambda folder: api.hub.convert(folder, output))
    assert not output.exists()


def test_formulas_are_counted_by_as_many_sizes(sound_csp, tmp_path):
    known = sound_csp.tensors[FORMULAS]
    for wrong, said in (
        (nan(known), "not finite"),
        (nan(known, -1.0), "formula_histogram counts less"),
        (known[0], "does not fit"),
    ):
        refused(sound_csp.but(tmp_path / "model", tensors={FORMULAS: wrong.contiguous()}), said)
    # older models have none, and one is made of the sizes: not of 300,000 times as many
    large = {FORMULAS: None, SIZES: torch.ones(300_000)}
    refused(sound_csp.but(tmp_path / "model", tensors=large), "up to 1,000 atoms")


def safetensors(header: Any, data: int = 0) -> tuple[bytes, int]:
    """Return the head of a file, and its length with ``data`` bytes of nothing behind it."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head, 8 + len(head) + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FILES = {
    "empty": (b"", 0),
    "long header": (struct.pack("<Q", 2**62) + b"{}", 10),
    "long header that is there": safetensors(b" " * (5 << 20)),
    "many tensors": safetensors({str(i): entry([0], 0, 0) for i in range(20_001)}),
    "deep header": safetensors(b'{"a":' * 100_000),
    "cut": safetensors({"a": entry([4], 0, 16)}, 8),
    "overlapping": safetensors({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8),
    "more than there is": safetensors({"a": entry([2**63, 2**63], 0, 0)}),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_safetensors(name, sound, tmp_path):
    head, length = FILES[name]
    folder = sound.but(tmp_path / "model")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(length)
    refused(folder, r"model\.safetensors is not a complete safetensors file \(.*\): fetch it again")


def test_no_number_is_read_of_a_tensor_that_does_not_fit(sound, tmp_path):
    folder, count = sound.but(tmp_path / "model"), 1 << 29  # 1 GB in bf16, of holes
    header, at = {}, 0
    for name, value in {**sound.tensors, HEAD: None}.items():
        shape = [count] if value is None else list(value.shape)
        size = 2 * count if value is None else 4 * value.numel()
        header[name] = entry(shape, at, at + size, "BF16" if value is None else "F32")
        at += size
    head, length = safetensors(header, at)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.seek(len(head) + header[SIZES]["data_offsets"][0])
        file.write(sound.tensors[SIZES].numpy().tobytes())
        file.truncate(length)
    refused(folder, rf"{HEAD} has shape \(536870912,\), expected")


# --- places


@pytest.mark.parametrize("file", ["config.yaml", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "circle"])
def test_what_is_no_plain_file_is_not_opened(kind, file, sound, tmp_path):
    folder = sound.but(tmp_path / "model")
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    elif kind == "folder":
        (folder / file).mkdir()
    else:
        (folder / file).symlink_to("/dev/zero" if kind == "device" else file)
    refused(folder, r"holds no model\.safetensors with a config\.yaml, both plain files")


def test_training_keeps_the_bounds_of_models(sound):
    model = LatentDiffusion.from_pretrained(sound.folder)
    large: Any = SimpleNamespace(num_atoms=torch.tensor([3, 1_001]))
    with pytest.raises(ConfigError, match=r"has 1,001 atoms, .* set data\.max_atoms=1000"):
        model.count(large)
    with pytest.raises(ConfigError, match=r"ldm\.denoiser\.layers: .* equal to 128, got 1000"):
        presets.load("ldm", "demo/null", None, ["ldm.denoiser.layers=1000"])


# --- code


def test_a_model_brings_no_code_along(tiny_ldm, tmp_path, monkeypatch):
    """Whatever it names stays unknown to Python, in all that is done with a model."""
    from chemeleon.reinforcement import rl as stage
    from chemeleon.reinforcement.rewards._loading import find_reward
    from chemeleon.training import ldm

    file, name = tmp_path / "canary_of_models.py", "canary_of_models"
    file.write_text("def f(structure):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    thing, path = f"{name}:f", f"{file}:f"
    named = dict.fromkeys(("@module", "_target_", "potential", "import", "hull"), thing)
    rewards = {"a": {"reward": thing}, "b": {"reward": path}}

    def told(content: Any) -> str:
        return yaml.dump(json.loads(json.dumps(content)))  # without aliases

    changed = yaml.safe_load((tiny_ldm / "last" / "config.yaml").read_text())
    changed |= {**named, "rl": {"rewards": rewards}, "auto_map": {"AutoModel": thing}}
    changed["ldm"] |= {"vae_ckpt_path": path, "init_ckpt_path": thing}
    changed["data"] |= {**named, "name": thing, "rewards": rewards}
    changed["trained"] |= named
    changed["adapted_from"] = {"base": path, **named}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.yaml").write_text(told(changed))
    (folder / "model.safetensors").write_bytes(
        (tiny_ldm / "last" / "model.safetensors").read_bytes()
    )
    before = set(sys.modules)

    chemeleon.sample(folder, 1, steps=1, output=tmp_path / "out")
    CrystalVAE.from_pretrained(folder)
    assert "auto_map" in LatentDiffusion.from_pretrained(api.hub.convert(folder, "copy")).origin
    here: Any = SimpleNamespace(initial=tmp_path, resume=False)
    words = [f"ldm.init_ckpt_path={folder}"]
    training = presets.load("ldm", None, tiny_ldm / "config.yaml", words).config
    assert isinstance(training, LDMTrainConfig)
    ldm._start(training, here)
    words = [f"rl.ldm_ckpt_path={folder}"]
    tuning = presets.load("rl", "demo/dng", None, words).config
    assert isinstance(tuning, RLTrainConfig)
    assert thing not in {reward.reward for reward in tuning.rl.rewards.values()}
    stage._start(tuning, here)

    assert not [new for new in set(sys.modules) - before if "canary" in new or "reward_" in new]
    assert not list(tmp_path.glob("__pycache__/canary*"))
    find_reward(thing)  # the canary is alive
    assert name in sys.modules
    del sys.modules[name]
    told_of = CliRunner().invoke(app, ["rl", "train", "--help"]).output
    assert "are code, and it is run" in " ".join(told_of.split())
