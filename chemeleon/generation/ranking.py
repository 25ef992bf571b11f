"""Candidates of one formula in order of promise: by a potential's energy, or by the model.

What proposed a candidate knows something that its energy does not say, and the energy something
that proposals do not: of both the score is E - kT ln p, as if candidates were drawn with the
proposals' probability p and kept by a Boltzmann factor. Candidates that have one structure share a
place: p is the sum of theirs, E the least, and all but the one that has it go behind the others.

Shapes: ``M`` crystals, ``B`` of a batch.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from chemeleon.config.requests import check_word
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import from_structures
from chemeleon.crystals.lattice import lattice_angles, lattice_from_parameters, lattice_lengths
from chemeleon.crystals.random import make_keys
from chemeleon.crystals.soundness import writable
from chemeleon.errors import ConfigError
from chemeleon.evaluation.matching.grouping import find_groups, prepare, rows_of
from chemeleon.generation.conditioning import Conditioning
from chemeleon.generation.denoising import GuidedDenoiser
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.settings import Precision
from chemeleon.models.packing import Layout

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.generation.assignments import Proposal

CHOICES = ("auto", "both", "energy", "model", "none")
POTENTIAL = "chgnet"
KT = 0.05  # eV/atom, of both; 0.03 to 0.2 do alike on mp/val, 0.01 and 0 worse
COMPARED = 50  # candidates of a formula, the best, that are looked at for one structure
# ltol, stol, angle_tol: phases that a small distortion parts, which looser ones join, stay apart
SAME = (0.1, 0.1, 5.0)
TIMES = 16  # of noise, evenly spread, at which the model is evaluated
BATCH = 512


class Scorer(NamedTuple):
    """Gives every crystal a number, the lower the better; NaN where there is none.

    Attributes:
        name: of the numbers, for manifests.
        score: crystals to ``(M,)`` float64.
        proposed: whether the probability of proposals counts beside it.
    """

    name: str
    score: Callable[[Crystals], Tensor]
    proposed: bool = False


def make_scorer(
    by: str,
    pipeline: Pipeline | None,
    precision: Precision = "auto",
    device: torch.device | str | None = None,
    proposed: bool = False,
) -> Scorer | None:
    """Return the scorer of that name, or None where candidates keep the order they were made in.

    Args:
        by: ``energy`` (CHGNet, eV/atom of the crystal as it is), ``both`` (energy and probability
            of the proposals), ``model`` (see ``denoising_error``), ``none``, or ``auto``: where
            CHGNet is installed both, or energy where there are no proposals, else model.
        pipeline: the model; None where there is none.
        precision: of its networks.
        device: of the potential where there is no model.
        proposed: whether candidates are made of proposals.

    Raises:
        ConfigError: for another name, or if CHGNet, a model or proposals are requested and missing.
    """
    if check_word("rank_by", by, CHOICES) == "none":
        return None
    if by == "both" and not proposed:
        raise ConfigError(
            "rank_by both is energy and probability of proposals, and this model takes none: rank"
            " by energy or model"
        )
    installed = importlib.util.find_spec(POTENTIAL) is not None
    if by in ("both", "energy") and not installed:
        raise ConfigError(
            f"ranking by energy needs a package that is not installed: pip install {POTENTIAL}, or"
            " rank by model"
        )
    if by in ("both", "energy") or (by == "auto" and installed):
        from chemeleon.energy.potentials import load_potential

        potential = load_potential(POTENTIAL, device if pipeline is None else pipeline.device)
        both = proposed and by != "energy"
        return Scorer(
            f"energy{f' - {KT} ln(probability)' if both else ''}, eV/atom"
            f" ({potential.name} {potential.version})",
            lambda crystals: torch.from_numpy(potential.energies(crystals).per_atom_ev),
            both,
        )
    if pipeline is None and by == "model":
        raise ConfigError("there is no model that could rank prototypes: rank by energy or none")
    # of given orbits the loss says nothing of the letters, which proposals have an order of
    if pipeline is None or (by == "auto" and pipeline.model.config.denoiser.sites):
        return None
    return Scorer(
        "denoising error of the model",
        lambda crystals: denoising_error(pipeline, crystals, precision),
    )


@torch.no_grad()
def denoising_error(
    pipeline: Pipeline, crystals: Crystals, precision: Precision = "auto"
) -> Tensor:
    """Return how badly the model recognises crystals in Niggli cells, ``(M,)`` float64.

    The training loss of each crystal's latents (posterior means), averaged over 16 evenly spread
    times: up to weights of the times a bound of -log p (Ho et al. 2020, arXiv:2006.11239, eq. 12;
    used to judge images in Li et al. 2023, arXiv:2303.16203). All crystals see the same noise, so
    that their differences are their own. It costs 16 evaluations of the denoiser. NaN where a
    crystal has no atoms or no cell.
    """
    model, errors = pipeline.model, torch.full((len(crystals),), math.nan, dtype=torch.float64)
    rows = torch.nonzero(writable(crystals)).squeeze(-1)  # others have no orbits
    if not len(rows):
        return errors
    crystals = model.vae.arranged(crystals.subset(rows))
    nothing = Conditioning.read(model, len(crystals), {})
    # turned as training crystals are: the encoder looks at the matrix of the cell
    cells = lattice_from_parameters(
        lattice_lengths(crystals.lattice), lattice_angles(crystals.lattice)
    )
    crystals = replace(crystals, lattice=cells)
    process = pipeline.process
    order = torch.argsort(crystals.num_atoms, stable=True)
    for chunk in order.split(BATCH):
        batch = crystals.batch(chunk).to(pipeline.device)
        mask, keys = batch.mask, make_keys(0, torch.zeros_like(batch.num_atoms))
        given = batch.num_atoms, Layout.of(batch), model.known(batch)
        # a model with self-conditioning is shown no estimate, alike for all candidates
        denoiser = GuidedDenoiser(model, *given, nothing.of(chunk, pipeline.device), None)
        with pipeline.autocast(precision):
            x0 = model.standardise(model.vae.encode(batch).mean) * mask.unsqueeze(-1)
            total = torch.zeros(len(batch), device=pipeline.device)
            for index in range(TIMES):
                time = (index + 0.5) / TIMES * model.config.diffusion.steps
                t = torch.full((len(batch),), time, device=pipeline.device)
                t = t if model.config.diffusion.process == "flow" else t.long()
                noised = process.at(x0, mask, keys, t)
                prediction, _ = denoiser.predict(noised.z, t)
                total += process.losses(prediction, None, x0, noised, mask)["mse"]
        errors[rows[chunk]] = (total / TIMES).double().cpu()
    return errors


class Ranking(NamedTuple):
    """Candidates in order of promise.

    Attributes:
        order: candidate at each place.
        scores: of each candidate.
        repeats: candidates to those before them that have the same structure.
    """

    order: list[int]
    scores: list[float]
    repeats: dict[int, int]


def ranked(
    groups: Sequence[range],
    structures: Sequence[Structure | None],
    scores: Sequence[float],
    problems: Sequence[str | None],
    proposals: Sequence[Proposal] = (),
    kt: float = KT,
) -> Ranking:
    """Rank candidates within their groups, each structure once.

    Args:
        groups: candidates of each formula.
        structures: of each candidate.
        scores: of each, the lower the better; NaN where there is none.
        problems: of each, what is wrong with it.
        proposals: of each, if their probabilities count; a proposal may have several candidates.
        kt: for how much they count, eV/atom.
    """
    found, repeats = list(scores), dict[int, int]()
    for i, proposal in enumerate(proposals):
        found[i] += _unlikely([proposal], kt)
    for group in groups:
        best = best_first([group], found, problems)
        sound = [i for i in best if problems[i] is None and not math.isnan(scores[i])][:COMPARED]
        for same in _alike(sound, structures):
            first = min(same, key=scores.__getitem__)
            repeats |= {other: first for other in same if other != first}
            if proposals:
                found[first] = scores[first] + _unlikely([proposals[i] for i in same], kt)
    return Ranking(best_first(groups, found, problems, repeats), found, repeats)


def _unlikely(proposals: Sequence[Proposal], kt: float) -> float:
    """Return what a structure loses by how unlikely it was to be proposed, eV/atom."""
    distinct = {id(one): one.probability for one in proposals}  # they may be taken in turn
    return -kt * math.log(max(sum(distinct.values()), 1e-300))


def _alike(candidates: Sequence[int], structures: Sequence[Structure | None]) -> list[list[int]]:
    """Return candidates in lists of those that have one structure."""
    rows = [i for i in candidates if structures[i] is not None]
    crystals = from_structures([one for i in rows if (one := structures[i]) is not None]).arrays()
    first = find_groups(prepare(crystals), SAME).group.tolist()
    # those that cannot be read, -1, are alone
    alike = rows_of(own if own >= 0 else -1 - place for place, own in enumerate(first))
    return [[rows[place] for place in members.tolist()] for members in alike.values()]


def best_first(
    groups: Sequence[range],
    scores: Sequence[float],
    problems: Sequence[str | None],
    last: Collection[int] = (),
) -> list[int]:
    """Return candidates by score within their groups.

    Behind them go those named last, then those with a structural problem, then those without a
    score.
    """

    def merit(candidate: int) -> tuple[bool, bool, bool, float]:
        value = scores[candidate]
        missing = math.isnan(value)
        bad, again = problems[candidate] is not None, candidate in last
        return missing, bad, again, 0.0 if missing else value

    return [candidate for group in groups for candidate in sorted(group, key=merit)]
