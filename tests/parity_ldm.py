"""Arrays of the denoiser: outputs, losses, gradients and reverse walks; see ``parity``.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels, ``R`` rows of a walk: ``B``, or
``2B`` with guidance, where both halves take the guided output of the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from parity import FUSED, WALK_BOUND, Found, Golden, fused_gelu
from torch import Tensor, nn

from chemeleon.config.schedulers import SamplerConfig
from chemeleon.diffusion.losses import Noised, NoiseProcess
from chemeleon.diffusion.reverse import Predict, ReverseDiffusion
from chemeleon.generation.denoising import Evaluated, guide
from chemeleon.models.denoiser import LatentDiffusion

GUIDANCE = 2.0
WALKS = {
    "ddim_eta0": SamplerConfig(scheduler="ddim", steps=50, eta=0.0),
    "ddim_eta1": SamplerConfig(scheduler="ddim", steps=50, eta=1.0),
    "ddpm50": SamplerConfig(scheduler="ddpm", steps=50),
}


def ldm_arrays(golden: Golden, file: str) -> Iterator[Found]:
    """Compare everything recorded of one latent diffusion model."""
    model = LatentDiffusion.from_pretrained(golden.folders[file])
    yield from _outputs(golden, file, model)
    for mode in ("eval", "train"):
        yield from _losses(golden, file, model, mode)
    with torch.no_grad():
        for walk, config in WALKS.items():
            yield from _walk(golden, file, model, walk, config)


class _Given(nn.Module):
    """Stands for the condition encoder where its answer was recorded."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, features: object, drop: object) -> Tensor:
        return self.answer


@torch.no_grad()
def _outputs(golden: Golden, file: str, model: LatentDiffusion) -> Iterator[Found]:
    z, t = golden.get(file, "dit_z"), golden.get(file, "dit_t")
    num_atoms = golden.get(file, "dit_mask").sum(1)
    conditions = model.denoiser.conditions

    def output(z: Tensor) -> Tensor:
        # theirs is the layout before the split, with padded slots set to 0
        mask = (torch.arange(z.shape[1]) < num_atoms.unsqueeze(-1)).repeat(1, 2).unsqueeze(-1)
        return torch.cat(model(z, t, num_atoms, {}, {}), dim=1) * mask

    model.denoiser.conditions = None
    yield Found("dit_out_y_none_slow", output(z), "denoiser, no condition")
    yield Found("dit_out_y_none_fast", output(z), "denoiser, no condition")
    wider = torch.cat([z, z.new_zeros(len(z), 4, z.shape[2])], dim=1)
    yield Found("dit_out_y_none_pad4", output(wider), "denoiser, four more padded slots")
    model.denoiser.conditions = _Given(golden.get(file, "dit_y"))  # type: ignore[assignment]
    yield Found("dit_out_y_fast", output(z), "denoiser, given condition")
    model.denoiser.conditions = conditions
    if conditions is not None:
        features, no, yes = _flags(golden, model)
        both = torch.cat([conditions(features, no), conditions(features, yes)])
        yield Found("cond_embed_sampling", both, "conditional rows, then null rows")


def _flags(golden: Golden, model: LatentDiffusion) -> tuple[dict, dict, dict]:
    """Return features, and flags that hide no condition and every condition."""
    assert model.denoiser.conditions is not None
    features = model.denoiser.conditions.featurise(golden.batch)
    size = len(golden.batch)
    return (
        features,
        dict.fromkeys(features, torch.zeros(size, dtype=torch.bool)),
        dict.fromkeys(features, torch.ones(size, dtype=torch.bool)),
    )


def _losses(golden: Golden, file: str, model: LatentDiffusion, mode: str) -> Iterator[Found]:
    draws = golden.draws(file, mode)
    batch = golden.augmented(draws) if mode == "train" else golden.batch
    mask = batch.mask
    with torch.no_grad(), fused_gelu():
        posterior = model.vae.encode(batch)
        x0 = model.standardise(posterior.sample(golden.dense(draws["randn"][0])))
    x0 = x0 * mask.unsqueeze(-1)
    noise, t = draws["randn_like"][0] * mask.unsqueeze(-1), draws["randint"][0]
    process = NoiseProcess(model.config.diffusion)
    noised = Noised(process.add_noise(x0, noise, t), noise, t)
    features = drop = None
    if model.denoiser.conditions is not None:
        features = model.denoiser.conditions.featurise(batch)
        hidden = draws["rand"][-1] < model.config.condition_drop
        drop = dict.fromkeys(features, hidden)
    model.zero_grad()
    prediction, variance = model(noised.z, t, batch.num_atoms, features, drop)
    terms = process.losses(prediction, variance, x0, noised, mask)
    total = terms["mse"] + terms["vb"]
    total.mean().backward()
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    yield Found(f"loss_{mode}_mse", terms["mse"], "error of the noise", FUSED)
    yield Found(f"loss_{mode}_vb", terms["vb"], "variational term", FUSED)
    yield Found(f"loss_{mode}_total_loss", total, "loss", FUSED)
    norm = torch.stack(squares).sum().sqrt()
    yield Found(f"loss_{mode}_gradnorm", norm, "gradient norm", FUSED)


