"""Arrays of the recorded policy update (GRPO on a DDIM walk); see ``parity``.

The recorded latents grow to 574 (random weights), so their last digit is 6e-5, and the last steps
have spreads down to 0.01. A recomputed log-probability there cannot be closer to the recorded one
than `rounding` says, in any implementation; what follows from it, the ratios and the loss, is
therefore compared from recorded log-probabilities.

Every sum is judged by its own magnitude, beyond what the last digits of its terms explain. That of
the KL is what is left of numbers near 1, so that the last digits of ``exp`` show: with those of
PyTorch on x86 it is met exactly, with correctly rounded ones within 6.7e-4, which `KL_BOUND`
allows. With the other ratio (``rl.kl_ratio``) it would be off by 1.2e-3.

Shapes: ``T`` steps, ``B`` crystals, ``N`` padded atoms, ``L`` latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from parity import Found, Golden
from torch import Tensor

from chemeleon.config.schedulers import SamplerConfig
from chemeleon.diffusion.reverse import ReverseDiffusion, log_probability
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.reinforcement.objectives import Terms, advantages, grpo_terms

FILE = "rl_ddim"
GROUP = 4
LOSS_BOUND = 1e-4
KL_BOUND = 1e-3
WEIGHTS = {
    "clip_ratio": 1e-3, "kl_weight": 1.0, "kl_ratio": "old_over_new", "entropy_weight": 1e-5
}  # fmt: skip
SCALES = {"same": 1.0, "perturbed": 1.01}


def rl_arrays(golden: Golden) -> Iterator[Found]:
    """Compare everything recorded of the update."""
    rewards, _ = advantages(golden.get(FILE, "rewards"), GROUP)
    yield Found("advantages", rewards, "within groups of four")
    yield from _recorded_walk(golden)
    for run, scale in SCALES.items():
        yield from _update(golden, run, scale)


def rounding(golden: Golden) -> Tensor:
    """Return what a few last digits of the largest latent do to log-probabilities, ``(T, 1)``.

    The error of one entry is divided by its spread and averages out over 5 atoms x 8 channels.
    """
    recorded = golden.files[FILE]
    digits = np.spacing(np.abs(recorded["zs"][:-1]).max((1, 2, 3)))
    spreads = recorded["stds"].max((1, 2, 3)).clip(1e-6)
    return torch.from_numpy(4 * digits / spreads / np.sqrt(40)).unsqueeze(1)


def _log_probs(golden: Golden, means: Tensor, stds: Tensor) -> Tensor:
    zs, mask = golden.get(FILE, "zs"), golden.get(FILE, "mask")
    steps = [log_probability(zs[i + 1], means[i], stds[i], mask) for i in range(len(means))]
    return torch.stack(steps)


def _undefined(values: Tensor) -> Tensor:
    """Append the last step, which has no spread."""
    return torch.cat([values, torch.full_like(values[:1], torch.nan)])


def _recorded_walk(golden: Golden) -> Iterator[Found]:
    model = LatentDiffusion.from_pretrained(golden.folders["ldm_null"])
    with torch.no_grad():
        means, stds = _steps(golden, model)
    zs = golden.get(FILE, "zs")
    yield Found("means", means, "each step from its recorded start", per_step=True)
    yield Found("stds", stds, "spreads")
    # the latents that followed are the recorded mean and noise; ours with that noise
    wide = golden.get(FILE, "stds")
    noise = torch.where(wide > 0, (zs[1:] - golden.get(FILE, "means")) / wide, torch.zeros(()))
    walked = torch.cat([zs[:1], means + stds * noise])
    yield Found("zs", walked, "each step from its recorded start", per_step=True)
    found = _log_probs(golden, golden.get(FILE, "means")[:49], wide[:49])
    yield Found("old_log_probs", _undefined(found), "of the recorded walk")


def _steps(golden: Golden, model: LatentDiffusion) -> tuple[Tensor, Tensor]:
    """Return means and spreads of all steps in one batch, ``(T, B, N, L)`` each."""
    zs, mask = golden.get(FILE, "zs"), golden.get(FILE, "mask")
    steps, size = len(zs) - 1, zs.shape[1]
    sampler = SamplerConfig(scheduler="ddim", steps=steps, eta=1.0)
    reverse = ReverseDiffusion(model.config.diffusion, sampler)
    index = torch.arange(steps).repeat_interleave(size)
    z = zs[:-1].flatten(0, 1)
    sizes = golden.get(FILE, "num_atoms").repeat(steps)
    prediction, variance = model(z, reverse.times[index], sizes)
    mean, std = reverse.gaussian(index, z, prediction, variance)
    mean = mean * mask.repeat(steps, 1).unsqueeze(-1)
    shape = zs[1:].shape
    return mean.view(shape), std.expand(steps * size, *shape[2:]).reshape(shape)


def _update(golden: Golden, run: str, scale: float) -> Iterator[Found]:
    model = LatentDiffusion.from_pretrained(golden.folders["ldm_null"])
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.mul_(scale)
    model.denoiser.requires_grad_(True)
    means, stds = _steps(golden, model)
    new = _log_probs(golden, means[:49], stds[:49])
    theirs = golden.get(FILE, f"{run}_new_log_probs")
    yield Found(
        f"{run}_new_log_probs",
        _undefined(new),
        "of recorded latents, beyond what their rounding explains",
        rounding=rounding(golden),
    )
    if run == "same":  # recorded means pin the gradient, too: they are those of this model
        pinned = means + (golden.get(FILE, "means") - means).detach()
        new = _log_probs(golden, pinned[:49], stds[:49])
    theirs = theirs[:49]
    new = new + (theirs - new).detach()
    advantage = golden.get(FILE, "advantages").expand(49, -1)
    old = golden.get(FILE, "old_log_probs")[:49]
    terms = grpo_terms(new, old, advantage, **WEIGHTS)
    yield Found(f"{run}_ratio_steps", _undefined(terms.ratio), "from recorded log-probabilities")
    yield from _losses(run, terms, new - old)
    total = terms.loss.mean(1).sum() / 50
    total.backward()
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    # no recorded means of the perturbed model: their rounding is in the gradient of the last steps
    loose = LOSS_BOUND if run == "same" else 2e-3
    norm = torch.stack(squares).sum().sqrt()
    yield Found(f"{run}_gradnorm", norm, "gradient norm", bound=LOSS_BOUND)
    head = model.denoiser.head.weight.grad
    yield Found(f"{run}_grad_final_linear", head, "gradient of the head", bound=loose)


def _losses(run: str, terms: Terms, log_ratio: Tensor) -> Iterator[Found]:
    what = "from recorded log-probabilities"
    yield Found(f"{run}_res_entropy", terms.entropy.mean(1).sum(), what)
    yield Found(f"{run}_res_log_ratio", log_ratio[-1].mean(), what)
    yield Found(f"{run}_res_ratio", terms.ratio[-1].mean(), what)
    # an unchanged model has no KL: what was recorded is the last digits of its ratios
    digits = last_digits(terms.ratio) if run == "same" else 0.0
    kl = terms.kl.mean(1).sum()
    yield Found(f"{run}_res_kl_div", kl, what, bound=KL_BOUND, rounding=digits)
    digits = last_digits(terms.surrogate)
    gain, loss = terms.surrogate.mean(1).sum(), terms.loss.mean(1).sum()
    yield Found(f"{run}_res_sorrogate_objective", gain, what, rounding=digits)
    yield Found(f"{run}_res_loss", loss, what, rounding=digits)
    yield Found(f"{run}_res_scaled_loss", loss / 50, what, rounding=digits / 50)


def last_digits(terms: Tensor) -> float:
    """Return what float32 does to a sum over steps of means over crystals, ``(T, B)`` terms.

    Half a last digit of each term, in random directions, and as much again from adding up.
    """
    steps, crystals = terms.shape
    return 2**-23 * float(terms.detach().abs().mean()) * (steps / crystals) ** 0.5
