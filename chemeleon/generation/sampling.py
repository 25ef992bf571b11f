"""Crystals from a model to disk: made, checked, written, and a manifest that says what they are.

Nothing here imports torch at module level.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon.checkpoints.card import trained_on
from chemeleon.checkpoints.shipped import default_model
from chemeleon.config.keywords import called_with
from chemeleon.config.launched import Share, share
from chemeleon.config.requests import CONDITIONING, names_of
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.crystals.files import FOLDER_FORMATS
from chemeleon.errors import ConfigError
from chemeleon.generation.manifest import Plan, manifest
from chemeleon.generation.result import SampleResult
from chemeleon.generation.settings import Options, SampleSettings
from chemeleon.storage import refuse_existing, replacing

if TYPE_CHECKING:
    import torch

    from chemeleon.config.architecture import LDMConfig
    from chemeleon.data.writing import CrystalFiles
    from chemeleon.generation.finishing import Finisher, Sampled
    from chemeleon.generation.formulas import Candidates
    from chemeleon.models.denoiser import LatentDiffusion

logger = logging.getLogger(__name__)
PROTOTYPES = "prototypes"  # in the place of a model
SAMPLE_PARTS = (
    "manifest.json",
    "cif",
    "poscar",
    "structures.extxyz",
    "structures.json.gz",
    "contact_sheet.png",
    "evaluation",
)


@called_with(SampleSettings)
def sample(settings: SampleSettings) -> SampleResult:
    """Make crystals with a trained model; the arguments are those of `chemeleon sample`.

    Under ``accelerate launch`` all processes must call it: they share the work, each returns all
    crystals, and the first one writes. `generation.settings.SampleSettings` explains the arguments.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    settings.check()
    _sampler(SamplerConfig(), settings)  # before the model is read, whose defaults are others
    folder = None if settings.output is None else Path(settings.output)
    overwrite = settings.overwrite
    if folder is not None:
        refuse_existing(folder, SAMPLE_PARTS, overwrite, "name another -o")
    model, notes = model_of(settings)
    part = share(settings.device)
    if part.rank > 0:
        folder = None  # the first process writes
    with nullcontext() if folder is None else replacing(folder, SAMPLE_PARTS, overwrite) as draft:
        plan = _plan(settings, model, part)
        made = _make(plan, draft)
        if draft is not None:
            _write(plan, made, draft)
    notes += () if plan.candidates is None else plan.candidates.notes
    structures, problems = [one.structure for one in made], [one.problem for one in made]
    return SampleResult(structures, problems, plan.names, folder, part.rank, notes)


def model_of(settings: SampleSettings) -> tuple[str, list[str]]:
    """Return the model that is named, or the one used without a name and what to say of it."""
    if settings.model is not None:
        return str(settings.model), []
    shipped = default_model(settings.of_atoms)
    return shipped.reference, [shipped.remark]


def _plan(settings: SampleSettings, model: str, part: Share) -> Plan:
    """Load what is needed, and refuse what the model cannot make."""
    if model == PROTOTYPES:
        return _of_prototypes(settings, part)
    from chemeleon.evaluation.idealise import asked_symprec
    from chemeleon.generation.conditioning import guidance_scale, plain
    from chemeleon.generation.pipeline import Pipeline
    from chemeleon.generation.ranking import make_scorer

    symprec = asked_symprec(settings.symmetrize, settings.symprec)
    pipeline = Pipeline.from_pretrained(model, part.device)
    sampler = _sampler(pipeline.model.config.sampler, settings)
    placed = pipeline.model.config.denoiser.sites
    pipeline.check_kind(settings.of_atoms and not placed, settings.of_atoms and placed)
    finisher = _finisher(settings, symprec, pipeline.device)
    candidates, scorer = _candidates(settings, pipeline.model), None
    if settings.formulas:
        proposed = bool(candidates and candidates.proposals)
        scorer = make_scorer(settings.rank_by, pipeline, settings.precision, proposed=proposed)
    _say_notes(candidates, part)
    count = settings.num_samples
    groups, conditions = _space_groups(settings, count, pipeline.model.config)
    guidance = settings.guidance
    allowed, forbidden = settings.allow_elements, settings.forbid_elements
    options = Options(
        rank=part.rank,
        world=part.world,
        precision=settings.precision,
        seed=settings.seed,
        num_atoms=settings.num_atoms,
        space_group=groups,
        sampler=sampler,
        batch_size=settings.batch_size,
        conditions=None if conditions is None else plain(conditions),
        guidance=guidance_scale(guidance, conditions) if conditions else guidance,
        guidance_interval=settings.guidance_interval,
        allow_elements=allowed and list(allowed),
        forbid_elements=forbidden and list(forbidden),
        new_to=settings.new_to,
    )
    if candidates is not None and placed:
        options["assignments"] = candidates.assignments
    elif candidates is not None:
        options["atoms"] = candidates.atoms
    names = [f"sample-{i:06d}" for i in range(count)] if candidates is None else candidates.names()
    rewarded_by = pipeline.model.origin.get("rewarded_by")  # who must not judge it
    trained = trained_on(pipeline.model.origin)  # its copies of these are not new
    sizes = list(settings.num_atoms) if settings.num_atoms else "training histogram"
    conditioned = {name: options.get(name) for name in CONDITIONING}
    about = {
        "weights": pipeline.fingerprint(),
        **({"rewarded_by": rewarded_by} if rewarded_by else {}),
        **({"trained_on": trained} if trained else {}),
        "sampler": sampler.model_dump(),
        "seed": settings.seed,
        "precision": pipeline.precision(settings.precision),
        "num_atoms": sizes if candidates is None else "of the formulas",
        **({"new_to": names_of(settings.new_to)} if settings.new_to else {}),
        **{name: value for name, value in conditioned.items() if value is not None},
    }
    return Plan(
        settings,
        model,
        lambda: pipeline.stream(len(names), **options),
        pipeline.model.config.denoiser.space_group,
        about,
        candidates,
        names,
        finisher._replace(scorer=scorer),
        part,
    )


