"""Attention within crystals for atoms in one long list: a small GPU program per crystal and head.

General kernels tile sequences of hundreds; a crystal of twenty atoms fills a sixth of their
smallest tile, and they want padded, permuted copies of queries, keys and values. Here a program
loads what belongs to one crystal and one head straight from the projection's output.

Shapes: ``B`` crystals, ``T`` tokens, ``H`` heads of width ``d``, ``D = H d``.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil

import torch
from torch import Tensor

MOST_ATOMS = 64  # of the padded batch; scores of a crystal are held in registers
HEAD_WIDTHS = (16, 32, 64, 128)


def usable(qkv: Tensor, heads: int, atoms: int) -> bool:
    """Return whether `ragged_attention` can take projections ``(..., 3D)`` of these crystals."""
    return (
        qkv.is_cuda
        and qkv.dtype in (torch.bfloat16, torch.float16)
        and atoms <= MOST_ATOMS
        and qkv.shape[-1] // (3 * heads) in HEAD_WIDTHS
        and HAS_TRITON
    )


def ragged_attention(qkv: Tensor, starts: Tensor, counts: Tensor, heads: int, most: int) -> Tensor:
    """Attend within each crystal.

    Args:
        qkv: ``(T, 3D)`` queries, keys and values, heads side by side within each.
        starts: ``(B,)`` first token of each crystal.
        counts: ``(B,)`` its number of atoms.
        heads: ``H``.
        most: no crystal has more atoms than this.

    Returns:
        ``(T, D)``; 0 for tokens that belong to no crystal.
    """
    return _forward(qkv, starts, counts, heads, most)


@torch.library.custom_op("chemeleon::ragged_attention", mutates_args=())
def _forward(qkv: Tensor, starts: Tensor, counts: Tensor, heads: int, most: int) -> Tensor:
    from chemeleon.models.kernels import attend

    qkv = qkv.contiguous()
    out = qkv.new_zeros(qkv.shape[0], qkv.shape[1] // 3)
    width = out.shape[1] // heads
    # Triton takes the current device, which is another one in a new thread
    with torch.cuda.device(qkv.device):
        attend[(counts.shape[0], heads)](  # pyright: ignore
            qkv, out, starts, counts, 1 / math.sqrt(width), heads, width, _block(most), num_warps=2
        )
    return out


@torch.library.custom_op("chemeleon::ragged_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, qkv: Tensor, starts: Tensor, counts: Tensor, heads: int, most: int
) -> Tensor:
    from chemeleon.models.kernels import attend_backward

    qkv, grad = qkv.contiguous(), grad.contiguous()
    out = torch.zeros_like(qkv)
    width = grad.shape[1] // heads
    with torch.cuda.device(qkv.device):
        attend_backward[(counts.shape[0], heads)](  # pyright: ignore
            qkv,
            grad,
            out,
            starts,
            counts,
            1 / math.sqrt(width),
            heads,
            width,
            _block(most),
            num_warps=2,
        )
    return out


def _block(most: int) -> int:
    return max(16, 1 << (most - 1).bit_length())


@_forward.register_fake
def _(qkv: Tensor, starts: Tensor, counts: Tensor, heads: int, most: int) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)


@_backward.register_fake
def _(grad: Tensor, qkv: Tensor, starts: Tensor, counts: Tensor, heads: int, most: int) -> Tensor:
    return torch.empty_like(qkv)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    qkv, starts, counts, ctx.heads, ctx.most = inputs
    ctx.save_for_backward(qkv, starts, counts)


def _differentiate(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    qkv, starts, counts = ctx.saved_tensors
    return _backward(grad, qkv, starts, counts, ctx.heads, ctx.most), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
# it builds a small launcher with a C compiler when it is first used
HAS_TRITON = importlib.util.find_spec("triton") is not None and any(
    shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")
)
