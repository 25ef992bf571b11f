"""The denoiser of one batch, with conditions, guidance and self-conditioning.

`GuidedDenoiser` answers for pairs of crystals and steps, as training needs them,
`StepwiseDenoiser` for one step of a trajectory after the other.

Shapes: ``B`` crystals of a batch, or pairs of a crystal and a step, ``N`` padded atoms, ``L``
latent channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from threading import Event
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.generation.conditioning import Conditioning
from chemeleon.models.condition_encoder import Request
from chemeleon.models.networks.base import Known
from chemeleon.models.packing import Layout
from chemeleon.models.replay import Replayed


class Evaluated(NamedTuple):
    """What the denoiser says: ``prediction`` and the place of the ``variance`` (or None), both
    ``(B, N, L)``, and the ``clean`` latents they imply, for models with self-conditioning."""

    prediction: Tensor
    variance: Tensor | None
    clean: Tensor | None


class GuidedDenoiser:
    """The denoiser of one batch, with all that it is given beside latents and times."""

    def __init__(
        self,
        network: nn.Module,
        num_atoms: Tensor,
        layout: Layout,
        known: Known,
        conditioning: Conditioning,
        process: NoiseProcess | None,
    ) -> None:
        """Bind the network to a batch.

        Args:
            network: a ``LatentDiffusion``, or what training has made of it.
            num_atoms: ``(B,)``.
            layout: where the atoms are.
            known: of ``LatentDiffusion.known``, what the model is conditioned on.
            conditioning: conditions and guidance.
            process: of a model with self-conditioning, whose last estimate of the clean latents it
                is given; None without.
        """
        self.network, self.num_atoms, self.layout, self.known = network, num_atoms, layout, known
        self.conditioning, self.process = conditioning, process
        self.branches = conditioning.branches()

    def evaluate(
        self, request: Request | None, z: Tensor, t: Tensor, *estimate: Tensor
    ) -> Evaluated:
        """Evaluate the network for latents ``(B, N, L)`` at times ``(B,)``, or ``(1,)`` for all."""
        features, hidden = request or (None, None)
        out = self.network(
            z, t, self.num_atoms, features, hidden, self.layout, self.known, *estimate
        )
        prediction = out.prediction.float()
        variance = None if out.variance is None else out.variance.float()
        clean = None if self.process is None else self.process.clean(prediction, z, t)
        return Evaluated(prediction, variance, clean)

    def predict(
        self, z: Tensor, t: Tensor, estimates: Sequence[Tensor] = (), guided: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return prediction and variance of pairs of crystals and steps.

        Args:
            z: ``(B, N, L)`` latents.
            t: ``(B,)`` times.
            estimates: of models with self-conditioning: for each branch the ``(B, N, L)`` clean
                latents estimated in the step before.
            guided: ``(B,)`` bool, which pairs are guided; all if not given.
        """
        given = [[x] for x in estimates] or [[] for _ in self.branches]
        found = [
            self.evaluate(request, z, t, *estimate)
            for request, estimate in zip(self.branches, given, strict=True)
        ]
        if len(found) == 1:
            return found[0].prediction, found[0].variance
        return guide(found[0], found[1], self.conditioning.guidance, guided)


class StepwiseDenoiser:
    """A `GuidedDenoiser` as reverse diffusion calls it, step by step.

    Attributes:
        estimates: with ``record`` and self-conditioning, for each step and branch the clean
            latents ``(B, N, L)`` that the network was given.
    """

    def __init__(
        self,
        denoiser: GuidedDenoiser,
        steps: int,
        *,
        stop: Event | None = None,
        graphs: bool = True,
        record: bool = False,
    ) -> None:
        """Begin.

        Args:
            denoiser: of the batch.
            steps: of the trajectory.
            stop: set by whoever no longer wants the crystals.
            graphs: record an evaluation on a GPU and replay it in the other steps; the object must
                then live until the crystals are in main memory.
            record: keep ``estimates``.
        """
        self.denoiser, self.stop, self.record = denoiser, stop, record
        self.guided = denoiser.conditioning.guided(steps)
        self.steps = itertools.count()
        self.last: list[Tensor | None] = [None] * len(denoiser.branches)
        self.estimates: list[list[Tensor]] = []
        self.evaluations = [self._evaluation(request, graphs) for request in denoiser.branches]

    def _evaluation(self, request: Request | None, graphs: bool) -> Callable[..., Evaluated]:
        def evaluate(z: Tensor, t: Tensor, *estimate: Tensor) -> Evaluated:
            return self.denoiser.evaluate(request, z, t[:1], *estimate)  # all are at the same time

        return Replayed(evaluate) if graphs else evaluate

    def __call__(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return prediction and variance of the next step.

        Raises:
            CancelledError: if ``stop`` is set.
        """
        if self.stop is not None and self.stop.is_set():
            raise CancelledError
        guided = next(self.steps) in self.guided
        remembers = self.denoiser.process is not None
        if remembers:
            self.last = [torch.zeros_like(z) if x is None else x for x in self.last]
            if self.record:
                self.estimates.append([x.clone() for x in self.last if x is not None])
        found: list[Evaluated] = []
        for branch, evaluate in enumerate(self.evaluations):
            if branch == 0 or guided:
                found.append(evaluate(z, t, *([self.last[branch]] if remembers else [])))
                self.last[branch] = found[branch].clean
        if len(found) == 1:
            return found[0].prediction, found[0].variance
        return guide(found[0], found[1], self.denoiser.conditioning.guidance)


def guide(
    conditional: Evaluated, unconditional: Evaluated, scale: float, guided: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return ``unconditional + scale * (conditional - unconditional)``, for the prediction and the
    place of the variance alike, as the published models do.

    Classifier-free guidance, Ho and Salimans 2022 (arXiv:2207.12598): 0 is unconditional, 1
    conditional, more is guided more strongly.

    Args:
        conditional: what the denoiser says with the conditions.
        unconditional: and without them.
        scale: of guidance.
        guided: ``(B,)`` bool, which are guided; the others are conditional. All if not given.
    """
    found: list[Tensor | None] = []
    for with_it, without in zip(conditional[:2], unconditional[:2], strict=True):
        if with_it is None or without is None:
            found.append(None)
            continue
        steered = without + scale * (with_it - without)
        if guided is not None:
            steered = torch.where(guided.view(-1, 1, 1), steered, with_it)
        found.append(steered)
    assert found[0] is not None
    return found[0], found[1]
