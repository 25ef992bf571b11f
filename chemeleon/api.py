"""The verbs of the command line as Python functions: `chemeleon.vae.train`, `chemeleon.sample`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
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
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.evaluation.idealise import symmetrize
from chemeleon.generation.sampling import sample
from chemeleon.storage import REPORT_PARTS, hold, refuse_inside, replacing, settle

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.checkpoints.opened import ModelFolder
    from chemeleon.data.prepare import PrepareReport
    from chemeleon.data.problems import OnError
    from chemeleon.evaluation.comparison import Comparison
    from chemeleon.evaluation.report_data import Report
    from chemeleon.prediction.run import Prediction
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
    return presets.load(stage, preset, Path(config_file) if config_file else None, overrides)


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
        raise ConfigError("--resume goes on in the run's own folder: leave out -o and --overwrite")
    config = resolve(stage, preset, config_file, overrides, resume).config
    name = f"{stage}-{preset or config.data.name}".replace("/", "-")
    folder = Path(resume or output or presets.runs_root() / name)
    from chemeleon.training import launch

    return launch.train(
        config, folder, resume=resume is not None, overwrite=overwrite, console=console
    )


def _fits(folder: ModelFolder) -> None:
    """Refuse a folder of any kind whose weights are not those of its network."""
    from chemeleon.models.denoiser import LatentDiffusion  # half a second for all networks
    from chemeleon.models.predictor import Predictor
    from chemeleon.models.vae import CrystalVAE

    kinds = {model.kinds[0]: model for model in (CrystalVAE, LatentDiffusion, Predictor)}
    kinds[folder.kind].check(folder)


vae_train = partial(train, "vae")
ldm_train = partial(train, "ldm")
rl_train = partial(train, "rl")
predict_train = partial(train, "predict")
ldm_merge = partial(merge, fits=_fits)
hub_convert = partial(convert, fits=_fits)


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


def evaluate(
    source: str | Path | Sequence[Structure | None],
    *,
    references: Sequence[str] = (),
    control: str | None = "auto",
    matcher: str = "pymatgen",
    targets: str | None = None,
    base: str | None = None,
    potential: str = "none",
    hull: str | Path | Sequence[str | Path] | None = None,
    relax_steps: int = 0,
    symmetrize: bool = False,
    symprec: float | None = None,
    device: str | None = None,
    jobs: int | None = None,
    seconds_per_pair: float = 10.0,
    coverage: bool = False,
    control_energies: int = 1000,
    properties: Mapping[str, float | tuple[float, float]] | None = None,
    predictor: str | Path | None = None,
    on_error: OnError = "few",
    output: str | Path | None = None,
    overwrite: bool = False,
    ids: Sequence[str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Report:
    """Judge crystals; the arguments are those of `chemeleon evaluate`.

    Args:
        source: file or folder of crystals, or pymatgen structures (None: asked for, not made).
        references: data sets, ``NAME/SPLIT`` or paths to be novel against, each with ``where
            EXPRESSION`` or without; "unique and novel" is against all of them.
        control: set that passes through the same code: a data set or path, ``auto`` (the test
            split of the first reference that is a data set) or ``none``.
        matcher: pymatgen, cdvae or lemat.
        targets: crystals that samples should meet, for crystal structure prediction.
        base: crystals of the model before fine-tuning, to compare elements with.
        potential: chgnet, mace, none or package.module:thing.
        hull: ``mp`` (the default), ``mp_all``, or a file of ``chemeleon data hull``; of several a
            crystal's highest energy above hull counts, and SUN and MSUN are told for each.
        relax_steps: most steps of relaxation, 0 for none.
        symmetrize: also idealise the relaxed crystals (or those given), and judge them again.
        symprec: largest tolerance of that, angstrom; by default 0.3.
        device: torch's name, for energies.
        jobs: processes; all cores if None.
        seconds_per_pair: limit of one comparison.
        coverage: also COV-R and COV-P (needs matminer, and time).
        control_energies: crystals of the control set, evenly spread, that get energies too.
        properties: name of a property to the interval that is wanted, or to a value.
        predictor: run or model folder, ``hub:NAME`` or ``shipped:NAME``, that predicts them.
        on_error: bad rows of references, control and targets: ``few`` (up to 1 %), ``skip`` or
            ``fail``; those that are judged keep their rows.
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
    from chemeleon.prediction.run import wanting

    folder = None if output is None else Path(output)
    if overwrite and folder is not None and isinstance(source, str | Path):
        refuse_inside(Path(source), folder, REPORT_PARTS)
    settings = Settings(
        references=tuple(references),
        control=control,
        matcher=matcher,
        targets=targets,
        base=base,
        potential=potential,
        hull=hull,
        relax_steps=relax_steps,
        symmetrize=symmetrize,
        symprec=symprec,
        device=device,
        jobs=jobs,
        seconds_per_pair=seconds_per_pair,
        coverage=coverage,
        control_energies=control_energies,
        on_error=on_error,
    )
    settings = wanting(settings, properties, predictor)
    if folder is None:
        return judge(source, settings, ids=ids, manifest=manifest, progress=progress)
    with replacing(folder, REPORT_PARTS, overwrite) as draft:
        report = judge(source, settings, ids=ids, manifest=manifest, progress=progress)
        report.write(draft, folder)
    return report


