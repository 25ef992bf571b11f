"""Properties that steer generation, one small class per kind.

Shapes: ``B`` crystals, ``N`` padded atoms, ``F`` features of a condition, ``D`` width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from chemeleon.config.architecture import ConditionConfig
from chemeleon.config.requests import whole_number
from chemeleon.crystals.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from chemeleon.crystals.symbols import (
    SPACE_GROUPS,
    element_numbers,
    formula_amounts,
    space_group_number,
)
from chemeleon.errors import ConfigError, DataError

ELEMENT_SLOTS = MAX_ATOMIC_NUMBER + 1


class Condition(nn.Module):
    """One condition: fixed features, then two linear layers, or a learned null input.

    A subclass says how many features there are, how they are read off crystals, and how off what a
    user asks for.

    Attributes:
        meaning: what a user gives, in words.
    """

    meaning: ClassVar[str]
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

    def missing(self, batch: CrystalBatch) -> Tensor:
        """Return which crystals lack the value, ``(B,)``; their condition counts as hidden."""
        if self.config.column is None:
            return torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        return batch.targets[self.config.column].isnan()

    def parse(self, value: object) -> Tensor:
        """Return the features ``(F,)``, on the CPU, of what a user asks for.

        Raises:
            ConfigError: if it cannot be read.
        """
        raise TypeError(f"{type(self).__name__} must define parse")

    def fit(self, values: Tensor) -> None:
        """Take statistics from the training column ``(M,)``, NaN where it has gaps."""

    def check(self, values: Tensor) -> None:
        """Refuse a column ``(M,)``, NaN where it has gaps, that `featurise` cannot read.

        Raises:
            DataError: naming what does not fit.
        """

    def unusual(self, value: object, data: Mapping[str, object]) -> str | None:
        """Return what is unusual about a value, given what `describe` said of the training data."""

    def describe(self, values: Tensor) -> dict[str, object]:
        """Return what is worth knowing of a training column ``(M,)`` when values are asked for."""
        return {}

    def forward(self, features: Tensor, drop: Tensor) -> Tensor:
        """Embed ``(B, F)``; where ``drop`` ``(B,)`` is True the null input is used."""
        return self.embed(torch.where(drop.unsqueeze(-1), self.null, features))


class Composition(Condition):
    """Fractions of the elements, slot = atomic number."""

    meaning = "a formula such as LiFePO4"

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, ELEMENT_SLOTS)

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return element fractions, ``(B, 100)``."""
        counts = element_counts(batch)
        return counts / counts.sum(-1, keepdim=True)

    def parse(self, value: object) -> Tensor:
        """Read a formula; see ``Condition.parse``."""
        amounts = formula_amounts(str(value))
        features = torch.zeros(self.features)
        features[list(amounts)] = torch.tensor(list(amounts.values()))
        return features / features.sum()


class ChemicalSystem(Condition):
    """Which elements are there, slot = atomic number."""

    meaning = "elements with dashes between, such as Li-Mn-O"

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, ELEMENT_SLOTS)

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return 0 or 1 per element, ``(B, 100)``."""
        return (element_counts(batch) > 0).to(torch.float32)

    def parse(self, value: object) -> Tensor:
        """Read a chemical system; see ``Condition.parse``."""
        features = torch.zeros(self.features)
        features[element_numbers(part.strip() for part in str(value).split("-"))] = 1
        return features


class Number(Condition):
    """A numeric column, standardised with the training set's statistics."""

    meaning = "a number"
    mean: Tensor
    std: Tensor

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def fit(self, values: Tensor) -> None:
        """Take mean and standard deviation of the finite values."""
        finite = _known(values, self.config)
        self.mean.copy_(finite.mean())
        self.std.copy_(finite.std(correction=0).clamp_min(1e-6))

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return the standardised column, ``(B, 1)``, 0 where it has gaps."""
        column = batch.targets[cast("str", self.config.column)]
        return ((column - self.mean) / self.std).nan_to_num().unsqueeze(-1)

    def parse(self, value: object) -> Tensor:
        """Read a number in the column's unit; see ``Condition.parse``."""
        try:
            number = math.nan if "_" in str(value) else float(cast("str", value))
        except (TypeError, ValueError):
            number = math.nan
        features = ((number - self.mean) / self.std).cpu().reshape(1)
        if not features.isfinite():
            raise ConfigError(f"'{value}' is not a number that can be computed with")
        return features

    def describe(self, values: Tensor) -> dict[str, object]:
        """Return the column's range."""
        finite = _known(values, self.config)
        return {"low": float(finite.min()), "high": float(finite.max())}

    def unusual(self, value: object, data: Mapping[str, object]) -> str | None:
        """Compare with the training range."""
        if data.get("low") is None:
            return None
        low, high = (cast("float", data[name]) for name in ("low", "high"))
        if low <= float(cast("str", value)) <= high:
            return None
        return f"the model was trained on {low:g} to {high:g}, so this is extrapolation"


