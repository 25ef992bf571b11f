"""From names in a config to checked rewards; all that is wrong is said at once."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from chemeleon.config.rl import RewardConfig
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.reinforcement.rewards._functions import reward_of
from chemeleon.reinforcement.rewards.base import Context, Reward
from chemeleon.storage import at_home

_NO_REWARDS = ("base", "mix")


def built_in() -> list[str]:
    """Return the names of the rewards of this package."""
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(name for name in files if not name.startswith("_") and name not in _NO_REWARDS)


def find_reward(name: str) -> type[Reward]:
    """Return the class of a reward, or make one of a function.

    Args:
        name: built-in name, ``./FILE.py:NAME`` or ``package.module:NAME``.

    Raises:
        ConfigError: if there is no such reward; says what there is.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        known = built_in()
        if name not in known:
            raise ConfigError(
                f"unknown reward '{name}'{nearest(name, known)}; known: {', '.join(known)}, or your"
                " own: ./FILE.py:NAME or package.module:NAME"
            )
        module = importlib.import_module(f"{__package__}.{name}")
        camel = "".join(word.capitalize() for word in name.split("_"))
        thing = getattr(module, camel, getattr(module, name, None))
    else:
        module = _load_file(name, place) if place.endswith(".py") else _load_module(name, place)
        thing = getattr(module, attribute, None)
        if thing is None:
            own = [
                key
                for key, value in vars(module).items()
                if not key.startswith("_") and callable(value)
            ]
            raise ConfigError(
                f"{place} has no '{attribute}'{nearest(attribute, own)}; it has:"
                f" {', '.join(own) or 'nothing that can be called'}"
            )
    if inspect.isclass(thing) and issubclass(thing, Reward):
        return thing
    if inspect.isfunction(thing):
        return reward_of(thing, name)
    raise ConfigError(
        f"'{name}' is a {type(thing).__name__}; a function or a subclass of"
        " chemeleon.reinforcement.rewards.base.Reward is needed"
    )


def make_rewards(configs: Mapping[str, RewardConfig], context: Context) -> dict[str, Reward]:
    """Check all rewards, then make them.

    Raises:
        ConfigError: with every problem of every reward.
    """
    checked: dict[str, tuple[type[Reward], Any]] = {}
    wrong: list[str] = [] if configs else ["no reward is named"]
    for key, config in configs.items():
        try:
            kind = find_reward(config.reward)
        except ChemeleonError as error:
            wrong.append(f"{key}: {error}")
            continue
        try:
            options = kind.Options.model_validate(config.options)
        except ValidationError as error:
            wrong += [f"{key}.options.{line}" for line in _explain(error, kind.Options)]
            continue
        wrong += [f"{key}: {text}" for text in kind.problems(options, context)]
        checked[key] = (kind, options)
    if wrong:
        count = f"{len(wrong)} problem{'s' if len(wrong) > 1 else ''} in the rewards:"
        raise ConfigError("\n  ".join([count, *wrong]))
    return {key: kind(options, context) for key, (kind, options) in checked.items()}


def _explain(error: ValidationError, schema: type[Any]) -> list[str]:
    known, lines = list(schema.model_fields), []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            hint = nearest(key, known) or f"; known here: {', '.join(known) or 'none'}"
            lines.append(f"{key}: unknown option{hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}, got {problem['input']!r}")
    return lines


def _load_file(name: str, place: str) -> ModuleType:
    path = at_home(place).resolve()
    if not path.is_file():
        raise ConfigError(f"reward '{name}': there is no file {path}")
    key = f"_chemeleon_reward_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"reward '{name}': {type(error).__name__}: {error}; the module must be installed or"
            " lie on PYTHONPATH"
        ) from error
