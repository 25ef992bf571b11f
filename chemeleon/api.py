"""The verbs of the command line as Python functions: `chemeleon.vae.train`, `chemeleon.sample`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
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
    from pymatgen.core import Structure

    from chemeleon.evaluation.report_data import Report
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
    rank: int = 0  # of this process; all have the crystals, the first one has written them


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
    import torch

    _check_request(num_samples, num_atoms)
    folder = None if output is None else Path(output)
    if folder is not None:
        refuse_existing(folder, SAMPLE_PARTS, overwrite, "name another -o")

    from chemeleon.crystals.convert import to_structures, write_structures
    from chemeleon.data.writing import CifFiles
    from chemeleon.evaluation.validity import structural_problems, writable
    from chemeleon.pipeline import Pipeline, share

    mine = share(device)
    pipeline = Pipeline.from_pretrained(model, mine.device)
    chosen = {"scheduler": scheduler, "steps": steps, "eta": eta}
    settings = _sampler(pipeline.model.config.sampler, chosen)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be made
    structures: list[Structure | None] = [None] * num_samples
    problems: list[str | None] = [None] * num_samples
    started = False
    batches = pipeline.stream(
        num_samples,
        seed=seed,
        num_atoms=num_atoms,
        sampler=settings,
        batch_size=batch_size,
        precision=precision,
        rank=mine.rank,
        world=mine.world,
    )
    if mine.world > 1:
        batches = mine.gather(list(batches))
    if mine.rank > 0:
        folder = None  # the first process writes
    cifs = CifFiles(folder, num_samples) if folder is not None and "cif" in formats else None
    with cifs or nullcontext():
        for numbers, crystals in batches:
            possible = torch.tensor(writable(crystals), dtype=torch.bool)
            kept = crystals.subset(torch.nonzero(possible).squeeze(-1))
            made = to_structures(kept)
            for number, problem in zip(
                numbers.tolist(), structural_problems(crystals), strict=True
            ):
                problems[number] = problem
            for number, structure in zip(numbers[possible].tolist(), made, strict=True):
                structures[number] = structure
            if folder is not None and not started:  # now an earlier sample may go
                remove_parts(folder, SAMPLE_PARTS)
                started = True
            if cifs is not None:
                cifs.add(kept.ids, made)
            if progress is not None:
                progress(len(crystals))
    if folder is not None:
        names = [f"sample-{i:06d}" for i in range(num_samples)]
        written = {n: s for n, s in zip(names, structures, strict=True) if s is not None}
        others = [form for form in formats if form != "cif"]
        write_structures(list(written.values()), folder, others, list(written))
        if contact_sheet and written:
            from chemeleon.evaluation.draw import contact_sheet as draw

            draw(list(written.values()), folder / "contact_sheet.png")
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
                {"id": names[i], "reason": problem, "written": structures[i] is not None}
                for i, problem in enumerate(problems)
                if problem is not None
            ],
            "formats": list(formats),
            "versions": _versions(),
        }
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return SampleResult(structures, problems, folder, mine.rank)


def evaluate(
    source: str | Path | Sequence[Structure | None],
    *,
    references: Sequence[str] = (),
    control: str | None = "auto",
    matcher: str = "pymatgen",
    targets: str | None = None,
    base: str | None = None,
    potential: str = "none",
    hull: str | Path | None = None,
    relax_steps: int = 0,
    device: str | None = None,
    jobs: int | None = None,
    seconds_per_pair: float = 10.0,
    output: str | Path | None = None,
    overwrite: bool = False,
    ids: Sequence[str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Report:
    """Judge crystals; the arguments are those of `chemeleon evaluate`.

    Args:
        source: file or folder of crystals, or pymatgen structures (None: asked for, not made).
        references: data sets, ``NAME/SPLIT`` or paths to be novel against; the first one is the
            training set.
        control: set that passes through the same code: a data set or path, ``auto`` (the test
            split of the first reference that is a data set) or ``none``.
        matcher: pymatgen, cdvae or lemat.
        targets: crystals that samples should meet, for crystal structure prediction.
        base: crystals of the model before fine-tuning, to compare elements with.
        potential: chgnet, mace, none or package.module:thing.
        hull: file of ``chemeleon data hull``.
        relax_steps: most steps of relaxation, 0 for none.
        device: torch's name, for energies.
        jobs: processes; all cores if None.
        seconds_per_pair: limit of one comparison.
        output: folder to write to; nothing is written if None.
        overwrite: replace an earlier evaluation there.
        ids: names of structures.
        manifest: what is known of the origin of the crystals.
        progress: called with a word and the share done of what it names.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.evaluation.evaluate import Settings
    from chemeleon.evaluation.evaluate import evaluate as judge
    from chemeleon.evaluation.report_data import REPORT_PARTS

    if output is not None:
        refuse_existing(Path(output), REPORT_PARTS, overwrite, "name another -o")
    settings = Settings(
        references=tuple(references),
        control=control,
        matcher=matcher,
        targets=targets,
        base=base,
        potential=potential,
        hull=None if hull is None else str(hull),
        relax_steps=relax_steps,
        device=device,
        jobs=jobs,
        seconds_per_pair=seconds_per_pair,
    )
    report = judge(source, settings, ids=ids, manifest=manifest, progress=progress)
    if output is not None:
        report.save(output, overwrite=overwrite)
    return report


def vae_reconstruct(
    model: str | Path,
    dataset: str,
    *,
    split: str = "test",
    batch_size: int = 256,
    device: str | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Return how well a VAE gives back a data set: match rate and RMSE at the `cdvae` preset.

    Args:
        model: run or model folder, or hub name.
        dataset: name of the data set.
        split: train, val or test.
        batch_size: crystals at a time.
        device: torch's name; a GPU is used if there is one.
        jobs: matching processes; all cores if None.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.training.reconstruct import reconstruct

    return reconstruct(model, dataset, split, batch_size=batch_size, device=device, jobs=jobs)


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


def _versions() -> dict[str, str]:
    names = ("torch", "diffusers", "accelerate", "pymatgen")
    return {"chemeleon": __version__, **{name: version(name) for name in names}}


vae = SimpleNamespace(
    train=vae_train, reconstruct=vae_reconstruct, presets=lambda: presets.list_presets("vae")
)
ldm = SimpleNamespace(train=ldm_train, presets=lambda: presets.list_presets("ldm"))
predict = SimpleNamespace(
    train=predict_train, run=predict_run, presets=lambda: presets.list_presets("predict")
)
hub = SimpleNamespace(list=hub_list, pull=hub_pull, convert=hub_convert, push=hub_push)
__all__ = ["ChemeleonError", "evaluate", "hub", "ldm", "predict", "resolve", "sample", "vae"]
