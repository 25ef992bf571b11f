"""From a config to a running training: folder, processes, data, stage, loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from accelerate import Accelerator
from rich.console import Console

from chemeleon.checkpoints.adapters import BASE_IN_RUN
from chemeleon.checkpoints.store import write_model
from chemeleon.config.launched import tell_if_alone
from chemeleon.config.presets import to_yaml
from chemeleon.config.schema import (
    LDMTrainConfig,
    PredictorConfig,
    PredictTrainConfig,
    RLTrainConfig,
    Section,
    StageConfig,
    VAETrainConfig,
    spoiled_form,
)
from chemeleon.crystals.batch import FlatCrystals
from chemeleon.data.dataset import load_split
from chemeleon.data.pool import worker_count
from chemeleon.errors import ConfigError
from chemeleon.models.adapters import count
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE
from chemeleon.predict.scoring import score
from chemeleon.predict.stage import PredictStage, load_targets
from chemeleon.rl.report import write_report
from chemeleon.rl.stage import RLStage, Scorer
from chemeleon.storage import RUN_PARTS, Draft, hold, refuse_existing, write_text
from chemeleon.terminal import Terminal
from chemeleon.training.ldm import LDMStage
from chemeleon.training.loop import Fitted, Stage, fit
from chemeleon.training.run import Run, keep_freed_memory, make_accelerator
from chemeleon.training.tracking import read_metrics
from chemeleon.training.vae import VAEStage

if TYPE_CHECKING:
    import pandas

INIT = BASE_IN_RUN  # the model before training with the VAE in it: resuming needs no other folder


class _Place(TypedDict):
    """Which part of the work is this process's."""

    device: torch.device
    rank: int
    world: int


class _Networks(_Place):
    """The same, and how networks run."""

    autocast: Callable[[], AbstractContextManager[Any]]
    precision: str


class TrainResult(NamedTuple):
    """The run folder and how training ended."""

    folder: Path
    fitted: Fitted

    def history(self) -> pandas.DataFrame:
        """Return what was logged (``metrics.jsonl``), a row for each step with anything to say."""
        import pandas

        rows = read_metrics(self.folder)
        frame = pandas.DataFrame(rows) if rows else pandas.DataFrame({"step": [], "epoch": []})
        return frame.groupby("step").first()


