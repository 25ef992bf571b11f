"""Functions whose keywords are the fields of a dataclass, where each is declared and explained."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from chemeleon.config.renamed import current
from chemeleon.errors import ConfigError, nearest

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
_ENTRY = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def texts(settings: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say of each field."""
    documented = [
        inspect.getdoc(kind) or "" for kind in settings.__mro__ if "__doc__" in vars(kind)
    ]
    return {name: text for doc in documented for name, text in _ENTRY.findall(doc)}


def called_with(settings: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Let a function of one dataclass be called with the fields instead: ``f(seed=1)``.

    Signature and documentation of the function name them all, for people, editors and pyright.
    """

    def decorate(function: Callable[[S], R]) -> Callable[P, R]:
        signature = inspect.signature(settings)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, Any] = current(kwargs, signature.parameters)
            for name in given:
                if name not in signature.parameters:
                    known = nearest(name, signature.parameters)
                    raise ConfigError(f"there is no setting '{name}'{known}")
            return function(settings(*args, **given))

        said = texts(settings) if isinstance(settings, type) else {}
        words = "\n".join(f"    {name}: {said.get(name, '')}" for name in signature.parameters)
        first, _, rest = (inspect.getdoc(function) or "").partition("\n\nRaises:")
        call.__doc__ = f"{first}\n\nArgs:\n{words}\n\nRaises:{rest}"
        returned = inspect.signature(function).return_annotation
        vars(call)["__signature__"] = signature.replace(return_annotation=returned)
        return call

    return decorate
