"""What a run of reinforcement learning says of its rollouts: numbers, formulas, elements, pictures.

Shapes: ``B`` crystals of this process's rollout.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor

from chemeleon.config.rl import RewardConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.symbols import symbol
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import Figure, Options, View, find_figures
from chemeleon.evaluation.metrics.stability import ABOVE
from chemeleon.reinforcement.rewards.mix import Scores
from chemeleon.training.tracking import read_metrics

PICTURES = "pictures"
BEST_SHOWN = 12
TOP_FORMULAS = 10


class _Sums(NamedTuple):
    """Enough for mean and spread: number, sum and sum of squares."""

    number: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> _Sums:
        known = values[torch.isfinite(values)].double()
        return cls(float(len(known)), float(known.sum()), float(known.square().sum()))

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def mean(self) -> float:
        return self.total / self.number if self.number else math.nan

    @property
    def std(self) -> float:
        if self.number < 2:
            return math.nan
        centred = self.squares - self.total**2 / self.number
        return math.sqrt(max(centred, 0.0) / (self.number - 1))


class Notes:
    """Collects what is known of a rollout until it is logged."""

    def __init__(self, configs: Mapping[str, RewardConfig], folder: Path, *, resume: bool) -> None:
        """Begin, or go on where the run's metrics end.

        Args:
            configs: the rewards, for their weights.
            folder: of the run.
            resume: its metrics are those of this run.
        """
        self.configs = configs
        self.first = first_elements(folder) if resume else None
        self.pending: dict[str, Any] | None = None

    def take(self, crystals: Crystals, scores: Scores) -> None:
        """Note a scored rollout."""
        counts = composition_counts(crystals)
        elements = torch.bincount(crystals.atomic_numbers).tolist()
        self.pending = {
            "sums": self._sums(scores),
            "failed": {name: int(count) for name, count in scores.failed.items()},
            "formulas": Counter(reduced_formula(row) for row in counts),
            "elements": Counter({symbol(z): n for z, n in enumerate(elements) if n}),
        }

    def _sums(self, scores: Scores) -> dict[str, _Sums]:
        """Return rewards and facts by metric; a fact may have the name of a reward."""
        found = {f"rollout/{name}": _Sums.of(values.cpu()) for name, values in scores.raw.items()}
        found["rollout/reward"] = _Sums.of(weighted(scores, self.configs))
        facts = {name: values.float().cpu() for name, values in scores.facts.items()}
        found |= {f"fact/{name}": _Sums.of(values) for name, values in facts.items()}
        if "e_hull" in facts:
            found |= {f"fact/{f.name}": _Sums.of(torch.tensor(f.flag)) for f in _stability(facts)}
        return found

    def summary(self) -> dict[str, Any]:
        """Return what all processes noted since the last call; all of them must call it."""
        if self.pending is None:
            return {}
        parts = gather_object([self.pending])
        self.pending = None
        sums: dict[str, _Sums] = {}
        formulas, elements, failed = Counter(), Counter(), Counter()
        for part in parts:
            for name, value in part["sums"].items():
                sums[name] = sums.get(name, _Sums()).plus(value)
            formulas.update(part["formulas"])
            elements.update(part["elements"])
            failed.update(part["failed"])
        self.first = self.first or dict(elements)
        found: dict[str, Any] = {name: value.mean for name, value in sums.items()}
        spread = [f"rollout/{name}" for name in (*self.configs, "reward")]
        found |= {f"{name}_std": sums[name].std for name in spread if name in sums}
        found |= {f"rollout/{name}_failed": float(n) for name, n in failed.items()}
        found["rollout/distinct_formulas"] = len(formulas) / max(1, formulas.total())
        found["rollout/distinct_elements"] = float(len(elements))
        found["rollout/element_drift"] = drift(self.first, elements)
        # ties in alphabetical order, so that a resumed run writes the same line
        top = sorted(formulas.items(), key=lambda item: (-item[1], item[0]))[:TOP_FORMULAS]
        return {**found, "formulas": dict(top), "elements": dict(sorted(elements.items()))}


def _stability(facts: Mapping[str, Tensor]) -> list[Figure]:
    """Return the shares that an evaluation finds from energies, of crystals with these facts."""
    import pandas

    known = {name: facts[name].bool().numpy() for name in ("unique", "novel") if name in facts}
    table = pandas.DataFrame({ABOVE: facts["e_hull"].numpy(), **known})
    energetic = [metric for metric in METRICS if metric.of_energies]
    found = find_figures(View(table), energetic, None, Options())
    return [figure for figure in found if figure.flag is not None]


def weighted(scores: Scores, configs: Mapping[str, RewardConfig]) -> Tensor:
    """Return the weighted sum of rewards as they are, ``(B,)``.

    The total that is learned from may be scaled within each group, so it cannot be compared over
    updates; this can.
    """
    parts = [configs[name].weight * values.float().cpu() for name, values in scores.raw.items()]
    return torch.stack(parts).sum(0)


def drift(first: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Return the total variation between two distributions of elements, 0 to 1."""
    before, after = sum(first.values()), sum(now.values())
    if not before or not after:
        return math.nan
    names = first.keys() | now.keys()
    return 0.5 * sum(abs(now.get(n, 0) / after - first.get(n, 0) / before) for n in names)


def first_elements(folder: Path) -> dict[str, int] | None:
    """Return the elements of a run's first rollout, if its metrics have them."""
    return next((row["elements"] for row in read_metrics(folder) if "elements" in row), None)


def composition_counts(crystals: Crystals) -> list[tuple[int, ...]]:
    """Return how many atoms of each atomic number every crystal has."""
    owner = torch.repeat_interleave(torch.arange(len(crystals)), crystals.num_atoms)
    table = torch.zeros(len(crystals), 119, dtype=torch.int64)
    table.index_put_((owner, crystals.atomic_numbers), torch.ones_like(owner), accumulate=True)
    return [tuple(row) for row in table.tolist()]


@functools.lru_cache(maxsize=100_000)
def reduced_formula(counts: tuple[int, ...]) -> str:
    """Return the reduced formula of atoms counted by atomic number."""
    from pymatgen.core import Composition

    return Composition({symbol(z): n for z, n in enumerate(counts) if n}).reduced_formula


def draw_best(crystals: Crystals, rewards: Sequence[float], path: Path) -> Path | None:
    """Draw the crystals with the highest rewards, one of each formula, into a PNG.

    Args:
        crystals: a rollout.
        rewards: ``B`` numbers.
        path: the PNG.

    Returns:
        The path, or None if no crystal can be drawn.
    """
    from chemeleon.crystals.convert import to_structures
    from chemeleon.crystals.soundness import writable
    from chemeleon.evaluation.report.draw import contact_sheet

    possible = writable(crystals).tolist()
    order = sorted((i for i in range(len(crystals)) if possible[i]), key=lambda i: (-rewards[i], i))
    counts = composition_counts(crystals)
    chosen: dict[str, int] = {}
    for i in order:
        chosen.setdefault(reduced_formula(counts[i]), i)
        if len(chosen) == BEST_SHOWN:
            break
    if not chosen:
        return None
    picked = list(chosen.values())
    structures = to_structures(crystals.subset(torch.tensor(picked)))
    titles = [f"{name}  {rewards[i]:.3g}" for name, i in chosen.items()]
    return contact_sheet(structures, path, titles)
