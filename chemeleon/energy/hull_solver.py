"""The lowest energy of a composition among mixtures of phases, by the simplex method.

A composition's hull energy is the linear programme min c.w, where the amounts w >= 0 of the phases
must add up to the composition. It has as many rows as elements (seldom more than five), and the
elements themselves are a basis to start from; so a dense revised simplex in a few lines is faster
than a general solver or a convex hull, and its optimality test bounds the error.

Shapes: ``D`` elements, ``K`` phases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-10  # eV/atom by which the answer can be too high
_ZERO = 1e-10
_PATIENCE = 200  # steps with the steepest column, before the rule that cannot cycle


def lowest_energy(target: Array, phases: Array, energies: Array) -> float:
    """Return the energy of the best mixture, eV/atom relative to the elements.

    Args:
        target: ``(D,)`` positive atomic fractions that sum to 1.
        phases: ``(K, D)`` atomic fractions of the phases, each row sums to 1.
        energies: ``(K,)`` eV/atom relative to the elements, which are at 0.

    Returns:
        What is within `TOLERANCE` of the optimum.
    """
    size = len(target)
    # the elements can come back, so they are phases too
    phases = np.concatenate([np.eye(size), phases])
    energies = np.concatenate([np.zeros(size), energies])
    columns = np.eye(size)  # of the basis, one phase each
    costs: Array = np.zeros(size)
    members = list(range(size))
    amounts = target.copy()
    step = 0
    while True:
        prices = np.linalg.solve(columns.T, costs)
        reduced = energies - phases @ prices
        if step < _PATIENCE:
            enter = int(reduced.argmin())
            if reduced[enter] >= -TOLERANCE:
                break
        else:  # Bland: the first that helps
            helps = np.flatnonzero(reduced < -TOLERANCE)
            if not len(helps):
                break
            enter = int(helps[0])
        direction = np.linalg.solve(columns, phases[enter])
        ratios = np.full(size, np.inf)
        falling = direction > _ZERO
        ratios[falling] = amounts[falling] / direction[falling]
        ties = np.flatnonzero(ratios <= ratios.min() + _ZERO)
        if step < _PATIENCE:  # the largest pivot keeps the basis far from singular
            leave = int(ties[direction[ties].argmax()])
        else:
            leave = min((members[i], i) for i in ties)[1]
        columns[:, leave] = phases[enter]
        costs[leave] = energies[enter]
        members[leave] = enter
        amounts = np.linalg.solve(columns, target).astype(np.float64)
        amounts[amounts < _ZERO] = 0.0  # noise would hide ties
        step += 1
        if step > 100 * _PATIENCE:
            raise RuntimeError("the simplex method does not end; please report the composition")
    return float(costs @ amounts)
