"""Whether two crystals are the same: pymatgen's answers, from all cores, with a limit per pair.

The judge is ``StructureMatcher.get_rms_dist``. Speed comes from the cores and from not asking
where the answer is known: crystals of different reduced composition never match.

Nothing here imports torch at module level.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from chemeleon.crystals.batch import Crystal
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.evaluation.matching.limits import TimeUpError, Tolerances, matcher, time_limit
from chemeleon.evaluation.work import TAME_ATOMS, Each, answers, run
from chemeleon.workers import NO_ANSWER, Worker, keep_workers

MatcherName = Literal["cdvae", "pymatgen", "lemat"]

# ltol, stol, angle_tol: pymatgen's defaults, CDVAE (arXiv:2110.06197), LeMat-GenBench.
TOLERANCES: dict[str, Tolerances] = {
    "pymatgen": (0.2, 0.3, 5.0),
    "cdvae": (0.3, 0.5, 10.0),
    "lemat": (0.1, 0.3, 5.0),
}
_FEW = 16  # no more pairs are matched in this process
_EXTREME_CELL = 100.0  # longest over shortest vector: compiled code there outlasts any alarm

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
            matched in this process.
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
    known = [_known_answer(first, second) for first, second in pairs]
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
    return MatchResult(
        matched=np.array([a.rmse is not None for a in given], dtype=bool),
        rmse=np.array([np.nan if a.rmse is None else a.rmse for a in given], dtype=np.float64),
        timed_out=np.array([a.timed_out for a in given], dtype=bool),
        reasons=[a.reason for a in given],
    )


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
        return self.here and in_main and all(map(_is_tame, self.items))

    def lost(self, reason: str) -> Answer:
        if reason == NO_ANSWER:
            return Answer(None, True, f"stuck for more than {self.seconds:g} s, killed")
        return Answer(None, False, self.DIED)

    def answer(self, item: Pair) -> Answer:
        from pymatgen.core import Structure

        ask = matcher(self.tolerances)  # imports, before the clock starts
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                with time_limit(self.seconds):
                    structures = [
                        Structure(
                            np.asarray(lattice, float), numbers.tolist(), np.asarray(coords, float)
                        )
                        for numbers, coords, lattice in item
                    ]
                    found = ask.get_rms_dist(*structures)
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


def _known_answer(first: Crystal, second: Crystal) -> Answer | None:
    """Answer what needs no matcher: unusable arrays and different compositions."""
    for numbers, coords, lattice in (first, second):
        if np.shape(lattice) != (3, 3) or np.shape(coords) != (len(numbers), 3):
            return Answer(None, False, f"shapes {np.shape(lattice)} and {np.shape(coords)}")
        if len(numbers) == 0:
            return Answer(None, False, "no atoms")
        if not (np.isfinite(lattice).all() and np.isfinite(coords).all()):
            return Answer(None, False, "not finite")
        if np.min(numbers) < 1 or np.max(numbers) > 118:
            return Answer(None, False, "atomic number outside 1 to 118")
    one, two = _composition(first.atomic_numbers), _composition(second.atomic_numbers)
    return None if one == two else Answer(None)


def _composition(numbers: np.ndarray) -> bytes:
    counts = np.bincount(numbers, minlength=119)
    return (counts // np.gcd.reduce(counts)).tobytes()


def _is_tame(pair: Pair) -> bool:
    lengths = np.linalg.norm([crystal.lattice for crystal in pair], axis=-1)
    extreme = lengths.max(-1) > _EXTREME_CELL * lengths.min(-1)
    return not extreme.any() and max(len(c.atomic_numbers) for c in pair) <= TAME_ATOMS
