"""From a config to a running training: folder, processes, data, stage, loop."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from rich.console import Console

from chemeleon.checkpoints.folders import RUN_PARTS, refuse_existing, remove_parts
from chemeleon.checkpoints.store import write_model, write_text
from chemeleon.config.presets import to_yaml
from chemeleon.config.schema import LDMTrainConfig, StageConfig, VAETrainConfig
from chemeleon.crystals.batch import FlatCrystals
from chemeleon.data.dataset import load_split
from chemeleon.errors import ConfigError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import CrystalVAE
from chemeleon.training.ldm import LDMStage
from chemeleon.training.loop import Fitted, Stage, fit
from chemeleon.training.run import Run, make_accelerator
from chemeleon.training.vae import VAEStage

INIT = "init"  # an LDM's VAE and latent statistics, so that resuming needs no other folder


class TrainResult(NamedTuple):
    """The run folder and how training ended."""

    folder: Path
    fitted: Fitted


def train(
    config: StageConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train a stage in a run folder; call it on every process of `accelerate launch`.

    Raises:
        ConfigError: if the folder holds a run and neither ``resume`` nor ``overwrite`` is given.
    """
    console = console or Console(stderr=True)
    if not resume:
        refuse_existing(folder, RUN_PARTS, overwrite, "go on with --resume, or name another -o")
    accelerator = make_accelerator(config.trainer, folder, console)
    if not accelerator.is_main_process:
        console.quiet = True
    # built before anything is removed or written: bad input must not cost the earlier run
    stage = _build(config, folder, accelerator, console, resume)
    run = Run(stage, config, folder, accelerator, console, resume=resume)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if not resume:
            remove_parts(folder, RUN_PARTS)
            if isinstance(stage, LDMStage):
                kind, content, tensors = stage.export()
                write_model(folder / INIT, kind, content, tensors)
        write_text(folder / "config.yaml", to_yaml(config))
    accelerator.wait_for_everyone()
    return TrainResult(folder, fit(run))


def _build(
    config: StageConfig, folder: Path, accelerator: Accelerator, console: Console, resume: bool
) -> Stage:
    if isinstance(config, VAETrainConfig):
        train, val = _load_data(config, accelerator, console)
        return VAEStage(
            config,
            train,
            val,
            device=accelerator.device,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
    assert isinstance(config, LDMTrainConfig)
    vae, start = _start(config, folder, resume)  # before the data: it fails faster
    train, val = _load_data(config, accelerator, console)
    return LDMStage(
        config,
        train,
        val,
        vae=vae,
        start=start,
        refit_sizes=not resume,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        autocast=lambda: accelerator.autocast(),
    )


def _load_data(
    config: StageConfig, accelerator: Accelerator, console: Console
) -> tuple[FlatCrystals, FlatCrystals]:
    # the first process parses and caches, the others read the cache
    with accelerator.main_process_first():
        show = accelerator.is_main_process
        train = load_split(config.data, "train", progress=show)
        val = load_split(config.data, "val", progress=show)
    console.print(
        f"{config.data.name}: {len(train)} training and {len(val)} validation crystals,"
        f" on {accelerator.num_processes} x {accelerator.device.type}"
    )
    return train, val


def _start(
    config: LDMTrainConfig, folder: Path, resume: bool
) -> tuple[CrystalVAE | None, LatentDiffusion | None]:
    """Return the VAE of a new model, or the model that is gone on with."""
    ldm = config.ldm
    if ldm.lora is not None:
        raise ConfigError(
            "ldm.lora: this version trains all weights of the denoiser and has no adapters yet;"
            " set ldm.lora=null to fine-tune the whole denoiser"
        )
    source = folder / INIT if resume else ldm.init_ckpt_path
    if source is not None:
        start = LatentDiffusion.from_pretrained(source)
        _check_same_architecture(start, config, source)
        return None, start
    if ldm.vae_ckpt_path is None:
        raise ConfigError(
            "ldm.vae_ckpt_path is not set: name the folder of a trained VAE, for example"
            " ldm.vae_ckpt_path=runs/my_vae"
        )
    return CrystalVAE.from_pretrained(ldm.vae_ckpt_path), None


def _check_same_architecture(
    start: LatentDiffusion, config: LDMTrainConfig, source: str | Path
) -> None:
    for name in ("denoiser", "diffusion", "conditions", "latent_scale"):
        before, now = getattr(start.config, name), getattr(config.ldm, name)
        if before != now:
            raise ConfigError(
                f"ldm.{name} differs from the model to start from ({source}):"
                f" it has {before}, the config asks for {now}"
            )
