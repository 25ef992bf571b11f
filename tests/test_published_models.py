"""An import is the published model: names, sizes, averages, adapters, wrappers, statistics."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import checkpoint, reference

from chemeleon.checkpoints.chemeleon2.archive import load as load_archive
from chemeleon.checkpoints.chemeleon2.layouts import denoiser_layout, vae_layout
from chemeleon.checkpoints.chemeleon2.lightning import convert
from chemeleon.config.architecture import LDMConfig, VAEConfig
from chemeleon.errors import CheckpointError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE

VAE = VAEConfig(
    latent_dim=2, width=8, encoder_layers=1, decoder_layers=1, heads=2, feedforward=8
).model_copy(update={"coordinate_head": "raw", "wrap_input": False})
LDM = LDMConfig.model_validate(
    {
        "denoiser": {"width": 8, "layers": 2, "heads": 2, "token_layout": "interleaved"},
        "conditions": {"gap": {"kind": "number", "column": "gap"}},
    }
)


def write_vae(path: Path, config: VAEConfig = VAE) -> Path:
    """Write a tiny published VAE."""
    torch.manual_seed(1)
    state = {wanted.name: torch.randn(wanted.shape) for wanted in vae_layout(config).values()}
    hyper = {"encoder": types.SimpleNamespace(num_heads=2)}
    torch.save({"state_dict": state, "hyper_parameters": hyper}, path)
    return path


def published_ldm(inside: bool = True) -> dict[str, Any]:
    """Return a tiny published latent diffusion model with a numeric condition."""
    torch.manual_seed(0)
    state = {"latent_std": torch.tensor(1.5)}
    state |= {w.name: torch.randn(w.shape) for w in denoiser_layout(LDM, 2).values()}
    if inside:
        state |= {f"vae.{w.name}": torch.randn(w.shape) for w in vae_layout(VAE).values()}
    condition = {"condition_type": {"gap": {"type": "value", "mean": 0.5, "std": 2.0}}}
    hyper = {"condition_module": condition, "denoiser": DiT()}
    return {"state_dict": state, "hyper_parameters": hyper}


class DiT:
    """Stands for the pickled denoiser among the hyper-parameters."""

    def __init__(self) -> None:
        self.num_heads = 2


class Settings(dict):
    """A mapping of a class of its own, as Lightning and OmegaConf keep settings in."""


def load(content: dict[str, Any], work: Path, **options: Any) -> LatentDiffusion:
    """Save, import and load; the VAE is given by its file."""
    torch.save(content, work / "ldm.ckpt")
    vae = write_vae(work / "vae.ckpt")
    return LatentDiffusion.from_pretrained(
        convert(work / "ldm.ckpt", work / "ldm", **{"vae": vae, **options})
    )


def test_the_published_behaviours_are_fields_of_the_config(tmp_path):
    model = load(published_ldm(), tmp_path)
    assert model.config.denoiser.token_layout == "interleaved"
    assert model.config.latent_scale == "scalar"
    assert model.vae.config.coordinate_head == model.vae.config.coordinate_input == "raw"
    assert not model.vae.config.wrap_input
    assert model.latent_std.tolist() == [1.5, 1.5]
    assert model.latent_mean.tolist() == [0.0, 0.0]
    assert int(model.size_histogram.sum()) == 13_875
    assert model.denoiser.conditions is not None
    gap = model.denoiser.conditions.encoders["gap"]
    assert (float(gap.mean), float(gap.std)) == (0.5, 2.0)


def test_a_model_without_its_vae_takes_the_given_one(tmp_path):
    model = load(published_ldm(inside=False), tmp_path)
    vae = CrystalVAE.from_pretrained(convert(tmp_path / "vae.ckpt", tmp_path / "vae"))
    assert torch.equal(model.vae.to_moments.weight, vae.to_moments.weight)
    with pytest.raises(CheckpointError, match="without its VAE"):
        convert(tmp_path / "ldm.ckpt", tmp_path / "other")
    again = convert(tmp_path / "ldm.ckpt", tmp_path / "other", vae=tmp_path / "vae")
    assert torch.equal(
        LatentDiffusion.from_pretrained(again).vae.to_moments.weight, vae.to_moments.weight
    )


def test_a_vae_that_cannot_be_the_one_inside_is_refused(tmp_path):
    write_vae(tmp_path / "wide.ckpt", VAE.model_copy(update={"feedforward": 16}))
    with pytest.raises(
        CheckpointError, match=r"another VAE than .*feedforward is 16, that of .* 8"
    ):
        load(published_ldm(), tmp_path, vae=tmp_path / "wide.ckpt")
    torch.save(published_ldm(), tmp_path / "ldm.ckpt")
    with pytest.raises(CheckpointError, match=r"ldm\.ckpt is no VAE"):
        convert(tmp_path / "ldm.ckpt", tmp_path / "out", vae=tmp_path / "ldm.ckpt")


def test_the_vae_inside_wins_over_the_given_one(tmp_path):
    content = published_ldm()
    model = load(content, tmp_path)
    assert torch.equal(model.vae.to_moments.weight, content["state_dict"]["vae.quant_conv.weight"])


@pytest.mark.parametrize("prefix", ["ldm.", "ldm_module."])
def test_a_model_tuned_by_reinforcement_is_found_in_its_wrapper(tmp_path, prefix):
    content = published_ldm()
    plain = load(content, tmp_path).state_dict()
    wrapped = {prefix + name: value for name, value in content["state_dict"].items()}
    wrapped["reward_fn.predictor.proj.0.weight"] = torch.ones(3)
    model = load({**content, "state_dict": wrapped}, tmp_path)
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


def adapted(alpha: Any = 8) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return a model with adapters under the names of the published ones, and those adapters."""
    content = published_ldm()
    start, state, adapters = "denoiser.base_model.model.", {}, {}
    for name, value in content["state_dict"].items():
        layer = name.removesuffix(".weight").removesuffix(".bias")
        new = name.replace("denoiser.", start)
        if layer.endswith((".attn.out_proj", ".mlp.fc1", ".mlp.fc2")) and "vae" not in layer:
            kind = name.rpartition(".")[2]
            new = new.removesuffix(kind) + f"base_layer.{kind}"
            if kind == "weight":
                base = layer.replace("denoiser.", start)
                down, up = torch.randn(4, value.shape[1]), torch.randn(value.shape[0], 4)
                state[f"{base}.lora_A.default.weight"] = down
                state[f"{base}.lora_B.default.weight"] = up
                adapters[layer] = up @ down
        state[new] = value
    content["hyper_parameters"]["lora_configs"] = {"r": 4, "lora_alpha": alpha}
    return {**content, "state_dict": state}, adapters


