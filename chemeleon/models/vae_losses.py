"""What the VAE is trained for: to give back the crystals that it was shown.

Shapes: ``B`` crystals, ``N`` padded atoms.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from chemeleon.config.architecture import VAELossConfig
from chemeleon.crystals.batch import LETTERS, CrystalBatch
from chemeleon.crystals.lattice import lattice_angles, lattice_lengths
from chemeleon.models.vae import VAEOutput, sites_of


def vae_losses(
    output: VAEOutput,
    target: CrystalBatch,
    weights: VAELossConfig,
    atoms: float | Tensor,
    crystals: float | Tensor,
) -> dict[str, Tensor]:
    """Return the weighted total ``loss`` and its unweighted terms.

    Args:
        output: what the model made of ``target``.
        target: the crystals to be reproduced.
        weights: weights of the terms.
        atoms: number that sums over atoms are divided by (the batch's, unless it is a share of a
            larger one).
        crystals: the same for sums over crystals.
    """
    mask = target.mask
    decoded = output.decoded
    lengths, angles = lattice_lengths(target.lattice), lattice_angles(target.lattice)
    terms = {
        "lengths": (decoded.lengths - lengths / output.scale).square().sum() / (3 * crystals),
        "angles": (decoded.angles - angles).square().sum() / (3 * crystals),
        "coords": (_coordinate_error(output, target.frac_coords) * mask).sum() / atoms,
        "kl": (output.posterior.kl() * mask).sum() / atoms,
    }
    if decoded.type_logits is not None:
        # flat over atoms: PyTorch sums classes more exactly along the last axis
        entropy = F.cross_entropy(
            decoded.type_logits.flatten(0, 1), target.atomic_numbers.flatten(), reduction="none"
        )
        terms["types"] = (entropy * mask.flatten()).sum() / atoms
    if decoded.letter_logits is not None:
        letters = sites_of(target) % LETTERS
        entropy = F.cross_entropy(
            decoded.letter_logits.flatten(0, 1), letters.flatten(), reduction="none"
        )
        terms["letters"] = (entropy * mask.flatten()).sum() / atoms
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return {"loss": torch.as_tensor(total), **terms}


def _coordinate_error(output: VAEOutput, target: Tensor) -> Tensor:
    """Return the mean squared error of an atom's coordinates, ``(B, N)``; fixed ones have none.

    For the angle head it is the square of the wrapped difference, in units of the cell, plus a
    pull of the pair's length towards 1, without which the pair may shrink and the angle jump.
    """
    coords = output.decoded.coords
    if coords.shape[-1] == 3:
        return (coords - target).square().mean(-1)
    sine, cosine = coords.chunk(2, dim=-1)
    angle = 2 * math.pi * target
    true_sine, true_cosine = torch.sin(angle), torch.cos(angle)
    # atan2 of the rotated pair is the signed difference on the circle: no wrap-around, and the
    # gradient is that of the shortest way
    difference = torch.atan2(
        sine * true_cosine - cosine * true_sine, cosine * true_cosine + sine * true_sine + 1e-8
    ) / (2 * math.pi)
    length = torch.sqrt(sine.square() + cosine.square() + 1e-8)
    error = difference.square() + 0.01 * (length - 1).square()
    if output.fixed is not None:
        error = error.masked_fill(output.fixed, 0.0)
    return error.mean(-1)
