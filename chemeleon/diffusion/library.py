"""diffusers' schedulers, without what importing diffusers takes for its own networks."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

_COMPILER = "torch._dynamo"  # takes as long to import as PyTorch itself
_distributions = importlib.metadata.packages_distributions


class _Distributions(UserDict[str, list[str]]):
    """Which distributions packages belong to, read from all that are installed once one is asked.

    diffusers only asks of packages that few have, but reading takes half a second.
    """

    def __init__(self) -> None:
        pass

    @cached_property
    def data(self) -> dict[str, list[str]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return dict(_distributions())


def schedulers() -> Any:
    """Return the module of diffusers' schedulers."""
    if "diffusers.utils" not in sys.modules:
        with suppress(ImportError), _sparing():
            importlib.import_module("diffusers.utils")
    return importlib.import_module("diffusers.schedulers")


@contextmanager
def _sparing() -> Iterator[None]:
    """Postpone the table of distributions, and let there be no compiler, which is optional."""
    hidden = _COMPILER not in sys.modules
    importlib.metadata.packages_distributions = _Distributions  # pyright: ignore
    if hidden:
        sys.modules[_COMPILER] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = _distributions
        if hidden:
            del sys.modules[_COMPILER]
