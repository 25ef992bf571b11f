"""What a policy update learns from: crystals made in groups by the present model.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels. All random numbers are functions
of the seed, the update and the numbers of group and member, so a rollout is the same after a resume
and on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chemeleon.crystals.batch import CrystalBatch, FlatCrystals
from chemeleon.crystals.lattice import wrap
from chemeleon.crystals.random import fold, integers, make_keys, normal
from chemeleon.data.loader import PACK_BELOW
from chemeleon.diffusion.sampler import Predict, guided
from chemeleon.diffusion.transitions import Trajectory, Transitions
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.packing import Layout
from chemeleon.models.replay import Replayed

TOKEN_PARTS = 16  # numbers of tokens are rounded up to this part of the slots: few shapes to record
FEATURE = "feature "  # a condition's features among the inputs


class Prompts(NamedTuple):
    """What is asked for.

    Attributes:
        asked: ``(B,)`` the training crystal whose size, condition or composition each one takes.
        group: ``(B,)`` number of its group, counted within the process; members are adjacent.
        keys: ``(B,)`` random keys.
        start_keys: ``(B,)`` keys of the initial noise.
    """

    asked: Tensor
    group: Tensor
    keys: Tensor
    start_keys: Tensor


class Rollout(NamedTuple):
    """Crystals, and how the policy came to them.

    Attributes:
        prompts: what was asked for.
        trajectory: the walks, on the device.
        width: padded number of atoms ``N``.
        crystals: what was decoded, in main memory.
    """

    prompts: Prompts
    trajectory: Trajectory
    width: int
    crystals: FlatCrystals


def draw_prompts(
    seed: int,
    update: int,
    *,
    groups: int,
    group_size: int,
    crystals: int,
    same_noise: bool = False,
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
        same_noise: all members of a group start from the same noise.
        rank: this process.
        world: number of processes.
    """
    mine = fold(make_keys(seed, torch.arange(rank, groups, world)), "update", update)
    index = integers(fold(mine, "prompt"), crystals).repeat_interleave(group_size)
    of_group = mine.repeat_interleave(group_size)
    members = torch.arange(group_size).repeat(len(mine))
    keys = fold(of_group, "member", members)
    group = torch.arange(len(mine)).repeat_interleave(group_size)
    return Prompts(index, group, keys, of_group if same_noise else keys)


class Policy:
    """The denoiser as it is asked in rollouts and in training, conditions and guidance included."""

    def __init__(
        self,
        model: LatentDiffusion,
        source: FlatCrystals,
        guidance: float | None,
        bucket: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        graphs: bool = True,
    ) -> None:
        """Bind the model to the crystals whose sizes and conditions it is asked for.

        Args:
            model: the model, on its device.
            source: training crystals, in main memory.
            guidance: scale, None for the condition alone.
            bucket: padded sizes are multiples of this.
            autocast: context in which networks run.
            graphs: record an evaluation on a GPU and replay it in the rest of the walk.
        """
        self.model, self.source, self.guidance = model, source, guidance
        self.autocast = autocast
        self.bucket = bucket
        self.told = model.config.denoiser.types  # such models are given the elements
        self.device = model.latent_mean.device
        self.graphs = graphs and self.device.type == "cuda"

    def width(self, index: Tensor) -> int:
        """Return the padded number of atoms for the training crystals ``index``."""
        largest = int(self.source.num_atoms[index].max())
        return -(-largest // self.bucket) * self.bucket

    def shapes(self, index: Tensor, width: int) -> CrystalBatch:
        """Return the training crystals ``index`` ``(B,)`` as a packed batch on the device.

        Sizes, conditions and, for csp, elements are read from it.
        """
        slots, atoms = len(index) * width, int(self.source.num_atoms[index].sum())
        step = max(1, slots // TOKEN_PARTS)
        tokens = min(-(-atoms // step) * step, slots)
        packed = atoms == slots or tokens < PACK_BELOW * slots
        return self.source.batch(index, width, tokens if packed else None).to(self.device)

    def inputs(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Return what the denoiser is given beside latents and times."""
        found = {"num_atoms": batch.num_atoms}
        if batch.tokens is not None:
            found["slots"] = batch.tokens
        if self.told:
            found["types"] = batch.atomic_numbers
        conditions = self.model.denoiser.conditions
        if conditions is not None:
            features = conditions.featurise(batch)
            found |= {FEATURE + name: value for name, value in features.items()}
        return found

    def predictor(
        self,
        network: nn.Module,
        inputs: Mapping[str, Tensor],
        width: int,
        *,
        full: bool,
        one_time: bool,
    ) -> Predict:
        """Return the denoiser as a function of latents ``(B, N, L)`` and times ``(B,)``.

        Args:
            network: the model, as prepared for training or bare.
            inputs: of `inputs`.
            width: ``N``.
            full: the batch has no padding.
            one_time: all crystals are at the same time.
        """
        sizes = inputs["num_atoms"]
        mask = torch.arange(width, device=sizes.device) < sizes.unsqueeze(-1)
        layout = Layout.from_mask(mask, sizes, inputs.get("slots"), full=full)
        features = {k.removeprefix(FEATURE): v for k, v in inputs.items() if k.startswith(FEATURE)}
        extra = {"types": inputs["types"]} if "types" in inputs else {}

        def given(hide: bool) -> Predict:
            hidden = torch.full_like(sizes, hide, dtype=torch.bool)
            drop = dict.fromkeys(features, hidden)

            def predict(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
                t = t[:1] if one_time and not features else t
                out = network(z, t, sizes, features or None, drop or None, layout, **extra)
                variance = out.variance
                return out.prediction.float(), None if variance is None else variance.float()

            return predict

        if not features or self.guidance is None:
            return given(hide=False)
        return guided(given(hide=False), given(hide=True), self.guidance)

    @torch.no_grad()
    def roll_out(self, network: nn.Module, prompts: Prompts, transitions: Transitions) -> Rollout:
        """Make the crystals that were asked for, in one batch."""
        width = self.width(prompts.asked)
        shapes = self.shapes(prompts.asked, width)
        start = normal(
            fold(prompts.start_keys.to(self.device), "start"),
            (width, self.model.vae.config.latent_dim),
        )
        training = network.training
        network.eval()  # blocks then join their small operations on a GPU
        with self.autocast():  # around the whole walk: weights are rounded once
            predict = self.predictor(
                network, self.inputs(shapes), width, full=shapes.full, one_time=True
            )
            if self.graphs:  # it must live until the crystals are in main memory
                predict = Replayed(predict)
            keys = prompts.keys.to(self.device)
            trajectory = transitions.walk(predict, start, shapes.mask, keys)
            z = self.model.unstandardise(trajectory.zs[-1]) * shapes.mask.unsqueeze(-1)
            decoded = self.model.vae.decode(z, shapes)
        network.train(training)
        price = transitions.sampler.element_price
        flat = self.model.vae.to_crystals(decoded, shapes, price).to("cpu").flatten()
        crystals = replace(flat, frac_coords=wrap(flat.frac_coords))
        return Rollout(prompts, trajectory, width, crystals)
