"""What a policy update learns from: crystals made in groups by the present model.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels. All random numbers are functions
of the seed, the update and the numbers of group and member, so a rollout is the same after a resume
and on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.random import fold, integers, make_keys
from chemeleon.data.loader import PACK_BELOW
from chemeleon.diffusion.reverse import ReverseDiffusion
from chemeleon.generation.conditioning import ALL, Conditioning
from chemeleon.generation.denoising import GuidedDenoiser
from chemeleon.generation.pipeline import Made, Pipeline
from chemeleon.models.condition_encoder import Request
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.networks.base import Known
from chemeleon.models.packing import Layout

TOKEN_PARTS = 16  # numbers of tokens are rounded up to this part of the slots: few shapes to record
FEATURE = "feature "  # a condition's features among the inputs
ESTIMATE = "estimate "  # and the clean latents that a branch of guidance was given


class Prompts(NamedTuple):
    """What is requested.

    Attributes:
        crystals: ``(B,)`` the training crystal whose size, condition or composition each one takes.
        group: ``(B,)`` number of its group, counted within the process; members are adjacent.
        keys: ``(B,)`` random keys.
        start_keys: ``(B,)`` keys of the initial noise.
    """

    crystals: Tensor
    group: Tensor
    keys: Tensor
    start_keys: Tensor


class Rollout(NamedTuple):
    """Crystals, and how the policy came to them.

    Attributes:
        prompts: what was requested.
        width: padded number of atoms ``N``.
        made: the crystals with their trajectories.
    """

    prompts: Prompts
    width: int
    made: Made


def draw_prompts(
    seed: int,
    update: int,
    *,
    groups: int,
    group_size: int,
    crystals: int,
    shared_noise: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Prompts:
    """Choose what a process asks for: every ``world``-th group, beginning with ``rank``.

    Args:
        seed: of the run.
        update: number of the update.
        groups: of all processes.
        group_size: crystals per group.
        crystals: number of training crystals.
        shared_noise: all members of a group start from the same noise.
        rank: this process.
        world: number of processes.
    """
    mine = fold(make_keys(seed, torch.arange(rank, groups, world)), "update", update)
    index = integers(fold(mine, "prompt"), crystals).repeat_interleave(group_size)
    of_group = mine.repeat_interleave(group_size)
    members = torch.arange(group_size).repeat(len(mine))
    keys = fold(of_group, "member", members)
    group = torch.arange(len(mine)).repeat_interleave(group_size)
    return Prompts(index, group, keys, of_group if shared_noise else keys)


class Policy:
    """The denoiser as rollouts and training call it, conditions and guidance included."""

    def __init__(
        self,
        model: LatentDiffusion,
        source: Crystals,
        guidance: float | None,
        interval: tuple[float, float],
        pad_to_multiple: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        graphs: bool = True,
    ) -> None:
        """Bind the model to the crystals whose sizes and conditions are requested.

        Args:
            model: the model, on its device.
            source: training crystals, in main memory.
            guidance: scale, None for the condition alone.
            interval: part of the trajectory that is guided.
            pad_to_multiple: padded sizes are multiples of this.
            autocast: context in which networks run.
            graphs: record an evaluation on a GPU and replay it in the rest of a trajectory.
        """
        self.model, self.source = model, source
        self.guidance, self.interval = 1.0 if guidance is None else guidance, interval
        self.autocast, self.pad_to_multiple, self.graphs = autocast, pad_to_multiple, graphs
        self.device = model.latent_mean.device
        self.pipeline = Pipeline(model, self.device)

    def width(self, index: Tensor) -> int:
        """Return the padded number of atoms for the training crystals ``index``."""
        largest = int(self.source.num_atoms[index].max())
        return -(-largest // self.pad_to_multiple) * self.pad_to_multiple

    def shapes(self, index: Tensor, width: int) -> CrystalBatch:
        """Return the training crystals ``index`` ``(B,)`` as a packed batch on the device.

        Sizes, conditions and, for csp, elements (and sites of orbits) are read from it.
        """
        slots, atoms = len(index) * width, int(self.source.num_atoms[index].sum())
        step = max(1, slots // TOKEN_PARTS)
        tokens = min(-(-atoms // step) * step, slots)
        packed = atoms == slots or tokens < PACK_BELOW * slots
        return self.source.batch(index, width, tokens if packed else None).to(self.device)

    def inputs(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Return what the denoiser is given beside latents and times, as tensors by name."""
        found = {"num_atoms": batch.num_atoms}
        if batch.tokens is not None:
            found["slots"] = batch.tokens
        known = self.model.known(batch)._asdict()
        found |= {name: value for name, value in known.items() if value is not None}
        conditions = self.model.denoiser.conditions
        if conditions is not None:
            features = conditions.featurise(batch)
            found |= {FEATURE + name: value for name, value in features.items()}
        return found

    def _conditioning(self, inputs: Mapping[str, Tensor]) -> Conditioning:
        features = {k.removeprefix(FEATURE): v for k, v in inputs.items() if k.startswith(FEATURE)}
        shown = torch.zeros_like(inputs["num_atoms"], dtype=torch.bool)
        request = Request(features, dict.fromkeys(features, shown)) if features else None
        return Conditioning(request, self.guidance, self.interval, None)

    def predict(
        self,
        network: nn.Module,
        inputs: Mapping[str, Tensor],
        z: Tensor,
        t: Tensor,
        *,
        full: bool,
        steps: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Return prediction and variance of pairs of crystals and steps.

        Args:
            network: the model, as prepared for training or bare.
            inputs: of `inputs`, with the numbers of the steps as ``step`` and, for models with
                self-conditioning, what each branch of guidance was given.
            z: ``(C, N, L)`` latents.
            t: ``(C,)`` times.
            full: the batch has no padding.
            steps: of a trajectory.
        """
        sizes = inputs["num_atoms"]
        mask = torch.arange(z.shape[1], device=sizes.device) < sizes.unsqueeze(-1)
        layout = Layout.from_mask(mask, sizes, inputs.get("slots"), full=full)
        conditioning = self._conditioning(inputs)
        known = Known(*map(inputs.get, Known._fields))
        given = (sizes, layout, known, conditioning, self.pipeline.estimator)
        estimates = [value for key, value in inputs.items() if key.startswith(ESTIMATE)]
        guided = None
        if self.interval != ALL:
            places = conditioning.guided(steps)
            guided = (inputs["step"] >= places.start) & (inputs["step"] < places.stop)
        return GuidedDenoiser(network, *given).predict(z, t, estimates, guided)

    def roll_out(
        self, network: nn.Module, prompts: Prompts, reverse: ReverseDiffusion, *, record: bool
    ) -> Rollout:
        """Make the requested crystals, in one batch.

        Args:
            network: the model, as prepared for training or bare.
            prompts: what is requested.
            reverse: the trajectory's steps.
            record: keep latents and likelihoods of every step, which policy gradients learn from.
        """
        width = self.width(prompts.crystals)
        shapes = self.shapes(prompts.crystals, width)
        training = network.training
        network.eval()  # blocks then join their small operations on a GPU
        made = self.pipeline.make(
            reverse,
            shapes,
            self._conditioning(self.inputs(shapes)),
            prompts.keys,
            autocast=self.autocast(),
            start_keys=prompts.start_keys,
            network=network,
            graphs=self.graphs,
            record=record,
        )
        network.train(training)
        return Rollout(prompts, width, made)
