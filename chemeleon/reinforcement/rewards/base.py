"""What a reward is: one number per crystal, larger is better.

A built-in reward is a class in a file of this folder: ``creativity.py`` holds ``Creativity`` and
is called ``creativity`` in YAML. Files that begin with ``_``, this one and ``mix.py`` are no
rewards. A user's own reward is a function of a pymatgen Structure, a `batched` function of
`Crystals`, or a class like the built-in ones; see ``docs/rewards.md``.

Shapes: ``M`` crystals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from chemeleon.config.bounds import Section
from chemeleon.crystals.batch import Array, Crystals

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from chemeleon.models.vae import CrystalVAE

HIT = "hit_"  # begins the name of a fact: whether a crystal has the property that is wanted


class Context(NamedTuple):
    """What a reward may use beside its options.

    Attributes:
        reference: the training set, on the CPU, or None.
        device: for batched work.
        vae: the autoencoder of the model that is tuned, or None.
        jobs: worker processes; all cores if None.
    """

    reference: Crystals | None
    device: torch.device
    vae: CrystalVAE | None = None
    jobs: int | None = None


@dataclass(frozen=True)
class Candidates:
    """The crystals of one call.

    Attributes:
        crystals: ``M`` crystals on the CPU, coordinates in [0, 1) (or not finite).
        group: ``(M,)`` int64 number of each crystal's group.
        problems: why a crystal is structurally broken, else None; see `crystals.soundness`.
    """

    crystals: Crystals
    group: Tensor
    problems: list[str | None]

    def __len__(self) -> int:
        return len(self.crystals)

    def name(self, row: int) -> str:
        """Return the name of a crystal, or its number where crystals have no names."""
        return self.crystals.ids[row] if self.crystals.ids else str(row)

    @cached_property
    def sound(self) -> Tensor:
        """``(M,)`` bool, crystals without a problem."""
        return torch.tensor([problem is None for problem in self.problems], dtype=torch.bool)

    def reasons(self) -> dict[int, str]:
        """Return why crystals are structurally broken, by their rows."""
        return {row: problem for row, problem in enumerate(self.problems) if problem is not None}

    def of_sound(self, score: Callable[[Crystals], Tensor]) -> Answer:
        """Return what a function of sound crystals, ``(K,)`` of `Crystals`, says of each; broken
        ones have no score, and are not shown to it."""
        values = torch.full((len(self),), torch.nan, dtype=torch.float64)
        rows = self.sound.nonzero().flatten()
        if len(rows):
            values[rows] = score(self.crystals.subset(rows)).double().cpu()
        return Answer(values, self.reasons())

    @cached_property
    def arrays(self) -> Crystals[Array]:
        """The crystals as evaluation holds them."""
        return self.crystals.arrays()

    @cached_property
    def structures(self) -> list[Structure]:
        """The crystals as pymatgen structures; broken ones give broken structures."""
        from chemeleon.crystals.convert import to_structures

        return to_structures(self.crystals)


class Answer(NamedTuple):
    """What a reward says.

    Attributes:
        values: ``(M,)`` float; NaN for crystals without a score, which get the floor.
        reasons: index of a crystal without a score to the reason.
        facts: columns ``(M,)`` found on the way, such as ``e_hull``.
    """

    values: Tensor
    reasons: Mapping[int, str] = {}
    facts: Mapping[str, Tensor] = {}


class Reward(ABC):
    """One number per crystal.

    A subclass is made once, before training, and must not keep anything of a call that changes a
    later one, other than caches.

    Attributes:
        Options: its settings; checked before training.
        floor: score of crystals without one; None takes the lowest of the batch.
        busy: ``cpu`` or ``gpu``, what it keeps busy; rewards of either kind run side by side.
        judge: the potential or predictor that scores, as manifests name it; None for a rule.
    """

    Options: ClassVar[type[Section]] = Section
    floor: ClassVar[float | None] = None
    busy: ClassVar[str] = "cpu"
    judge: str | None = None

    def __init__(self, options: Any, context: Context) -> None:
        self.options = options
        self.context = context

    @classmethod
    def problems(cls, options: Any, context: Context) -> list[str]:
        """Say what is missing for these options, quickly, before anything is loaded."""
        return []

    @abstractmethod
    def score(self, candidates: Candidates) -> Answer:
        """Score crystals; their order and the other crystals may matter, nothing else."""


def batched(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Mark a function as one of `Crystals` that returns ``(M,)``, NaN for no score."""
    function.batched = True  # type: ignore[attr-defined]
    return function


def needs_reference(context: Context) -> list[str]:
    """Return the complaint of rewards that compare with the training set, if there is none."""
    return [] if context.reference is not None else ["needs a training set to compare with"]
