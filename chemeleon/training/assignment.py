"""What one batch means when a model of assignments is trained."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from chemeleon.config.schema import AssignTrainConfig
from chemeleon.crystals.assignments import in_standard_form
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.orbit_sets import write_as_orbits
from chemeleon.crystals.random import fold, uniform
from chemeleon.data.loader import Draw, EvalLoader, Loader, TrainBatch
from chemeleon.models.assignment import ENERGY, AssignmentModel
from chemeleon.training.stage import DataStage, Export, Place, RunContext, check_same
from chemeleon.training.vae import add_shares


class AssignmentStage(DataStage):
    """Likelihood of the formula units, space groups and Wyckoff letters of training crystals."""

    def __init__(
        self,
        config: AssignTrainConfig,
        train: Crystals,
        val: Crystals,
        *,
        start: AssignmentModel | None = None,
        place: Place,
    ) -> None:
        self.config, self.ema_decay = config, config.assign.ema_decay
        torch.manual_seed(config.seed)
        train, val = (in_standard_form(write_as_orbits(part)) for part in (train, val))
        model = AssignmentModel(config.assign) if start is None else start
        self.model = model.fit(train).to(place.device)
        self.loader = Loader.from_config(config, train, *place[:3])
        self.val = EvalLoader(val, config.data.batch_size, device=place.device)

    @classmethod
    def start(cls, config: AssignTrainConfig, context: RunContext) -> Self:
        """See ``Stage``."""
        start = None
        if context.resume:
            start = AssignmentModel.from_pretrained(context.initial)
            names = ["width", "layers", "heads"]
            check_same("assign", names, start.config, config.assign, context.initial)
        # a crystal without an energy is one of which nothing is said
        data = context.load(config.data, "any")
        return cls(config, *data, start=start, place=context.place)

    def loss(self, model: nn.Module, draw: Draw) -> dict[str, Tensor]:
        """Return nats per crystal."""
        batch = draw.gather()
        hidden = uniform(fold(batch.keys, "energy")) < self.config.assign.energy_drop
        return _terms(model, batch, hidden)

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return nats per crystal of the validation set, energies known where they are."""
        totals: dict[str, tuple[float, float]] = {}
        for batch in self.val.shard(rank, world):
            add_shares(totals, _terms(model, batch), batch.members / float(batch.size))
        return totals

    def initial(self) -> Export:
        """See ``Stage``: resuming needs the sizes of the network."""
        return self.export()

    def export(self) -> Export:
        """See ``Stage``."""
        data = self.config.data.facts()
        config = {**self.model.architecture(), "data": data}
        return Export("assignment", config, self.model.state_dict())


def _terms(model: nn.Module, batch: TrainBatch, hidden: Tensor | None = None) -> dict[str, Tensor]:
    energies = batch.crystals.targets.get(ENERGY)
    if energies is not None and hidden is not None:
        energies = energies.masked_fill(hidden, torch.nan)
    each = model(batch.crystals, energies)
    terms = {name: value.sum() / batch.size for name, value in each.items()}
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}
