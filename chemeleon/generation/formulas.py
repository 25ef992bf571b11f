"""What a sample of given formulas consists of: how many candidates, of which cells, called what.

Nothing here imports torch at module level.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from chemeleon.config.requests import check_request
from chemeleon.errors import ConfigError

if TYPE_CHECKING:
    from chemeleon.crystals.orbits import Assignment
    from chemeleon.data.problems import OnError
    from chemeleon.generation.assignments import Proposal, Proposer
    from chemeleon.generation.finishing import Sampled
    from chemeleon.generation.settings import SampleSettings
    from chemeleon.models.denoiser import LatentDiffusion

# most primitive cells of inorganic crystals hold no more; a model that can make as many is not
# worth a word
COMMON_UNITS = 4


@dataclass(frozen=True)
class Candidates:
    """Crystals to be made, those of one target after the other.

    Attributes:
        source: data set or file that the targets are from; None for formulas.
        targets: what was requested: formulas, or ids of the source.
        units: formula units of each candidate; empty for a data set's without proposals.
        atoms: atomic numbers of each candidate.
        per_target: candidates of each target.
        notes: what could not be done as requested.
        proposals: space group and Wyckoff letters of each candidate; empty where a model needs
            none.
        sizes: candidates of each target where these differ; else empty.
    """

    source: str | None
    targets: list[str]
    units: list[int]
    atoms: list[list[int]]
    per_target: int
    notes: list[str]
    proposals: list[Proposal] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def assignments(self) -> list[Assignment] | None:
        """Those of each candidate; None where a model needs none."""
        return [one.assignment for one in self.proposals] or None

    def names(self) -> list[str]:
        """Return a name for each candidate, numbered within its target: ``LiFePO4-01``."""
        width = len(str(self.per_target))
        groups = zip(self.targets, self.groups(), strict=True)
        return [f"{target}-{i + 1:0{width}d}" for target, own in groups for i in range(len(own))]

    def groups(self) -> list[range]:
        """Return the candidates of each target."""
        ends = list(accumulate(self.sizes or [self.per_target] * len(self.targets)))
        return [range(start, end) for start, end in pairwise([0, *ends])]

    def to_manifest(self, made: Sequence[Sampled], by: str | None) -> dict[str, Any]:
        """Return what was requested and in which order it was put, for the manifest.

        Args:
            made: candidate at each place.
            by: what their scores are; None if there are none.
        """
        if self.source is not None and not self.proposals:
            return {"formulas_from": self.source, "candidates": self.per_target}
        names, candidates = self.names(), []
        places = {one.number: name for one, name in zip(made, names, strict=True)}
        for target, group in zip(self.targets, self.groups(), strict=True):
            for place in group:
                one = made[place]
                row: dict[str, Any] = {"id": names[place]}
                row |= {} if self.source is not None else {"formula": target}
                row |= {"formula_units": self.units[one.number]}
                if self.proposals:
                    row |= self.proposals[one.number].to_manifest()
                if by is not None:
                    row |= {"rank": place - group.start + 1}
                    row |= {"score": None if math.isnan(one.score) else one.score}
                if one.repeats is not None:
                    row |= {"repeats": places[one.repeats]}
                candidates.append(row)
        found: dict[str, Any] = {"formulas": self.targets, "ranked_by": by}
        if self.source is not None:
            found = {"formulas_from": self.source}
        return {**found, "notes": self.notes, "candidates": candidates}


def of_formulas(
    formulas: Sequence[str], count: int, units: Sequence[int] | None, model: LatentDiffusion
) -> Candidates:
    """Plan ``count`` candidates for each formula.

    Args:
        formulas: of one formula unit each; atoms are never divided, so ``Si8`` has 8, 16, ...
        count: candidates per formula.
        units: formula units to try, evenly; None shares candidates out by how often training
            crystals have cells of such sizes.
        model: knows the sizes of its training crystals.

    Raises:
        ConfigError: for what is no formula, or one whose cells the model does not know.
    """
    from chemeleon.crystals.formula import parse_formula

    parsed = {text: parse_formula(text) for text in _distinct(formulas)}
    plan = Candidates(None, list(parsed), [], [], count, [])
    for text, atoms in parsed.items():
        for number, candidates in _units(text, atoms, count, units, model, plan.notes).items():
            plan.units.extend([number] * candidates)
            plan.atoms.extend([sorted(atoms * number)] * candidates)
    return plan


def proposed(settings: SampleSettings, proposer: Proposer, *, again: bool = True) -> Candidates:
    """Plan the candidates of the formulas, or of the data set, that settings name.

    See `of_proposals` and `of_data`.
    """
    count = settings.num_samples
    if settings.formulas_from is not None:
        return of_data(settings.formulas_from, count, settings.on_error, proposer, again=again)
    units = settings.formula_units
    return of_proposals(settings.formulas, count, units, proposer, again=again)


def of_proposals(
    formulas: Sequence[str],
    count: int,
    units: Sequence[int] | None,
    proposer: Proposer,
    *,
    again: bool = True,
) -> Candidates:
    """Plan ``count`` candidates for each formula, one for each assignment that is proposed.

    Args:
        formulas: of one formula unit each, see `of_formulas`.
        count: candidates per formula.
        units: formula units per primitive cell; None: all that are known.
        proposer: of assignments.
        again: where fewer are known, take them in turn.

    Raises:
        ConfigError: for what is no formula, or one that nothing is known of.
    """
    from chemeleon.crystals.assignments import atoms_of
    from chemeleon.crystals.formula import parse_formula

    plan = Candidates(None, _distinct(formulas), [], [], count, [])
    for text in plan.targets:
        size = len(parse_formula(text))
        for one in _proposed(text, proposer.propose(text, count, units=units), plan, again):
            plan.units.append(sum(atoms_of(one.assignment).values()) // size)
    return plan


def _distinct(formulas: Sequence[str]) -> list[str]:
    """Return formulas as they are named in files.

    Raises:
        ConfigError: if one is given twice.
    """
    from chemeleon.crystals.notation import plain

    written = [plain(text) for text in formulas]
    if len(set(written)) < len(written):
        twice = Counter(written).most_common(1)[0][0]
        raise ConfigError(f"formula '{twice}' is given twice: give it once, with more candidates")
    return written


def _proposed(target: str, found: list[Proposal], plan: Candidates, again: bool) -> list[Proposal]:
    """Add the candidates of a target to a plan, and return them."""
    if not found:
        raise ConfigError(f"{target}: {_unknown(again)}")
    if len(found) < plan.per_target:
        told = f", taken in turn for {plan.per_target} candidates" if again else ""
        plan.notes.append(f"{target}: {len(found)} assignments of Wyckoff letters are known{told}")
    chosen = found
    if again:
        chosen = [found[i % len(found)] for i in range(plan.per_target)]
    plan.sizes.append(len(chosen))
    plan.proposals.extend(chosen)
    plan.atoms.extend(one.assignment.atomic_numbers.tolist() for one in chosen)
    return chosen


def _unknown(again: bool) -> str:
    """Say that nothing is proposed, and what helps; only a model can place a model's letters."""
    more = ", or a model of assignments with --assign" if again else ""
    return f"no assignment of Wyckoff letters is known: name further sets with --prototypes{more}"