def _of_prototypes(settings: SampleSettings, part: Share) -> Plan:
    """Plan crystals of a training set with the elements of formulas, without a model."""
    from chemeleon.evaluation.idealise import asked_symprec
    from chemeleon.generation.assignments import PROTOTYPE_SETS, Proposer, load_prototypes
    from chemeleon.generation.formulas import proposed
    from chemeleon.generation.ranking import make_scorer
    from chemeleon.generation.templates import Templates

    given = [*SamplerConfig.model_fields, *CONDITIONING, "num_atoms", "assign", "new_to"]
    if unread := [name for name in given if getattr(settings, name) is not None]:
        raise ConfigError(f"prototypes are no model and draw nothing: leave out {unread[0]}")
    if not settings.of_atoms:
        raise ConfigError("prototypes are found for formulas: name one with formula")
    symprec = asked_symprec(settings.symmetrize, settings.symprec)
    finisher = _finisher(settings, symprec, part.device)
    sets = names_of(settings.prototypes or PROTOTYPE_SETS)
    templates = Templates(load_prototypes(sets))
    candidates = proposed(settings, Proposer(templates.prototypes), again=False)
    scorer = None
    if settings.formulas:
        scorer = make_scorer(settings.rank_by, None, device=part.device, proposed=True)
    _say_notes(candidates, part)
    return Plan(
        settings,
        PROTOTYPES,
        lambda: templates.stream(candidates, part),
        True,
        {"prototypes": sets, "num_atoms": "of the formulas"},
        candidates,
        candidates.names(),
        finisher._replace(scorer=scorer),
        part,
    )


def _finisher(
    settings: SampleSettings, symprec: float | None, device: torch.device | str | None
) -> Finisher:
    """Return what is done to crystals once they are made, but for their order."""
    from chemeleon.generation.finishing import Finisher
    from chemeleon.generation.relaxation import Idealiser, Relaxer

    relaxer = Relaxer.named(settings.potential, settings.relax, device)
    idealiser = Idealiser.named(symprec, settings.potential, relaxer, device)
    return Finisher(relaxer, idealiser, None)


def _say_notes(candidates: Candidates | None, part: Share) -> None:
    """Say what cannot be done as requested, before the work, which may take long."""
    if candidates is not None and part.rank == 0:
        for note in candidates.notes:
            logger.warning("%s", note)


def _candidates(settings: SampleSettings, model: LatentDiffusion) -> Candidates | None:
    """Return what is to be made of formulas; None where the model chooses elements."""
    from chemeleon.generation.formulas import of_data, of_formulas, proposed

    count = settings.num_samples
    if not settings.of_atoms:
        return None
    if model.config.denoiser.sites:
        from chemeleon.generation.assignments import load_proposer

        sets = settings.prototypes or ()
        proposer = load_proposer(settings.assign, sets, settings.device, letters_only=True)
        return proposed(settings, proposer)
    if settings.assign is not None or settings.prototypes:
        raise ConfigError(
            "assign and prototypes say the Wyckoff letters of a formula, which this model is not"
            " told: leave them out, or use a model on orbits of kind csp (docs/orbits.md)"
        )
    if settings.formulas_from is not None:
        return of_data(settings.formulas_from, count, settings.on_error)
    return of_formulas(settings.formulas, count, settings.formula_units, model)


