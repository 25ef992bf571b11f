"""Padding left out: the atoms of a batch as one list of tokens.

Linear layers, norms and activations, nearly all of a transformer's work, see ``T`` tokens instead
of ``B x N`` slots; only attention, where it has no kernel for lists, goes back to the padded form.
Every move is a gather by a precomputed index in both directions, so nothing waits for the device,
sums of gradients have a fixed order, and shapes depend on the loader alone (as CUDA graphs need).

Shapes: ``B`` crystals, ``N`` padded atoms, ``D`` width, ``T`` tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from chemeleon.crystals.batch import CrystalBatch


class Layout(NamedTuple):
    """How tokens lie in the padded batch.

    Attributes:
        starts: ``(B,)`` each crystal's first token.
        counts: ``(B,)`` its number of atoms.
        atoms: ``N``.
        keys: ``(B, 1, 1, N)`` bool, the slots that attention may look at; None if all are atoms.
        slots: ``(T,)`` the slot of each token, counted through the batch; None if tokens are not
            packed. A few at the end may be padding, which fills up ``T``.
        tokens: ``(B * N,)`` the token of each slot, anything where there is none.
        present: ``(B * N,)`` bool, slots that have a token.
        ragged: nobody looks at what attention says of padded slots.
    """

    starts: Tensor
    counts: Tensor
    atoms: int
    keys: Tensor | None
    slots: Tensor | None = None
    tokens: Tensor | None = None
    present: Tensor | None = None
    ragged: bool = True

    @classmethod
    def of(cls, batch: CrystalBatch) -> Layout:
        """Return the layout of a batch: packed if it names its tokens."""
        return cls.from_mask(batch.mask, batch.num_atoms, batch.tokens, full=batch.full)

    @classmethod
    def from_mask(
        cls, mask: Tensor, counts: Tensor, slots: Tensor | None = None, *, full: bool = False
    ) -> Layout:
        """Return the layout of real-atom flags ``(B, N)``, packed if ``slots`` are given."""
        size, atoms = mask.shape
        keys = None if full else mask[:, None, None, :]
        if slots is None:
            starts = torch.arange(0, size * atoms, atoms, device=mask.device)
            return cls(starts, counts, atoms, keys)
        tokens = slots.new_zeros(mask.numel())
        tokens.index_copy_(0, slots, torch.arange(len(slots), device=slots.device))
        present = torch.zeros_like(mask).flatten().index_fill_(0, slots, True)
        starts = torch.cumsum(counts, 0) - counts
        return cls(starts, counts, atoms, keys, slots, tokens, present)

    def pack(self, x: Tensor) -> Tensor:
        """Turn ``(B, N, D)`` into ``(T, D)``."""
        if self.slots is None:
            return x
        return _Pack.apply(x, self.slots, self.tokens, self.present)  # pyright: ignore

    def unpack(self, x: Tensor) -> Tensor:
        """Turn ``(T, D)`` into ``(B, N, D)``; slots without a token hold finite nonsense.

        What is made of them must not reach a loss: their gradient is dropped.
        """
        if self.slots is None:
            return x
        return _Unpack.apply(x, self.slots, self.tokens, self.atoms)  # pyright: ignore

    def spread(self, x: Tensor) -> Tensor:
        """Bring a number per crystal ``(B, D)`` or per batch ``(1, D)`` to where it is added."""
        if self.slots is None:
            return x.unsqueeze(1)
        if x.shape[0] == 1:
            return x
        atoms = self.atoms
        return _Spread.apply(x, self.slots, self.tokens, self.present, atoms)  # pyright: ignore


class _Pack(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, present)
        ctx.shape = x.shape
        return x.flatten(0, 1).index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens, present = ctx.saved_tensors
        back = grad.index_select(0, tokens).masked_fill_(~present.unsqueeze(-1), 0)
        return back.view(ctx.shape), None, None, None


class _Unpack(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, tokens: Tensor, atoms: int) -> Tensor:
        ctx.save_for_backward(slots)
        return x.index_select(0, tokens).view(-1, atoms, x.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slots,) = ctx.saved_tensors
        return grad.flatten(0, 1).index_select(0, slots), None, None, None


class _Spread(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, slots: Tensor, tokens: Tensor, present: Tensor, atoms: int
    ) -> Tensor:
        ctx.save_for_backward(tokens, present)
        ctx.atoms = atoms
        return x.index_select(0, slots.div(atoms, rounding_mode="floor"))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens, present = ctx.saved_tensors
        back = grad.index_select(0, tokens).masked_fill_(~present.unsqueeze(-1), 0)
        return back.view(-1, ctx.atoms, grad.shape[-1]).sum(1), None, None, None, None