class Category(Condition):
    """A column of class numbers 0 .. categories - 1, as one-hot."""

    meaning = "the number of a class"

    def __init__(self, config: ConditionConfig, width: int, categories: int | None = None) -> None:
        super().__init__(config, width, categories or cast("int", config.categories))

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return one-hot classes, ``(B, F)``."""
        column = batch.targets[cast("str", self.config.column)].nan_to_num()
        return nn.functional.one_hot(column.long(), self.features).to(torch.float32)

    def check(self, values: Tensor) -> None:
        """Check that every class fits; see ``Condition.check``."""
        known = values[torch.isfinite(values)]
        if not len(known):
            return
        if known.min() < 0 or known.max() >= self.features or bool((known % 1 != 0).any()):
            raise DataError(
                f"column '{self.config.column}' has values from {known.min():g} to"
                f" {known.max():g}; classes are whole numbers from 0 to {self.features - 1}"
            )

    def number(self, value: object) -> int:
        """Return the class that a user asks for.

        Raises:
            ConfigError: if there is no such class.
        """
        number = whole_number(str(value).strip())
        if number is None or not 0 <= number < self.features:
            raise ConfigError(f"'{value}' is not a class: they go from 0 to {self.features - 1}")
        return number

    def parse(self, value: object) -> Tensor:
        """Read a class; see ``Condition.parse``."""
        features = torch.zeros(self.features)
        features[self.number(value)] = 1
        return features

    def describe(self, values: Tensor) -> dict[str, object]:
        """Return the classes that occur."""
        return {"classes": [int(value) for value in _known(values, self.config).unique()]}

    def unusual(self, value: object, data: Mapping[str, object]) -> str | None:
        """Look for the class in the training data."""
        known = cast("list[int] | None", data.get("classes"))
        if known is None or self.number(value) in known:
            return None
        return "no training crystal is of this class"


class SpaceGroup(Category):
    """A column of space group numbers, as one-hot; slot 0 is not used."""

    meaning = "a space group by number or Hermann-Mauguin symbol, such as 225 or Fm-3m"

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, SPACE_GROUPS + 1)

    def number(self, value: object) -> int:
        """Return the space group that a user asks for; see ``Category.number``."""
        return space_group_number(str(value).strip())


class NumElements(Category):
    """How many different elements there are, as one-hot; slot 0 is not used.

    The last slot is for that many or more.
    """

    meaning = "how many different elements, 1 to 10"
    most: ClassVar[int] = 10

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__(config, width, self.most + 1)

    def featurise(self, batch: CrystalBatch) -> Tensor:
        """Return one-hot numbers of elements, ``(B, 11)``."""
        distinct = (element_counts(batch) > 0).sum(-1).clamp_max(self.most)
        return nn.functional.one_hot(distinct, self.features).to(torch.float32)

    def number(self, value: object) -> int:
        """Return the number that a user asks for; see ``Category.number``."""
        number = whole_number(str(value).strip())
        if number is None or not 1 <= number <= self.most:
            raise ConfigError(f"'{value}' is not a number of elements from 1 to {self.most}")
        return number


Kind = Composition | ChemicalSystem | NumElements | Number | Category | SpaceGroup
KINDS: dict[str, type[Kind]] = {
    "composition": Composition,
    "chemical_system": ChemicalSystem,
    "num_elements": NumElements,
    "number": Number,
    "category": Category,
    "space_group": SpaceGroup,
}


def _known(values: Tensor, config: ConditionConfig) -> Tensor:
    """Return the values of a training column that are numbers.

    Raises:
        DataError: if there are none.
    """
    finite = values[torch.isfinite(values)]
    if not len(finite):
        raise DataError(f"no training crystal has a number in column '{config.column}'")
    return finite


def element_counts(batch: CrystalBatch) -> Tensor:
    """Count atoms per atomic number, ``(B, 100)`` float; slot 0 (padding) stays 0."""
    counts = torch.zeros(len(batch), ELEMENT_SLOTS, device=batch.device)
    counts.scatter_add_(1, batch.atomic_numbers, batch.mask.to(counts.dtype))
    return counts
