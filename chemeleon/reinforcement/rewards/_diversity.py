"""How much a crystal does for the likeness of the batch to the training set.

The squared maximum mean discrepancy of features, unbiased, with the kernel ``(x.y / F + 1)^3``
(Binkowski et al., arXiv:1801.01401, section 4), is computed with and without each crystal. The
reward is the difference: positive if the discrepancy is larger without it.

Shapes: ``M`` crystals, ``R`` references, ``F`` features.
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor

from chemeleon.config.bounds import Section
from chemeleon.crystals.batch import Crystals
from chemeleon.models.pretrained import place
from chemeleon.models.vae import CrystalVAE
from chemeleon.reinforcement.rewards.base import (
    Answer,
    Candidates,
    Context,
    Reward,
    needs_reference,
)

_DEGREE = 3


class DiversityOptions(Section):
    """Settings of the diversity rewards."""

    vae: str | None = Field(
        default=None,
        description="VAE that gives the features: folder or hub:NAME; that of the tuned model"
        " by default.",
    )


class Diversity(Reward):
    """Change of the discrepancy to the training set when a crystal is left out."""

    Options = DiversityOptions
    busy = "gpu"

    def __init__(self, options: DiversityOptions, context: Context) -> None:
        super().__init__(options, context)
        vae = context.vae if options.vae is None else CrystalVAE.from_pretrained(options.vae)
        assert vae is not None
        assert context.reference is not None
        self.vae = place(vae, context.device) if options.vae else vae
        self.reference = self.features(context.reference)

    @classmethod
    def problems(cls, options: DiversityOptions, context: Context) -> list[str]:
        """See `Reward`."""
        missing = needs_reference(context)
        if options.vae is None and context.vae is None:
            missing.append("needs a VAE for its features: options.vae=FOLDER")
        return missing

    @abstractmethod
    def features(self, crystals: Crystals) -> Tensor:
        """Return ``(M, F)`` float64 features."""

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        return candidates.of_sound(lambda part: leave_one_out(self.features(part), self.reference))


def polynomial_mmd(sample: Tensor, reference: Tensor) -> Tensor:
    """Return the squared discrepancy of ``(M, F)`` and ``(R, F)``, unbiased."""
    inner, within = _kernel(sample, sample), _kernel(reference, reference)
    m, r = len(sample), len(reference)
    first = (inner.sum() - inner.trace()) / (m * (m - 1))
    second = (within.sum() - within.trace()) / (r * (r - 1))
    return first + second - 2 * _kernel(sample, reference).mean()


def leave_one_out(sample: Tensor, reference: Tensor) -> Tensor:
    """Return by how much `polynomial_mmd` grows without each sample, ``(M,)``.

    The references' own term drops out. Fewer than three samples have no such difference: zeros.
    """
    m, r = len(sample), len(reference)
    if m < 3:
        return sample.new_zeros(m)
    inner = _kernel(sample, sample).fill_diagonal_(0)
    rows, outer = inner.sum(1), _kernel(sample, reference).sum(1)
    whole = rows.sum() / (m * (m - 1)) - 2 * outer.sum() / (m * r)
    without = (rows.sum() - 2 * rows) / ((m - 1) * (m - 2))
    without = without - 2 * (outer.sum() - outer) / ((m - 1) * r)
    return without - whole


def _kernel(one: Tensor, two: Tensor) -> Tensor:
    return (one @ two.T / one.shape[-1] + 1).pow(_DEGREE)
