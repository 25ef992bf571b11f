"""A stage of one's own: a config in the table and a file with its class are all that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pytest
import torch
import yaml
from test_training import assert_same_run, interrupt_at
from torch import Tensor, nn

from chemeleon import api
from chemeleon.config.schema import STAGES, StageConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.data.loader import Draw, EvalLoader, Loader, TrainBatch
from chemeleon.errors import ConfigError
from chemeleon.training.launch import TrainResult
from chemeleon.training.stage import DataStage, Export, RunContext

SETTINGS = {
    "data": {"name": "demo", "batch_size": 32},
    "optim": {"lr": 0.5, "schedule": "constant", "warmup_steps": 0},
    "trainer": {"max_steps": 60, "grad_accumulation": 1, "tracker": "none", "log_every": 1},
}


class VolumeConfig(StageConfig):
    """Settings of the stage below."""

    stage = f"{__name__}:VolumeStage"


class VolumeStage(DataStage):
    """Learn the mean volume of an atom in a crystal, angstrom^3, as the sum over its elements."""

    ema_decay = 0.0

    def __init__(self, config: VolumeConfig, train: Crystals, val: Crystals, place) -> None:
        self.loader = Loader.from_config(config, train, *place[:3])
        self.val = EvalLoader(val, config.data.batch_size, device=place.device)
        self.model = nn.Embedding.from_pretrained(torch.zeros(120, 1), freeze=False)

    @classmethod
    def start(cls, config: VolumeConfig, context: RunContext) -> Self:
        """See ``Stage``."""
        return cls(config, *context.load(config.data), context.place)

    def loss(self, model: nn.Module, draw: Draw) -> dict[str, Tensor]:
        """See ``Stage``."""
        batch = draw.gather()
        return {"loss": self._errors(model, batch).square().sum() / batch.size}

    def _errors(self, model: nn.Module, batch: TrainBatch) -> Tensor:
        crystals = batch.crystals
        volumes = model(crystals.atomic_numbers).squeeze(-1) * crystals.mask
        return (volumes.sum(1) - torch.linalg.det(crystals.lattice).abs()) / crystals.num_atoms

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """See ``Stage``."""
        errors = torch.cat([self._errors(model, b).square() for b in self.val.shard(rank, world)])
        return {"val/loss": (float(errors.sum()), float(len(errors)))}

    def export(self) -> Export:
        """See ``Stage``."""
        return Export("volume", {}, self.model.state_dict())

    def finish(self, context: RunContext, *, interrupted: bool) -> None:
        """See ``Stage``."""
        ended = "stopped" if interrupted else "done"
        (context.draft.folder / "volumes.txt").write_text(
            f"{ended}: {self.model.weight[11].item()}"
        )


@pytest.fixture
def train(monkeypatch, tmp_path):
    monkeypatch.setitem(STAGES, "volume", VolumeConfig)
    (tmp_path / "volume.yaml").write_text(yaml.safe_dump(SETTINGS))

    def train(_preset: object, words: list[str], output: Path) -> TrainResult:
        return api.train("volume", None, words, config_file=tmp_path / "volume.yaml", output=output)

    return train


def test_a_stage_of_ones_own_learns_and_resumes_bitwise(train, tmp_path):
    whole = train(None, [], tmp_path / "whole")
    rows = whole.history()["train/loss"].dropna()
    assert rows.iloc[-5:].mean() < 0.1 * rows.iloc[0]
    said, _, volume = (tmp_path / "whole" / "volumes.txt").read_text().partition(": ")
    assert said == "done"
    assert 5 < float(volume) < 60  # of a sodium atom
    interrupt_at(23, tmp_path / "parts", train, "", [])
    assert (tmp_path / "parts" / "volumes.txt").read_text().startswith("stopped")
    api.train("volume", resume=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_stage_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"no stage 'ldn'.*did you mean 'ldm'.*vae, ldm, rl"):
        api.train("ldn", "demo/null")
