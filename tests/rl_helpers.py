"""A small model, a reward whose optimum is known, and runs that use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from chemeleon import api
from chemeleon.config import presets
from chemeleon.config.schema import RLTrainConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.data.dataset import load_split
from chemeleon.generation.pipeline import Pipeline
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.reinforcement import rl as stage_of_rl
from chemeleon.reinforcement.rl import RLStage
from chemeleon.storage import Draft
from chemeleon.training.launch import RUN_PARTS, TrainResult
from chemeleon.training.stage import Place

WORDS = [
    *(f"rl.rewards.{name}=null" for name in ("creativity", "validity", "plentiful")),
    "rl.rewards.share.reward=share",
    "data.batch_size=2",
    "data.pad_to_multiple=20",
    "rl.num_group_samples=4",
    "rl.sampler={scheduler: ddim, steps: 5, eta: 1.0}",
    "rl.window=null",
    "rl.pictures_every=0",
    "rl.val_samples=4",
    "trainer.tracker=none",
]


class Scores(NamedTuple):
    """Looks like `chemeleon.reinforcement.rewards.mix.Scores`."""

    total: Tensor
    raw: Mapping[str, Tensor]
    failed: Mapping[str, int]
    facts: Mapping[str, Tensor]
    seconds: Mapping[str, float]


class Share:
    """Share of atoms that are of one element: 1 at best."""

    judges = ("a test",)

    def __init__(self, number: int = 16) -> None:
        self.number = number

    def score(self, crystals: Crystals, group: Tensor) -> Scores:
        owner = torch.repeat_interleave(torch.arange(len(crystals)), crystals.num_atoms)
        wanted = (crystals.atomic_numbers == self.number).float()
        share = torch.zeros(len(crystals)).index_add_(0, owner, wanted) / crystals.num_atoms
        return Scores(share, {"share": share}, {"share": 0}, {"valid": share > 0.5}, {"share": 0.0})


def second_element(model: Path) -> int:
    """Return the second most frequent element of what a model makes: rare, but it is there."""
    made = Pipeline.from_pretrained(model, "cpu").generate(256, seed=1)
    return int(torch.bincount(made.atomic_numbers).argsort(descending=True)[1])


def config(*words: str) -> RLTrainConfig:
    """Return settings for a few seconds."""
    loaded = presets.load("rl", "demo/dng", overrides=[*WORDS, *words]).config
    assert isinstance(loaded, RLTrainConfig)
    return loaded


def stage(model: Path, *words: str, rank: int = 0, world: int = 1) -> RLStage:
    """Return a stage with a model of its own."""
    settings = config(*words)
    train, val = (load_split(settings.data, split) for split in ("train", "val"))
    torch.manual_seed(0)
    start = LatentDiffusion.from_pretrained(model)
    return RLStage(
        settings,
        train,
        val,
        start=start,
        scorer=Share(),
        draft=Draft(Path("unused"), RUN_PARTS),
        place=Place(torch.device("cpu"), rank, world),
    )


def train(
    folder: Path, model: Path | None, *words: str, element: int = 16, resume: bool = False
) -> TrainResult:
    """Run `chemeleon rl train` with the reward above."""
    with mock.patch.object(stage_of_rl, "_scorer", return_value=Share(element)):
        if resume:
            return api.rl_train(overrides=words, resume=folder)
        path = [] if model is None else [f"rl.ldm_ckpt_path={model}"]
        return api.rl_train("demo/dng", [*WORDS, *path, *words], output=folder)
