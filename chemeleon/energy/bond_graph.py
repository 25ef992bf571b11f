"""The graph that CHGNet sees: bonds between atoms, and angles between short bonds.

Shapes: ``A`` atoms, ``U`` bonds of which the first ``S`` are short, ``T`` ordered pairs of short
bonds that meet at an atom ("angles").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.neighbours import Bonds
from chemeleon.crystals.ragged import ranges


class Graph(NamedTuple):
    """A batch of crystals as one graph.

    Attributes:
        numbers: ``(A,)`` atomic numbers.
        owners: ``(A,)`` crystal of each atom.
        num_atoms: ``(M,)``.
        first, second: ``(U,)`` atoms of each bond; short bonds come first.
        vectors: ``(U, 3)`` float32, from first to second, angstrom.
        short: number of short bonds ``S``.
        angle_atom: ``(T,)`` the atom where two short bonds meet.
        angle_bonds: ``(2, T)`` the two bonds, as indices below ``S``.
        angle_signs: ``(T,)`` 1 if both bonds point to or both from that atom, else -1.
    """

    numbers: Tensor
    owners: Tensor
    num_atoms: Tensor
    first: Tensor
    second: Tensor
    vectors: Tensor
    short: int
    angle_atom: Tensor
    angle_bonds: Tensor
    angle_signs: Tensor


def angle_counts(cells: Crystals, bonds: Bonds, cutoff_angstrom: float) -> Tensor:
    """Return ``(M,)`` int64: ordered pairs of short bonds that meet, for each crystal."""
    short = torch.linalg.vector_norm(bonds.vectors, dim=1) < cutoff_angstrom
    ends = torch.cat([bonds.first[short], bonds.second[short]])
    degree = torch.bincount(ends, minlength=len(cells.atomic_numbers))
    total = torch.zeros_like(cells.num_atoms)
    return total.index_add_(0, cells.owners, degree * (degree - 1))


def make_graph(cells: Crystals, bonds: Bonds, cutoff_angstrom: float) -> Graph:
    """Put crystals and their bonds together.

    Args:
        cells: crystals.
        bonds: bonds of the same crystals.
        cutoff_angstrom: longest bond that takes part in angles.
    """
    device = bonds.first.device
    is_short = torch.linalg.vector_norm(bonds.vectors, dim=1) < cutoff_angstrom
    near = torch.nonzero(is_short).flatten()
    order = torch.cat([near, torch.nonzero(~is_short).flatten()])
    first, second = bonds.first[order], bonds.second[order]
    short = len(near)

    # each short bond seen from both of its ends, grouped by the atom that it is seen from
    atom = torch.cat([first[:short], second[:short]])
    bond = torch.arange(short, device=device).repeat(2)
    sign = torch.ones(2 * short, dtype=torch.float32, device=device)
    sign[short:] = -1.0
    atom, by_atom = torch.sort(atom, stable=True)
    bond, sign = bond[by_atom], sign[by_atom]
    degree = torch.bincount(atom, minlength=len(cells.atomic_numbers))
    starts = torch.cumsum(degree, 0) - degree
    partners = degree[atom]
    left = torch.repeat_interleave(torch.arange(2 * short, device=device), partners)
    right = ranges(starts[atom], partners)
    kept = torch.nonzero(left != right).flatten()
    left, right = left[kept], right[kept]
    return Graph(
        cells.atomic_numbers,
        cells.owners,
        cells.num_atoms,
        first,
        second,
        bonds.vectors[order].float(),
        short,
        atom[left],
        torch.stack([bond[left], bond[right]]),
        sign[left] * sign[right],
    )
