"""From a scored rollout to optimizer steps: what each is made of, and the loss of a micro-batch.

Group relative policy optimisation, Shao et al. 2024 (arXiv:2402.03300), on the steps of a reverse
walk as in DDPO (Black et al. 2023, arXiv:2305.13301), or denoising of the best crystals.

Shapes: ``B`` crystals of a rollout, ``C`` pairs of a micro-batch (a crystal and a step of its walk,
or a crystal and a noise level), ``N`` padded atoms, ``L`` latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from chemeleon.config.rl import KLRatio, RLConfig
from chemeleon.crystals.random import fold
from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.diffusion.reverse import ReverseDiffusion, log_probability
from chemeleon.reinforcement.pairs import Piece, cut
from chemeleon.reinforcement.rollout import ESTIMATE, Policy, Rollout

FLAT = 1e-4  # a group whose rewards spread less than this teaches nothing


class Objective(Protocol):
    """What is learned from a rollout, and how.

    Attributes:
        learns_from_steps: every step of the walk is needed, not its end alone.
    """

    learns_from_steps: bool

    def steps(
        self, rollout: Rollout, rewards: Tensor, reverse: ReverseDiffusion, network: nn.Module
    ) -> Iterator[list[Piece]]:
        """Yield the micro-batches of each optimizer step; ``rewards`` are ``(B,)``."""
        ...

    def loss(self, network: nn.Module, piece: Piece) -> dict[str, Tensor]:
        """Return the loss of a micro-batch and what is logged of it."""
        ...


class Terms(NamedTuple):
    """What each pair ``(C,)`` contributes.

    Attributes:
        loss: what is made small.
        surrogate: clipped gain.
        kl: between the old policy and the new, k3 of Schulman's note on approximating it.
        entropy: minus the log-probability.
        ratio: of new to old probability.
        clipped: 1 where clipping holds the gain.
    """

    loss: Tensor
    surrogate: Tensor
    kl: Tensor
    entropy: Tensor
    ratio: Tensor
    clipped: Tensor


def advantages(rewards: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Compare each crystal with its group, whose members are adjacent.

    Args:
        rewards: ``(B,)``.
        group_size: crystals per group.

    Returns:
        ``(B,)`` (reward - mean) / (std + 1e-4), 0 in flat groups; and ``(B,)`` bool, True for
        members of flat groups.
    """
    groups = rewards.float().view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    spread = groups.std(1, keepdim=True)
    flat = (spread < FLAT).expand_as(groups)
    return (centred / (spread + FLAT)).masked_fill(flat, 0).flatten(), flat.flatten()


def grpo_terms(
    new: Tensor,
    old: Tensor,
    advantage: Tensor,
    *,
    clip_ratio: float,
    kl_weight: float,
    kl_ratio: KLRatio,
    entropy_weight: float,
) -> Terms:
    """Return the terms of every pair; arguments are log-probabilities and advantages ``(C,)``."""
    log_ratio = new - old
    ratio = torch.exp(log_ratio)
    bounded = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    gain, limit = ratio * advantage, bounded * advantage
    surrogate = torch.minimum(gain, limit)
    log_r = log_ratio if kl_ratio == "new_over_old" else -log_ratio
    kl = torch.exp(log_r) - 1 - log_r
    loss = -surrogate + kl_weight * kl + entropy_weight * new
    return Terms(loss, surrogate, kl, -new, ratio, (limit < gain).to(ratio.dtype))


