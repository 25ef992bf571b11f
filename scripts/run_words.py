"""The command that trains what a config says, in few words: the nearest preset and KEY=VALUE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chemeleon.config.plain_yaml import parse_yaml, read_yaml
from chemeleon.config.presets import flatten, list_presets, load
from chemeleon.config.schema import STAGES
from chemeleon.errors import ConfigError

# where data lie and where numbers are shown: a matter of one computer
_LOCAL = ("data.root", "trainer.tracker", "trainer.project")
# what a preset is for; no word of a command should turn it into another
_KIND = ("data.name", "vae.kind", "ldm.denoiser.types")


def stage_of(content: Any) -> str | None:
    """Return the stage of a run's ``config.yaml``; None if it is no such file."""
    if not isinstance(content, Mapping) or "trainer" not in content:
        return None
    return next((stage for stage in STAGES if stage in content), None)


def training_words(path: Path) -> tuple[str, dict[str, str]]:
    """Return the preset and the words that give a run's config again.

    Args:
        path: ``config.yaml`` of the run.

    Returns:
        Name of the preset, and key to value as it is typed.

    Raises:
        ConfigError: if it is no config of a run, or no preset with words gives it.
    """
    stage = stage_of(read_yaml(path))
    if stage is None:
        raise ConfigError(f"{path} is not the config of a training")
    wanted = _plain(load(stage, None, path).config.model_dump(mode="json"))
    nearest: list[tuple[int, int, str, dict[str, str]]] = []
    for preset in list_presets(stage):
        given = _plain(load(stage, preset).config.model_dump(mode="json"))
        words = {k: _typed(v) for k, v in wanted.items() if k not in given or given[k] != v}
        nearest.append((sum(key in words for key in _KIND), len(words), preset, words))
    *_, preset, words = min(nearest)
    found = load(stage, preset, None, [f"{key}={value}" for key, value in words.items()])
    if _plain(found.config.model_dump(mode="json")) != wanted:
        raise ConfigError(
            f"{path} is not what a preset and KEY=VALUE words give; nearest is {stage}/{preset}"
        )
    return preset, words


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(values) if key not in _LOCAL}


def _typed(value: Any) -> str:
    """Return what is typed behind ``KEY=``."""
    if isinstance(value, str):
        with suppress(ConfigError):  # what is no YAML
            if parse_yaml(value, "a value") == value:
                return value
    return json.dumps(value)
