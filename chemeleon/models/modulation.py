"""adaLN's arithmetic between the matrix products: norm, scale, shift, gate, residual.

In sampling these small operations would take as long as the products, since each reads and writes
all tokens; on a GPU one program does those that stand together. Where gradients are wanted they are
left to PyTorch, which `torch.compile` can join in both directions.

Shapes: ``T`` tokens (``B`` crystals of ``N`` slots, or packed), ``D`` width, ``C`` chunks of
``modulation`` ``(B, C D)``, or ``(1, C D)`` where all crystals share it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chemeleon.models.attention import HAS_TRITON
from chemeleon.models.packing import Layout

WIDEST = 4096  # of a token that one program holds


def fused(x: Tensor) -> bool:
    """Return whether the functions below can take tokens ``(..., D)``: no gradients, on a GPU."""
    return (
        x.is_cuda
        and HAS_TRITON
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch.is_autocast_enabled("cuda")
        and x.dtype == torch.float32
        and x.shape[-1] <= WIDEST
    )


def modulate(x: Tensor, modulation: Tensor, layout: Layout, *, shift: int) -> Tensor:
    """Return ``norm(x) (1 + scale) + shift`` in autocast's type.

    Args:
        x: ``(..., D)`` tokens, float32.
        modulation: ``(B, C D)`` or ``(1, C D)``.
        layout: how tokens belong to crystals.
        shift: number of the chunk with the shift; the scale is the next one.
    """
    h = torch.empty_like(x, dtype=torch.get_autocast_dtype("cuda"))
    _launch(x, x, modulation, layout, None, h, -1, shift)
    return h


def add_gated(
    x: Tensor, branch: Tensor, modulation: Tensor, layout: Layout, *, gate: int
) -> Tensor:
    """Return ``x + gate branch``, float32; see `modulate`."""
    out = torch.empty_like(x)
    _launch(x, branch, modulation, layout, out, None, gate, -1)
    return out


def add_gated_and_modulate(
    x: Tensor, branch: Tensor, modulation: Tensor, layout: Layout, *, gate: int, shift: int
) -> tuple[Tensor, Tensor]:
    """Return what `add_gated` gives, and what `modulate` makes of that."""
    out = torch.empty_like(x)
    h = torch.empty_like(x, dtype=torch.get_autocast_dtype("cuda"))
    _launch(x, branch, modulation, layout, out, h, gate, shift)
    return out, h


def _launch(
    x: Tensor,
    branch: Tensor,
    modulation: Tensor,
    layout: Layout,
    x_out: Tensor | None,
    h_out: Tensor | None,
    gate: int,
    shift: int,
) -> None:
    from chemeleon.models.kernels import add_and_modulate

    x, branch, modulation = x.contiguous(), branch.contiguous(), modulation.contiguous()
    width = x.shape[-1]
    # Triton takes the current device, which is another one in a new thread
    with torch.cuda.device(x.device):
        add_and_modulate[(x.numel() // width,)](  # pyright: ignore
            x,
            branch,
            modulation,
            x if layout.slots is None else layout.slots,
            x if x_out is None else x_out,
            x if h_out is None else h_out,
            layout.atoms,
            modulation.shape[1] // width,
            gate,
            shift,
            modulation.shape[0] == 1,
            layout.slots is not None,
            width,
            1 << (width - 1).bit_length(),
            num_warps=4,
        )