class PolicyGradient:
    """GRPO; what of it is as published, ``RLConfig`` says."""

    learns_from_steps = True

    def __init__(
        self,
        config: RLConfig,
        policy: Policy,
        micro_batch: int,
        *,
        reference: nn.Module | None = None,
        exact: bool = True,
    ) -> None:
        """Keep what is needed.

        Args:
            config: settings.
            policy: how the denoiser is called.
            micro_batch: most pairs at a time.
            reference: the model before tuning, for ``reference_kl``.
            exact: networks run in float32, so a batch of another form gives the same numbers.
        """
        self.config, self.policy, self.reference = config, policy, reference
        wish = config.old_log_probs
        self.recompute = wish == "recompute" or (wish == "auto" and not exact)
        self.micro_batch = micro_batch
        self.peak = torch.zeros((), device=policy.device)

    def steps(
        self, rollout: Rollout, rewards: Tensor, reverse: ReverseDiffusion, network: nn.Module
    ) -> Iterator[list[Piece]]:
        """See ``Objective``."""
        config, device = self.config, self.policy.device
        self.reverse = reverse
        advantage, flat = advantages(rewards, config.num_group_samples)
        counted = ~flat if config.filter_zero_variance else torch.ones_like(flat)
        steps = len(reverse) if config.window is None else len(reverse.likely)
        share = counted.float().mean().to(device)
        if config.filter_zero_variance:  # of all processes, whose gradients are averaged
            share: Tensor = reduce(share, "mean")  # pyright: ignore
        scale = counted.to(device) / (share.clamp_min(1e-6) * steps)
        made = rollout.made
        assert made.trajectory is not None
        zs, log_probs = made.trajectory
        if config.likelihood == "per_crystal":
            log_probs = log_probs * made.crystals.num_atoms.to(device) * zs.shape[-1]
        on_device = {"advantage": advantage.to(device), "weight": scale}
        members = torch.arange(len(rewards))
        batches = [members[first :: config.minibatches] for first in range(config.minibatches)]
        prepared = []
        for number, batch in enumerate(batches):
            pieces = []
            parts = cut(rollout, self.policy, batch, reverse.likely, self.micro_batch)
            for empty, crystals, rows, real in parts:
                values = {name: value[crystals] for name, value in on_device.items()}
                values["weight"] = values["weight"] * real * (len(parts) / len(batch))
                values |= {"z": zs[rows, crystals], "sample": zs[rows + 1, crystals]}
                values |= {"old": log_probs[rows, crystals], "step": rows}
                for branch, estimates in enumerate(made.estimates):
                    values[f"{ESTIMATE}{branch}"] = estimates[rows, crystals]
                # nothing has been learned yet: what is computed now is the old probability
                fresh = number == 0 and self.recompute
                values["fresh"] = torch.full_like(rows, fresh, dtype=torch.bool)
                piece = empty._replace(values={**empty.values, **values})
                pieces.append(
                    self._prepare(piece, network, recompute=self.recompute and number > 0)
                )
            pieces[0] = pieces[0]._replace(members=len(batch))
            prepared.append(pieces)
        yield from prepared

    @torch.no_grad()
    def _prepare(self, piece: Piece, network: nn.Module, *, recompute: bool) -> Piece:
        values = dict(piece.values)
        with self.policy.autocast():
            if recompute:
                mean, std = self._gaussian(network, piece)
                values["old"] = self._log_prob(piece, mean, std)
            if self.reference is not None:
                values["reference"], _ = self._gaussian(self.reference, piece)
        return piece._replace(values=values)

    def _gaussian(self, network: nn.Module, piece: Piece) -> tuple[Tensor, Tensor]:
        values, reverse = piece.values, self.reverse
        z, step = values["z"], values["step"]
        times, steps = reverse.times[step], len(reverse)
        found = self.policy.predict(network, values, z, times, full=piece.full, steps=steps)
        return reverse.gaussian(step, z, *found)

    def _log_prob(self, piece: Piece, mean: Tensor, std: Tensor) -> Tensor:
        found = log_probability(piece.values["sample"], mean, std, piece.mask)
        if self.config.likelihood == "per_crystal":
            found = found * piece.values["num_atoms"] * mean.shape[-1]
        return found

    def loss(self, network: nn.Module, piece: Piece) -> dict[str, Tensor]:
        """See ``Objective``; logged terms are means over the steps that count."""
        config, values = self.config, piece.values
        mean, std = self._gaussian(network, piece)
        new = self._log_prob(piece, mean, std)
        old = torch.where(values["fresh"], new.detach(), values["old"])
        terms = grpo_terms(
            new,
            old,
            values["advantage"],
            clip_ratio=config.clip_ratio,
            kl_weight=config.kl_weight,
            kl_ratio=config.kl_ratio,
            entropy_weight=config.entropy_weight,
        )
        weight = values["weight"]
        loss = (terms.loss * weight).sum()
        # the loss is divided by all steps of the walk, as published
        each = weight * self._mean_scale()
        logged = {name: (value * each).sum() for name, value in terms._asdict().items()}
        del logged["loss"]
        if "reference" in values:
            mask = piece.mask.unsqueeze(-1)
            distance = (0.5 * ((mean - values["reference"]) / std).square() * mask).sum((1, 2))
            if config.likelihood == "per_atom":
                distance = distance / (values["num_atoms"] * mean.shape[-1])
            loss = loss + config.reference_kl * (distance * weight).sum()
            logged["reference_kl"] = (distance * each).sum()
        off = ((terms.ratio - 1).abs() * (weight > 0)).detach().max()
        self.peak.copy_(torch.maximum(self.peak, off))
        return {"loss": loss, **logged}

    def _mean_scale(self) -> float:
        walk, likely = len(self.reverse), len(self.reverse.likely)
        return 1.0 if self.config.window is not None else walk / likely

    def ratio_peak(self) -> float:
        """Return the largest distance of a ratio from 1 since the last call."""
        found = float(self.peak)
        self.peak.zero_()
        return found


