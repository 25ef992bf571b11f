"""From gradients to new weights: sum over processes, clip, guard, step, clear.

Nothing here waits for the device (but in fp16): clipping and the guard against numbers that are not
finite go into the fused optimizer as tensors, the way a loss scaler's do.
"""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Weights:
    """The trained weights, as the optimizer and the averages see them.

    Attributes:
        parameters: those of the model.
        updated: what the optimizer updates, the same tensors here.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.updated: list[nn.Parameter] = parameters

    def pieces(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return numbers that belong to ``updated`` as one tensor per parameter (views)."""
        return tensors

    def average_gradients(self) -> None:
        """Take the mean over processes; DDP has done it."""

    def gradient_norm(self) -> Tensor:
        """Return the norm of all gradients."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads, foreach=True)

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


class FlatWeights(Weights):
    """Weights and gradients in one buffer each, of which the model's tensors are views.

    The optimizer, the averages, the norm and the message to other processes are one kernel each
    instead of one for each of hundreds of tensors, whose starts would take longer than their work.
    Gradients stay in the same place, as CUDA graphs need.
    """

    def __init__(self, parameters: list[nn.Parameter], message: torch.dtype) -> None:
        """Move the parameters into one buffer.

        Args:
            parameters: those of the model.
            message: type in which gradients travel between processes.
        """
        super().__init__(parameters)
        self.message = message
        self.sizes = [p.numel() for p in parameters]
        self.flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        self.flat.grad = torch.zeros_like(self.flat)
        self.updated = [self.flat]
        self.grads = self.pieces([self.flat.grad])
        for parameter, weight in zip(parameters, self.pieces([self.flat.data]), strict=True):
            parameter.data = weight

    def add_gradients_of(self, loss: Tensor) -> None:
        """Differentiate and add to the gradients, in a few kernels for all of them."""
        grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        torch._foreach_add_(self.grads, grads)  # pyright: ignore

    def pieces(self, tensors: list[Tensor]) -> list[Tensor]:
        """See ``Weights``."""
        parts = tensors[0].split(self.sizes)
        return [t.view_as(p) for t, p in zip(parts, self.parameters, strict=True)]

    def average_gradients(self) -> None:
        """See ``Weights``."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            assert self.flat.grad is not None
            message = self.flat.grad.to(self.message)  # itself, if the type is the same
            torch.distributed.all_reduce(message, op=torch.distributed.ReduceOp.AVG)
            if message is not self.flat.grad:
                self.flat.grad.copy_(message)

    def gradient_norm(self) -> Tensor:
        """See ``Weights``."""
        assert self.flat.grad is not None
        return self.flat.grad.norm()

    def clear_gradients(self) -> None:
        """See ``Weights``."""
        assert self.flat.grad is not None
        self.flat.grad.zero_()


class Update:
    """One optimizer step, given that gradients have been added up."""

    def __init__(
        self,
        weights: Weights,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        clip_norm: float | None,
    ) -> None:
        self.weights, self.optimizer, self.scaler = weights, optimizer, accelerator.scaler
        self.limit = clip_norm or math.inf
        self.broken = torch.zeros((), device=accelerator.device)

    def __call__(self, loss: Tensor) -> Tensor:
        """Clip, update, clear; return the norm of the gradients before clipping.

        Once a loss or a gradient was not finite, weights are never changed again; the caller finds
        out when it reads the numbers.
        """
        self.weights.average_gradients()
        if self.scaler is not None:
            norm = self._scaled_step()
        else:
            norm = self.weights.gradient_norm()
            self.broken = torch.where(torch.isfinite(norm + loss), self.broken, 1.0)
            # the fused kernel divides by grad_scale and does nothing where found_inf is 1
            self.optimizer.grad_scale = (norm / self.limit).clamp_min(1)  # pyright: ignore
            self.optimizer.found_inf = self.broken  # pyright: ignore
            self.optimizer.step()
        self.weights.clear_gradients()
        return norm

    def _scaled_step(self) -> Tensor:
        """Leave steps with infinite gradients to the loss scaler of fp16, which expects some."""
        assert self.scaler is not None
        self.scaler.unscale_(self.optimizer)
        parameters = self.weights.parameters
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.limit, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm
