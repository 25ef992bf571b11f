"""Noising and the training loss of the denoiser.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels, ``T`` time steps. Losses are one
number per crystal, ``(B,)``: means over its real atoms and channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.architecture import DiffusionConfig
from chemeleon.crystals.random import fold, integers, normal, uniform
from chemeleon.diffusion.schedulers import alphas_cumprod, posterior_coefficients, predicted_x0


class Noised(NamedTuple):
    """Noisy latents ``z`` and ``noise`` ``(B, N, L)`` at times ``t`` ``(B,)``."""

    z: Tensor
    noise: Tensor
    t: Tensor


class NoiseProcess:
    """The forward process, and what the denoiser should have said."""

    def __init__(self, config: DiffusionConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        alphas = alphas_cumprod(config)
        steps = posterior_coefficients(alphas, torch.cat([alphas.new_ones(1), alphas[:-1]]))
        # the first step has no variance: as in Ho et al. 2020 it takes the logarithm of the next
        variance = torch.cat([steps.variance[1:2], steps.variance[1:]])
        self.alphas_cumprod = alphas.float().to(device)
        self._on_x0, self._on_z = steps.on_x0.float().to(device), steps.on_z.float().to(device)
        self._log_beta = torch.log(steps.beta).float().to(device)
        self._log_variance = torch.log(variance).float().to(device)

    def draw(self, x0: Tensor, mask: Tensor, keys: Tensor) -> Noised:
        """Draw times and noise by the crystals' keys and noise ``x0`` ``(B, N, L)``."""
        if self.config.process == "flow":
            times = uniform(fold(keys, "time"))
            if self.config.logit_normal:
                times = torch.sigmoid(normal(fold(keys, "time")))
            t = times * self.config.steps
        else:
            t = integers(fold(keys, "time"), self.config.steps)
        return self.at(x0, mask, keys, t)

    def at(self, x0: Tensor, mask: Tensor, keys: Tensor, t: Tensor) -> Noised:
        """Draw noise by the crystals' keys and noise ``x0`` ``(B, N, L)`` to times ``t``."""
        noise = normal(fold(keys, "noise"), tuple(x0.shape[1:])) * mask.unsqueeze(-1)
        return Noised(self.add_noise(x0, noise, t), noise, t)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return ``x0`` noised to times ``t``."""
        if self.config.process == "flow":
            share = (t / self.config.steps).view(-1, 1, 1)
            return (1 - share) * x0 + share * noise
        alpha = self.alphas_cumprod[t].view(-1, 1, 1)
        return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise

    def target(self, x0: Tensor, noised: Noised) -> Tensor:
        """Return what the denoiser should predict, ``(B, N, L)``."""
        if self.config.prediction == "epsilon":
            return noised.noise
        if self.config.prediction == "flow":
            return noised.noise - x0
        alpha = self.alphas_cumprod[noised.t].view(-1, 1, 1)
        return alpha.sqrt() * noised.noise - (1 - alpha).sqrt() * x0

    def clean(self, prediction: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the clean latents ``(B, N, L)`` that a prediction at times ``t`` implies.

        ``t`` is ``(B,)``, or ``(1,)`` where all share it.
        """
        if self.config.prediction == "flow":
            return z - (t / self.config.steps).view(-1, 1, 1) * prediction
        alpha = self.alphas_cumprod[t].view(-1, 1, 1)
        return predicted_x0(prediction, z, alpha, self.config.prediction)

    def estimate(self, prediction: Tensor, noised: Noised, keys: Tensor, share: float) -> Tensor:
        """Return the clean latents that a model with self-conditioning is given in training.

        Those of its own prediction for a share of the crystals, and 0 for the others: a trajectory
        begins without an estimate (Chen et al. 2022, arXiv:2208.04202).
        """
        told = (uniform(fold(keys, "estimate")) < share).view(-1, 1, 1)
        return self.clean(prediction, noised.z, noised.t) * told

    def losses(
        self, prediction: Tensor, variance: Tensor | None, x0: Tensor, noised: Noised, mask: Tensor
    ) -> dict[str, Tensor]:
        """Return ``mse`` and, with learned variance, ``vb`` (bits), each ``(B,)``."""
        error = (prediction - self.target(x0, noised)).square()
        terms = {"mse": crystal_mean(error, mask)}
        if variance is not None:
            bits = self._variational_bits(prediction.detach(), variance, x0, noised)
            terms["vb"] = crystal_mean(bits, mask) * (self.config.steps / 1000)
        return terms

    def _variational_bits(
        self, prediction: Tensor, variance: Tensor, x0: Tensor, noised: Noised
    ) -> Tensor:
        """Return one term of the variational bound, elementwise, in bits.

        Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 4-6: KL of the true to the learned reverse
        step; at t = 0 the likelihood of the data in bins of 2/255.
        """

        def at(table: Tensor) -> Tensor:
            return table[noised.t].view(-1, 1, 1)

        first = (noised.t == 0).view(-1, 1, 1)
        on_x0, on_z = at(self._on_x0), at(self._on_z)
        true_mean = on_x0 * x0 + on_z * noised.z
        alpha = at(self.alphas_cumprod)
        guess = predicted_x0(prediction, noised.z, alpha, self.config.prediction)
        mean = on_x0 * guess + on_z * noised.z
        lower = at(self._log_variance)
        share = (variance + 1) / 2
        log_variance = share * at(self._log_beta) + (1 - share) * lower
        kl = 0.5 * (
            log_variance
            - lower
            + torch.exp(lower - log_variance)
            + (true_mean - mean).square() * torch.exp(-log_variance)
            - 1
        )
        decoder = -_binned_log_likelihood(x0, mean, 0.5 * log_variance)
        return torch.where(first, decoder, kl) / math.log(2)


def crystal_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average ``(B, N, L)`` over real atoms and channels, ``(B,)``."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum((1, 2)) / (mask.sum(1) * values.shape[-1])


def _binned_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-likelihood of ``x`` in a bin of width 2/255, the outer bins open at -1 and 1.

    The normal distribution function is the tanh approximation that the published models use.
    """
    inverse_std = torch.exp(-log_std)
    upper = _normal_cdf(inverse_std * (x - mean + 1 / 255))
    lower = _normal_cdf(inverse_std * (x - mean - 1 / 255))
    inside = torch.log((upper - lower).clamp_min(1e-12))
    below = torch.log(upper.clamp_min(1e-12))
    above = torch.log((1 - lower).clamp_min(1e-12))
    return torch.where(x < -0.999, below, torch.where(x > 0.999, above, inside))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
