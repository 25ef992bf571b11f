"""Functions whose keywords are the fields of a dataclass, where each is declared and explained."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
_ENTRY = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def texts(settings: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of each field, on one line."""
    entries = _ENTRY.findall(inspect.getdoc(settings) or "")
    return {name: " ".join(text.split()) for name, text in entries}


def called_with(settings: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Let a function of one dataclass be called with the fields instead: ``f(seed=1)``.

    Signature and documentation of the function name them all, for people, editors and pyright.
    """

    def decorate(function: Callable[[S], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(settings(*args, **kwargs))

        returned = inspect.signature(function).return_annotation
        signature = inspect.signature(settings).replace(return_annotation=returned)
        entries = _ENTRY.finditer(inspect.getdoc(settings) or "")
        words = "\n".join(entry[0] for entry in entries)
        first, _, rest = (inspect.getdoc(function) or "").partition("\n\nRaises:")
        call.__doc__ = f"{first}\n\nArgs:\n{words}\n\nRaises:{rest}"
        vars(call)["__signature__"] = signature
        return call

    return decorate
