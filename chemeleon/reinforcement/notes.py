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

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from chemeleon.config.rl import RewardConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.symbols import symbol
from chemeleon.crystals.symmetry import space_group
from chemeleon.evaluation.metrics import METRICS
from chemeleon.evaluation.metrics.base import Figure, Options, View, find_figures
from chemeleon.evaluation.metrics.stability import ABOVE, METASTABLE_EV
from chemeleon.evaluation.metrics.statistics import evenly, wasserstein
from chemeleon.reinforcement.rewards.base import HIT
from chemeleon.reinforcement.rewards.mix import Scores
from chemeleon.training.tracking import read_metrics

PICTURES = "pictures"
SHOWN = 12  # crystals of a picture
TOP_FORMULAS = 10
# space groups take 0.6 ms a crystal: below a hundredth of an update so
SYMMETRY_EVERY = 5  # updates
SYMMETRY_OF = 128  # crystals of a process, evenly spread over its groups
COUNTED = ("elements", "num_elements")  # what is compared with the first rollout


class Sums(NamedTuple):
    """Enough for mean and spread: number, sum and sum of squares."""

    number: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> Sums:
        known = values[torch.isfinite(values)].double()
        return cls(float(len(known)), float(known.sum()), float(known.square().sum()))

    def plus(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

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
        self.first = first_counts(folder) if resume else None
        self.pending: dict[str, Any] | None = None

    def take(self, crystals: Crystals, scores: Scores, *, symmetry: bool) -> None:
        """Note a scored rollout, and if wanted the share of P1 among some of its crystals."""
        counts = composition_counts(crystals)
        elements = torch.bincount(crystals.atomic_numbers).tolist()
        sums = find_sums(scores, self.configs, crystals if symmetry else None)
        self.pending = {
            "sums": sums,
            "failed": {name: int(count) for name, count in scores.failed.items()},
            "formulas": Counter(reduced_formula(row) for row in counts),
            "elements": Counter({symbol(z): n for z, n in enumerate(elements) if n}),
            "num_elements": Counter(str(sum(map(bool, row))) for row in counts),
        }

    def summary(self) -> dict[str, Any]:
        """Return what all processes noted since the last call; all of them must call it."""
        if self.pending is None:
            return {}
        parts = gather_object([self.pending])
        self.pending = None
        sums: dict[str, Sums] = {}
        formulas, failed = Counter(), Counter()
        now: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        for part in parts:
            for name, value in part["sums"].items():
                sums[name] = sums.get(name, Sums()).plus(value)
            formulas.update(part["formulas"])
            failed.update(part["failed"])
            for name, counts in now.items():
                counts.update(part[name])
        self.first = self.first or {name: dict(counts) for name, counts in now.items()}
        before = {name: self.first.get(name, {}) for name in COUNTED}  # of old runs one is missing
        found: dict[str, Any] = {name: value.mean for name, value in sums.items()}
        spread = [f"rollout/{name}" for name in (*self.configs, "reward")]
        found |= {f"{name}_std": sums[name].std for name in spread if name in sums}
        found |= {f"rollout/{name}_failed": float(n) for name, n in failed.items()}
        found["rollout/distinct_formulas"] = len(formulas) / max(1, formulas.total())
        found["rollout/distinct_elements"] = float(len(now["elements"]))
        found["rollout/element_drift"] = drift(before["elements"], now["elements"])
        sides = (_values(side["num_elements"]) for side in (now, before))
        found["rollout/num_elements_distance"] = wasserstein(*sides)
        # ties in alphabetical order, so that a resumed run writes the same line
        top = sorted(formulas.items(), key=lambda item: (-item[1], item[0]))[:TOP_FORMULAS]
        tables = {name: dict(sorted(counts.items())) for name, counts in now.items()}
        return {**found, "formulas": dict(top), **tables}


def find_sums(
    scores: Scores, configs: Mapping[str, RewardConfig], crystals: Crystals | None = None
) -> dict[str, Sums]:
    """Return rewards and facts by metric; a fact may have the name of a reward.

    Args:
        scores: of a rollout.
        configs: the rewards, for their weights.
        crystals: the rollout, if the share of P1 is a fact that is wanted.
    """
    found = {f"rollout/{name}": Sums.of(values.cpu()) for name, values in scores.raw.items()}
    found["rollout/reward"] = Sums.of(weighted(scores, configs))
    facts = {name: values.float().cpu() for name, values in scores.facts.items()}
    found |= {f"fact/{name}": Sums.of(values) for name, values in facts.items()}
    if "e_hull" in facts:
        found |= {f"fact/{f.name}": Sums.of(torch.tensor(f.flag)) for f in _stability(facts)}
        near = facts["e_hull"] <= METASTABLE_EV  # False where it is not known
        hits = [name for name in facts if name.startswith(HIT)]
        found |= {f"fact/metastable_{name}": Sums.of(facts[name] * near) for name in hits}
    if crystals is not None:
        found["fact/p1"] = Sums.of(_without_symmetry(crystals))
    return found


def _without_symmetry(crystals: Crystals) -> Tensor:
    """Return 1 for P1 and 0 for others, of at most `SYMMETRY_OF` crystals, as evaluation counts:
    one whose group is not found is not P1."""
    some = crystals.subset(torch.from_numpy(evenly(len(crystals), SYMMETRY_OF))).arrays()
    groups = [space_group(*crystal) for crystal in some]
    return torch.tensor([float(group is not None and group.number == 1) for group in groups])


def _values(counts: Mapping[str, int]) -> np.ndarray:
    """Return the numbers that were counted, each as often as it was."""
    return np.repeat(np.array([float(name) for name in counts]), list(counts.values()))


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


def first_counts(folder: Path) -> dict[str, dict[str, int]] | None:
    """Return what was counted of a run's first rollout, if its metrics have it."""
    row = next((row for row in read_metrics(folder) if "elements" in row), None)
    return row and {name: row[name] for name in COUNTED if name in row}


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


def draw_crystals(
    crystals: Crystals, rewards: Sequence[float], path: Path, *, best: bool
) -> Path | None:
    """Draw crystals of a rollout with their formulas and rewards into a PNG.

    Args:
        crystals: a rollout.
        rewards: ``B`` numbers.
        path: the PNG.
        best: those with the highest rewards, one of each formula; else some of all groups, chosen
            by their place alone.

    Returns:
        The path, or None if no crystal can be drawn.
    """
    from chemeleon.crystals.convert import to_structures
    from chemeleon.crystals.soundness import writable
    from chemeleon.evaluation.report.draw import contact_sheet

    possible = writable(crystals).nonzero().flatten()
    if not len(possible):
        return None
    formulas = [reduced_formula(row) for row in composition_counts(crystals)]
    if best:
        first: dict[str, int] = {}
        for i in sorted(possible.tolist(), key=lambda i: (-rewards[i], i)):
            first.setdefault(formulas[i], i)
        picked = list(first.values())[:SHOWN]
    else:
        picked = possible[torch.from_numpy(evenly(len(possible), SHOWN))].tolist()
    structures = to_structures(crystals.subset(torch.tensor(picked)))
    titles = [f"{formulas[i]}  {rewards[i]:.3g}" for i in picked]
    return contact_sheet(structures, path, titles)
