"""Atoms of crystals of different sizes, one after the other: their indices, and reductions.

Shapes: ``A`` atoms of all crystals in a row, ``M`` crystals. torch is imported by what needs it.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def arange(count: int, like: Any) -> Any:
    """Return 0, 1, ... ``count - 1`` as a tensor on the device of ``like``, or as an array."""
    if isinstance(like, np.ndarray):
        return np.arange(count)
    from torch import arange as of_torch

    return of_torch(count, device=like.device)


def repeat(values: Any, counts: Any, total: int) -> Any:
    """Repeat each row ``counts`` times, ``total`` in all, in arrays or tensors."""
    if isinstance(counts, np.ndarray):
        return np.repeat(values, counts)
    # told the total, a GPU need not be waited for
    return values.repeat_interleave(counts, output_size=total)


def ranges(starts: Any, counts: Any) -> Any:
    """Concatenate ``arange(start, start + count)`` of every row, of arrays or tensors."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    return repeat(starts - (ends - counts), counts, total) + arange(total, counts)


@functools.cache
def _torch_scatter() -> ModuleType | None:
    """Return the optional package (`make setup-scatter`), or None."""
    try:
        return importlib.import_module("torch_scatter")
    except (ImportError, OSError):  # OSError: built against another torch
        return None


def reduce_atoms(
    values: Tensor,
    num_atoms: Tensor,
    reduce: Literal["sum", "mean", "max"] = "sum",
    *,
    use_torch_scatter: bool | None = None,
) -> Tensor:
    """Reduce ``(A, ...)`` values of atoms to ``(M, ...)`` values of crystals.

    Args:
        values: one row per atom, crystals one after the other.
        num_atoms: ``(M,)`` atoms of each crystal, each at least 1; they sum to ``A``.
        reduce: sum, mean or largest value.
        use_torch_scatter: force or forbid the package; by default it is used where installed.
    """
    package = _torch_scatter() if use_torch_scatter in {None, True} else None
    if use_torch_scatter and package is None:
        raise ImportError(
            "torch-scatter (extra `scatter`) is not installed: run `make setup-scatter`"
        )
    if package is not None:
        from torch import cat

        ends = cat([num_atoms.new_zeros(1), num_atoms.cumsum(0)])
        return package.segment_csr(values, ends, reduce=reduce)
    crystals = num_atoms.shape[0]
    owner = repeat(arange(crystals, num_atoms), num_atoms, values.shape[0])
    index = owner.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    start = values.new_zeros((crystals, *values.shape[1:]))
    names = {"sum": "sum", "mean": "mean", "max": "amax"}
    return start.scatter_reduce(0, index, values, names[reduce], include_self=False)
