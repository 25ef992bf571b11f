"""Reductions over the atoms of crystals of different sizes.

Shapes: ``A`` atoms of all crystals in a row, ``M`` crystals.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor


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
        ends = torch.cat([num_atoms.new_zeros(1), torch.cumsum(num_atoms, 0)])
        return package.segment_csr(values, ends, reduce=reduce)
    crystals = num_atoms.shape[0]
    owner = torch.repeat_interleave(torch.arange(crystals, device=values.device), num_atoms)
    index = owner.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    start = values.new_zeros((crystals, *values.shape[1:]))
    names = {"sum": "sum", "mean": "mean", "max": "amax"}
    return start.scatter_reduce(0, index, values, names[reduce], include_self=False)
