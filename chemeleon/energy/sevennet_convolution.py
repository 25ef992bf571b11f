"""SevenNet's message passing without messages: sums over the bonds of each atom at once.

A layer sends, for each path (l1, l2, l3) of angular momenta, a message along each bond: its radial
weights times features of the sender times spherical harmonics of the bond, joined by Wigner's 3j
symbols (Batzner et al., Nat. Commun. 13, 2453 (2022), eq. 6). The package makes all messages, 7,776
numbers per bond and direction for l3i5, and adds them up. Here 3j symbols and harmonics are first
joined to couplings, which all channels and layers share (738 numbers per bond), weights and
couplings are made once for both directions of a bond (harmonics of odd l2 change their sign), and
on GPUs a program per atom and path adds up in registers. Elsewhere plain PyTorch does the same.

Shapes: ``A`` atoms, ``U`` bonds.
"""

from __future__ import annotations

import importlib
import importlib.util
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.neighbours import Bonds

HAS_TRITON = importlib.util.find_spec("triton") is not None
_ROW = 5  # numbers of a path for the kernels


class Path(NamedTuple):
    """One path of a layer: where its numbers begin, and how many they are."""

    weight: int
    coupling: int
    given: int
    out: int
    odd: bool  # l2, so that the sign changes with the direction of a bond
    channels: int
    inner: int  # 2 l1 + 1
    outer: int  # 2 l3 + 1


class Neighbours(NamedTuple):
    """Bonds, and the same from the side of each atom.

    Attributes:
        first, second: ``(U,)`` int64.
        starts: ``(A + 1,)`` where the entries of each atom begin.
        bonds, others: ``(2 U,)`` bond and other atom of each entry.
        signs: ``(2 U,)`` float32, -1 if the atom is the bond's second.
    """

    first: Tensor
    second: Tensor
    starts: Tensor
    bonds: Tensor
    others: Tensor
    signs: Tensor

    @classmethod
    def of(cls, bonds: Bonds, atoms: int) -> Neighbours:
        """Sort the bonds by atoms."""
        count, device = len(bonds.first), bonds.first.device
        ends = torch.cat([bonds.first, bonds.second])
        order = torch.argsort(ends, stable=True)
        starts = torch.zeros(atoms + 1, dtype=torch.int64, device=device)
        torch.cumsum(torch.bincount(ends, minlength=atoms), 0, out=starts[1:])
        others = torch.cat([bonds.second, bonds.first])[order]
        signs = torch.where(order < count, 1.0, -1.0)
        return cls(bonds.first, bonds.second, starts, order % count, others, signs)


class Couplings:
    """3j symbols of all layers as one matrix from spherical harmonics."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int, int, float], Tensor] = {}
        self.starts: dict[tuple[int, int, int, float], int] = {}
        self.width = 0

    def add(self, l1: int, l2: int, l3: int, factor: float) -> int:
        """Return the first column of a path's couplings, ``(2 l1 + 1, 2 l3 + 1)`` in a row."""
        key = (l1, l2, l3, round(factor, 9))
        if key not in self.starts:
            symbols = importlib.import_module("e3nn.o3").wigner_3j(l1, l2, l3).double() * factor
            self.blocks[key] = symbols.permute(1, 0, 2).flatten(1)
            self.starts[key], self.width = self.width, self.width + self.blocks[key].shape[1]
        return self.starts[key]

    @property
    def widths(self) -> list[int]:
        """Columns of each block, in their order."""
        return [block.shape[1] for block in self.blocks.values()]

    def matrix(self, harmonics: int, device: torch.device) -> Tensor:
        """Return ``(harmonics, width)`` float32."""
        full = torch.zeros(harmonics, self.width)
        for (_, l2, _, _), start, block in zip(
            self.blocks, self.starts.values(), self.blocks.values(), strict=True
        ):
            full[l2 * l2 : (l2 + 1) ** 2, start : start + block.shape[1]] = block.float()
        return full.to(device)


