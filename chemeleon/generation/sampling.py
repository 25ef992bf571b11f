"""Crystals from a model to disk: made, checked, written, and a manifest that says what they are.

Nothing here imports torch at module level.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chemeleon.checkpoints.shipped import default_model
from chemeleon.config.launched import share
from chemeleon.config.requests import check_sample
from chemeleon.config.schema import SamplerConfig
from chemeleon.crystals.symbols import formula_amounts
from chemeleon.errors import ConfigError
from chemeleon.generation.result import SampleResult
from chemeleon.storage import SAMPLE_PARTS, refuse_existing, replacing
from chemeleon.version import __version__

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.crystals.symmetry import Cell
    from chemeleon.data.problems import OnError
    from chemeleon.evaluation.idealise import Idealised
    from chemeleon.generation.relaxation import Idealiser, Note, Relaxer

Format = Literal["cif", "extxyz", "json", "poscar"]
logger = logging.getLogger(__name__)


def sample(
    model: str | Path | None = None,
    num_samples: int = 10,
    *,
    n: int | None = None,
    formula: str | Sequence[str] | None = None,
    formula_units: Sequence[int] | None = None,
    formulas_from: str | None = None,
    on_error: OnError = "few",
    rank_by: Literal["auto", "energy", "model", "none"] = "auto",
    output: str | Path | None = None,
    formats: Sequence[Format] = ("cif",),
    seed: int = 0,
    batch_size: int | None = None,
    num_atoms: Sequence[int] | None = None,
    conditions: Mapping[str, object] | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    allow_elements: Sequence[str] | None = None,
    forbid_elements: Sequence[str] | None = None,
    scheduler: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    temperature: float | None = None,
    element_price: float | None = None,
    relax: int = 0,
    potential: str | None = None,
    symmetrize: bool = False,
    symprec: float | None = None,
    cell: Cell | None = None,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    contact_sheet: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SampleResult:
    """Make crystals with a trained model; the arguments are those of `chemeleon sample`.

    Under ``accelerate launch`` all processes must call it: they share the work, each returns all
    crystals, and the first one writes.

    Args:
        model: run or model folder, ``hub:NAME`` or ``shipped:NAME``; by default the one inside the
            package, for formulas that of kind csp.
        num_samples: how many crystals; of each formula, if formulas are asked for.
        n: the same, in short.
        formula: one or more formulas, for a model of kind csp. The structures come formula by
            formula, the most promising first.
        formula_units: formula units per cell to try; None tries what training makes likely.
        formulas_from: data set and split (``perov_5/test``) or file of structures whose atoms are
            asked for; samples are called ``ID-1``, ``ID-2``, ... and not ranked. ``where
            EXPRESSION`` behind it takes some of the rows.
        on_error: its bad rows: ``few`` (up to 1 % are left out), ``skip`` or ``fail``.
        rank_by: order of a formula's candidates: energy (CHGNet), model (how well it recognises
            what it made), auto (energy where CHGNet is installed, else model) or none.
        output: folder to write to; nothing is written if None.
        formats: files to write there, beside `manifest.json`.
        seed: same seed, same crystals, whatever the batch size.
        batch_size: crystals at a time; None finds one that fits.
        num_atoms: allowed numbers of atoms per cell.
        conditions: name of a condition that the model was trained with to a value, such as
            ``{"band_gap": 2.0, "space_group": "Fm-3m"}``, or to a list with one per crystal.
        guidance: how hard to push towards the conditions: 0 not at all, 1 as trained; by default 2.
        guidance_interval: shares of the walk from which to which to push; by default all of it.
        allow_elements: symbols of the only elements that atoms may have.
        forbid_elements: symbols of elements that atoms may not have.
        scheduler: ddim, ddpm, dpm++, unipc or euler; by default what the model was saved with.
        steps: evaluations of the denoiser.
        eta: share of fresh noise, 0 to 1.
        temperature: scale of all noise; below 1 for likelier, less varied crystals.
        element_price: how much likelier a crystal must be for another element to be worth it.
        relax: most steps of relaxation, positions and cell, before ranking and writing; 0 is none.
        potential: by which to relax, and to tell whether symmetry costs energy, see
            `energy.potentials.load_potential`; by default chgnet.
        symmetrize: give crystals, once relaxed, the highest symmetry that they almost have, where
            it costs them no energy; see `evaluation.idealise.idealise`.
        symprec: its largest tolerance, angstrom; by default 0.3.
        cell: primitive or conventional cell of each crystal's group, in all formats. Without one
            crystals come as they were made, idealised ones in the primitive cell, and their CIFs
            in the conventional one.
        device: torch's name; a GPU is used if there is one.
        precision: of the networks; auto is bf16 where a GPU has it, else fp32.
        contact_sheet: draw all crystals into one PNG.
        overwrite: replace an earlier sample in ``output``.
        progress: called with the number of crystals of each finished batch.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    import torch

    from chemeleon.evaluation.idealise import asked_symprec

    num_samples = num_samples if n is None else n
    formulas = [formula] if isinstance(formula, str) else list(formula or ())
    total = num_samples * max(1, len(formulas))
    check_sample(total, num_atoms, formula_units, seed, guidance, relax)
    tolerance = asked_symprec(symmetrize, symprec)
    if potential is not None and not relax and not symmetrize:
        raise ConfigError(
            f"potential {potential} is for relax and symmetrize, and neither is asked for"
        )
    for text in formulas:
        formula_amounts(text)
    chosen: dict[str, Any] = {"scheduler": scheduler, "steps": steps, "eta": eta}
    chosen |= {"temperature": temperature, "element_price": element_price}
    _sampler(SamplerConfig(), chosen)  # before the model is read, whose defaults are others
    _check_formulas(formulas, formula_units, formulas_from, num_atoms)
    folder = None if output is None else Path(output)
    if folder is not None:
        refuse_existing(folder, SAMPLE_PARTS, overwrite, "name another -o")
    notes: list[str] = []
    if model is None:
        shipped = default_model(bool(formulas or formulas_from))
        model = shipped.reference
        notes.append(shipped.remark)

    from chemeleon.crystals.convert import check_file_names, write_structures
    from chemeleon.crystals.texts import FOLDER_FORMATS
    from chemeleon.data.writing import CrystalFiles
    from chemeleon.evaluation.validity import structural_problems, writable
    from chemeleon.generation.finishing import finish, shape
    from chemeleon.generation.formulas import of_data, of_formulas
    from chemeleon.generation.guidance import GUIDANCE, plain
    from chemeleon.generation.pipeline import Pipeline
    from chemeleon.generation.ranking import best_first, make_scorer
    from chemeleon.generation.relaxation import Idealiser, Relaxer

    mine = share(device)
    if mine.rank > 0:
        folder = None  # the first process writes
    with nullcontext() if folder is None else replacing(folder, SAMPLE_PARTS, overwrite) as draft:
        pipeline = Pipeline.from_pretrained(model, mine.device)
        settings = _sampler(pipeline.model.config.sampler, chosen)
        pipeline.check_kind(bool(formulas or formulas_from))
        relaxer = Relaxer.named(potential, relax, pipeline.device)
        idealiser = Idealiser.named(tolerance, potential, relaxer, pipeline.device)
        asked, scorer = None, None
        if formulas:
            asked = of_formulas(formulas, num_samples, formula_units, pipeline.model)
            scorer = make_scorer(rank_by, pipeline, precision)
        elif formulas_from is not None:
            asked = of_data(formulas_from, num_samples, on_error)
        if asked is not None:
            num_samples = len(asked.atoms)
            for note in asked.notes if mine.rank == 0 else ():
                logger.warning("%s", note)  # before the work, which may take long
        names = [f"sample-{i:06d}" for i in range(num_samples)] if asked is None else asked.names()
        single = [form for form in formats if form in FOLDER_FORMATS]
        if asked is not None and draft is not None and single:
            check_file_names(names)
        structures: list[Structure | None] = [None] * num_samples
        problems: list[str | None] = [None] * num_samples
        symmetric: list[Cell | None] = [None] * num_samples  # of CIFs
        relaxed: dict[int, Note] = {}
        ideal: dict[int, Idealised] = {}
        options: dict[str, Any] = {"rank": mine.rank, "world": mine.world, "precision": precision}
        options |= {
            "seed": seed,
            "num_atoms": num_atoms,
            "sampler": settings,
            "batch_size": batch_size,
        }
        wishes: dict[str, Any] = {
            "conditions": None if conditions is None else plain(conditions),
            "guidance": GUIDANCE if conditions and guidance is None else guidance,
            "guidance_interval": guidance_interval,
            "allow_elements": allow_elements and list(allow_elements),
            "forbid_elements": forbid_elements and list(forbid_elements),
        }
        options |= wishes
        options["atoms"] = None if asked is None else asked.atoms
        stream = pipeline.stream(num_samples, **options)
        finished = finish(stream, relaxer, idealiser, scorer)
        batches = mine.gather(list(finished)) if mine.world > 1 else finished
        scores = torch.full((num_samples,), float("nan"), dtype=torch.float64)
        files = CrystalFiles(draft, single, num_samples) if draft is not None and single else None
        with files or nullcontext(), closing(stream):
            for numbers, crystals, moves, ideals, values in batches:
                relaxed |= zip(numbers.tolist(), moves, strict=relaxer is not None)
                ideal |= zip(numbers.tolist(), ideals, strict=idealiser is not None)
                found = structural_problems(crystals)
                for number, problem in zip(numbers.tolist(), found, strict=True):
                    problems[number] = problem
                possible = torch.nonzero(torch.as_tensor(writable(crystals))).squeeze(-1)
                rows = numbers[possible].tolist()
                shaped = shape(crystals, ideals, possible, [problems[i] for i in rows], cell)
                for number, (structure, listed) in zip(rows, shaped, strict=True):
                    structures[number], symmetric[number] = structure, listed
                if values is not None:
                    scores[numbers] = values
                elif files is not None:
                    made = [structure for structure, _ in shaped]
                    files.add([names[i] for i in rows], made, [symmetric[i] for i in rows])
                if progress is not None:
                    progress(len(crystals))
            order = list(range(num_samples))
            if asked is not None and scorer is not None:
                order = best_first(asked.groups(), scores, problems)
                structures = [structures[i] for i in order]
                problems = [problems[i] for i in order]
                symmetric = [symmetric[i] for i in order]
            for name, structure, listed in zip(names, structures, symmetric, strict=True):
                if structure is not None:
                    structure.properties["material_id"] = name
                    if files is not None and scorer is not None:
                        files.add([name], [structure], [listed])
        if draft is not None:
            written = {n: s for n, s in zip(names, structures, strict=True) if s is not None}
            others = [form for form in formats if form not in FOLDER_FORMATS]
            write_structures(list(written.values()), draft, others, list(written))
            if contact_sheet and written:
                from chemeleon.evaluation.draw import contact_sheet as draw

                draw(list(written.values()), draft / "contact_sheet.png")
            ranked_by = None if scorer is None else scorer.name
            sizes = list(num_atoms) if num_atoms else "training histogram"
            sizes = sizes if asked is None else "of the formulas"
            if wishes["conditions"]:
                wishes["conditions"] = _in_order(wishes["conditions"], order)
            manifest = {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "model": str(model),
                "weights": pipeline.fingerprint(),
                **_rewarded(pipeline.model.origin),
                "sampler": settings.model_dump(),
                "seed": seed,
                "precision": pipeline.precision(precision),
                "num_atoms": sizes,
                **{name: value for name, value in wishes.items() if value is not None},
                "requested": num_samples,
                "written": len(written),
                "valid": sum(problem is None for problem in problems),
                "broken": [
                    {"id": names[i], "reason": problem, "written": structures[i] is not None}
                    for i, problem in enumerate(problems)
                    if problem is not None
                ],
                **({} if asked is None else asked.told(order, scores.tolist(), ranked_by)),
                **_told("relaxation", relaxer, relaxed, order, names),
                **_told("symmetrization", idealiser, ideal, order, names),
                **({} if cell is None else {"cell": cell}),
                "formats": list(formats),
                "versions": _versions(),
            }
            text = json.dumps(manifest, indent=2) + "\n"
            (draft / "manifest.json").write_text(text, encoding="utf-8")
        notes += () if asked is None else asked.notes
        return SampleResult(structures, problems, names, folder, mine.rank, notes)


def _told(
    key: str, by: Relaxer | Idealiser | None, notes: Mapping[int, Any], order: Sequence[int],
    names: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Return what the manifest says of a step that changes crystals."""
    return {} if by is None else {key: by.told([notes[i] for i in order], names)}


def _rewarded(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return whom the model has learned to please, who must not judge it."""
    by = origin.get("rewarded_by")
    return {"rewarded_by": by} if by else {}


def _check_formulas(
    formulas: Sequence[str],
    formula_units: Sequence[int] | None,
    formulas_from: str | None,
    num_atoms: Sequence[int] | None,
) -> None:
    if formulas and formulas_from is not None:
        raise ConfigError("formulas come from one place: leave out formula or formulas_from")
    if formula_units is not None and not formulas:
        raise ConfigError("formula_units says how many units of a formula: name the formula")
    if num_atoms is not None and (formulas or formulas_from is not None):
        raise ConfigError("a formula says how many atoms there are: use formula_units")


def _in_order(conditions: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """Return conditions with listed values in the order that their crystals were put in."""
    return {
        name: [value[i] for i in order] if isinstance(value, list) else value
        for name, value in conditions.items()
    }


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
