"""The trained weights and their gradients, as the step sees them: one by one, or in one buffer."""

from __future__ import annotations

import torch
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
