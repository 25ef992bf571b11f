"""Properties that steer generation, one small class per kind.

Shapes: ``B`` crystals, ``N`` padded atoms, ``F`` features of a condition, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from chemeleon.config.schema import ConditionConfig
from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from chemeleon.errors import DataError

ELEMENT_SLOTS = MAX_ATOMIC_NUMBER + 1


class Condition(nn.Module):
    """One condition: fixed features, then two linear layers, or a learned null input.

    A subclass says how many features there are and how they are read off crystals.
    """

    features: int

    def __init__(self, config: ConditionConfig, width: int, features: int) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.null = nn.Parameter(torch.empty(1, features))
        nn.init.normal_(self.null, std=0.02)
        self.embed = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return the features of training crystals, ``(B, F)``."""
        raise TypeError(f"{type(self).__name__} must define featurise")

    def fit(self, values: Tensor) -> None:
        """Take statistics from the training column ``(M,)``; most kinds need none."""

    def forward(self, features: Tensor, drop: Tensor) -> Tensor:
        """Embed ``(B, F)``; where ``drop`` ``(B,)`` is True the null input is used."""
        return self.embed(torch.where(drop.unsqueeze(-1), self.null, features))


class Composition(Condition):
    """Fractions of the elements, slot = atomic number."""

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, ELEMENT_SLOTS)

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return element fractions, ``(B, 100)``."""
        counts = element_counts(batch)
        return counts / counts.sum(-1, keepdim=True)


class ChemicalSystem(Condition):
    """Which elements are there, slot = atomic number."""

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, ELEMENT_SLOTS)

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return 0 or 1 per element, ``(B, 100)``."""
        return (element_counts(batch) > 0).to(torch.float32)


class Number(Condition):
    """A numeric column, standardised with the training set's statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def fit(self, values: Tensor) -> None:
        """Take mean and standard deviation of the finite values."""
        finite = values[torch.isfinite(values)]
        self.mean.copy_(finite.mean())
        self.std.copy_(finite.std().clamp_min(1e-6))

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return the standardised column, ``(B, 1)``."""
        column = batch.targets[cast("str", self.config.column)]
        return ((column - self.mean) / self.std).unsqueeze(-1)


class Category(Condition):
    """A column of class numbers 0 .. categories - 1, as one-hot."""

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, cast("int", config.categories))

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return one-hot classes, ``(B, categories)``."""
        column = batch.targets[cast("str", self.config.column)]
        return nn.functional.one_hot(column.long(), self.features).to(torch.float32)

    def fit(self, values: Tensor) -> None:
        """Check that every class fits."""
        if values.min() < 0 or values.max() >= self.features:
            raise DataError(
                f"column '{self.config.column}' has classes from {values.min():g} to"
                f" {values.max():g}, but categories={self.features} allows 0 to {self.features - 1}"
            )


KINDS: dict[str, type[Composition | ChemicalSystem | Number | Category]] = {
    "composition": Composition,
    "chemical_system": ChemicalSystem,
    "number": Number,
    "category": Category,
}


class ConditionEncoder(nn.Module):
    """All conditions of a model, concatenated and projected to the denoiser's width."""

    def __init__(self, configs: Mapping[str, ConditionConfig], width: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: KINDS[config.kind](config, width) for name, config in configs.items()}
        )
        self.project = nn.Sequential(
            nn.Linear(width * len(configs), width), nn.SiLU(), nn.Linear(width, width)
        )

    def featurise(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Return the features of every condition, ``(B, F)`` each."""
        return {name: self._encoder(name).featurise(batch) for name in self.encoders}

    def fit(self, targets: Mapping[str, Tensor]) -> None:
        """Take statistics from the training columns ``(M,)``."""
        for name in self.encoders:
            encoder = self._encoder(name)
            if encoder.config.column is not None:
                encoder.fit(targets[encoder.config.column])

    def empty(self, size: int) -> dict[str, Tensor]:
        """Return features of ``size`` crystals about which nothing is said (use with drop)."""
        return {
            name: self._encoder(name).null.new_zeros(size, self._encoder(name).features)
            for name in self.encoders
        }

    def _encoder(self, name: str) -> Condition:
        return cast("Condition", self.encoders[name])

    def forward(self, features: Mapping[str, Tensor], drop: Mapping[str, Tensor]) -> Tensor:
        """Embed features, each ``(B, F)``, with its own drop flags ``(B,)``; ``(B, D)``."""
        embedded = [self.encoders[name](features[name], drop[name]) for name in self.encoders]
        return self.project(torch.cat(embedded, dim=-1))


def element_counts(batch: CrystalBatch) -> Tensor:
    """Count atoms per atomic number, ``(B, 100)`` float; slot 0 (padding) stays 0."""
    counts = torch.zeros(len(batch), ELEMENT_SLOTS, device=batch.device)
    counts.scatter_add_(1, batch.atomic_numbers, batch.mask.to(counts.dtype))
    return counts
