"""The verbs of the command line as Python functions: `chemeleon.vae.train`, `chemeleon.sample`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from rich.console import Console

from chemeleon.checkpoints.store import write_text
from chemeleon.config import presets
from chemeleon.config.schema import LDMTrainConfig, StageConfig, VAETrainConfig
from chemeleon.errors import ChemeleonError, ConfigError
from chemeleon.version import __version__

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from pymatgen.core import Structure

    from chemeleon.training.loop import Fitted, Stage

RUN_PARTS = ("config.yaml", "metrics.jsonl", "state.safetensors", "best", "last", "init")
SAMPLE_PARTS = (
    "manifest.json",
    "cif",
    "structures.extxyz",
    "structures.json.gz",
    "contact_sheet.png",
)
Format = Literal["cif", "extxyz", "json"]
Stages = Literal["vae", "ldm"]


class TrainResult(NamedTuple):
    """The run folder and how training ended."""

    folder: Path
    fitted: Fitted


class SampleResult(NamedTuple):
    """What `sample` made.

    ``structures[i]`` is None where crystal ``i`` cannot be written down; ``problems[i]`` says what
    is wrong with crystal ``i``, or is None.
    """

    structures: list[Structure | None]
    problems: list[str | None]
    folder: Path | None


def resolve(
    stage: Stages,
    preset: str | None = None,
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    resume: Path | None = None,
) -> presets.Loaded:
    """Return the config that a training command would use, with the origin of every key.

    Raises:
        ConfigError: with every problem found.
    """
    if resume is not None:
        if preset is not None or config_file is not None:
            raise ConfigError(
                "--resume takes the config of the run: leave out --preset and --config"
            )
        config_file = resume / "config.yaml"
        if not config_file.is_file():
            raise ConfigError(f"{resume} is not a run folder: it has no config.yaml")
    elif preset is None and config_file is None:
        known = ", ".join(presets.list_presets(stage))
        raise ConfigError(f"name a --preset or a --config file. Presets of {stage}: {known}")
    return presets.load(stage, preset, config_file, overrides)


def vae_train(
    preset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    config_file: Path | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train a VAE; the arguments are those of `chemeleon vae train`.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    config = resolve("vae", preset, config_file, overrides, resume).config
    folder = resume or output or _default_folder("vae", preset, config)
    return _train(cast("VAETrainConfig", config), folder, _vae_stage, resume, overwrite, console)


def ldm_train(
    preset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    config_file: Path | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train a latent diffusion model; the arguments are those of `chemeleon ldm train`.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    config = resolve("ldm", preset, config_file, overrides, resume).config
    folder = resume or output or _default_folder("ldm", preset, config)
    return _train(cast("LDMTrainConfig", config), folder, _ldm_stage, resume, overwrite, console)


def _default_folder(stage: str, preset: str | None, config: StageConfig) -> Path:
    name = (preset or config.data.name).replace("/", "-")
    return presets.runs_root() / f"{stage}-{name}"


def _train(
    config: Any,
    folder: Path,
    build: Callable[[Any, Accelerator, Path, bool, Console], Stage],
    resume: Path | None,
    overwrite: bool,
    console: Console | None,
) -> TrainResult:
    console = console or Console(stderr=True)
    if resume is None:
        _refuse_existing(folder, RUN_PARTS, overwrite, "--resume it, or name another -o")

    from chemeleon.training.loop import fit
    from chemeleon.training.run import make_accelerator

    accelerator = make_accelerator(config.trainer, folder, console)
    if not accelerator.is_main_process:
        console.quiet = True
    # nothing is removed before the new run has been built: bad input must not cost the old one
    stage = build(config, accelerator, folder, resume is not None, console)
    if accelerator.is_main_process:
        if resume is None:
            _remove(folder, RUN_PARTS)
        write_text(folder / "config.yaml", presets.to_yaml(config))
        if resume is None and config_has_frozen_parts(config):
            from chemeleon.checkpoints.store import write_model

            kind, content, tensors = stage.export()
            write_model(folder / "init", kind, content, tensors)
    accelerator.wait_for_everyone()
    fitted = fit(stage, config, folder, accelerator, console, resume=resume is not None)
    return TrainResult(folder, fitted)


def config_has_frozen_parts(config: StageConfig) -> bool:
    """Return whether resuming needs weights that training does not change (the VAE of an LDM)."""
    return isinstance(config, LDMTrainConfig)


def _refuse_existing(folder: Path, parts: Sequence[str], overwrite: bool, remedy: str) -> None:
    present = [part for part in parts if (folder / part).exists()]
    if present and not overwrite:
        raise ConfigError(
            f"{folder} already holds {', '.join(present)}: {remedy}, or replace it with --overwrite"
        )


def _remove(folder: Path, parts: Sequence[str]) -> None:
    for part in parts:
        path = folder / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _splits(config: StageConfig, accelerator: Accelerator, console: Console) -> list[Any]:
    from chemeleon.data.dataset import load_split

    # the first process parses and caches, the others read the cache
    with accelerator.main_process_first():
        splits = [load_split(config.data, s, progress=True) for s in ("train", "val")]
    console.print(
        f"{config.data.name}: {len(splits[0])} training and {len(splits[1])} validation crystals"
    )
    return splits


def _vae_stage(
    config: VAETrainConfig, accelerator: Accelerator, folder: Path, resume: bool, console: Console
) -> Stage:
    from chemeleon.training.vae import VAEStage

    train, val = _splits(config, accelerator, console)
    return VAEStage(
        config,
        train,
        val,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def _ldm_stage(
    config: LDMTrainConfig, accelerator: Accelerator, folder: Path, resume: bool, console: Console
) -> Stage:
    from chemeleon.models.denoiser import LatentDiffusion
    from chemeleon.models.vae import CrystalVAE
    from chemeleon.training.ldm import LDMStage

    ldm = config.ldm
    if ldm.lora is not None:
        raise ConfigError(
            "ldm.lora: this version trains all weights of the denoiser and has no adapters yet;"
            " set ldm.lora=null to fine-tune the whole denoiser"
        )
    vae = start = None
    if resume:
        start = LatentDiffusion.from_pretrained(folder / "init")
    elif ldm.init_ckpt_path is not None:
        start = _compatible_start(LatentDiffusion.from_pretrained(ldm.init_ckpt_path), config)
    elif ldm.vae_ckpt_path is not None:
        vae = CrystalVAE.from_pretrained(ldm.vae_ckpt_path)
    else:
        raise ConfigError(
            "ldm.vae_ckpt_path is not set: name the folder of a trained VAE, for example"
            " ldm.vae_ckpt_path=runs/my_vae"
        )
    train, val = _splits(config, accelerator, console)
    return LDMStage(
        config,
        train,
        val,
        vae=vae,
        start=start,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        autocast=accelerator.autocast,
    )


def _compatible_start(model: Any, config: LDMTrainConfig) -> Any:
    """Check that fine-tuning keeps the architecture it starts from."""
    for name in ("denoiser", "diffusion", "conditions", "latent_scale"):
        before, now = getattr(model.config, name), getattr(config.ldm, name)
        if before != now:
            raise ConfigError(
                f"ldm.{name} differs from the model to start from ({config.ldm.init_ckpt_path}):"
                f" it has {before}, the config asks for {now}"
            )
    return model


def sample(
    model: str | Path,
    num_samples: int = 10,
    *,
    output: Path | None = None,
    formats: Sequence[Format] = ("cif",),
    seed: int = 0,
    batch_size: int | None = None,
    num_atoms: Sequence[int] | None = None,
    scheduler: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    device: str | None = None,
    contact_sheet: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SampleResult:
    """Make crystals with a trained model; the arguments are those of `chemeleon sample`.

    Args:
        model: run or model folder.
        num_samples: how many crystals.
        output: folder to write to; nothing is written if None.
        formats: files to write there, beside `manifest.json`.
        seed: same seed, same crystals, whatever the batch size.
        batch_size: crystals at a time; None finds one that fits.
        num_atoms: allowed numbers of atoms per cell.
        scheduler: ddim, ddpm, dpm++, unipc or euler; by default what the model was saved with.
        steps: evaluations of the denoiser.
        eta: share of fresh noise, 0 to 1.
        device: torch's name; a GPU is used if there is one.
        contact_sheet: draw all crystals into one PNG.
        overwrite: replace an earlier sample in ``output``.
        progress: called with the number of crystals of each finished batch.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    _check_request(num_samples, num_atoms)
    if output is not None:
        _refuse_existing(output, SAMPLE_PARTS, overwrite, "name another -o")

    from chemeleon.crystals.convert import to_structures, write_structures
    from chemeleon.evaluation.validity import structural_problems, writable
    from chemeleon.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device)
    chosen = {"scheduler": scheduler, "steps": steps, "eta": eta}
    settings = _sampler(pipeline.model.config.sampler, chosen)
    crystals = pipeline.generate(
        num_samples,
        seed=seed,
        num_atoms=num_atoms,
        sampler=settings,
        batch_size=batch_size,
        progress=progress,
    )
    problems = structural_problems(crystals)
    possible = writable(crystals)
    kept = [i for i, ok in enumerate(possible) if ok]
    written = to_structures(crystals.subset(_index(kept))) if kept else []
    structures: list[Structure | None] = [None] * num_samples
    for i, structure in zip(kept, written, strict=True):
        structures[i] = structure
    if output is not None:
        _remove(output, SAMPLE_PARTS)
        output.mkdir(parents=True, exist_ok=True)
        write_structures(written, output, formats, [crystals.ids[i] for i in kept])
        if contact_sheet and written:
            from chemeleon.evaluation.draw import contact_sheet as draw

            draw(written, output / "contact_sheet.png")
        manifest = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": str(model),
            "weights": pipeline.fingerprint(),
            "sampler": settings.model_dump(),
            "seed": seed,
            "num_atoms": list(num_atoms) if num_atoms else "training histogram",
            "requested": num_samples,
            "written": len(written),
            "valid": sum(problem is None for problem in problems),
            "broken": [
                {"id": crystals.ids[i], "reason": problem, "written": bool(possible[i])}
                for i, problem in enumerate(problems)
                if problem is not None
            ],
            "formats": list(formats),
            "versions": _versions(),
        }
        write_text(output / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return SampleResult(structures, problems, output)


def _check_request(num_samples: int, num_atoms: Sequence[int] | None) -> None:
    if num_samples < 1:
        raise ConfigError(f"num_samples must be at least 1, got {num_samples}")
    if num_atoms is not None and (not num_atoms or min(num_atoms) < 1):
        raise ConfigError(f"num_atoms must be positive numbers, got {list(num_atoms)}")


def _sampler(default: Any, chosen: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    given = {key: value for key, value in chosen.items() if value is not None}
    try:
        return type(default).model_validate({**default.model_dump(), **given})
    except ValidationError as error:
        problems = [f"{p['loc'][0]}: {p['msg']}, got {p['input']!r}" for p in error.errors()]
        raise ConfigError("; ".join(problems)) from None


def _index(numbers: list[int]) -> torch.Tensor:
    import torch

    return torch.tensor(numbers, dtype=torch.int64)


def _versions() -> dict[str, str]:
    names = ("torch", "diffusers", "accelerate", "pymatgen")
    return {"chemeleon": __version__, **{name: version(name) for name in names}}


vae = SimpleNamespace(train=vae_train, presets=lambda: presets.list_presets("vae"))
ldm = SimpleNamespace(train=ldm_train, presets=lambda: presets.list_presets("ldm"))
__all__ = ["ChemeleonError", "ldm", "resolve", "sample", "vae"]
