"""What `sample` takes: each keyword, its default and what it means, said once.

Nothing here imports torch or pymatgen, so that the command line can read it for its help.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from chemeleon.config.requests import (
    MAX_ATOMS,
    MAX_GUIDANCE,
    MAX_RELAX_STEPS,
    check_range,
    check_request,
    check_seed,
    names_of,
)
from chemeleon.data.problems import OnError
from chemeleon.errors import ConfigError

if TYPE_CHECKING:
    from chemeleon.config.schedulers import SamplerConfig
    from chemeleon.crystals.orbits import Assignment

Precision = Literal["auto", "fp32", "bf16"]
Format = Literal["cif", "extxyz", "json", "poscar"]


@dataclass(frozen=True)
class SampleSettings:
    """Which crystals to make, how, and where to write them.

    Args:
        n: num_samples, in short.

    Attributes:
        model: run or model folder, ``hub:NAME`` or ``shipped:NAME``; by default the one inside the
            package, for formulas that of kind csp. ``prototypes`` is none: crystals of data sets
            with the elements of a formula in the place of their own.
        num_samples: how many crystals; of each formula, if formulas are given.
        formula: one or more formulas, for a model of kind csp. The structures come formula by
            formula, the most promising first.
        formula_units: formula units per cell to try, such as 1,2,4; by default what training makes
            likely.
        formulas_from: data set and split (``perov_5/test``) or file of structures whose atoms are
            requested; samples are called ``ID-1``, ``ID-2``, ... and not ranked. ``where
            EXPRESSION`` behind it takes some of the rows.
        on_error: its bad rows: few (up to 1 % are left out), skip (any number) or fail.
        assign: run or model folder of a model that proposes Wyckoff letters of formulas, for models
            on orbits of kind csp; beside prototypes, if these are named too.
        prototypes: one or more data sets whose crystals propose them, such as mp/train; by default
            mp/train where no model is named.
        rank_by: order of a formula's candidates: energy (CHGNet), both (energy and probability of
            the proposals that they are made of), model (its denoising loss of the crystal), none,
            or auto: where CHGNet is installed both, or energy without proposals, else model.
        output: folder to write to; nothing is written if None.
        formats: files to write there, beside manifest.json.
        seed: same seed, same crystals, whatever the batch size.
        batch_size: crystals at a time; None finds one that fits.
        num_atoms: allowed numbers of atoms per cell, such as 5,8; by default as trained, of these
            the ones that a requested composition fits into.
        space_group: number or Hermann-Mauguin symbol of the crystals' space group, such as 225 or
            Fm-3m; of several the crystals have one after the other. A promise of models on orbits
            (``vae.tokens``); for others it is the condition ``space_group``.
        conditions: name of a condition that the model was trained with to a value, such as
            ``{"band_gap": 2.0, "space_group": "Fm-3m"}``, or to a list with one per crystal.
        guidance: classifier-free guidance scale (Ho & Salimans 2022, arXiv:2207.12598): 0 ignores
            the conditions, 1 is the conditional model without guidance; by default 2.
        guidance_interval: part of the sampling trajectory that is guided, such as 0.2,0.8, 0 its
            beginning and 1 its end; the rest takes the conditional model without guidance
            (Kynkäänniemi et al. 2024, arXiv:2404.07724). By default all of it.
        allow_elements: symbols of the only elements that atoms may have, such as Li,Mn,O.
        forbid_elements: symbols of elements that atoms may not have, such as Pb,Tl.
        scheduler: of reverse diffusion: ddim, ddpm, dpm++, unipc, or euler for flow models; by
            default what the model was saved with.
        steps: number of denoising steps.
        eta: stochasticity (DDIM eta): 0 is deterministic, 1 as in DDPM; from 0 to 1 for ddim, 0 or
            1 for dpm++; others have their own.
        temperature: scale of all noise, the initial one too; below 1 for likelier, less varied
            crystals.
        composition_penalty: penalty on the number of elements: log-probability that another element
            has to add to the crystal's; 0 is none, 1 to 6 are usual against stray elements.
        redraw: how often a crystal is drawn again, of the same size and conditions but from other
            noise, while atoms are closer than 0.75 of the sum of their covalent radii or it is
            invalid. That is rejection sampling, and costs time; 0 is off.
        new_to: data sets, such as mp, whose crystals are drawn again, too, told as in evaluation;
            needs redraw.
        relax: most steps of relaxation, positions and cell, before ranking and writing; 0 is none.
        potential: by which to relax, and to tell whether symmetry costs energy: chgnet (default),
            mace, pkg:thing or another; see `energy.potentials.load_potential`.
        symmetrize: give crystals, once relaxed, the highest symmetry that they almost have, where
            it costs them no energy; see `evaluation.idealise.idealise`.
        symprec: its largest tolerance, angstrom; by default 0.3.
        cell: primitive or conventional cell of each crystal's group, in all formats. Without one
            crystals are written as generated, idealised ones in the primitive cell, and their CIFs
            in the conventional one.
        device: cpu, cuda, cuda:1 or another name of torch's; a GPU is used if there is one.
        precision: of the networks: fp32, bf16, or auto: bf16 where a GPU has it.
        contact_sheet: draw all crystals into one PNG.
        overwrite: replace an earlier sample in the output folder.
        progress: called with the number of crystals of each finished batch.
    """

    model: str | Path | None = None
    num_samples: int = 10
    _: KW_ONLY
    n: InitVar[int | None] = None
    formula: str | Sequence[str] | None = None
    formula_units: Sequence[int] | None = None
    formulas_from: str | None = None
    on_error: OnError = "few"
    assign: str | None = None
    prototypes: str | Sequence[str] | None = None
    rank_by: Literal["auto", "both", "energy", "model", "none"] = "auto"
    output: str | Path | None = None
    formats: Sequence[Format] = ("cif",)
    seed: int = 0
    batch_size: int | None = None
    num_atoms: Sequence[int] | None = None
    space_group: Sequence[str] | None = None
    conditions: Mapping[str, object] | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    allow_elements: Sequence[str] | None = None
    forbid_elements: Sequence[str] | None = None
    scheduler: str | None = None
    steps: int | None = None
    eta: float | None = None
    temperature: float | None = None
    composition_penalty: float | None = None
    redraw: int | None = None
    new_to: str | Sequence[str] | None = None
    relax: int = 0
    potential: str | None = None
    symmetrize: bool = False
    symprec: float | None = None
    cell: Literal["primitive", "conventional"] | None = None
    device: str | None = None
    precision: Precision = "auto"
    contact_sheet: bool = False
    overwrite: bool = False
    progress: Callable[[int], None] | None = None

    def __post_init__(self, n: int | None) -> None:
        if n is not None:
            object.__setattr__(self, "num_samples", n)

    @property
    def formulas(self) -> list[str]:
        """The formulas that are given."""
        return names_of(self.formula)

    @property
    def of_atoms(self) -> bool:
        """Whether the atoms of the crystals are given."""
        return bool(self.formulas or self.formulas_from)

    @property
    def total(self) -> int:
        """Crystals of all formulas together; of a data set's, those of one of its crystals."""
        return self.num_samples * max(1, len(self.formulas))

    def check(self) -> None:
        """Refuse what no model can change anything about.

        Raises:
            ConfigError: saying what is wrong.
        """
        from chemeleon.crystals.symbols import formula_amounts

        check_request(self.total, self.num_atoms)
        if (units := self.formula_units) is not None:
            if not units or min(units) < 1:
                raise ConfigError(f"formula units must be positive numbers, got {list(units)}")
            check_range("formula units", max(units), 1, MAX_ATOMS)
        check_seed(self.seed)
        if self.guidance is not None:
            check_range("guidance", self.guidance, 0, MAX_GUIDANCE)
        check_range("relax", self.relax, 0, MAX_RELAX_STEPS)
        if self.symprec is not None and not self.symmetrize:
            raise ConfigError("symprec is the tolerance of symmetrize, which is not requested")
        if self.potential is not None and not self.relax and not self.symmetrize:
            raise ConfigError(
                f"potential {self.potential} is for relax and symmetrize, neither of which is given"
            )
        for text in self.formulas:
            formula_amounts(text)
        if self.formulas and self.formulas_from is not None:
            raise ConfigError("formulas come from one place: leave out formula or formulas_from")
        if self.formula_units is not None and not self.formulas:
            raise ConfigError("formula_units says how many units of a formula: name the formula")
        if self.rank_by != "auto" and not self.formulas:
            raise ConfigError("rank_by orders the candidates of a formula: name the formula")
        if self.on_error != "few" and self.formulas_from is None:
            raise ConfigError("on_error is for the rows of formulas_from, which is not given")
        if self.output is None and (self.contact_sheet or tuple(self.formats) != ("cif",)):
            raise ConfigError("contact_sheet and formats are of files: name an output folder")
        if (self.assign or self.prototypes) and not self.of_atoms:
            raise ConfigError("assign and prototypes are of formulas: name one")
        if self.num_atoms is not None and self.of_atoms:
            raise ConfigError("a formula says how many atoms there are: use formula_units")


class Options(TypedDict, total=False):
    """Keywords of a `Pipeline`: fields of `SampleSettings` that decide how crystals are made, and

    Attributes:
        atoms: atomic numbers of each crystal, ``M`` lists, for a model of kind csp; the crystals
            have exactly these, in the order of the model's training.
        assignments: space group, elements and Wyckoff letters of each crystal, ``M``, for a model
            of kind csp on orbits; the crystals have exactly these orbits.
        space_group: of each crystal, or one for all, for a model on orbits; by default as in
            training.
        sampler: scheduler, steps, eta and the like; by default what the model's config says.
        rank: make only every ``world``-th crystal, in the order of sizes, beginning with this one.
        world: processes that share the work.
    """

    seed: int
    num_atoms: Sequence[int] | None
    atoms: Sequence[Sequence[int]] | None
    assignments: Sequence[Assignment] | None
    space_group: Sequence[int] | None
    sampler: SamplerConfig | None
    batch_size: int | None
    precision: Precision
    rank: int
    world: int
    conditions: Mapping[str, object] | None
    guidance: float | None
    guidance_interval: tuple[float, float] | None
    allow_elements: Collection[str] | None
    forbid_elements: Collection[str] | None
    new_to: str | Sequence[str] | None