def test_adapters_are_merged_where_they_acted(tmp_path):
    plain = load(published_ldm(), tmp_path).denoiser
    content, adapters = adapted()
    model = load(content, tmp_path)
    for i, block in enumerate(model.denoiser.blocks):
        before = plain.blocks[i]
        change = 2 * adapters[f"denoiser.blocks.{i}.mlp.fc1"]
        torch.testing.assert_close(block.mlp.up.weight, before.mlp.up.weight + change)
        change = 2 * adapters[f"denoiser.blocks.{i}.mlp.fc2"]
        torch.testing.assert_close(block.mlp.down.weight, before.mlp.down.weight + change)
        assert torch.equal(block.attn.out.weight, before.attn.out.weight)
    imported = model.origin["imported"]
    assert imported["lora_inert"] == [f"denoiser.blocks.{i}.attn.out_proj" for i in range(2)]
    assert len(imported["lora_merged"]) == 4


def test_adapters_without_scale_or_of_wrong_shape_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="lora_alpha"):
        load(adapted(alpha=None)[0], tmp_path)
    content, _ = adapted()
    name = "denoiser.base_model.model.blocks.0.mlp.fc1.lora_B.default.weight"
    content["state_dict"][name] = torch.ones(3, 4)
    with pytest.raises(CheckpointError, match="does not fit its layer"):
        load(content, tmp_path)