def _units(
    text: str,
    atoms: list[int],
    count: int,
    units: Sequence[int] | None,
    model: LatentDiffusion,
    notes: list[str],
) -> dict[int, int]:
    """Return formula units to candidates."""
    from chemeleon.crystals.formula import likely_units

    largest = len(model.size_histogram) - 1
    if units is None:
        shares = likely_units(atoms, model.formula_histogram)
        if not shares:
            raise ConfigError(
                f"formula '{text}' has {len(atoms)} atoms, and the crystals that the model was"
                f" trained with have {_sizes(model)}: none is a multiple"
            )
        tried = share_out(count, shares)
        if len(atoms) * COMMON_UNITS > largest:
            notes.append(_ruled_out(text, len(atoms), sorted(tried), largest))
        return tried
    chosen = sorted(set(units))
    fitting = [number for number in chosen if number * len(atoms) <= largest]
    if not fitting:
        raise ConfigError(
            f"{chosen[0]} formula units of '{text}' are {chosen[0] * len(atoms)} atoms, and the"
            f" crystals that the model was trained with have {_sizes(model)}"
        )
    if left := [number for number in chosen if number not in fitting]:
        notes.append(
            f"{text}: {', '.join(map(str, left))} formula units left out, as the model knows cells"
            f" of at most {largest} atoms"
        )
    return share_out(count, dict.fromkeys(fitting, 1 / len(fitting)))


