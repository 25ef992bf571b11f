"""From gradients to new weights: mean over processes, clip, guard, step, clear.

Nothing here waits for the device (but in fp16): clipping and the guard against numbers that are not
finite go into the fused optimizer as tensors, the way a loss scaler's do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

MESSAGES = 6  # that the gradients are sent in; the first leave while the rest is computed


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

    def gradient_norm(self) -> Tensor:
        """Return the norm of all gradients."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads, foreach=True)

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


class _Part:
    """A stretch of the flat gradients, summed over processes as soon as it is complete."""

    def __init__(self, grad: Tensor, parameters: int) -> None:
        self.grad, self.parameters = grad, parameters
        self.expected = -1  # gradients that have not come yet; below 0 nothing is sent
        self.work: Any = None

    def arrived(self, _parameter: Tensor) -> None:
        """Count a gradient; send with the last one."""
        self.expected -= 1
        if self.expected == 0:
            self._send()

    def finish(self) -> None:
        """Send if some weights had no gradient, and let what follows wait for the answer."""
        if self.expected > 0:
            self._send()
        self.expected = -1
        self.work.wait()

    def _send(self) -> None:
        mean = torch.distributed.ReduceOp.AVG
        self.work = torch.distributed.all_reduce(self.grad, op=mean, async_op=True)


class FlatWeights(Weights):
    """Weights and gradients in one buffer each, of which the model's tensors are views.

    The optimizer, the averages, the norm and the message to other processes are one kernel each
    instead of one for each of hundreds of tensors, whose starts would take longer than their work.
    Gradients stay in the same place, as CUDA graphs need.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters)
        self.sizes = [p.numel() for p in parameters]
        self.flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        self.flat.grad = torch.zeros_like(self.flat)
        self.updated = [self.flat]
        self.grads = self.pieces([self.flat.grad])
        for parameter, weight in zip(parameters, self.pieces([self.flat.data]), strict=True):
            parameter.data = weight
        self.parts: list[_Part] = []
        if torch.distributed.is_initialized():
            self._share()

    def _share(self) -> None:
        """Cut the gradients into parts that are sent one by one, each when it is complete."""
        assert self.flat.grad is not None
        total, start, end = self.flat.numel(), 0, 0
        members: list[nn.Parameter] = []
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            parameter.grad = grad
            members.append(parameter)
            end += parameter.numel()
            if end - start >= total / MESSAGES or end == total:
                part = _Part(self.flat.grad[start:end], len(members))
                for member in members:
                    member.register_post_accumulate_grad_hook(part.arrived)
                self.parts.append(part)
                members, start = [], end

    def add_gradients_of(self, loss: Tensor, *, last: bool = True) -> None:
        """Differentiate and add to the gradients.

        With the ``last`` loss of a step, the mean over processes is taken; it begins with the end
        of the model, while gradients of its beginning are still computed.
        """
        if not self.parts:
            grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            torch._foreach_add_(self.grads, grads)  # pyright: ignore
            return
        for part in self.parts:
            part.expected = part.parameters if last else -1
        loss.backward()
        if last:
            for part in self.parts:
                part.finish()

    def pieces(self, tensors: list[Tensor]) -> list[Tensor]:
        """See ``Weights``."""
        parts = tensors[0].split(self.sizes)
        return [t.view_as(p) for t, p in zip(parts, self.parameters, strict=True)]

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