def test_one_of_several_models_is_not_guessed(tmp_path):
    content = published_ldm()
    state = content["state_dict"]
    twice = {f"{place}.{name}": v for place in ("old", "new") for name, v in state.items()}
    with pytest.raises(CheckpointError, match=r"several models, under new\.; old\."):
        load({**content, "state_dict": twice}, tmp_path)
    once = {f"policy.{name}": v for name, v in state.items()}
    assert load({**content, "state_dict": once}, tmp_path).latent_std[0] == 1.5


@pytest.mark.parametrize(
    "settings",
    [
        {"condition_type": {"gap": "value"}, "stats": {"gap": {"mean": 0.5, "std": 2.0}}},
        {"condition_type": {"gap": types.SimpleNamespace(mean=0.5, std=2.0)}},
        types.SimpleNamespace(condition_type={"gap": {"mean": 0.5, "std": 2.0}}),
        Settings(condition_type=Settings(gap=Settings(mean=0.5, std=2.0))),
    ],
)
def test_statistics_are_found_where_they_are(tmp_path, settings):
    content = published_ldm()
    content["hyper_parameters"]["condition_module"] = settings
    model = load(content, tmp_path)
    assert model.denoiser.conditions is not None
    gap = model.denoiser.conditions.encoders["gap"]
    assert (float(gap.mean), float(gap.std)) == (0.5, 2.0)


def test_settings_that_hold_each_other_take_no_time(tmp_path):
    content = published_ldm()
    shared: Any = "value"
    for _ in range(14):
        shared = {str(i): shared for i in range(50)}
    content["hyper_parameters"]["condition_module"]["condition_type"]["kind"] = shared
    content["hyper_parameters"]["condition_module"]["condition_type"]["gap"]["more"] = shared
    assert load(content, tmp_path).config.conditions["gap"].kind == "number"


def test_the_genuine_names_of_adapters_are_known(tmp_path):
    """The recorded shapes of a model with a numeric condition and adapters, with random numbers."""
    shapes = json.loads(reference("golden/state_dict_shapes.json").read_text())
    recorded = shapes["ldm_bandgap_lora_small"]["state_dict"]
    torch.manual_seed(0)
    state = {name: torch.randn(shape).abs() + 0.1 for name, shape in recorded.items()}
    hyper = {
        "denoiser": DiT(),
        "condition_module": {"condition_type": {"band_gap": {"mean": 0.2, "std": 0.6}}},
        "lora_configs": types.SimpleNamespace(r=4, lora_alpha=8),
    }
    vae = checkpoint("vae_dng")
    model = load({"state_dict": state, "hyper_parameters": hyper}, tmp_path, vae=vae)
    blocks = len(model.denoiser.blocks)
    assert len(model.origin["imported"]["lora_merged"]) == 2 * blocks
    assert len(model.origin["imported"]["lora_inert"]) == blocks
    base = "denoiser.base_model.model.blocks.1.mlp.fc2"
    down, up = (state[f"{base}.lora_{part}.default.weight"] for part in "AB")
    merged = state[f"{base}.base_layer.weight"] + 8 / down.shape[0] * (up @ down)
    torch.testing.assert_close(model.denoiser.blocks[1].mlp.down.weight, merged)


def test_missing_statistics_and_wrong_scales_are_refused(tmp_path):
    content = published_ldm()
    content["hyper_parameters"]["condition_module"] = {}
    with pytest.raises(CheckpointError, match="condition 'gap'"):
        load(content, tmp_path)
    for wrong in (torch.tensor(0.0), torch.ones(2), torch.tensor(float("nan"))):
        content = published_ldm()
        content["state_dict"]["latent_std"] = wrong
        with pytest.raises(CheckpointError, match="latent_std"):
            load(content, tmp_path)


def test_averages_that_do_not_fit_are_refused(tmp_path):
    content = published_ldm()
    for shadow in (None, [torch.ones(3)], ["no tensor"] * (len(content["state_dict"]) - 1)):
        content["ema_state"] = {"shadow_params": shadow}
        with pytest.raises(CheckpointError, match="--weights raw"):
            load(content, tmp_path, weights="ema")


