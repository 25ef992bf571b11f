"""Low-rank adapters: they act, nothing else changes, and their folders are small and whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_LDM
from rl_helpers import second_element, train
from test_training import assert_same_run, interrupt_at

pytest.importorskip("peft", reason="needs peft: pip install 'chemeleon[lora]'")

import chemeleon
from chemeleon import api
from chemeleon.checkpoints.adapters import base_hash, own
from chemeleon.checkpoints.load import read_model, with_base
from chemeleon.checkpoints.opened import ModelFolder, read_tensors
from chemeleon.config import presets
from chemeleon.config.architecture import ConditionConfig, LoRAConfig
from chemeleon.config.schema import LDMTrainConfig
from chemeleon.errors import CheckpointError, ConfigError
from chemeleon.models.adapters import add_adapters, count, split
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.networks.dit import Denoiser
from chemeleon.training.weights import FlatWeights

GAP = "ldm.conditions={density: {kind: number, column: density}}"
TARGETS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
LORA = [GAP, "ldm.lora={rank: 4, alpha: 8}"]


def tuned(model: LatentDiffusion, seed: int = 0) -> LatentDiffusion:
    """Give adapters and conditions numbers as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def loosened(folder) -> LatentDiffusion:
    """Load a model whose blocks do something: adaLN-Zero starts them at nothing."""
    model = LatentDiffusion.from_pretrained(folder)
    torch.manual_seed(1)
    for block in model.denoiser.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
    torch.nn.init.normal_(model.denoiser.head.weight, std=0.3)
    return model


def predict(model: LatentDiffusion, density: float | None = 4.0) -> torch.Tensor:
    z = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
    request = (None, None)
    if model.denoiser.conditions is not None:
        request = model.denoiser.conditions.request({"density": density})
    with torch.no_grad():
        return model(z, torch.tensor([300]), torch.tensor([2, 4, 5]), *request).prediction


