"""What a stage of training is, and the part of it that follows from a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor, nn

from chemeleon.data.loader import Draw, Loader
from chemeleon.training.context import RunContext


class Export(NamedTuple):
    """A model as it goes to disk."""

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


class Stage(Protocol):
    """All that launching and the loop know of what is trained.

    ``loss`` returns its total under ``loss``; ``evaluate`` returns weighted sums and weights, so
    that processes can be added up; ``criterion`` names the number to be made small, or large if a
    minus stands before the name. With ``whole_epochs`` a run stops, validates, logs and saves
    between epochs only.
    """

    criterion: str
    whole_epochs: bool
    ema_decay: float

    @classmethod
    def start(cls, config: Any, context: RunContext) -> Self:
        """Build the stage from its config: other models first, then the data.

        Nothing is written: bad input must not cost an earlier run.
        """
        ...

    @property
    def model(self) -> nn.Module:
        """What is trained; frozen parts have requires_grad off."""
        ...

    def initial(self) -> Export | None:
        """Return the model before training, if resuming needs it."""
        ...

    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        ...

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Any]]:
        """Yield the micro-batches of each optimizer step of an epoch."""
        ...

    def loss(self, model: nn.Module, draw: Any) -> Mapping[str, Tensor]:
        """Return the loss terms of one micro-batch; call ``model(...)``, not its methods.

        It may be recorded as a CUDA graph: nothing in it may wait for the device.
        """
        ...

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return this process's share of the validation numbers."""
        ...

    def notes(self) -> dict[str, Any]:
        """Return numbers to be logged beside the loss terms, and what goes to metrics.jsonl only.

        Every process calls it when losses are logged.
        """
        ...

    def export(self) -> Export:
        """Return the model with the weights it has now."""
        ...

    def finish(self, context: RunContext, *, interrupted: bool) -> None:
        """Write what a run ends with; the first process calls it after the last save."""
        ...


class DataStage:
    """The part of a ``Stage`` that goes through a data set epoch by epoch."""

    criterion = "val/loss"
    whole_epochs = False
    loader: Loader

    def initial(self) -> Export | None:
        """See ``Stage``."""
        return None

    def steps_per_epoch(self) -> int:
        """See ``Stage``."""
        return len(self.loader)

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Draw]]:
        """See ``Stage``."""
        return self.loader.epoch(epoch, first_step)

    def notes(self) -> dict[str, Any]:
        """See ``Stage``."""
        return {}

    def finish(self, context: RunContext, *, interrupted: bool) -> None:
        """See ``Stage``."""