class Convolution:
    """One layer.

    Args:
        layer: the package's ``IrrepsConvolution``.
        couplings: of all layers; those of this one are added.
    """

    def __init__(self, layer: Any, couplings: Couplings) -> None:
        product = layer.convolution
        self.radial, self.denominator = layer.weight_nn, layer.denominator
        given, out = product.irreps_in1, product.irreps_out
        givens, outs = given.slices(), out.slices()
        self.given_widths = [part.stop - part.start for part in givens]
        self.couplings = couplings
        self.out_width, weight = out.dim, 0
        self.paths: list[Path] = []
        for step in product.instructions:
            channels, (l1, _) = given[step.i_in1]
            l2, l3 = product.irreps_in2[step.i_in2].ir.l, out[step.i_out].ir.l
            at = couplings.add(l1, l2, l3, step.path_weight)
            begin, end = givens[step.i_in1].start, outs[step.i_out].start
            sizes = channels, 2 * l1 + 1, 2 * l3 + 1
            self.paths.append(Path(weight, at, begin, end, bool(l2 % 2), *sizes))
            weight += channels
        self.groups: dict[tuple[int, int, int], list[Path]] = {}
        for path in self.paths:
            self.groups.setdefault(path[5:], []).append(path)
        self.tables: dict[torch.device, dict[tuple[int, int, int], tuple[Tensor, Tensor]]] = {}

    def __call__(
        self, x: Tensor, embedding: Tensor, couplings: Tensor, around: Neighbours
    ) -> Tensor:
        """Return the sums over the neighbours of each atom, ``(A, out)``.

        Args:
            x: ``(A, in)`` float32 features of the atoms.
            embedding: ``(U, radial)`` of the bonds' lengths.
            couplings: ``(U, width)`` of the bonds' directions.
            around: the bonds.
        """
        weights = self.radial(embedding)
        if HAS_TRITON and x.is_cuda:
            summed = _Fused.apply(x, weights, couplings, self, around)
        else:
            summed = self.plain(x, weights, couplings, around)
        return summed / self.denominator

    def plain(self, x: Tensor, weights: Tensor, couplings: Tensor, around: Neighbours) -> Tensor:
        """Do what the kernels do in plain PyTorch."""
        parts = _by_start(x, self.given_widths)
        blocks = _by_start(couplings, self.couplings.widths)
        channels = [path.channels for path in self.paths]
        summed = []
        for p, weight in zip(self.paths, weights.split(channels, 1), strict=True):
            block, weight = blocks[p.coupling].view(-1, p.inner, p.outer), weight.unsqueeze(2)
            total = x.new_zeros(len(x), p.channels * p.outer)
            for sign, here, there in (
                (1.0, around.first, around.second),
                (-1.0 if p.odd else 1.0, around.second, around.first),
            ):
                sent = parts[p.given].index_select(0, there).view(-1, p.channels, p.inner)
                # the weights go to the side of fewer numbers
                if p.inner <= p.outer:
                    message = torch.bmm(sent * weight, block)
                else:
                    message = torch.bmm(sent, block) * weight
                total = total.index_add(0, here, message.flatten(1), alpha=sign)
            summed.append(total)
        return torch.cat(summed, 1)  # paths are in order of outputs

    def rows(self, device: torch.device) -> dict[tuple[int, int, int], tuple[Tensor, Tensor]]:
        """Return the groups of paths for the kernels: forward, and with in- and outputs swapped."""
        if device not in self.tables:
            self.tables[device] = {}
            for sizes, paths in self.groups.items():
                table = torch.tensor([path[:_ROW] for path in paths], dtype=torch.int32)
                swapped = table[:, [0, 1, 3, 2, 4]].contiguous()
                self.tables[device][sizes] = (table.to(device), swapped.to(device))
        return self.tables[device]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, couplings: Tensor, layer: Convolution, on: Neighbours
    ) -> Tensor:
        x, weights, couplings = x.contiguous(), weights.contiguous(), couplings.contiguous()
        ctx.layer, ctx.on = layer, on
        ctx.save_for_backward(x, weights, couplings)
        out = x.new_empty(len(x), layer.out_width)
        kernel = importlib.import_module("chemeleon.energy.sevennet_kernels").gather
        for (channels, inner, outer), (table, _) in layer.rows(x.device).items():
            block = min(channels, 64)
            kernel[(len(x), len(table), channels // block)](
                x, weights, couplings, out, on.starts, on.bonds, on.others, on.signs, table,
                x.shape[1], weights.shape[1], couplings.shape[1], out.shape[1],
                inner=inner, outer=outer, padded=_padded(outer), inner_stride=outer,
                outer_stride=1, looped=1, add=False, channels=block, num_warps=_warps(block, outer),
            )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        slope, (x, weights, couplings) = slope.contiguous(), ctx.saved_tensors
        layer, on = ctx.layer, ctx.on
        kernels = importlib.import_module("chemeleon.energy.sevennet_kernels")
        of_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        of_weights, of_couplings = torch.empty_like(weights), torch.zeros_like(couplings)
        back = -on.signs  # seen from the sender
        widths = x.shape[1], weights.shape[1], couplings.shape[1], slope.shape[1]
        for (channels, inner, outer), (table, swapped) in layer.rows(x.device).items():
            if of_x is not None:
                block = min(channels, 64)
                kernels.gather[(len(x), 1, channels // block)](
                    slope, weights, couplings, of_x, on.starts, on.bonds, on.others, back, swapped,
                    slope.shape[1], *widths[1:3], x.shape[1],
                    inner=outer, outer=inner, padded=_padded(inner), inner_stride=1,
                    outer_stride=outer, looped=len(table), add=True, channels=block,
                    num_warps=_warps(block, inner),
                )  # fmt: skip
            if len(on.first):
                kernels.per_bond[(len(on.first), len(table))](
                    x, weights, couplings, slope, of_weights, of_couplings, on.first, on.second,
                    table, *widths, inner=inner, outer=outer, padded=_padded(outer),
                    channels=channels, num_warps=_warps(channels, outer),
                )  # fmt: skip
        return of_x, of_weights, of_couplings, None, None


def _by_start(table: Tensor, widths: list[int]) -> dict[int, Tensor]:
    """Return groups of columns by their first, ``(rows, width)`` and contiguous.

    Split once, as the slope of each slice would be a table of its own, all zeros but for it.
    """
    groups = (group.contiguous() for group in table.split(widths, 1))
    return dict(zip(accumulate(widths, initial=0), groups, strict=False))


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _warps(channels: int, outer: int) -> int:
    return max(1, min(4, channels * _padded(outer) // 256))