def _space_groups(
    settings: SampleSettings, count: int, model: LDMConfig
) -> tuple[list[int] | None, Mapping[str, object] | None]:
    """Return the space group of each crystal for a model on orbits; else it is a condition."""
    from chemeleon.crystals.symbols import space_group_number

    given, conditions = settings.space_group, settings.conditions
    if given is None:
        return None, conditions
    if settings.of_atoms:
        raise ConfigError("space_group is for models that choose elements: leave out the formulas")
    if conditions and "space_group" in conditions:
        raise ConfigError("the space group is given twice: by space_group and by a condition")
    names = str(given).split(",") if isinstance(given, str | Integral) else list(given)
    if not 0 < len(names) <= count:
        raise ConfigError(f"{count} crystals cannot have {len(names)} space groups in turn")
    numbers = [space_group_number(str(name).strip()) for name in names]
    groups = [numbers[i % len(numbers)] for i in range(count)] if len(numbers) > 1 else numbers
    if model.denoiser.space_group:
        return groups, conditions
    wanted = groups if len(numbers) > 1 else numbers[0]
    return None, {**(conditions or {}), "space_group": wanted}


def _make(plan: Plan, draft: Path | None) -> list[Sampled]:
    """Make the crystals, most promising first, and write the files that hold one each."""
    from chemeleon.crystals.files import check_file_names
    from chemeleon.data.writing import CrystalFiles
    from chemeleon.generation.ranking import ranked

    settings, names, scorer = plan.settings, plan.names, plan.finisher.scorer
    single = [form for form in settings.formats if form in FOLDER_FORMATS]
    files = CrystalFiles(draft, single, len(names)) if draft is not None and single else None
    if plan.candidates is not None and files is not None:
        check_file_names(names)
    found: dict[int, Sampled] = {}
    stream = plan.stream()
    finished = (plan.finisher.finish(batch) for batch in stream)
    with files or nullcontext(), closing(stream):
        for batch in plan.share.gather(finished):
            new = batch.sampled(settings.cell, plan.on_orbits)
            found |= {one.number: one for one in new}
            if scorer is None:
                _add(files, [names[one.number] for one in new], new)
            if settings.progress is not None:
                settings.progress(len(new))
        made = [found[number] for number in range(len(names))]
        if plan.candidates is not None and scorer is not None:
            order, scores, repeats = ranked(
                plan.candidates.groups(),
                [one.structure for one in made],
                [one.score for one in made],
                [one.problem for one in made],
                plan.candidates.proposals if scorer.proposed else (),
            )
            for i, one in enumerate(made):
                one.score, one.repeats = scores[i], repeats.get(i)
            made = [made[i] for i in order]
            _add(files, names, made)
    for name, one in zip(names, made, strict=True):
        if one.structure is not None:
            one.structure.properties["material_id"] = name
    return made


def _add(files: CrystalFiles | None, names: Sequence[str], made: Sequence[Sampled]) -> None:
    """Write crystals that can be written down, each to files of its own."""
    rows = zip(names, made, strict=True)
    kept = [(name, one.structure, one.symmetric) for name, one in rows if one.structure is not None]
    if files is not None and kept:
        files.add(*zip(*kept, strict=True))


def _write(plan: Plan, made: Sequence[Sampled], draft: Path) -> None:
    """Write files of all crystals together, and the manifest."""
    from chemeleon.crystals.files import write_structures

    settings, rows = plan.settings, zip(plan.names, made, strict=True)
    written = {name: one.structure for name, one in rows if one.structure is not None}
    others = [form for form in settings.formats if form not in FOLDER_FORMATS]
    write_structures(list(written.values()), draft, others, list(written))
    if settings.contact_sheet and written:
        from chemeleon.evaluation.report.draw import contact_sheet

        contact_sheet(list(written.values()), draft / "contact_sheet.png")
    text = json.dumps(manifest(plan, made), indent=2) + "\n"
    (draft / "manifest.json").write_text(text, encoding="utf-8")


def _sampler(default: SamplerConfig, settings: SampleSettings) -> SamplerConfig:
    """Return the scheduler and its numbers: those of the settings, else the default."""
    from pydantic import ValidationError

    given = {name: getattr(settings, name) for name in SamplerConfig.model_fields}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        sampler = SamplerConfig.model_validate({**default.model_dump(), **given})
    except ValidationError as error:
        problems = [f"{p['loc'][0]}: {p['msg']}, got {p['input']!r}" for p in error.errors()]
        raise ConfigError("; ".join(problems)) from None
    problem = None if settings.eta is None else sampler.unread_eta()
    if problem is not None:
        raise ConfigError(problem)
    return sampler
