"""Linear layers whose float32 products are left to the faster of PyTorch's two libraries.

On a CPU PyTorch gives products of float32 to MKL, and to oneDNN only those of other types. MKL
uses half of what AMD's processors with AVX-512 can do (Zen 5, two cores: 215 GFLOP/s, oneDNN 450).
Both multiply and sum in float32, in different orders.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """``nn.Linear``, on some CPUs by oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``(B, N, D)`` or ``(T, D)``."""
        if input.dim() > 1 and input.dtype == self.weight.dtype and by_onednn(input):
            return _Product.apply(input, self.weight, self.bias)  # pyright: ignore
        return F.linear(input, self.weight, self.bias)


def by_onednn(x: Tensor) -> bool:
    """Return whether products with ``x`` are left to oneDNN."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and mkl_is_slow()
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def mkl_is_slow() -> bool:
    """Return whether this is an AMD processor with AVX-512 and a PyTorch with both libraries."""
    able = (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
    if not able:
        return False
    told = platform.processor()  # on Linux often nothing
    with suppress(OSError):
        told += Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "AuthenticAMD" in told


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        flat = grad.flatten(0, -2)
        return (
            multiply(grad, weight.t()) if of_x else None,
            multiply(flat.t(), x.flatten(0, -2).t()) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x weight^T + bias`` by oneDNN; no gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