def _predictor(golden: Golden, model: LatentDiffusion) -> Predict:
    """Return the denoiser for ``R`` rows."""
    num_atoms = golden.batch.num_atoms
    if model.denoiser.conditions is None:
        return lambda z, t: model(z, t, num_atoms)
    features, no, yes = _flags(golden, model)
    half = len(num_atoms)

    def evaluated(z: Tensor, t: Tensor, drop: dict[str, Tensor]) -> Evaluated:
        return Evaluated(*model(z[:half], t[:half], num_atoms, features, drop), None)

    def predict(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        prediction, variance = guide(evaluated(z, t, no), evaluated(z, t, yes), GUIDANCE)
        assert variance is not None
        return prediction.repeat(2, 1, 1), variance.repeat(2, 1, 1)

    return predict


def _walk(
    golden: Golden, file: str, model: LatentDiffusion, walk: str, config: SamplerConfig
) -> Iterator[Found]:
    starts = golden.get(file, f"{walk}_zs")
    count, rows = starts.shape[0] - 1, starts.shape[1]
    mask = golden.batch.mask.repeat(rows // len(golden.batch), 1)
    real = mask.unsqueeze(-1)
    noises = torch.zeros_like(starts[1:])
    if f"{walk}_noise" in golden.files[file].files:
        noises = golden.get(file, f"{walk}_noise")
    predict = _predictor(golden, model)
    reverse = ReverseDiffusion(model.config.diffusion, config)
    means, stds, samples = [], [], []
    for index in range(count):
        z = starts[index]
        prediction, variance = predict(z, reverse.times[index].expand(rows))
        mean, std = reverse.gaussian(index, z, prediction, variance)
        sample = mean + std * noises[index]
        if index == count - 1 and config.scheduler == "ddpm":
            std = _last_std(reverse, variance)
        means.append(mean * real)
        stds.append(std.float().expand_as(z))
        samples.append(sample * real)
    # theirs has a spread on padded slots too, which is never used
    theirs = golden.get(file, f"{walk}_stds")
    stds = torch.where(real, torch.stack(stds), theirs)
    each = "each step from its recorded start"
    yield Found(f"{walk}_means", torch.stack(means), each, per_step=True)
    yield Found(f"{walk}_stds", stds, each, per_step=True)
    yield Found(f"{walk}_zs", torch.stack([starts[0], *samples]), each, per_step=True)
    keys = torch.zeros(rows, dtype=torch.int64)
    steps = reverse.steps(predict, starts[0], mask, keys, noise=lambda index: noises[index])
    free = torch.stack([starts[0], *(step.sample for step in steps)])
    what = "50 steps on its own"
    yield Found(f"{walk}_zs", free, what, bound=WALK_BOUND, per_step=True)
    yield from _decoded(golden, model, walk, starts[-1][: len(golden.batch)])


def _last_std(reverse: ReverseDiffusion, variance: Tensor | None) -> Tensor:
    """Return the spread of the last step, which the model states but which no noise is given."""
    low, high = (x[-1] for x in reverse.coefficients[-2:])
    share = 0.0 if variance is None else (variance + 1) / 2
    return torch.exp(0.5 * (share * high + (1 - share) * low))


def _decoded(golden: Golden, model: LatentDiffusion, walk: str, z: Tensor) -> Iterator[Found]:
    batch = golden.batch
    with fused_gelu():
        decoded = model.vae.decode(model.unstandardise(z), batch)
    crystals = model.vae.to_crystals(decoded, batch)
    scale = batch.num_atoms.unsqueeze(-1).pow(1 / 3)
    yield Found(f"{walk}_final_atom_types", crystals.atomic_numbers, "decoded types")
    coords = crystals.frac_coords
    yield Found(f"{walk}_final_frac_coords", coords, "decoded coordinates", FUSED)
    yield Found(f"{walk}_final_lengths", decoded.lengths * scale, "decoded lengths", FUSED)
    yield Found(f"{walk}_final_angles", torch.rad2deg(decoded.angles), "decoded angles", FUSED)
    yield Found(f"{walk}_final_lattices", crystals.lattice, "decoded cells", FUSED)