class Rejection:
    """Denoising of the best crystals of each group, drawn anew at every update (no replay).

    RAFT (Dong et al. 2023, arXiv:2304.06767), with the loss that the model was trained with.
    """

    learns_from_steps = False

    def __init__(self, config: RLConfig, policy: Policy, micro_batch: int) -> None:
        self.config, self.policy = config, policy
        self.process = NoiseProcess(policy.model.config.diffusion, policy.device)
        self.micro_batch = micro_batch

    def steps(
        self, rollout: Rollout, rewards: Tensor, reverse: ReverseDiffusion, network: nn.Module
    ) -> Iterator[list[Piece]]:
        """See ``Objective``."""
        config, device = self.config, self.policy.device
        size = config.num_group_samples
        kept = max(config.minibatches, round(config.top_fraction * size))
        ranked = rewards.view(-1, size).argsort(dim=1, descending=True, stable=True)[:, :kept]
        best = ranked + torch.arange(len(ranked)).unsqueeze(1) * size
        clean, keys = rollout.made.clean, rollout.prompts.keys.to(device)
        for first in range(config.minibatches):
            batch = best[:, first :: config.minibatches].flatten()
            draws = list(range(config.noise_draws))
            parts = cut(rollout, self.policy, batch, draws, self.micro_batch)
            pieces = []
            for empty, crystals, rows, real in parts:
                weight = real * (len(parts) / (len(batch) * config.noise_draws))
                values = {"clean": clean[crystals], "weight": weight}
                values["keys"] = fold(keys[crystals], "draw", rows)
                pieces.append(empty._replace(values={**empty.values, **values}))
            pieces[0] = pieces[0]._replace(members=len(rewards) // config.minibatches)
            yield pieces

    def loss(self, network: nn.Module, piece: Piece) -> dict[str, Tensor]:
        """See ``Objective``."""
        values = piece.values
        x0, mask = values["clean"], piece.mask
        noised = self.process.draw(x0, mask, values["keys"])

        def predict(*estimate: Tensor) -> tuple[Tensor, Tensor | None]:
            given = {**values, **{f"{ESTIMATE}{i}": x for i, x in enumerate(estimate)}}
            return self.policy.predict(network, given, noised.z, noised.t, full=piece.full, steps=1)

        estimate = []
        if self.policy.model.config.denoiser.self_conditioning:
            with torch.no_grad():
                first, _ = predict(torch.zeros_like(x0))
            told = self.policy.model.config.denoiser.told
            estimate = [self.process.estimate(first, noised, values["keys"], told)]
        prediction, variance = predict(*estimate)
        each = self.process.losses(prediction, variance, x0, noised, mask)
        terms = {name: (value * values["weight"]).sum() for name, value in each.items()}
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}
