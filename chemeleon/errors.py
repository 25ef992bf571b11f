"""The errors that a user can cause and cure; the command line prints them without a traceback.

Their words may hold what a file said, so this module also makes text of any origin printable.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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


def printable(text: str) -> str:
    """Return text of any origin on one line, with what is no letter, mark or space as escapes.

    So nothing in it moves the cursor of a terminal, turns the direction of writing or ends a line;
    bytes of a file name that are not UTF-8 show as ``\\xff``.
    """
    if text.isprintable():
        return text
    with suppress(UnicodeEncodeError):  # half of a pair, which no file name has
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible(text: str) -> str:
    """Return text of any origin and many lines as it may go to a terminal, see `printable`."""
    return "\n".join(map(printable, text.split("\n")))


@contextmanager
def naming(default: Path, hidden: Path, shown: Path) -> Iterator[None]:
    """Have errors of the disk name what the user knows: not nothing, and nothing hidden."""
    try:
        yield
    except OSError as error:
        name_for_user(error, default, hidden, shown)
        raise


def name_for_user(error: OSError, default: Path, hidden: Path, shown: Path) -> None:
    """Let an error of the disk name a path that the user knows.

    Args:
        error: its file name is changed in place.
        default: what it names if it names nothing.
        hidden: a folder or file that only this package knows.
        shown: what stands for that.
    """
    if isinstance(error.filename, str | os.PathLike):
        # absolute, as filelock and tempfile name files
        path, hidden = Path(error.filename).absolute(), hidden.absolute()
        if path.is_relative_to(hidden):
            error.filename = str(shown / path.relative_to(hidden))
    elif error.errno is not None:
        error.filename = str(default)