@pytest.fixture(scope="module")
def run(tiny_ldm, tmp_path_factory):
    """A run with adapters on the tiny unconditional model."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    words = [*TINY_LDM, *LORA, "trainer.max_steps=12", f"ldm.init_ckpt_path={tiny_ldm}"]
    api.ldm_train("demo/null", words, output=folder)
    return folder


def test_adapters_act_and_merging_changes_nothing(tiny_ldm, tmp_path):
    model = loosened(tiny_ldm)
    plain = predict(model)
    model.add_conditions({"density": ConditionConfig(kind="number", column="density")})
    torch.testing.assert_close(predict(model), plain)  # new conditions start without effect
    model.save_pretrained(tmp_path / "base")
    add_adapters(model.denoiser, LoRAConfig(rank=4, alpha=8))
    torch.testing.assert_close(predict(model), plain)  # B is zero
    adapters, _ = split(dict(model.state_dict()))
    layers = ["attn.qkv", "attn.out", "mlp.up", "mlp.down"]
    expected = {
        f"denoiser.blocks.{i}.{layer}.lora_{part}.weight"
        for i in range(2)
        for layer in layers
        for part in "AB"
    }
    assert set(adapters) == expected
    for layer in layers:  # each by itself
        up = model.denoiser.get_submodule(f"blocks.0.{layer}").lora_B["default"].weight
        with torch.no_grad():
            up += 0.1
            assert (predict(model) - plain).abs().max() > 1e-3, layer
            up.zero_()
    tuned(model)
    adapters, whole = split(dict(model.state_dict()))
    own = {k: v for k, v in whole.items() if k.startswith("denoiser.conditions")}
    base = read_model(tmp_path / "base")
    content = {"rank": 4, "alpha": 8.0, "base_weights": base_hash(base.tensors), "base": "there"}
    config = {**base.config, "adapter": content}
    histogram = {"size_histogram": whole["size_histogram"]}
    folder = ModelFolder(tmp_path, "ldm", config, {**own, **adapters, **histogram})
    merged = LatentDiffusion.from_folder(with_base(folder, tmp_path / "base"))
    for density in (4.0, 9.0, None):
        expected = predict(model, density)  # sums of hundreds of terms, so of the largest number
        assert (predict(merged, density) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (predict(merged) - plain).abs().max() > 0.1


def test_what_is_refitted_to_other_crystals_is_not_the_base():
    base = {"denoiser.weight": torch.ones(2), "size_histogram": torch.ones(3)}
    base |= {"formula_histogram": torch.ones(3, 3)}  # of models of kind csp
    refitted = {n: x if n == "denoiser.weight" else 2 * x for n, x in base.items()}
    assert base_hash(refitted) == base_hash(base)
    assert set(own(refitted)) == {"size_histogram", "formula_histogram"}


def test_only_adapters_and_conditions_are_trained(run, tiny_ldm):
    before, _ = read_tensors(tiny_ldm / "last" / "model.safetensors")
    saved, _ = read_tensors(run / "last" / "model.safetensors")
    trained = {name for name in saved if ".lora_" in name or ".conditions." in name}
    assert set(saved) - trained == {"size_histogram"}
    assert len([name for name in trained if "lora_B" in name]) == 8
    for name in trained:
        assert name not in before
        if "lora_B" in name or "project.2" in name:
            assert saved[name].abs().max() > 0, name  # they began at zero
    start, _ = read_tensors(run / "init" / "model.safetensors")
    whole = read_model(run / "last").tensors
    assert set(whole) == set(start) == set(before) | {n for n in trained if ".lora_" not in n}
    adapted = {name.partition(".lora_")[0] + ".weight" for name in trained if ".lora_" in name}
    for name, value in before.items():
        same = torch.equal(whole[name], value)
        assert torch.equal(start[name], value) or name == "size_histogram"
        assert same != (name in adapted) or name == "size_histogram", name
    small, large = ((run / part / "model.safetensors").stat().st_size for part in ("last", "init"))
    assert small < large / 5


def test_a_run_with_adapters_is_used_like_any_other(run, tiny_ldm, tmp_path):
    made = chemeleon.sample(run, 4, steps=3, conditions={"density": 5.0}, seed=1)
    merged = api.ldm.merge(run, tmp_path / "merged")
    again = chemeleon.sample(merged, 4, steps=3, conditions={"density": 5.0}, seed=1)
    assert [s and s.as_dict() for s in made.structures] == [
        s and s.as_dict() for s in again.structures
    ]
    origin = read_model(merged).config["adapted_from"]
    assert origin["base"] == str(tiny_ldm)
    with pytest.raises(CheckpointError, match="no adapters to merge"):
        api.ldm.merge(merged, tmp_path / "twice")
    with pytest.raises(ConfigError, match="already holds"):
        api.ldm.merge(run, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="chemeleon ldm merge"):
        api.hub.push(run, "me/adapters")
    from chemeleon.models.vae import CrystalVAE

    CrystalVAE.from_pretrained(run)  # the VAE is in the base


def test_adapters_alone_find_their_base_or_say_which(run, tiny_ldm, tiny_vae, tmp_path):
    alone = shutil.copytree(run / "last", tmp_path / "adapters")
    inside = LatentDiffusion.from_pretrained(run).state_dict()
    outside = LatentDiffusion.from_pretrained(alone).state_dict()  # by the path in its config
    assert all(torch.equal(inside[name], outside[name]) for name in inside)
    words = [*TINY_LDM, "trainer.max_steps=1", f"ldm.vae_ckpt_path={tiny_vae}", "seed=7"]
    api.ldm_train("demo/null", words, output=tmp_path / "other")
    with pytest.raises(CheckpointError, match=f"another model.*--base|{tiny_ldm}"):
        api.ldm.merge(alone, tmp_path / "merged", base=tmp_path / "other")
    text = (alone / "config.yaml").read_text().replace(str(tiny_ldm), str(tmp_path / "gone"))
    (alone / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"gone.*--base FOLDER"):
        LatentDiffusion.from_pretrained(alone)
    api.ldm.merge(alone, tmp_path / "merged", base=tiny_ldm)


def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(tiny_ldm, tmp_path):
    base = shutil.copytree(tiny_ldm, tmp_path / "base")
    words = [*TINY_LDM, *LORA, f"ldm.init_ckpt_path={base}", "trainer.max_steps=16"]
    words += ["trainer.val_every_steps=5", "ldm.lora.dropout=0.1", "ldm.ema_decay=0.9"]
    api.ldm_train("demo/null", words, output=tmp_path / "whole")
    interrupt_at(8, tmp_path / "parts", "ldm", "demo/null", words)
    shutil.rmtree(base)  # the run has it
    api.ldm_train(resume=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_flat_weights_of_a_gpu_give_the_same_gradients(tiny_ldm):
    def gradients(flat: bool) -> list[torch.Tensor]:
        model = loosened(tiny_ldm)
        torch.manual_seed(3)
        model.add_conditions({"density": ConditionConfig(kind="number", column="density")})
        add_adapters(model.denoiser, LoRAConfig(rank=4, alpha=8))
        tuned(model, seed=5)
        parameters = [p for p in model.parameters() if p.requires_grad]
        weights = FlatWeights(parameters, torch.float32) if flat else None
        request = model.denoiser.conditions.request({"density": [3.0, None]})
        z = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
        out = model(z, torch.tensor([300]), torch.tensor([4, 4]), *request)
        loss = out.prediction.square().mean()
        if weights is not None:
            weights.add_gradients_of(loss)
            return [g.clone() for g in weights.grads]
        loss.backward()
        return [p.grad for p in parameters]

    flat, plain = gradients(True), gradients(False)
    assert all(g.abs().max() > 0 for g in plain)  # every trained weight has a gradient
    for one, other in zip(flat, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_with_adapters_compile_in_one_piece(tiny_ldm):
    model = loosened(tiny_ldm)
    add_adapters(model.denoiser, LoRAConfig(rank=4, alpha=8))
    tuned(model)
    expected = predict(model)
    for block in model.denoiser.blocks:
        block.forward = torch.compile(block.forward, backend="eager", fullgraph=True)
    torch.testing.assert_close(predict(model), expected)


@pytest.mark.parametrize("name", ["alex_mp_20_bandgap/bandgap_lora", "mp/band_gap_lora"])
def test_under_three_percent_are_trained_at_the_published_size(name):
    config = presets.load("ldm", name).config
    assert isinstance(config, LDMTrainConfig)
    assert config.ldm.lora is not None
    with torch.device("meta"):
        denoiser = Denoiser(config.ldm, 8)
        add_adapters(denoiser, config.ldm.lora)
    share = count(denoiser)
    assert share.total > 130e6
    assert 0.01 < share.trained / share.total < 0.03


def test_all_weights_can_be_fine_tuned_towards_a_new_condition(tiny_ldm, tmp_path):
    words = [*TINY_LDM, GAP, f"ldm.init_ckpt_path={tiny_ldm}", "trainer.max_steps=3"]
    api.ldm_train("demo/null", words, output=tmp_path / "run")
    start = LatentDiffusion.from_pretrained(tmp_path / "run" / "init")
    torch.testing.assert_close(predict(start), predict(LatentDiffusion.from_pretrained(tiny_ldm)))
    after = LatentDiffusion.from_pretrained(tmp_path / "run" / "last")
    changed = {
        name
        for name, value in after.named_parameters()
        if not torch.equal(value, start.get_parameter(name))
    }
    assert "denoiser.blocks.0.modulation.weight" in changed
    assert "denoiser.conditions.project.2.weight" in changed
    assert float(start.denoiser.conditions["density"].mean) > 1  # of the training column
    more = [*TINY_LDM, f"ldm.init_ckpt_path={tmp_path / 'run'}", "ldm.conditions={}"]
    with pytest.raises(ConfigError, match=r"ldm\.conditions differs"):
        api.ldm_train("demo/null", more, output=tmp_path / "less")


def test_rewards_tune_adapters_alone(tiny_ldm, tmp_path):
    shutil.copytree(tiny_ldm, tmp_path / "base")
    words = ["rl.lora={rank: 4, alpha: 8, dropout: 0.5}", "optim.lr=1e-2", "rl.reference_kl=0.1"]
    words += ["trainer.max_epochs=4", "trainer.val_every_epochs=2", "rl.ema_decay=0.5"]
    element = second_element(tiny_ldm)
    train(tmp_path / "whole", tmp_path / "base", *words, element=element)
    last = read_model(tmp_path / "whole" / "last", whole=False)
    assert "adapter" in last.config
    adapters = {name: value for name, value in last.tensors.items() if ".lora_" in name}
    assert adapters
    assert any(v.abs().max() > 0 for k, v in adapters.items() if k.endswith("lora_B.weight"))
    assert {name for name in last.tensors if name not in adapters} == {"size_histogram"}

    # what is sampled is the base with adapters: only adapted layers differ
    before = LatentDiffusion.from_pretrained(tmp_path / "base").state_dict()
    after = LatentDiffusion.from_pretrained(tmp_path / "whole" / "last").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.removesuffix(".weight").endswith(TARGETS) for name in changed)

    # a run that was stopped goes on, bit for bit, without its base
    def start(preset: str, settings: list[str], output: Path):
        return train(output, tmp_path / "base", *settings, element=element)

    interrupt_at(3, tmp_path / "parts", start, "demo/dng", words)
    shutil.rmtree(tmp_path / "base")
    train(tmp_path / "parts", None, resume=True, element=element)
    one, other = (read_model(tmp_path / n / "last", whole=False) for n in ("whole", "parts"))
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ldm.lora={rank: 4}"], r"ldm\.init_ckpt_path=runs/my_ldm"),
        (["ldm.lora={targets: [attn.ot]}", "BASE"], r"did you mean 'attn\.out'"),
        (["ldm.lora={targets: []}", "BASE"], "attn.qkv, attn.out"),
    ],
)
def test_mistakes(words, said, tiny_ldm, tiny_vae, tmp_path):
    words = [f"ldm.init_ckpt_path={tiny_ldm}" if word == "BASE" else word for word in words]
    words = [*TINY_LDM, f"ldm.vae_ckpt_path={tiny_vae}", "trainer.max_steps=1", *words]
    with pytest.raises(ConfigError, match=said):
        api.ldm_train("demo/null", words, output=tmp_path / "run")
