"""Where a run takes place, and what its stage may start from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from rich.console import Console

from chemeleon.checkpoints.adapters import BASE_IN_RUN
from chemeleon.config.schema import DataConfig, Section, StageConfig, spoiled_form
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import Partial, load_split
from chemeleon.errors import ConfigError
from chemeleon.models.vae import CrystalVAE
from chemeleon.storage import Draft


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
    def place(self) -> dict[str, Any]:
        """The ``device`` of this process, its ``rank`` and the number of all in the ``world``."""
        at = self.accelerator
        return {"device": at.device, "rank": at.process_index, "world": at.num_processes}

    @property
    def networks(self) -> dict[str, Any]:
        """The same with how networks run: ``autocast`` and ``precision``."""
        at = self.accelerator
        return {**self.place, "autocast": at.autocast, "precision": at.mixed_precision}

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
            f"{data.name}: {len(train)} training and {len(val)} validation crystals,"
            f" on {at.num_processes} x {at.device.type}"
        )
        return train, val


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
                f" it has {getattr(before, name)}, the config asks for {getattr(now, name)}"
            )
