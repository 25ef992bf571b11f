"""What a stage of training is, where it takes place, and what it may start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from chemeleon.checkpoints.adapters import BASE_IN_RUN
from chemeleon.config.schema import DataConfig, Section, StageConfig, spoiled_form
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import Partial, load_split
from chemeleon.data.loader import Draw, Loader
from chemeleon.errors import ConfigError
from chemeleon.models.vae import CrystalVAE
from chemeleon.storage import Draft


class Place(NamedTuple):
    """One process of a run, and how networks run in it: a context, and the name of a precision."""

    device: torch.device
    rank: int = 0
    world: int = 1
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    precision: str = "no"


class RunContext(NamedTuple):
    """Where a run takes place.

    Attributes:
        draft: the run on disk.
        accelerator: device and processes.
        console: quiet on all processes but the first.
        resume: the folder holds an earlier part of this run.
    """

    draft: Draft
    accelerator: Accelerator
    console: Console
    resume: bool

    @property
    def initial(self) -> Path:
        """The model before training with the VAE in it: resuming needs no other folder."""
        return self.draft.folder / BASE_IN_RUN

    @property
    def place(self) -> Place:
        """This process and how networks run in it."""
        at = self.accelerator
        processes = at.process_index, at.num_processes
        autocast: Any = at.autocast  # its hint forbids its default
        return Place(at.device, *processes, autocast, at.mixed_precision)

    def load(self, data: DataConfig, partial: Partial = False) -> tuple[Crystals, Crystals]:
        """Return the training and validation crystals; see `data.dataset.load_split`."""
        at = self.accelerator
        # the first process parses and caches, the others read the cache
        with at.main_process_first():
            train, val = (
                load_split(data, split, progress=at.is_main_process, partial=partial)
                for split in ("train", "val")
            )
        self.console.print(
            f"{', '.join(data.sets)}: {len(train)} training and {len(val)} validation crystals,"
            f" on {at.num_processes} x {at.device.type}"
        )
        return train, val


class Export(NamedTuple):
    """A model as it goes to disk."""

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


class Stage(Protocol):
    """All that launching and the loop know of what is trained.

    ``loss`` returns its total under ``loss``; ``evaluate`` returns weighted sums and weights, so
    that processes can be added up; ``criterion`` names the number to be made small, or large if a
    minus stands before the name, and ``limits`` numbers named so that end a run if they become
    larger than their limit (smaller, after a minus). With ``whole_epochs`` a run stops, validates,
    logs and saves between epochs only.
    """

    criterion: str
    limits: Mapping[str, float]
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
    limits: Mapping[str, float] = MappingProxyType({})
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


def load_vae(section: str, path: str | None, config: StageConfig) -> CrystalVAE:
    """Return the trained VAE that a section of a config names.

    Raises:
        ConfigError: if it names none, or one that has never seen what augmentation would show it.
        CheckpointError: if there is no VAE there.
    """
    if path is None:
        raise ConfigError(
            f"{section}.vae_ckpt_path is not set: name the folder of a trained VAE, for example"
            f" {section}.vae_ckpt_path=runs/my_vae"
        )
    vae = CrystalVAE.from_pretrained(path)
    check_form(vae, path, config)
    return vae


def check_form(vae: CrystalVAE, source: str | Path, config: StageConfig) -> None:
    """Refuse augmentation that would show a frozen encoder what it has never seen."""
    problem = spoiled_form(vae.config, config.data.augment)
    if problem is not None:
        raise ConfigError(f"{source}: {problem}")


def check_same(
    section: str, names: Iterable[str], before: Section, now: Section, source: str | Path
) -> None:
    """Refuse settings of a section that are not those of the model that training starts from."""
    for name in names:
        if getattr(before, name) != getattr(now, name):
            raise ConfigError(
                f"{section}.{name} differs from the model to start from ({source}):"
                f" it has {getattr(before, name)}, the config says {getattr(now, name)}"
            )
