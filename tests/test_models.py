"""What the models must not depend on, and that they can fit what they are shown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import demo_crystals
from rich.console import Console

from chemeleon.config.architecture import ConditionConfig, DiffusionConfig, LDMConfig, VAEConfig
from chemeleon.config.presets import load
from chemeleon.config.schema import AugmentConfig
from chemeleon.crystals.augment import augment
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.lattice import lattice_angles, lattice_lengths
from chemeleon.crystals.random import make_keys, normal
from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE, Decoded, Posterior, VAEOutput
from chemeleon.models.vae_losses import vae_losses
from chemeleon.storage import Draft
from chemeleon.training.launch import RUN_PARTS

VAES = [
    VAEConfig(width=32, heads=4, encoder_layers=2, decoder_layers=2, feedforward=64),
    VAEConfig(
        width=32,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        feedforward=64,
        coordinate_head="raw",
        coordinate_input="fourier",
        kind="csp",
    ),
]


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    everything = demo_crystals("val")
    order = torch.argsort(everything.num_atoms)
    return everything.subset(order[torch.linspace(0, len(order) - 1, 7).long()])


def denoiser(
    vae: CrystalVAE, layout: str = "per_atom", conditions=None, modulation: str = "block"
) -> LatentDiffusion:
    sizes = {"width": 32, "layers": 2, "heads": 4}
    config = LDMConfig.model_validate(
        {
            "denoiser": {**sizes, "token_layout": layout, "modulation": modulation},
            "conditions": conditions or {},
        }
    )
    model = LatentDiffusion(config, vae, torch.ones(5))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.denoiser.parameters():  # adaLN-Zero starts at zero: nothing to compare
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("config", VAES)
@pytest.mark.parametrize("width", [None, 24])
def test_a_crystal_is_encoded_and_decoded_alike_alone_and_padded(crystals, config, width):
    torch.manual_seed(0)
    vae = CrystalVAE(config).eval()
    together = crystals.batch(torch.arange(len(crystals)), width)
    keys = make_keys(0, torch.arange(len(crystals)))
    output = vae(together, normal(keys, (together.width, 8)))
    for i in range(len(crystals)):
        atoms = int(crystals.num_atoms[i])
        alone = crystals.batch(torch.tensor([i]))
        single = vae(alone, normal(keys[i : i + 1], (alone.width, 8)))
        for ours, theirs in (
            (single.posterior.mean, output.posterior.mean[i : i + 1, :atoms]),
            (single.posterior.logvar, output.posterior.logvar[i : i + 1, :atoms]),
            (single.decoded.coords, output.decoded.coords[i : i + 1, :atoms]),
            (single.decoded.lengths, output.decoded.lengths[i : i + 1]),
            (single.decoded.angles, output.decoded.angles[i : i + 1]),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", VAES)
def test_vae_loss_of_a_batch_is_the_mean_over_its_atoms_and_crystals(crystals, config):
    torch.manual_seed(0)
    vae = CrystalVAE(config).eval()
    keys = make_keys(0, torch.arange(len(crystals)))

    def losses(index: torch.Tensor, width: int | None) -> dict[str, torch.Tensor]:
        batch = crystals.batch(index, width)
        output = vae(batch, normal(keys[index], (batch.width, 8)))
        return vae_losses(
            output,
            batch,
            config.loss,
            atoms=float(crystals.num_atoms.sum()),
            crystals=float(len(crystals)),
        )

    whole = losses(torch.arange(len(crystals)), 20)
    parts = [losses(torch.tensor([i]), None) for i in range(len(crystals))]
    for name, value in whole.items():
        total = torch.stack([part[name] for part in parts]).sum()
        torch.testing.assert_close(value, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", VAES)
def test_translation_by_a_lattice_vector_changes_nothing(crystals, config):
    torch.manual_seed(0)
    vae = CrystalVAE(config).eval()
    batch = crystals.batch(torch.arange(len(crystals)))
    shift = torch.tensor([1.0, -2.0, 3.0])
    moved = batch.with_geometry(batch.frac_coords + shift, batch.lattice)
    before, after = vae.encode(batch), vae.encode(moved)
    mask = batch.mask.unsqueeze(-1)
    torch.testing.assert_close(before.mean * mask, after.mean * mask, rtol=1e-5, atol=1e-5)
    if config.coordinate_head == "angle":
        noise = torch.zeros_like(before.mean)
        output = vae(batch, noise)
        one = vae_losses(output, batch, config.loss, 1.0, 1.0)["coords"]
        other = vae_losses(output, moved, config.loss, 1.0, 1.0)["coords"]
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_wrapped_coordinate_error_takes_the_short_way():
    target = CrystalBatch(
        torch.tensor([[1]]),
        torch.tensor([[[0.95, 0.5, 0.0]]]),
        4.0 * torch.eye(3).unsqueeze(0),
        torch.tensor([1]),
    )
    said = torch.tensor([0.05, 0.5, 0.75])  # 0.1, 0 and 0.25 away
    pair = torch.cat([torch.sin(2 * math.pi * said), torch.cos(2 * math.pi * said)])
    cell = lattice_lengths(target.lattice), lattice_angles(target.lattice)
    decoded = Decoded(torch.zeros(1, 1, 100), pair.view(1, 1, 6), *cell)
    output = VAEOutput(
        Posterior(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)), decoded, torch.ones(1, 1)
    )
    terms = vae_losses(output, target, VAEConfig().loss, 1.0, 1.0)
    assert terms["coords"].item() == pytest.approx((0.1**2 + 0 + 0.25**2) / 3, abs=1e-5)
    assert terms["kl"].item() == 0
    assert terms["lengths"].item() == terms["angles"].item() == 0
    assert terms["types"].item() == pytest.approx(math.log(100), abs=1e-5)


@pytest.mark.parametrize("modulation", ["block", "shared"])
def test_denoising_and_its_loss_are_alike_alone_and_padded(crystals, modulation):
    torch.manual_seed(0)
    model = denoiser(CrystalVAE(VAES[0]), modulation=modulation)
    process = NoiseProcess(DiffusionConfig())
    keys = make_keys(0, torch.arange(len(crystals)))
    batch = crystals.batch(torch.arange(len(crystals)), 20)

    def run(batch: CrystalBatch, keys: torch.Tensor):
        x0 = normal(keys, (batch.width, 8)) * batch.mask.unsqueeze(-1)
        noised = process.draw(x0, batch.mask, keys)
        out = model(noised.z, noised.t, batch.num_atoms)
        losses = process.losses(out.prediction, out.variance, x0, noised, batch.mask)
        return out, losses

    together, losses = run(batch, keys)
    assert together.prediction.abs().max() > 0.1
    for i in range(len(crystals)):
        atoms = int(crystals.num_atoms[i])
        alone, own = run(crystals.batch(torch.tensor([i])), keys[i : i + 1])
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours, theirs[i : i + 1, :atoms], rtol=1e-5, atol=1e-5)
        for name, value in losses.items():
            torch.testing.assert_close(own[name], value[i : i + 1], rtol=1e-5, atol=1e-6)


def test_a_shared_modulation_is_a_block_s_own_where_it_says_the_same(crystals):
    torch.manual_seed(0)
    shared = denoiser(CrystalVAE(VAES[0]), modulation="shared")
    own = denoiser(CrystalVAE(VAES[0]))
    common = shared.denoiser.shared
    weights = {k: v for k, v in shared.denoiser.state_dict().items() if "shared" not in k}
    for i, block in enumerate(shared.denoiser.blocks):
        name = f"blocks.{i}.modulation"
        weights[f"{name}.bias"] = common.bias + block.modulation.weight
        weights[f"{name}.weight"] = common.weight
    own.denoiser.load_state_dict(weights)
    batch = crystals.batch(torch.arange(len(crystals)))
    z, t = torch.randn(len(batch), batch.width, 8), torch.arange(len(batch)) * 100
    expected, found = (model(z, t, batch.num_atoms).prediction for model in (own, shared))
    torch.testing.assert_close(found, expected)
    assert sum(p.numel() for p in shared.denoiser.parameters()) < sum(
        p.numel() for p in own.denoiser.parameters()
    )


def test_a_canonical_order_of_atoms_makes_latents_those_of_the_crystal(crystals):
    torch.manual_seed(0)
    config = VAES[0].model_copy(update={"atom_order": "canonical"})
    vae = CrystalVAE(config).eval()
    batch = crystals.batch(torch.arange(len(crystals)))
    keys = make_keys(1, torch.arange(len(crystals)))
    changes = AugmentConfig(translate=True, rotate=False, permute=True)
    other = replace(augment(batch, keys, changes).flatten(), targets=crystals.targets)
    one, two = (
        vae.encode(c.batch(torch.arange(len(c)))).mean
        for c in (vae.arranged(crystals), vae.arranged(other))
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    plain = CrystalVAE(VAES[0])
    assert plain.arranged(other) is other  # as published: the order of the file


def test_a_decoder_that_sees_the_elements_needs_their_order():
    with pytest.raises(ValueError, match="canonical"):
        VAEConfig(kind="csp", decoder_types=True)


def test_interleaved_layout_does_depend_on_padding(crystals):
    torch.manual_seed(0)
    model = denoiser(CrystalVAE(VAES[0]), "interleaved")
    sizes = crystals.num_atoms[:2]
    z = torch.randn(2, int(sizes.max()) + 2, 8)
    wide = model(z, torch.tensor([5, 5]), sizes)
    narrow = model(z[:, :-2], torch.tensor([5, 5]), sizes)
    torch.testing.assert_close(narrow.prediction, wide.prediction[:, :-2])
    assert not torch.allclose(narrow.variance, wide.variance[:, :-2])


def test_dropped_conditions_do_not_matter(crystals):
    torch.manual_seed(0)
    conditions = {
        "what": {"kind": "composition"},
        "gap": {"kind": "number", "column": "density"},
    }
    model = denoiser(CrystalVAE(VAES[0]), conditions=conditions)
    batch = crystals.batch(torch.arange(len(crystals)))
    encoder = model.denoiser.conditions
    encoder.fit(crystals.targets)
    features = encoder.featurise(batch)
    torch.testing.assert_close(features["what"].sum(-1), torch.ones(len(batch)))
    assert features["gap"].mean().abs() < 1e-5
    z, t = torch.randn(len(batch), batch.width, 8), torch.full((len(batch),), 10)
    shown = {name: torch.zeros(len(batch), dtype=torch.bool) for name in features}
    hidden = {name: ~flag for name, flag in shown.items()}
    with_them = model(z, t, batch.num_atoms, features, shown).prediction
    without = model(z, t, batch.num_atoms, features, hidden).prediction
    nothing = model(z, t, batch.num_atoms, *encoder.request({})).prediction
    torch.testing.assert_close(without, nothing)
    assert not torch.allclose(with_them, without)
    gap_only = model(z, t, batch.num_atoms, features, {**hidden, "gap": shown["gap"]}).prediction
    assert not torch.allclose(gap_only, without)


def test_condition_needs_what_its_kind_needs():
    with pytest.raises(ValueError, match="column"):
        ConditionConfig(kind="number")
    with pytest.raises(ValueError, match="categories"):
        ConditionConfig(kind="category", column="spacegroup")


@pytest.mark.parametrize("head", ["angle", "raw"])
def test_four_crystals_are_fitted_to_match_rate_one(tmp_path, head):
    from chemeleon.training.loop import fit
    from chemeleon.training.run import Run, make_accelerator
    from chemeleon.training.stage import Place, RunContext
    from chemeleon.training.vae import VAEStage

    everything = demo_crystals("train")
    sizes = everything.num_atoms
    chosen = torch.tensor([int(torch.nonzero(sizes == n)[3]) for n in (2, 5, 6, 14)])
    four = everything.subset(chosen)
    words = [
        "vae.width=64",
        "vae.encoder_layers=2",
        "vae.decoder_layers=2",
        "vae.feedforward=128",
        f"vae.coordinate_head={head}",
        "vae.loss.kl=1e-6",
        "data.augment.translate=false",
        "data.batch_size=4",
        "optim.lr=2e-3",
        "optim.warmup_steps=20",
        "optim.schedule=cosine",
        "trainer.max_steps=300",
        "trainer.val_every_steps=300",
        "trainer.val_match_samples=4",
    ]
    config = load("vae", "demo/dng", None, words).config
    console = Console(quiet=True)
    accelerator = make_accelerator(config.trainer, tmp_path, console)
    context = RunContext(Draft(tmp_path, RUN_PARTS), accelerator, console, resume=False)
    stage = VAEStage(config, four, four, Place(accelerator.device))
    fitted = fit(Run(stage, config, context))
    assert fitted.metrics["val/match_rate"] == 1.0
    assert fitted.metrics["val/rmse"] < 0.05
