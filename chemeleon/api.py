"""The verbs of the command line as Python functions: `chemeleon.vae.train`, `chemeleon.sample`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from chemeleon.checkpoints.convert import convert, merge
from chemeleon.checkpoints.hub import list_models as hub_list
from chemeleon.checkpoints.hub import resolve as hub_pull
from chemeleon.checkpoints.push import push as hub_push
from chemeleon.checkpoints.shipped import list_shipped as hub_shipped
from chemeleon.config import presets
from chemeleon.config.keywords import called_with
from chemeleon.data.prepare import prepare as prepare
from chemeleon.errors import ChemeleonError as ChemeleonError
from chemeleon.errors import ConfigError
from chemeleon.evaluation.idealise import symmetrize as symmetrize
from chemeleon.evaluation.settings import (
    REPORT_PARTS,
    CompareSettings,
    EvaluateSettings,
    WrittenSettings,
)
from chemeleon.generation.sampling import sample as sample
from chemeleon.reinforcement.flywheel.settings import FlywheelSettings
from chemeleon.storage import hold, refuse_inside, replacing, settle
from chemeleon.training.reconstruct import reconstruct

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.checkpoints.opened import ModelFolder
    from chemeleon.evaluation.report.comparison import Comparison
    from chemeleon.evaluation.report.data import Report
    from chemeleon.generation.assignments import Proposal
    from chemeleon.prediction.run import Prediction
    from chemeleon.reinforcement.flywheel.rounds import FlywheelResult
    from chemeleon.training.launch import TrainResult


def resolve(
    stage: str,
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
        settle(Path(resume))
        config_file = Path(resume) / "config.yaml"
        if not config_file.is_file():
            raise ConfigError(f"{resume} is not a run folder: it has no config.yaml")
    elif preset is None and config_file is None:
        known = ", ".join(presets.list_presets(stage))
        raise ConfigError(f"name a --preset or a --config file. Presets of {stage}: {known}")
    path = Path(config_file) if config_file else None
    return presets.load(stage, preset, path, overrides, fresh=resume is None)


def train(
    stage: str,
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
        raise ConfigError("--resume writes to the run's own folder: leave out -o and --overwrite")
    config = resolve(stage, preset, config_file, overrides, resume).config
    name = f"{stage}-{preset or config.data.name}".replace("/", "-")
    folder = Path(resume or output or presets.runs_root() / name)
    from chemeleon.training import launch

    return launch.train(
        config, folder, resume=resume is not None, overwrite=overwrite, console=console
    )


def _fits(folder: ModelFolder) -> None:
    """Refuse a folder of any kind whose weights are not those of its network."""
    from chemeleon.models.assignment import AssignmentModel
    from chemeleon.models.denoiser import LatentDiffusion  # half a second for all networks
    from chemeleon.models.predictor import Predictor
    from chemeleon.models.vae import CrystalVAE

    models = (CrystalVAE, LatentDiffusion, Predictor, AssignmentModel)
    kinds = {model.kinds[0]: model for model in models}
    kinds[folder.kind].check(folder)


vae_train = partial(train, "vae")
ldm_train = partial(train, "ldm")
rl_train = partial(train, "rl")
predict_train = partial(train, "predict")
assign_train = partial(train, "assign")
ldm_merge = partial(merge, fits=_fits)
hub_convert = partial(convert, fits=_fits)


def assign_propose(
    formulas: Sequence[str],
    k: int = 10,
    *,
    model: str | Path | None = None,
    prototypes: str | Sequence[str] = (),
    units: Sequence[int] | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> list[list[Proposal]]:
    """Propose space groups and Wyckoff letters for formulas, likeliest first.

    Args:
        formulas: of one formula unit each.
        k: assignments of each.
        model: run or model folder, or a model's name, of `chemeleon assign train`.
        prototypes: data sets whose crystals formulas are compared with; mp/train if no model is
            given.
        units: formula units per primitive cell; None: all that are known.
        seed: draw them without replacement instead.
        device: of the model; a GPU if there is one.

    Raises:
        ConfigError: for what is no formula, or one too large.
        CheckpointError, DataError: if there is no such model or set.
    """
    from chemeleon.generation.assignments import load_proposer

    proposer = load_proposer(model, prototypes, device)
    return [proposer.propose(text, k, units=units, seed=seed) for text in formulas]


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
        model: run or model folder, ``hub:NAME`` or ``shipped:NAME``.
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
    columns: dict[str, Any] = {"id_column": id_column, "cif_column": cif_column}
    with nullcontext() if path is None else hold(path, overwrite=overwrite):
        from chemeleon.models.predictor import Predictor
        from chemeleon.models.pretrained import place
        from chemeleon.prediction.run import predict, write_predictions

        predictor = place(Predictor.from_pretrained(model), device)
        found = predict(predictor, sources, **columns, progress=progress)
        if path is not None:
            write_predictions(path, found, predictor)
    return found


@called_with(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> Report:
    """Evaluate crystals; the arguments are those of `chemeleon evaluate`.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.evaluation.evaluate import evaluate as judge
    from chemeleon.prediction.run import wanting

    with _saving(settings, [settings.source]) as save:
        told = {"ids": settings.ids, "manifest": settings.manifest, "progress": settings.progress}
        report = judge(settings.source, wanting(settings), **told)
        save(report)
    return report


@called_with(CompareSettings)
def compare(settings: CompareSettings) -> Comparison:
    """Judge several sets of crystals by the same judge, side by side.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.evaluation.evaluate import compare as judge
    from chemeleon.prediction.run import wanting

    with _saving(settings, settings.sources) as save:
        found = judge(settings.sources, wanting(settings), progress=settings.progress)
        save(found)
    return found


@contextmanager
def _saving(
    settings: WrittenSettings, sources: Iterable[object]
) -> Iterator[Callable[[Report | Comparison], None]]:
    """Give a function that writes an evaluation, if it is to be written."""
    if settings.output is None:
        yield lambda found: None
        return
    folder = Path(settings.output)
    for source in sources if settings.overwrite else ():
        if isinstance(source, str | Path):
            refuse_inside(Path(source), folder, REPORT_PARTS)
    with replacing(folder, REPORT_PARTS, settings.overwrite) as draft:
        yield lambda found: found.write(draft, folder)


@called_with(FlywheelSettings)
def rl_flywheel(settings: FlywheelSettings) -> FlywheelResult:
    """Train a model on its own best crystals, in rounds: make, relax, check, keep, train on.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
        KeyboardInterrupt: by Ctrl-C; all finished steps are kept.
    """
    from chemeleon.reinforcement.flywheel.rounds import turn

    return turn(settings)


vae = SimpleNamespace(
    train=vae_train, reconstruct=reconstruct, presets=lambda: presets.list_presets("vae")
)
ldm = SimpleNamespace(train=ldm_train, merge=ldm_merge, presets=lambda: presets.list_presets("ldm"))
rl = SimpleNamespace(
    train=rl_train, flywheel=rl_flywheel, presets=lambda: presets.list_presets("rl")
)
predict = SimpleNamespace(
    train=predict_train, run=predict_run, presets=lambda: presets.list_presets("predict")
)
assign = SimpleNamespace(
    train=assign_train, propose=assign_propose, presets=lambda: presets.list_presets("assign")
)
hub = SimpleNamespace(
    list=hub_list, shipped=hub_shipped, pull=hub_pull, convert=hub_convert, push=hub_push
)
