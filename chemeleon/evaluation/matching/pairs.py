"""How far two crystals are from each other: pymatgen's answers, on all cores, each in limited time.

The answers are those of ``StructureMatcher.get_rms_dist``. Speed comes from the cores and from not
asking where the answer is known: crystals of different reduced composition never match.

Nothing here imports torch at module level.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, Crystal, Crystals
from chemeleon.data.crystal import structure_of
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.evaluation.matching.grouping import composition_keys
from chemeleon.evaluation.matching.limits import (
    TimeUpError,
    Tolerances,
    matcher,
    quietly,
    time_limit,
)
from chemeleon.evaluation.matching.reduced import is_extreme
from chemeleon.evaluation.work import TAME_ATOMS, Each, answers, run
from chemeleon.workers import NO_ANSWER, Worker, keep_workers

MatcherName = Literal["cdvae", "pymatgen", "lemat"]

# ltol, stol, angle_tol: pymatgen's defaults, CDVAE (arXiv:2110.06197), LeMat-GenBench.
TOLERANCES: dict[str, Tolerances] = {
    "pymatgen": (0.2, 0.3, 5.0),
    "cdvae": (0.3, 0.5, 10.0),
    "lemat": (0.1, 0.3, 5.0),
}
_FEW = 16  # no more pairs are matched in this process, where nothing ends compiled code

Pair = tuple[Crystal, Crystal]


class Answer(NamedTuple):
    """What pymatgen says about one pair."""

    rmse: float | None  # in units of (V/N)^(1/3); None without a match
    timed_out: bool = False
    reason: str | None = None  # why there is no answer, where pymatgen gave none


class MatchResult(NamedTuple):
    """Answers for ``K`` pairs.

    Attributes:
        matched: ``(K,)`` bool.
        rmse: ``(K,)`` float64, root mean square displacement over (V/N)^(1/3); NaN where no match.
        timed_out: ``(K,)`` bool; these count as not matched.
        reasons: why pymatgen gave no answer, else None.
    """

    matched: np.ndarray
    rmse: np.ndarray
    timed_out: np.ndarray
    reasons: list[str | None]

    @property
    def match_rate(self) -> float:
        """Share of all pairs that match; NaN without pairs."""
        return float(self.matched.mean()) if len(self.matched) else float("nan")

    @property
    def mean_rmse(self) -> float:
        """Mean over the matched pairs; NaN where none matches."""
        return float(self.rmse[self.matched].mean()) if self.matched.any() else float("nan")


def match_pairs(
    pairs: Sequence[Pair],
    matcher: MatcherName = "cdvae",
    jobs: int | None = None,
    seconds_per_pair: float = 10.0,
) -> MatchResult:
    """Match each pair of crystals; a bad crystal gives a reason, never an exception.

    Args:
        pairs: (found, reference).
        matcher: named tolerances, see `TOLERANCES`.
        jobs: worker processes; all cores by default. Up to 16 pairs, of ordinary size and cell, are
            matched in this process, more by at least one other, which then waits for the next call.
        seconds_per_pair: processor time after which a pair counts as not matched, and timed out.

    Raises:
        ConfigError: for an unknown matcher or a useless limit.
        ChemeleonError: if no process can match anything.
    """
    if matcher not in TOLERANCES:
        hint = nearest(matcher, TOLERANCES)
        raise ConfigError(f"unknown matcher '{matcher}'{hint}; known: {', '.join(TOLERANCES)}")
    if not seconds_per_pair > 0 or (jobs is not None and jobs < 1):
        raise ConfigError(
            f"seconds_per_pair={seconds_per_pair} and jobs={jobs} must be positive numbers"
        )
    known = _known_answers(pairs)
    asked = [pair for pair, answer in zip(pairs, known, strict=True) if answer is None]
    few = len(asked) <= _FEW
    if not few:
        keep_workers()  # validation matches again and again
    job = MatchPairs([], TOLERANCES[matcher], seconds_per_pair, here=few)
    found = list(answers(job, asked, jobs))
    if found and all(answer.reason == MatchPairs.DIED for answer in found):
        _check_processes(job)
    left = iter(found)
    given = [next(left) if answer is None else answer for answer in known]
    rmse = np.array([np.nan if a.rmse is None else a.rmse for a in given], dtype=np.float64)
    late = np.array([a.timed_out for a in given], dtype=bool)
    return MatchResult(~np.isnan(rmse), rmse, late, [a.reason for a in given])


@dataclass(frozen=True)
class MatchPairs(Each):
    """Ask ``StructureMatcher.get_rms_dist`` about pairs; whatever goes wrong becomes a reason.

    Attributes:
        tolerances: of the matcher.
        seconds: of processor time for a pair.
        here: whether ordinary pairs may be matched in this process.
    """

    tolerances: Tolerances
    seconds: float
    here: bool = True
    size = 8
    DIED = "the matching process died on this pair"

    @property
    def is_tame(self) -> bool:
        # limits of time need the main thread of a process
        in_main = threading.current_thread() is threading.main_thread()
        crystals = [crystal for pair in self.items for crystal in pair]
        most = max((len(crystal.atomic_numbers) for crystal in crystals), default=0)
        return self.here and in_main and most <= TAME_ATOMS and not any(map(is_extreme, crystals))

    def lost(self, reason: str) -> Answer:
        if reason == NO_ANSWER:
            return Answer(None, True, f"stuck for more than {self.seconds:g} s, killed")
        return Answer(None, False, self.DIED)

    def answer(self, item: Pair) -> Answer:
        ask = matcher(self.tolerances)  # imports, before the clock starts
        try:
            with quietly(), time_limit(self.seconds):
                found = ask.get_rms_dist(*map(structure_of, item))
        except TimeUpError:
            return Answer(None, True, f"no answer within {self.seconds:g} s")
        except Exception as error:
            return Answer(None, False, f"{type(error).__name__}: {error}")
        return Answer(None if found is None else float(found[0]))


def _check_processes(job: MatchPairs) -> None:
    """Raise ChemeleonError if a process cannot even match a crystal of one atom with itself: then
    the pairs are not to blame, and must not count as not matched."""
    atom = Crystal(np.array([29]), np.zeros((1, 3)), 2.5 * np.eye(3))
    worker = Worker(f"{run.__module__}:{run.__name__}")
    try:
        worker.answer(replace(job, items=[(atom, atom)]))
    except RuntimeError as error:
        raise ChemeleonError(
            f"no pair was matched: {error}, whatever the crystals; see whether"
            " python -c 'import pymatgen.core' works, and free memory"
        ) from error
    finally:
        worker.close(wait=True)


def _known_answers(pairs: Sequence[Pair]) -> list[Answer | None]:
    """Answer what needs no matcher: unusable arrays and different compositions."""
    problems = [_problem(first) or _problem(second) for first, second in pairs]
    usable = [pair for pair, why in zip(pairs, problems, strict=True) if why is None]
    keys = composition_keys(Crystals.of([crystal for pair in usable for crystal in pair]))
    alike = iter([one == two for one, two in zip(keys[::2], keys[1::2], strict=True)])
    return [None if why is None and next(alike) else Answer(None, False, why) for why in problems]


def _problem(crystal: Crystal) -> str | None:
    numbers, coords, lattice = crystal
    if np.shape(lattice) != (3, 3) or np.shape(coords) != (len(numbers), 3):
        return f"shapes {np.shape(lattice)} and {np.shape(coords)}"
    if len(numbers) == 0:
        return "no atoms"
    if not (np.isfinite(lattice).all() and np.isfinite(coords).all()):
        return "not finite"
    if np.min(numbers) < 1 or np.max(numbers) > MAX_ATOMIC_NUMBER:
        return f"atomic number outside 1 to {MAX_ATOMIC_NUMBER}"
    return None
