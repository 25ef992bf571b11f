"""The errors that a user can cause and cure; the command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ChemeleonError(Exception):
    """Something the user can put right. The text says what is wrong, where, and what to do."""


class ConfigError(ChemeleonError):
    """A preset, a config file or a KEY=VALUE word is wrong."""


class DataError(ChemeleonError):
    """A data set or a structure file is missing or wrong."""


class CheckpointError(ChemeleonError):
    """A model or run folder is missing, incomplete or does not fit."""


class GenerationError(ChemeleonError):
    """Sampling was asked for something that the model cannot give."""


class TrainingError(ChemeleonError):
    """Training cannot go on, for example because a loss term is not finite."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