def _ruled_out(text: str, atoms: int, tried: list[int], largest: int) -> str:
    """Say which cells of a formula are tried, and which the model cannot make."""
    sizes = ", ".join(f"{number} ({number * atoms} atoms)" for number in tried)
    beyond = largest // atoms + 1
    return (
        f"{text}: formula units per cell that are tried: {sizes}; {beyond} or more"
        f" ({beyond * atoms} atoms) are ruled out, as the model knows cells of at most"
        f" {largest} atoms"
    )


def _sizes(model: LatentDiffusion) -> str:
    known = model.size_histogram.nonzero().flatten().tolist()
    return f"{known[0]} atoms" if len(known) == 1 else f"{known[0]} to {known[-1]} atoms"


def share_out(count: int, shares: dict[int, float]) -> dict[int, int]:
    """Divide ``count`` by shares that sum to 1; the largest remainders get what is left over."""
    whole = {key: int(count * share) for key, share in shares.items()}
    by_rest = sorted(shares, key=lambda key: (whole[key] - count * shares[key], key))
    for key in by_rest[: count - sum(whole.values())]:
        whole[key] += 1
    return {key: number for key, number in whole.items() if number}


def of_data(
    source: str,
    count: int,
    on_error: OnError = "few",
    proposer: Proposer | None = None,
    *,
    again: bool = True,
) -> Candidates:
    """Plan ``count`` candidates with the atoms of each crystal of a data set, under its id.

    Args:
        source: data set and split, ``perov_5/val`` (test if there is none), or a file or folder of
            structures, and ``where EXPRESSION`` behind it to take some of its rows.
        count: candidates per crystal.
        on_error: how many rows may be bad.
        proposer: of assignments, for models that need one; cells have as many atoms as given.
            Crystals that none are known of are left out, with a note.
        again: where fewer are known, take them in turn.

    Raises:
        DataError: if there is no such set.
        ConfigError: if two crystals have one id, or nothing is known of any formula.
    """
    from chemeleon.crystals.formula import reduced
    from chemeleon.data.named import find_set

    crystals = find_set(source, default="test", on_error=on_error).load().crystals
    check_request(len(crystals) * count)
    if len(set(crystals.ids)) < len(crystals):
        twice = Counter(crystals.ids).most_common(1)[0][0]
        raise ConfigError(f"{source}: two crystals are called '{twice}', so sample names clash")
    parts = crystals.atomic_numbers.split(crystals.num_atoms.tolist())
    plan = Candidates(source, list(crystals.ids), [], [], count, [])
    if proposer is None:
        atoms = [sorted(part.tolist()) for part in parts for _ in range(count)]
        return replace(plan, atoms=atoms)
    wanted = [reduced(Counter(part.tolist())) for part in parts]
    units = [times for _, times in wanted]
    found = proposer.propose_all([one for one, _ in wanted], count, units=[[n] for n in units])
    if not any(found):
        raise ConfigError(f"{source}: {_unknown(again)}")
    left = [name for name, proposals in zip(plan.targets, found, strict=True) if not proposals]
    if left:
        shown = f"{', '.join(left[:3])}{', ...' if len(left) > 3 else ''}"
        count_left = f"{len(left)} of {len(found)} crystals are left out ({shown})"
        plan.notes.append(f"{source}: {count_left}: {_unknown(again)}")
    targets = [name for name, proposals in zip(plan.targets, found, strict=True) if proposals]
    plan = replace(plan, targets=targets)
    for name, times, proposals in zip(crystals.ids, units, found, strict=True):
        if proposals:
            chosen = _proposed(name, proposals, plan, again)
            plan.units.extend([times] * len(chosen))
    return plan
