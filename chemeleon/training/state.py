"""What a run is made of at one moment, as tensors and counters, and back again.

Random numbers need no state: they are functions of the seed and the place in the run.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from chemeleon.checkpoints.store import damaged_state, read_state, write_state
from chemeleon.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chemeleon.training.schedule import LearningRate
    from chemeleon.training.weights import Weights

OPTIMIZER_TENSORS = ("exp_avg", "exp_avg_sq")


Count = Annotated[int, Field(ge=0, le=10**12)]


@dataclass
class Counters:
    """Where a run is.

    Attributes:
        step: finished optimizer steps.
        epoch: epoch of the next step.
        steps_per_epoch: length of an epoch when this was saved.
        step_in_epoch: its place there.
        metrics: numbers of the last validation.
        criterion: what is made small (or large, after a minus); empty in older files.
        best: best value of the criterion so far.
        stale: validations since then.
        window: sums of the training terms since they were last logged.
        window_steps: steps in ``window``.
        learning_rate: state of the schedule.
        scaler: loss scale of fp16.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: Count = 0
    epoch: Count = 0
    steps_per_epoch: Count = 0
    step_in_epoch: Count = 0
    metrics: dict[str, float] = field(default_factory=dict)
    criterion: str = ""
    best: float | None = None
    stale: Count = 0
    window: dict[str, float] = field(default_factory=dict)
    window_steps: Count = 0
    learning_rate: dict[str, float] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


class Average:
    """Exponential moving average of the trained weights; off at decay 0.

    That of diffusers' EMAModel, whose import alone takes as long as reading 600,000 crystals.

    Attributes:
        parameters: the weights.
        shadows: their averages; None at decay 0.
        steps: updates taken in.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.shadows = [p.detach().clone() for p in parameters] if decay else None
        self.steps = 0

    def update(self) -> None:
        """Take in the present weights."""
        if self.shadows is None:
            return
        # early on, when weights are still far from good, the average is over a tenth of all steps
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        self.steps += 1
        with torch.no_grad():
            torch._foreach_lerp_(self.shadows, self.parameters, 1 - decay)  # pyright: ignore

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights in place for a while."""
        if self.shadows is None:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        self._put(self.shadows)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)


def save(
    run: Path,
    counters: Counters,
    weights: Weights,
    optimizer: torch.optim.Optimizer,
    average: Average,
    schedule: LearningRate,
) -> None:
    """Write the state of a run."""
    tensors: dict[str, Tensor] = {f"weight.{i}": p for i, p in enumerate(weights.parameters)}
    for name in OPTIMIZER_TENSORS:
        values = [optimizer.state[p][name] for p in weights.updated if p in optimizer.state]
        if values:
            tensors |= {f"optimizer.{i}.{name}": v for i, v in enumerate(weights.pieces(values))}
    if optimizer.state:
        tensors["optimizer_steps"] = torch.as_tensor(optimizer.state[weights.updated[0]]["step"])
    if average.shadows is not None:
        shadows = weights.pieces(average.shadows)
        tensors |= {f"average.{i}": shadow for i, shadow in enumerate(shadows)}
        tensors["average_steps"] = torch.tensor(average.steps)
    counters.learning_rate = schedule.state()
    write_state(run, tensors, asdict(counters))


def load(
    run: Path,
    weights: Weights,
    optimizer: torch.optim.Optimizer,
    average: Average,
    schedule: LearningRate,
    scaler: torch.amp.GradScaler | None = None,
) -> Counters:
    """Read the state of a run back into the live objects; ``scaler`` is that of fp16.

    Raises:
        CheckpointError: if there is none, it is damaged, or it belongs to another model.
    """
    tensors, content = read_state(run)
    try:
        counters = TypeAdapter(Counters).validate_python(content)
        schedule.load(counters.learning_rate)
        if scaler is not None and counters.scaler:
            scaler.load_state_dict(counters.scaler)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"])) or "counters"
        raise damaged_state(run, f"{place}: {wrong['msg']}") from None
    except (KeyError, ValueError, OverflowError, TypeError) as error:
        raise damaged_state(run, f"learning_rate or scaler: {error!r}") from None
    saved = sum(name.startswith("weight.") for name in tensors)
    fits = saved == len(weights.parameters) and all(
        f"weight.{i}" in tensors and tensors[f"weight.{i}"].shape == p.shape
        for i, p in enumerate(weights.parameters)
    )
    if not fits:
        raise CheckpointError(
            f"the state in {run} does not fit this model ({saved} weights saved,"
            f" {len(weights.parameters)} wanted): resume with the config the run was started with"
        )

    def find(name: str, shape: torch.Size) -> Tensor:
        found = tensors.get(name)
        if found is None or found.shape != shape or found.is_complex():
            raise damaged_state(run, f"tensor {name} is missing or has another shape")
        return found

    def restore(targets: list[Tensor], name: str) -> None:
        for i, target in enumerate(weights.pieces(targets)):
            target.copy_(find(name.format(i), target.shape))

    with torch.no_grad():
        restore([p.data for p in weights.updated], "weight.{}")
        old, now = "optimizer.0.step", "optimizer_steps"
        if any(name.startswith("optimizer") for name in tensors):
            steps = find(now if now in tensors else old, torch.Size(()))
            for parameter in weights.updated:
                optimizer.state[parameter] = {  # pyright: ignore[reportArgumentType]
                    "step": steps.clone().to(parameter.device),
                    **{name: torch.zeros_like(parameter) for name in OPTIMIZER_TENSORS},
                }
            for name in OPTIMIZER_TENSORS:
                values = [optimizer.state[p][name] for p in weights.updated]
                restore(values, f"optimizer.{{}}.{name}")
        if average.shadows is not None:
            restore(average.shadows, "average.{}")
            average.steps = int(find("average_steps", torch.Size(())).nan_to_num())
    return counters
