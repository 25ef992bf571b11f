"""What a flywheel begins with: how its models are trained, and which sets its crystals are held to.

A flywheel is resumed by what it wrote down then, whatever has changed around it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from chemeleon.checkpoints.card import trained_on
from chemeleon.checkpoints.load import find_model
from chemeleon.config import presets
from chemeleon.config.architecture import LDMConfig
from chemeleon.config.modelfile import read_model_config
from chemeleon.config.plain_json import parse_json
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.config.schema import LDMTrainConfig
from chemeleon.crystals.symbols import symbol
from chemeleon.data.dataset import dataset_dir, load_split
from chemeleon.data.named import find_set
from chemeleon.errors import ConfigError, DataError
from chemeleon.evaluation.metrics.states import load_judge
from chemeleon.reinforcement.flywheel.settings import ROUNDS, FlywheelSettings
from chemeleon.storage import MODEL_CONFIG, write_text
from chemeleon.training.adapted import lasting

STATE, CONFIG = "flywheel.json", "config.yaml"
_OF_MODEL = ("denoiser", "diffusion", "sampler", "latent_scale", "conditions")


class State:
    """The settings of a flywheel and its finished steps, in a file of its folder."""

    def __init__(self, settings: FlywheelSettings, done: Iterable[str] = ()) -> None:
        self.settings, self.done = settings, list(done)

    def finish(self, *steps: str) -> None:
        """Note finished steps on disk."""
        self.done += steps
        said = {**self.settings.told(), "rounds": self.settings.rounds}
        text = json.dumps({"settings": said, "done": self.done}, indent=1)
        write_text(self.settings.folder / STATE, text + "\n")


class Known(NamedTuple):
    """Sets that crystals are compared with, by the names that `data.named.find_set` takes.

    Attributes:
        training: that the model was trained on.
        apart: whose crystals are not kept.
        missing: sets in the model's record that are not here.
        sizes: how many training crystals have each number of elements.
        elements: how many training crystals hold each element.
    """

    training: list[str]
    apart: list[str]
    missing: list[str]
    sizes: Counter[int]
    elements: Counter[str]

    def all(self, kept: Iterable[Path]) -> list[str]:
        """Return all sets that a crystal must not be in, each once."""
        return list(dict.fromkeys([*self.training, *map(str, kept), *self.apart]))


def begin(settings: FlywheelSettings) -> tuple[State, LDMTrainConfig, Known]:
    """Begin a flywheel, or read the one in the folder.

    Raises:
        ConfigError: if another one is there, or none that could be resumed.
        CheckpointError, DataError: if there is no such model or set.
    """
    file, resumed = settings.folder / STATE, settings.resume is not None
    if not file.is_file():
        if resumed:
            raise ConfigError(f"{settings.resume} is no folder of a flywheel: it has no {STATE}")
        model = lasting(str(settings.model))
        settings = replace(settings, model=model, rounds=settings.rounds or ROUNDS)
        config = training_config(settings)
        judge = load_judge(settings.potential, settings.hull, settings.device)  # before the work
        if not judge.grounds:
            raise ConfigError(
                f"there is no hull for the energies of {settings.potential}: make one by `chemeleon"
                f" data hull SET --potential {settings.potential}`, and name it with --hull"
            )
        known = find_known(settings, config)
        write_text(settings.folder / CONFIG, presets.to_yaml(config))
        (state := State(settings)).finish()
        return state, config, known
    found = parse_json(file.read_bytes())
    before = found["settings"]
    given = replace(settings, model=lasting(str(settings.model))).told()
    other = [key for key, value in given.items() if value != before[key]]
    if other and not resumed:
        raise ConfigError(
            f"{settings.folder} holds a flywheel with another {other[0]} ({before[other[0]]}, now"
            f" {given[other[0]]}): resume it as it is by --resume {settings.folder}, or name"
            " another -o"
        )
    here: dict[str, Any] = {"output": settings.folder, "device": settings.device}
    here |= {"rounds": settings.rounds or before["rounds"], "console": settings.console}
    config: Any = presets.load("ldm", None, settings.folder / CONFIG, fresh=False).config
    settings = FlywheelSettings(**{**before, **here})
    return State(settings, found["done"]), config, find_known(settings, config)


def training_config(settings: FlywheelSettings) -> LDMTrainConfig:
    """Return how the models of all rounds are trained, but for what each begins from.

    Raises:
        ConfigError: if the model does not say how it was trained and no preset is named, or it
            does not choose elements.
        CheckpointError: if there is no such model.
    """
    model = find_model(str(settings.model), ("ldm",))
    own, words = model.parent / CONFIG, list(settings.overrides)
    content = read_model_config(model / MODEL_CONFIG)
    if settings.preset is not None:
        ldm = LDMConfig.model_validate(content["ldm"]).model_dump(mode="json", include={*_OF_MODEL})
        words = [f"ldm.{name}={json.dumps(value)}" for name, value in ldm.items()] + words
        own = None
    elif not _trains_ldm(own):
        raise ConfigError(
            f"{settings.model} does not say how it was trained, as the run folders of `chemeleon"
            " ldm train` do: name a --preset such as mp/mini"
        )
    config: Any = presets.load("ldm", settings.preset, own, words, fresh=False).config
    if config.ldm.denoiser.of_formulas:
        raise ConfigError(
            f"{settings.model} places the atoms of given formulas (kind csp): a flywheel takes a"
            " model that chooses elements, such as shipped:de_novo"
        )
    return config


def _trains_ldm(path: Path) -> bool:
    found = read_yaml(path) if path.is_file() else None
    return isinstance(found, dict) and {"ldm", "trainer"} <= found.keys() and "rl" not in found


def find_known(settings: FlywheelSettings, config: LDMTrainConfig) -> Known:
    """Find the sets that crystals are held against, and count the training crystals.

    Raises:
        DataError: if one is missing that is trained on, or kept apart.
    """
    data, missing = config.data, []
    training = [_named(config, name) for name in data.sets]
    content = read_model_config(find_model(str(settings.model), ("ldm",)) / MODEL_CONFIG)
    recorded = [presets.RENAMED.get(name, name) for name in trained_on(content)]
    for name in (name for name in recorded if name not in data.sets):
        try:
            find_set(name)
            training.append(name)
        except DataError:
            missing.append(name)
    for name in (*training, *(settings.apart or ())):
        find_set(name)  # before the work, in case one is missing
    apart = list(settings.apart or ())
    if settings.apart is None:
        for split in ("val", "test"):
            with suppress(DataError):
                apart.append(find_set(f"{training[0]}/{split}").name)
    crystals = load_split(data, "train", partial="any")
    numbers = crystals.atomic_numbers.split(crystals.num_atoms.tolist())
    held = [set(part.tolist()) for part in numbers]
    elements = Counter(symbol(z) for each in held for z in each)
    return Known(training, apart, missing, Counter(map(len, held)), elements)


def _named(config: LDMTrainConfig, name: str) -> str:
    """Return what a set of the training data is called where its root is not known."""
    if config.data.root is None:
        return name
    folder = dataset_dir(config.data.model_copy(update={"name": name})).absolute()
    return str(folder) if folder.is_dir() else name
