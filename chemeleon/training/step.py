"""One optimizer step: forward, backward, mean over processes, clip, update, average.

Nothing here waits for the device (but in fp16): clipping and the guard against numbers that are not
finite go into the fused optimizer as tensors, the way a loss scaler's do.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from chemeleon.config.schema import StageConfig
from chemeleon.crystals.random import torch_seed
from chemeleon.training.graphs import Compiler, GraphedBackward
from chemeleon.training.stage import RunContext, Stage
from chemeleon.training.state import Average
from chemeleon.training.weights import FlatWeights, Weights


class Step:
    """The model of a stage, ready to be trained, and how it is.

    Attributes:
        model: as accelerate has prepared it.
        weights: those that are trained.
        optimizer: AdamW.
        average: moving average of the weights.
        flat: weights and gradients are one buffer each, on a GPU: see `FlatWeights`.
    """

    def __init__(self, stage: Stage, config: StageConfig, context: RunContext) -> None:
        self.stage, self.seed = stage, config.seed
        self.accelerator = accelerator = context.accelerator
        trainer, optim = config.trainer, config.optim
        trained = [p for p in stage.model.parameters() if p.requires_grad]
        # on a GPU one flat buffer takes the place of many tensors and of DDP
        self.flat = accelerator.device.type == "cuda" and accelerator.scaler is None
        self.model = accelerator.prepare_model(stage.model, evaluation_mode=self.flat)
        if self.flat and accelerator.num_processes > 1:
            for tensor in stage.model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)
        # half the message; batches of other crystals differ by far more than bf16 rounds
        message = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.weights = FlatWeights(trained, message) if self.flat else Weights(trained)
        self.optimizer = torch.optim.AdamW(
            self.weights.updated,
            lr=optim.lr,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        self.average = Average(self.weights.updated, stage.ema_decay)
        self.limit = trainer.clip_norm or math.inf
        self.broken = torch.zeros((), device=accelerator.device)
        self.compiler = Compiler(stage.model, trainer.compile if self.flat else "off")
        self.backward = self._backward
        if self.flat and trainer.cuda_graphs:
            self.backward = GraphedBackward(self._backward, context.console.print)

    def __call__(
        self, batches: list[Any], number: int, rate: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Do a step.

        Once a loss or a gradient was not finite, weights are never changed again; the caller finds
        out when it reads the numbers.

        Args:
            batches: its micro-batches.
            number: of steps before it.
            rate: learning rate.

        Returns:
            The loss terms, and the norm of the gradients before clipping, still on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # torch's own generator, which only dropout uses
        place = number * self.accelerator.num_processes + self.accelerator.process_index
        torch.manual_seed(torch_seed(self.seed, place, 32))
        terms: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            last = i + 1 == len(batches)  # in whose backward pass DDP takes the mean over processes
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                share = self.backward(batch, len(batches))
            for name, value in share.items():
                terms[name] = terms[name] + value if name in terms else value.clone()
        self.weights.average_gradients()
        norm = self._clip_and_update(terms["loss"])
        self.weights.clear_gradients()
        self.average.update()
        return terms, norm

    def _backward(self, batch: Any, parts: int) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch of ``parts``; return its share of the terms."""
        terms = self.stage.loss(self.model, batch)
        share = terms["loss"] / parts
        if isinstance(self.weights, FlatWeights):
            self.weights.add_gradients_of(share)
        else:
            self.accelerator.backward(share)
        return {name: value.detach().float() / parts for name, value in terms.items()}

    def _clip_and_update(self, loss: Tensor) -> Tensor:
        if (scaler := self.accelerator.scaler) is not None:
            # steps with infinite gradients are left to the loss scaler of fp16, which expects some
            scaler.unscale_(self.optimizer)
            parameters = self.weights.parameters
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.limit, foreach=True)
            scaler.step(self.optimizer)
            scaler.update()
            return norm
        norm = self.weights.gradient_norm()
        self.broken = torch.where(torch.isfinite(norm + loss), self.broken, 1.0)
        # the fused kernel divides by grad_scale and does nothing where found_inf is 1
        self.optimizer.grad_scale = (norm / self.limit).clamp_min(1)  # pyright: ignore
        self.optimizer.found_inf = self.broken  # pyright: ignore
        self.optimizer.step()
        return norm

    def consider_compiling(self, steps: int, seconds_left: float) -> None:
        """Compile if that is worth it; see `Compiler.decide`."""
        if self.compiler.decide(steps, seconds_left) and isinstance(self.backward, GraphedBackward):
            self.backward.forget()
