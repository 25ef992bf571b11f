"""The verbs of the command line as Python functions: `chemeleon.vae.train`, `chemeleon.sample`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console

from chemeleon.checkpoints.folders import SAMPLE_PARTS, refuse_existing, remove_parts
from chemeleon.checkpoints.hub import convert as hub_convert
from chemeleon.checkpoints.hub import list_models as hub_list
from chemeleon.checkpoints.hub import push as hub_push
from chemeleon.checkpoints.hub import resolve as hub_pull
from chemeleon.checkpoints.store import write_text
from chemeleon.config import presets
from chemeleon.errors import ChemeleonError, ConfigError
from chemeleon.version import __version__

if TYPE_CHECKING:
    import torch
    from pymatgen.core import Structure

    from chemeleon.prediction import Prediction
    from chemeleon.training.launch import TrainResult

Format = Literal["cif", "extxyz", "json"]
Stages = Literal["vae", "ldm", "predict"]


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
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: str | Path | None = None,
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
        config_file = Path(resume) / "config.yaml"
        if not config_file.is_file():
            raise ConfigError(f"{resume} is not a run folder: it has no config.yaml")
    elif preset is None and config_file is None:
        known = ", ".join(presets.list_presets(stage))
        raise ConfigError(f"name a --preset or a --config file. Presets of {stage}: {known}")
    return presets.load(stage, preset, Path(config_file) if config_file else None, overrides)


def train(
    stage: Stages,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    config_file: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train a stage; the arguments are those of `chemeleon STAGE train`.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    if resume is not None and (output is not None or overwrite):
        raise ConfigError("--resume goes on in the run's own folder: leave out -o and --overwrite")
    config = resolve(stage, preset, config_file, overrides, resume).config
    name = f"{stage}-{preset or config.data.name}".replace("/", "-")
    folder = Path(resume or output or presets.runs_root() / name)
    from chemeleon.training import launch

    return launch.train(
        config, folder, resume=resume is not None, overwrite=overwrite, console=console
    )


vae_train = partial(train, "vae")
ldm_train = partial(train, "ldm")
predict_train = partial(train, "predict")


def predict_run(
    model: str | Path,
    sources: Sequence[str | Path | Structure],
    *,
    output: str | Path | None = None,
    id_column: str = "material_id",
    cif_column: str = "cif",
    device: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict properties of crystals; the arguments are those of `chemeleon predict run`.

    Args:
        model: run or model folder, or ``hub:NAME``.
        sources: files, folders, or pymatgen structures.
        output: CSV to write; nothing is written if None.
        id_column: CSV column with names.
        cif_column: CSV column with CIF text.
        device: torch's name; a GPU is used if there is one.
        overwrite: replace an earlier ``output``.
        progress: called with the crystals done since the last call, and all there are.

    Returns:
        One entry per crystal, in order, with its values or the reason why there are none.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    path = None if output is None else Path(output)
    if path is not None:
        refuse_existing(path.parent, (path.name,), overwrite, "name another -o")

    from chemeleon.models.predictor import Predictor
    from chemeleon.models.pretrained import place
    from chemeleon.prediction import predict, write_predictions

    predictor = place(Predictor.from_pretrained(model), device)
    found = predict(
        predictor, sources, id_column=id_column, cif_column=cif_column, progress=progress
    )
    if path is not None:
        write_predictions(path, found, predictor)
    return found


def sample(
    model: str | Path,
    num_samples: int = 10,
    *,
    output: str | Path | None = None,
    formats: Sequence[Format] = ("cif",),
    seed: int = 0,
    batch_size: int | None = None,
    num_atoms: Sequence[int] | None = None,
    scheduler: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
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
        precision: of the networks; auto is bf16 where a GPU has it, else fp32.
        contact_sheet: draw all crystals into one PNG.
        overwrite: replace an earlier sample in ``output``.
        progress: called with the number of crystals of each finished batch.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    _check_request(num_samples, num_atoms)
    folder = None if output is None else Path(output)
    if folder is not None:
        refuse_existing(folder, SAMPLE_PARTS, overwrite, "name another -o")

    from chemeleon.crystals.convert import to_structures
    from chemeleon.data.writing import write_many
    from chemeleon.evaluation.validity import structural_problems, writable
    from chemeleon.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device)
    chosen = {"scheduler": scheduler, "steps": steps, "eta": eta}
    settings = _sampler(pipeline.model.config.sampler, chosen)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be made
    crystals = pipeline.generate(
        num_samples,
        seed=seed,
        num_atoms=num_atoms,
        sampler=settings,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    )
    problems = structural_problems(crystals)
    possible = writable(crystals)
    kept = [i for i, ok in enumerate(possible) if ok]
    written = to_structures(crystals.subset(_index(kept))) if kept else []
    structures: list[Structure | None] = [None] * num_samples
    for i, structure in zip(kept, written, strict=True):
        structures[i] = structure
    if folder is not None:
        remove_parts(folder, SAMPLE_PARTS)
        write_many(written, folder, formats, [crystals.ids[i] for i in kept])
        if contact_sheet and written:
            from chemeleon.evaluation.draw import contact_sheet as draw

            draw(written, folder / "contact_sheet.png")
        manifest = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": str(model),
            "weights": pipeline.fingerprint(),
            "sampler": settings.model_dump(),
            "seed": seed,
            "precision": precision,
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
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return SampleResult(structures, problems, folder)


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
predict = SimpleNamespace(
    train=predict_train, run=predict_run, presets=lambda: presets.list_presets("predict")
)
hub = SimpleNamespace(list=hub_list, pull=hub_pull, convert=hub_convert, push=hub_push)
__all__ = ["ChemeleonError", "hub", "ldm", "predict", "resolve", "sample", "vae"]
