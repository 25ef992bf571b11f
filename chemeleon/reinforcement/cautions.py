"""What to mistrust in a run of reinforcement learning, in sentences for whoever reads its report.

A reward is only a part of what a chemist wants, and what it leaves out is what tuning spends. Each
figure of the last rollouts is held against a limit, or against the first rollout, whose crystals
are the base model's. Figures are those of `notes`, so those of an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chemeleon.evaluation.metrics.statistics import percentages
from chemeleon.evaluation.report.page import number

LAST = 3  # rollouts that are averaged: one alone may be small
# Half of all crystals. Of real ones that no model has seen 26 % are unique, novel and stable by the
# hull `mp` (docs/results.md, the control row); a model that is far above them has found gaps in it.
STABLE_SHARE = 0.5
# Points of P1 above the base model's: twice what chance makes of 64 crystals. The runs of
# docs/rl.md came to 27 in 7 minutes and to 39 in 16.
P1_RISE = 0.15
# Distinct formulas, as a part of the first rollout's. The runs of docs/rl.md kept 94 % or more of
# their chemical systems, the one that collapsed 3 %.
DISTINCT_KEPT = 0.8
# Part of the atoms that became other elements; the long run of docs/rl.md had half when like
# elements stood for each other. Of what is beyond chance, as the next one, see `_by_chance`.
DRIFT = 0.3
# Wasserstein distance of the number of elements in a crystal from the first rollout's: in
# docs/rl.md, there from real crystals, 0.4 of the run that ended early and 0.8 of the longer one.
ELEMENTS_DISTANCE = 0.4
MOST_NAMED = 5  # elements that gained most

Row = Mapping[str, Any]


def cautions(rows: Sequence[Row], *, compositions_given: bool = False) -> list[str]:
    """Return what makes the result of a run less than its rewards say; plain text.

    Args:
        rows: of metrics.jsonl, those of updates, in order.
        compositions_given: as csp models are asked: elements and formulas are those of the
            requests, which differ from update to update, and say nothing of the model.
    """
    if not rows:
        return []
    found = [*_energies(rows), *_symmetry(rows)]
    return found if compositions_given else [*found, *_formulas(rows), *_drift(rows)]


def _first_and_last(rows: Sequence[Row], key: str) -> tuple[float, float] | None:
    """Return a figure of the first rollout that has it, and its mean over the last ones."""
    values = [float(row[key]) for row in rows if row.get(key) is not None]
    last = values[-LAST:]
    return (values[0], sum(last) / len(last)) if values else None


def _energies(rows: Sequence[Row]) -> Iterator[str]:
    above, stable = (_first_and_last(rows, f"fact/{name}") for name in ("e_hull", "stable"))
    found = []
    if above is not None and above[1] < 0:
        found.append(f"their mean energy is {number(-above[1])} eV/atom below the hull")
    if stable is not None and stable[1] > STABLE_SHARE:
        found.append(f"{_percent(stable[1])} of them lie on the hull or below it")
    if found:
        yield (
            f"The crystals of the last updates look too stable: {' and '.join(found)}. No crystal"
            " lies below a complete hull. Either phases are missing from the hull of the reward, or"
            " its potential is wrong for such crystals, and the model has learned to exploit that."
            " Use a hull of more phases (option hull of the energy reward), and evaluate with a"
            " potential of another family before you believe it."
        )


def _symmetry(rows: Sequence[Row]) -> Iterator[str]:
    found = _first_and_last(rows, "fact/p1")
    if found is not None and found[1] - found[0] > P1_RISE:
        yield (
            f"Symmetry gets lost: {_percent(found[1])} of the last crystals have no symmetry but"
            f" translation (space group P1), against {_percent(found[0])} of the base model's and a"
            " few per cent of real crystals. Tuning spends what no reward pays for: end the run"
            " earlier (trainer.max_epochs), or hold the model to its base (rl.reference_kl)."
        )


def _formulas(rows: Sequence[Row]) -> Iterator[str]:
    found = _first_and_last(rows, "rollout/distinct_formulas")
    if found is None or found[1] >= DISTINCT_KEPT * found[0]:
        return
    top = next(iter((rows[-1].get("formulas") or {}).items()), None)
    often = f" The most frequent, {top[0]}, was made {number(top[1])} times at last." if top else ""
    yield (
        f"Formulas repeat: the last crystals have {100 * found[1]:.0f} different formulas per 100,"
        f" the base model's had {100 * found[0]:.0f}.{often} The model narrows to a few answers"
        " (mode collapse): end the run earlier, lower optim.lr, or give more weight to a reward for"
        " unique crystals (creativity)."
    )


def _drift(rows: Sequence[Row]) -> Iterator[str]:
    found = []
    key = "rollout/element_drift"
    moved, chance = _first_and_last(rows, key), _by_chance(rows, key)
    if moved is not None and moved[1] - chance > DRIFT * (1 - chance):
        named = _gained(rows[0].get("elements") or {}, rows[-1].get("elements") or {})
        found.append(
            f"{_percent(moved[1])} of the atoms became other elements (more {', '.join(named)})"
        )
    key = "rollout/num_elements_distance"
    distance = _first_and_last(rows, key)
    if distance is not None and distance[1] - _by_chance(rows, key) > ELEMENTS_DISTANCE:
        means = [_mean(row.get("num_elements") or {}) for row in (rows[0], rows[-1])]
        found.append(
            f"the number of elements in a crystal is off by {distance[1]:.1f}"
            f" ({means[1]:.1f} on average, the base model's {means[0]:.1f})"
        )
    if found:
        yield (
            f"The model has drifted from its base: {' and '.join(found)}. If that is not what the"
            " reward asks, the model has moved to where the reward is easily had, such as alloys of"
            " like elements: look at the formulas, and end the run earlier (trainer.max_epochs) or"
            " hold the model to its base (rl.reference_kl)."
        )


def _by_chance(rows: Sequence[Row], key: str) -> float:
    """Return how far the second rollout is from the first: it has learned next to nothing, and
    small ones differ."""
    return float(rows[1].get(key) or 0.0) if len(rows) > 1 else 0.0


def _gained(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Return the elements whose share of the atoms grew most."""
    first, last = percentages(before), percentages(now)
    gain = {name: share - first.get(name, 0.0) for name, share in last.items()}
    return sorted((n for n in gain if gain[n] > 0), key=lambda n: (-gain[n], n))[:MOST_NAMED]


def _mean(counts: Mapping[str, int]) -> float:
    """Return the mean of numbers that were counted, by their names; NaN of none."""
    total = sum(counts.values())
    return sum(float(n) * count for n, count in counts.items()) / total if total else math.nan


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