def test_averages_take_the_place_of_raw_weights(tmp_path):
    content = published_ldm()
    names = [name for name in content["state_dict"] if name != "latent_std"]
    content["ema_state"] = {"shadow_params": [content["state_dict"][n] + 1 for n in names]}
    raw = load(content, tmp_path).state_dict()
    ema = load(content, tmp_path, weights="ema").state_dict()
    buffers = ("latent_", "size_histogram", "gap.mean", "gap.std")
    for name, value in ema.items():
        shift = 0 if any(part in name for part in buffers) else 1
        torch.testing.assert_close(value, raw[name] + shift)


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
def test_genuine_files_are_imported_and_kept(name, model, tmp_path):
    vae = checkpoint("vae_dng") if "ldm" in name else None
    path = checkpoint(name)
    loaded = model.from_pretrained(convert(path, tmp_path / "out", vae=vae))
    tensors = load_archive(path)["state_dict"]
    total = sum(value.numel() for value in tensors.values())
    total -= 1 if "latent_std" in tensors else 0
    assert sum(p.numel() for p in loaded.parameters()) == total
    assert loaded.origin["imported"]["file"] == path.name
    again = model.from_pretrained(loaded.save_pretrained(tmp_path / "again"))
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_layouts_name_every_tensor_of_the_published_sizes():
    shapes = json.loads(reference("golden/state_dict_shapes.json").read_text())
    dng, csp = VAEConfig(), VAEConfig(kind="csp")
    denoiser = denoiser_layout(LDMConfig(), 8)
    inside = [wanted._replace(name=f"vae.{wanted.name}") for wanted in vae_layout(dng).values()]
    for name, wanted in {
        "vae_default_dng": [*vae_layout(dng).values()],
        "vae_default_csp": [*vae_layout(csp).values()],
        "ldm_default": [*denoiser.values(), *inside, ("latent_std", ())],
    }.items():
        theirs = {key: tuple(shape) for key, shape in shapes[name]["state_dict"].items()}
        assert dict(wanted) == theirs


MEASURE = """
import resource, sys, time
{imports}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
start = time.monotonic()
{work}
print(time.monotonic() - start, peak())
"""
LOAD = """
model = LatentDiffusion.from_pretrained(sys.argv[1])
total = sum(p.detach().sum() for p in model.parameters())  # every page is read
"""


def test_loading_does_not_import_the_compiler(tmp_path):
    load(published_ldm(), tmp_path)
    code = (
        "import sys; from chemeleon.models.denoiser import LatentDiffusion;"
        "LatentDiffusion.from_pretrained(sys.argv[1]); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "ldm")], check=True)


@pytest.mark.slow
def test_a_full_size_model_is_imported_and_loaded_fast_and_small(tmp_path):
    state = {"latent_std": torch.tensor(1.3)}
    for wanted in denoiser_layout(LDMConfig(), 8).values():
        state[wanted.name] = 0.02 * torch.randn(wanted.shape)
    for wanted in vae_layout(VAEConfig()).values():
        state[f"vae.{wanted.name}"] = 0.02 * torch.randn(wanted.shape)
    size = 4 * sum(value.numel() for value in state.values())
    assert size > 4 * 180_000_000
    torch.save({"state_dict": state, "hyper_parameters": {}}, tmp_path / "full.ckpt")
    convert_peak = _measure(
        "from chemeleon.checkpoints.chemeleon2.lightning import convert",
        "convert(sys.argv[1], sys.argv[2])",
        tmp_path / "full.ckpt",
        tmp_path / "full",
    )[1]
    imports = "from chemeleon.models.denoiser import LatentDiffusion"
    seconds, load_peak = min(_measure(imports, LOAD, tmp_path / "full") for _ in range(2))
    assert convert_peak < 2.5 * size
    assert load_peak < 2.5 * size
    assert seconds < 3.0


def _measure(imports: str, work: str, *args: Path) -> tuple[float, float]:
    """Run Python code in a process of its own; return its seconds and its peak memory in bytes."""
    code = MEASURE.format(imports=imports, work=work)
    words = [sys.executable, "-c", code, *map(str, args)]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds, peak = result.stdout.split()
    return float(seconds), float(peak)