def compare(
    sources: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
    **settings: Any,
) -> Comparison:
    """Judge several sets of crystals by the same judge, side by side.

    Args:
        sources: files or folders of crystals.
        output: folder to write to: a table and a page of all, and in ``sets/NAME`` the report of
            each; nothing is written if None.
        overwrite: replace an earlier evaluation there.
        progress: called with a word and the share done of what it names.
        settings: the fields of `chemeleon.evaluation.settings.Settings`, which are the options of
            `evaluate`: ``references``, ``potential``, ``relax_steps``...

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.evaluation.evaluate import compare as judge
    from chemeleon.evaluation.settings import Settings
    from chemeleon.prediction.run import wanting

    wanted = settings.pop("properties", None), settings.pop("predictor", None)
    known = {field.name for field in fields(Settings)}
    for name in settings:
        if name not in known:
            raise ConfigError(f"there is no setting '{name}'{nearest(name, known)}")
    chosen = wanting(Settings(**settings), *wanted)
    if output is None:
        return judge(sources, chosen, progress=progress)
    folder = Path(output)
    if overwrite:
        for source in sources:
            refuse_inside(Path(source), folder, REPORT_PARTS)
    with replacing(folder, REPORT_PARTS, overwrite) as draft:
        found = judge(sources, chosen, progress=progress)
        found.write(draft, folder)
    return found


def vae_reconstruct(
    model: str | Path,
    dataset: str,
    *,
    split: str = "test",
    batch_size: int = 256,
    device: str | None = None,
    jobs: int | None = None,
    on_error: OnError = "few",
) -> dict[str, Any]:
    """Return how well a VAE gives back a data set: match rate and RMSE at the `cdvae` preset.

    Args:
        model: run or model folder, or hub name.
        dataset: data set, ``NAME/SPLIT`` or a path, with ``where EXPRESSION`` or without.
        split: train, val or test, where the name has none.
        batch_size: crystals at a time.
        device: torch's name; a GPU is used if there is one.
        jobs: matching processes; all cores if None.
        on_error: bad rows: ``few`` (up to 1 % are left out), ``skip`` or ``fail``.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.training.reconstruct import reconstruct

    limits: dict[str, Any] = {"batch_size": batch_size, "jobs": jobs, "on_error": on_error}
    return reconstruct(model, dataset, split, device=device, **limits)


def prepare(
    source: str | Path | Sequence[Structure],
    output: str | Path,
    split: Sequence[float] = (0.9, 0.05, 0.05),
    seed: int = 0,
    **options: Any,
) -> PrepareReport:
    """Make a data set of crystals; the arguments are those of `chemeleon data prepare`.

    Args:
        source: file or folder of crystals, or pymatgen structures.
        output: new folder, to be named with ``data.root=PARENT data.name=NAME`` (the ``words`` of
            what is returned).
        split: shares of train, val and test.
        seed: decides which crystal goes where.
        options: further ones of `chemeleon.data.prepare.prepare`, such as ``overwrite=True``.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    from chemeleon.data.prepare import prepare as write

    return write(source, output, split, seed, **options)


vae = SimpleNamespace(
    train=vae_train, reconstruct=vae_reconstruct, presets=lambda: presets.list_presets("vae")
)
ldm = SimpleNamespace(train=ldm_train, merge=ldm_merge, presets=lambda: presets.list_presets("ldm"))
rl = SimpleNamespace(train=rl_train, presets=lambda: presets.list_presets("rl"))
predict = SimpleNamespace(
    train=predict_train, run=predict_run, presets=lambda: presets.list_presets("predict")
)
hub = SimpleNamespace(
    list=hub_list, shipped=hub_shipped, pull=hub_pull, convert=hub_convert, push=hub_push
)
__all__ = [
    "ChemeleonError",
    "compare",
    "evaluate",
    "hub",
    "ldm",
    "predict",
    "prepare",
    "resolve",
    "rl",
    "sample",
    "symmetrize",
    "vae",
]