def train(
    config: StageConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train a stage in a run folder; call it on every process of `accelerate launch`.

    A run that is overwritten is there until the new one has saved for the first time.

    Raises:
        ConfigError: if the folder holds a run and neither ``resume`` nor ``overwrite`` is given,
            or if another command trains there.
    """
    console = console or Terminal(stderr=True)
    parts: dict[str, Any] = {
        "parts": RUN_PARTS,
        "overwrite": overwrite or resume,
        "remedy": "go on with --resume, or name another -o",
    }
    refuse_existing(folder, **parts)
    accelerator = make_accelerator(config.trainer, folder, console)
    tell_if_alone()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    main = accelerator.is_main_process
    console.quiet |= not main
    with hold(folder, **parts) if main else nullcontext(), Draft(folder, RUN_PARTS) as draft:
        return _train(config, draft, accelerator, console, resume)


def _train(
    config: StageConfig, draft: Draft, accelerator: Accelerator, console: Console, resume: bool
) -> TrainResult:
    folder = draft.folder
    # built before anything is written: bad input must not cost the earlier run
    stage = _build(config, draft, accelerator, console, resume)
    run = Run(stage, config, draft, accelerator, console, resume=resume)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if not resume:
            draft.begin(fresh=not draft.replaces())
            if isinstance(stage, LDMStage | PredictStage | RLStage):
                first = stage.export() if isinstance(stage, PredictStage) else stage.initial()
                kind, content, tensors = first
                write_model(draft.path / INIT, kind, content, tensors)
        write_text(draft.path / "config.yaml", to_yaml(config))
    accelerator.wait_for_everyone()
    fitted = fit(run)
    if isinstance(config, PredictTrainConfig) and not fitted.interrupted:
        if accelerator.is_main_process:
            score(config, folder, accelerator.device, console)
        accelerator.wait_for_everyone()
    if isinstance(config, RLTrainConfig) and accelerator.is_main_process:
        console.print(f"report: {write_report(config, folder)}")
    return TrainResult(folder, fitted)


def _build(
    config: StageConfig, draft: Draft, accelerator: Accelerator, console: Console, resume: bool
) -> Stage:
    folder = draft.folder
    place: _Place = {
        "device": accelerator.device,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
    }
    if isinstance(config, VAETrainConfig):
        train, val = _load_data(config, accelerator, console)
        return VAEStage(config, train, val, **place)
    # other models before the data: what is wrong with them shows faster
    if isinstance(config, PredictTrainConfig):
        vae, start = _start_predictor(config, folder, resume)
        train, val = _load_data(config, accelerator, console)
        return PredictStage(config, train, val, vae=vae, start=start, **place)
    networks: _Networks = {
        **place,
        "autocast": lambda: accelerator.autocast(),
        "precision": accelerator.mixed_precision,
    }
    stage: LDMStage | RLStage
    if isinstance(config, RLTrainConfig):
        tuned = _start_rl(config, folder, resume).to(accelerator.device)  # rewards use its VAE
        train, val = _load_data(config, accelerator, console)
        stage = RLStage(
            config,
            train,
            val,
            start=tuned,
            scorer=_scorer(config, train, tuned.vae, accelerator),
            draft=draft,
            resume=resume,
            **networks,
        )
    else:
        assert isinstance(config, LDMTrainConfig)
        vae, start = _start_ldm(config, folder, resume)
        train, val = _load_data(config, accelerator, console)
        refit = not resume
        stage = LDMStage(config, train, val, vae=vae, start=start, refit_sizes=refit, **networks)
    if stage.adapted is not None:
        trained, total = count(stage.model.denoiser)
        console.print(
            f"adapters and conditions: {trained:,} of {total:,} weights, {trained / total:.2%}"
        )
    return stage


def _load_data(
    config: StageConfig, accelerator: Accelerator, console: Console
) -> tuple[FlatCrystals, FlatCrystals]:
    # the first process parses and caches, the others read the cache
    with accelerator.main_process_first():
        show = accelerator.is_main_process
        train, val = (_load_split(config, split, show) for split in ("train", "val"))
    console.print(
        f"{config.data.name}: {len(train)} training and {len(val)} validation crystals,"
        f" on {accelerator.num_processes} x {accelerator.device.type}"
    )
    return train, val


def _load_split(config: StageConfig, split: str, progress: bool) -> FlatCrystals:
    if isinstance(config, PredictTrainConfig):
        return load_targets(config, split, progress)
    if isinstance(config, LDMTrainConfig) and config.ldm.conditions:
        # a crystal without the value is one of which nothing is said
        return load_split(config.data, split, progress=progress, partial="any")
    return load_split(config.data, split, progress=progress)


def _start_ldm(
    config: LDMTrainConfig, folder: Path, resume: bool
) -> tuple[CrystalVAE | None, LatentDiffusion | None]:
    """Return the VAE of a new model, or the model that is gone on with."""
    ldm = config.ldm
    if ldm.lora is not None and ldm.init_ckpt_path is None:
        raise ConfigError(
            "ldm.lora adapts a trained model: name it with ldm.init_ckpt_path=runs/my_ldm, or set"
            " ldm.lora=null to train the whole denoiser"
        )
    source = folder / INIT if resume else ldm.init_ckpt_path
    if source is not None:
        start = LatentDiffusion.from_pretrained(source)
        names = ["denoiser", "diffusion", "latent_scale"]
        if resume or start.config.conditions:  # an unconditional model can be given some
            names.append("conditions")
        _check_same("ldm", names, start.config, ldm, source)
        _check_form(start.vae, config, str(source))
        start.config = start.config.model_copy(update={"sampler": ldm.sampler})
        return None, start
    vae = _check_form(_vae("ldm", ldm.vae_ckpt_path), config, ldm.vae_ckpt_path)
    if ldm.denoiser.types != (vae.config.kind == "csp"):
        kind = "csp" if ldm.denoiser.types else "dng"
        raise ConfigError(
            f"{ldm.vae_ckpt_path} is a VAE of kind {vae.config.kind}, but"
            f" ldm.denoiser.types={str(ldm.denoiser.types).lower()} goes with kind {kind}: train"
            f" the VAE with a {kind} preset (vae train --preset .../{kind}), or the LDM with"
            f" {'.../csp' if vae.config.kind == 'csp' else '.../null'}"
        )
    if ldm.denoiser.types and vae.config.atom_order == "file":
        raise ConfigError(
            f"{ldm.vae_ckpt_path} was trained on atoms in the order of files, which no formula"
            " tells: train a VAE with vae.atom_order=canonical (the csp presets)"
        )
    return vae, None


def _start_rl(config: RLTrainConfig, folder: Path, resume: bool) -> LatentDiffusion:
    """Return the model to be tuned; a resumed run begins with the one it began with."""
    source = folder / INIT if resume else config.rl.ldm_ckpt_path
    if source is None:
        raise ConfigError(
            "rl.ldm_ckpt_path is not set: name the folder of a trained LDM, for example"
            " rl.ldm_ckpt_path=runs/my_ldm"
        )
    model = LatentDiffusion.from_pretrained(source)
    wanted = model.config.conditions
    if config.rl.guidance is not None and not wanted:
        raise ConfigError(
            f"rl.guidance={config.rl.guidance} needs a conditional model, and"
            f" {config.rl.ldm_ckpt_path} is unconditional: leave it out"
        )
    missing = [
        f"condition {name} of {source} needs column '{condition.column}'"
        for name, condition in wanted.items()
        if condition.column is not None and condition.column not in config.data.targets
    ]
    if missing:
        raise ConfigError(f"{'; '.join(missing)}: add it to data.targets")
    # what is tuned is what this walk makes, so that is how it should be sampled
    model.config = model.config.model_copy(update={"sampler": config.rl.sampler})
    return model


def _scorer(
    config: RLTrainConfig, train: FlatCrystals, vae: CrystalVAE, accelerator: Accelerator
) -> Scorer:
    """Return the rewards; crystals are new if they are not among the training crystals."""
    from chemeleon.rl.rewards.mix import Mix

    # processes of one machine share its cores
    cores = max(1, worker_count() // accelerator.num_processes)
    device, configs = accelerator.device, config.rl.rewards
    # the first process makes and caches a hull, the others read the cache
    with accelerator.main_process_first():
        return Mix(configs, reference=train, device=device, jobs=cores, vae=vae)


def _start_predictor(
    config: PredictTrainConfig, folder: Path, resume: bool
) -> tuple[CrystalVAE | None, Predictor | None]:
    """Return the VAE of a new predictor (None: from scratch), or the one that is gone on with."""
    predict = config.predict
    if resume:
        start = Predictor.from_pretrained(folder / INIT)
        free = {"vae_ckpt_path", "units", "dropout", "loss", "ema_decay"}
        names = [name for name in PredictorConfig.model_fields if name not in free]
        _check_same("predict", names, start.config, predict, folder / INIT)
        return None, start
    if predict.encoder == "scratch":
        return None, None
    vae = _vae("predict", predict.vae_ckpt_path)
    return _check_form(vae, config, predict.vae_ckpt_path), None


def _check_form(vae: CrystalVAE, config: StageConfig, named: str | None) -> CrystalVAE:
    """Refuse augmentation that would show a frozen encoder what it has never seen."""
    problem = spoiled_form(vae.config, config.data.augment)
    if problem is not None:
        raise ConfigError(f"{named}: {problem}")
    return vae


def _vae(section: str, path: str | None) -> CrystalVAE:
    if path is None:
        raise ConfigError(
            f"{section}.vae_ckpt_path is not set: name the folder of a trained VAE, for example"
            f" {section}.vae_ckpt_path=runs/my_vae"
        )
    return CrystalVAE.from_pretrained(path)


def _check_same(
    section: str, names: Iterable[str], before: Section, now: Section, source: str | Path
) -> None:
    for name in names:
        if getattr(before, name) != getattr(now, name):
            raise ConfigError(
                f"{section}.{name} differs from the model to start from ({source}):"
                f" it has {getattr(before, name)}, the config asks for {getattr(now, name)}"
            )
