"""All conditions of a model together: off crystals in training, off what users ask for in sampling.

Shapes: ``B`` crystals, ``R`` rows of a request, ``F`` features of a condition, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from chemeleon.config.architecture import ConditionConfig
from chemeleon.crystals.batch import CrystalBatch
from chemeleon.errors import ConfigError
from chemeleon.models.conditions import KINDS, Condition


class Request(NamedTuple):
    """What is asked of crystals; one row stands for all of them.

    Attributes:
        features: condition to ``(R, F)``.
        hidden: condition to ``(R,)`` bool, True where nothing is asked.
    """

    features: dict[str, Tensor]
    hidden: dict[str, Tensor]

    def of(self, crystals: Tensor, device: torch.device) -> Request:
        """Return the rows of some crystals, numbers ``(B,)``, on a device."""
        picked = [
            {name: (x if len(x) == 1 else x[crystals]).to(device) for name, x in part.items()}
            for part in self
        ]
        return Request(*picked)

    def nothing(self) -> Request:
        """Return the request with every condition hidden, in one row."""
        return Request(
            {name: x[:1] for name, x in self.features.items()},
            {name: torch.ones_like(x[:1]) for name, x in self.hidden.items()},
        )


class ConditionEncoder(nn.Module):
    """All conditions of a model, concatenated and projected to the denoiser's width."""

    def __init__(self, configs: Mapping[str, ConditionConfig], width: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        for name, config in configs.items():
            if hasattr(self.encoders, name):  # keys, items, train, ...
                raise ConfigError(
                    f"a condition cannot be called '{name}', which means something to PyTorch:"
                    f" call it the_{name}"
                )
            self.encoders[name] = KINDS[config.kind](config, width)
        self.project = nn.Sequential(
            nn.Linear(width * len(configs), width), nn.SiLU(), nn.Linear(width, width)
        )

    def featurise(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Return the features of every condition, ``(B, F)`` each."""
        return {name: self[name].featurise(batch) for name in self.encoders}

    def fit(self, targets: Mapping[str, Tensor]) -> None:
        """Take statistics from the training columns ``(M,)``."""
        for name in self.encoders:
            encoder = self[name]
            if encoder.config.column is not None:
                encoder.fit(targets[encoder.config.column])

    def check(self, targets: Mapping[str, Tensor]) -> None:
        """Refuse columns ``(M,)`` that conditions cannot read; see ``Condition.check``."""
        for name in self.encoders:
            encoder = self[name]
            if encoder.config.column is not None:
                encoder.check(targets[encoder.config.column])

    def missing(self, batch: CrystalBatch) -> dict[str, Tensor]:
        """Return which crystals lack the value of each condition, ``(B,)`` each."""
        return {name: self[name].missing(batch) for name in self.encoders}

    def describe(self, targets: Mapping[str, Tensor]) -> dict[str, dict[str, object]]:
        """Return what is worth knowing of the training columns ``(M,)``, by condition."""
        columns = {name: self[name].config.column for name in self.encoders}
        return {
            name: self[name].describe(targets[column])
            for name, column in columns.items()
            if column is not None
        }

    def request(self, values: Mapping[str, object]) -> Request:
        """Return what users ask for as rows; conditions that are not named are hidden.

        Args:
            values: condition to a value, or to a list of values, one per crystal; None asks
                nothing.

        Raises:
            ConfigError: if a value cannot be read.
        """
        features, hidden = {}, {}
        for name in self.encoders:
            encoder, value = self[name], values.get(name)
            wanted = value if isinstance(value, list | tuple) else [value]
            try:
                parsed = {v: encoder.parse(v) for v in dict.fromkeys(wanted) if v is not None}
            except ConfigError as error:
                raise ConfigError(f"condition {name}: {error}") from None
            blank = torch.zeros(encoder.features)
            features[name] = torch.stack([blank if v is None else parsed[v] for v in wanted])
            hidden[name] = torch.tensor([v is None for v in wanted])
        rows = max(map(len, hidden.values()))
        return Request(
            {name: x.expand(rows, -1) for name, x in features.items()},
            {name: x.expand(rows) for name, x in hidden.items()},
        )

    def __getitem__(self, name: str) -> Condition:
        return cast("Condition", self.encoders[name])

    def forward(self, features: Mapping[str, Tensor], drop: Mapping[str, Tensor]) -> Tensor:
        """Embed features, each ``(B, F)``, with its own drop flags ``(B,)``; ``(B, D)``."""
        embedded = [self.encoders[name](features[name], drop[name]) for name in self.encoders]
        return self.project(torch.cat(embedded, dim=-1))
