"""Several rewards as the one that a policy is tuned for.

Rewards that keep the GPU busy run in a thread of their own beside those that keep the cores busy.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from chemeleon.config.rl import Combine, Normalise, RewardConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.soundness import structural_problems
from chemeleon.errors import ChemeleonError, TrainingError
from chemeleon.reinforcement.rewards._loading import make_rewards
from chemeleon.reinforcement.rewards.base import Answer, Candidates, Context, Reward

if TYPE_CHECKING:
    from chemeleon.models.vae import CrystalVAE

logger = logging.getLogger(__name__)
_EXAMPLES = 3
EPSILON = 1e-4  # as published; added to what is divided by


class Scores(NamedTuple):
    """What a mix says of ``M`` crystals; tensors are on the device of the crystals.

    Attributes:
        total: ``(M,)`` float32, the normalised rewards combined.
        raw: each reward before normalising, ``(M,)`` float32, floors filled in.
        failed: how many crystals got the floor, of each reward.
        facts: columns ``(M,)`` that rewards found on the way: ``valid``, ``unique``, ``novel``,
            ``e_hull`` (eV/atom, NaN where unknown) and others.
        seconds: time that each reward took.
    """

    total: Tensor
    raw: dict[str, Tensor]
    failed: dict[str, int]
    facts: dict[str, Tensor]
    seconds: dict[str, float]


class Mix:
    """Several rewards, scaled and combined.

    Args:
        configs: the rewards by the names they have in logs.
        reference: the training set; rewards that compare with it refuse to be made without one.
        device: for batched work.
        jobs: worker processes; all cores if None.
        vae: autoencoder of the model that is tuned, whose features the diversity rewards use
            unless their options name another.
        combine: see `RLConfig`.

    Raises:
        ConfigError: with all that is wrong with any of the rewards.
    """

    def __init__(
        self,
        configs: Mapping[str, RewardConfig],
        *,
        reference: Crystals | None,
        device: torch.device,
        jobs: int | None = None,
        vae: CrystalVAE | None = None,
        combine: Combine = "sum",
    ) -> None:
        self.combine: Combine = combine
        home = None if reference is None else reference.to("cpu")
        self.configs = dict(configs)
        self.device = torch.device(device)
        self.rewards = make_rewards(configs, Context(home, self.device, vae, jobs))

    @property
    def judges(self) -> list[str]:
        """The potentials and predictors that score: they must not judge the tuned model."""
        return sorted({reward.judge for reward in self.rewards.values() if reward.judge})

    def score(self, crystals: Crystals, group: Tensor) -> Scores:
        """Score crystals.

        Args:
            crystals: ``M`` crystals, on any device, sound or not.
            group: ``(M,)`` int64 number of each crystal's group.

        Raises:
            TrainingError: if a reward does not work at all; names it and the crystal.
        """
        device = crystals.num_atoms.device
        candidates = _candidates(crystals, group)
        answers, seconds = self._answers(candidates)
        scaled: dict[str, Tensor] = {}
        raw: dict[str, Tensor] = {}
        failed: dict[str, int] = {}
        facts = {"valid": candidates.sound}
        for name, answer in answers.items():
            config = self.configs[name]
            values = answer.values.detach().cpu().double()
            lost = ~torch.isfinite(values)
            failed[name] = int(lost.sum())
            if failed[name]:
                values = values.masked_fill(lost, _floor(self.rewards[name], values[~lost]))
                _tell(name, candidates, answer, lost)
            members = candidates.group
            if config.within == "batch":
                members = torch.zeros_like(members)
            scaled[name] = normalise(values, members, config.normalise)
            raw[name] = values.float().to(device)
            facts.update({key: column.cpu() for key, column in answer.facts.items()})
        facts = {key: column.to(device) for key, column in facts.items()}
        weights = {name: self.configs[name].weight for name in scaled}
        total = combined(scaled, weights, candidates.group, self.combine)
        return Scores(total.float().to(device), raw, failed, facts, seconds)

    def _answers(self, candidates: Candidates) -> tuple[dict[str, Answer], dict[str, float]]:
        """Ask all rewards; those for the GPU in a second thread if there is one."""
        found: dict[str, Answer] = {}
        seconds: dict[str, float] = {}

        def ask(names: list[str]) -> None:
            for name in names:
                begin = perf_counter()
                # a thread begins with the first device and without the caller's modes
                with (
                    torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext(),
                    torch.autocast(self.device.type, enabled=False),
                    torch.no_grad(),
                ):
                    found[name] = _ask(name, self.rewards[name], candidates)
                seconds[name] = perf_counter() - begin

        on_gpu = [name for name, reward in self.rewards.items() if reward.busy == "gpu"]
        others = [name for name in self.rewards if name not in on_gpu]
        if on_gpu and others:
            with ThreadPoolExecutor(1) as executor:
                beside = executor.submit(ask, on_gpu)
                ask(others)
                beside.result()
        else:
            ask([*on_gpu, *others])
        return {name: found[name] for name in self.rewards}, seconds


def _candidates(crystals: Crystals, group: Tensor) -> Candidates:
    moved = crystals.to("cpu")
    moved = replace(moved, frac_coords=moved.frac_coords - torch.floor(moved.frac_coords))
    return Candidates(moved, group.cpu(), structural_problems(moved))


def _ask(name: str, reward: Reward, candidates: Candidates) -> Answer:
    try:
        answer = reward.score(candidates)
    except ChemeleonError:
        raise
    except Exception as error:
        raise TrainingError(
            f"reward '{name}' failed on {len(candidates)} crystals: {type(error).__name__}: {error}"
        ) from error
    expected = (len(candidates),)
    for what, column in {"values": answer.values, **answer.facts}.items():
        if tuple(column.shape) != expected:
            raise TrainingError(
                f"reward '{name}' must give {what} of shape {expected}, one per crystal, but gave"
                f" {tuple(column.shape)}"
            )
    return answer


def _floor(reward: Reward, scored: Tensor) -> float:
    if reward.floor is not None:
        return reward.floor
    return float(scored.min()) if len(scored) else 0.0


def _tell(name: str, candidates: Candidates, answer: Answer, lost: Tensor) -> None:
    rows = lost.nonzero().flatten().tolist()
    # broken crystals are to be expected and counted; anything else is worth a line
    told = [row for row in rows if answer.reasons.get(row) != candidates.problems[row]]
    if not told:
        return
    examples = [
        f"crystal {candidates.name(row)}"
        f" ({candidates.structures[row].composition.reduced_formula}):"
        f" {answer.reasons.get(row, f'the score is {float(answer.values[row])}')}"
        for row in told[:_EXAMPLES]
    ]
    more = f"; and {len(told) - _EXAMPLES} more" if len(told) > _EXAMPLES else ""
    logger.warning(
        "reward '%s' has no score for %d of %d crystals, which get its floor: %s%s",
        name, len(told), len(candidates), "; ".join(examples), more,
    )  # fmt: skip


def combined(
    values: Mapping[str, Tensor], weights: Mapping[str, float], group: Tensor, how: Combine
) -> Tensor:
    """Make one number of several rewards.

    Args:
        values: normalised rewards by name, ``(M,)`` each.
        weights: of each.
        group: ``(M,)`` int64 number of each crystal's group.
        how: see `RLConfig`.

    Returns:
        ``(M,)`` float64.

    Raises:
        TrainingError: if a factor of a product is negative.
    """
    if how == "sum":
        return torch.stack([weights[name] * column for name, column in values.items()]).sum(0)
    rewards = torch.stack(list(values.values()), 1).double()
    factors = torch.tensor([weights[name] for name in values], dtype=torch.float64)
    if how == "product":
        for name, column in values.items():
            if len(column) and float(column.min()) < 0:
                raise TrainingError(
                    f"reward '{name}' is {float(column.min()):.3g} for a crystal, and a product"
                    f" needs rewards from 0 on: set rl.rewards.{name}.normalise=minmax, or"
                    " rl.combine=sum"
                )
        return rewards.pow(factors).prod(1)
    signed, total = rewards * factors.sign(), rewards.new_zeros(len(rewards))
    for number in group.unique().tolist():
        rows = (group == number).nonzero().flatten()
        ours = signed[rows]
        above = (ours >= ours.unsqueeze(1)).all(2) & (ours > ours.unsqueeze(1)).any(2)
        total[rows] = -above.double().mean(1)
    return total


def normalise(values: Tensor, group: Tensor, how: Normalise) -> Tensor:
    """Scale values within each group.

    Args:
        values: ``(M,)`` finite; computed in double precision.
        group: ``(M,)`` int64 number of each crystal's group, any numbers.
        how: see `RewardConfig`.

    Returns:
        ``(M,)``; zeros where ``minmax`` or ``std`` find no spread, as in a group of one.
    """
    if how == "none":
        return values
    if how == "clip":
        return values.clamp(-1, 1)
    return _scaled(values.double(), group, how).to(values.dtype)


def _scaled(values: Tensor, group: Tensor, how: Normalise) -> Tensor:
    _, index = torch.unique(group, return_inverse=True)
    groups = int(index.max()) + 1 if len(index) else 0
    if how == "minmax":
        low, high = (_reduce(values, index, groups, kind)[index] for kind in ("amin", "amax"))
        return (values - low) / (high - low + EPSILON)
    count = torch.bincount(index, minlength=groups).to(values.dtype)
    centred = values - (_reduce(values, index, groups, "sum") / count)[index]
    if how == "mean":
        return centred
    # unbiased; a group of one has no deviation
    squares = _reduce(centred.square(), index, groups, "sum")
    deviation = (squares / (count - 1).clamp_min(1)).sqrt()[index]
    return centred / (deviation + EPSILON)


def _reduce(values: Tensor, index: Tensor, groups: int, kind: str) -> Tensor:
    return values.new_zeros(groups).scatter_reduce(0, index, values, kind, include_self=False)
