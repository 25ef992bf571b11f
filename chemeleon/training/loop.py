"""The one training loop. It knows a Stage, and nothing of models, crystals or diffusion."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from chemeleon.errors import TrainingError
from chemeleon.training.run import Export, Run


class Stage(Protocol):
    """The whole contract between the loop and what is trained.

    ``loss`` returns its total under ``loss``; ``evaluate`` returns weighted sums and weights, so
    that processes can be added up; ``criterion`` names the number to be made small.
    """

    criterion: str
    ema_decay: float

    @property
    def model(self) -> nn.Module:
        """What is trained; frozen parts have requires_grad off."""
        ...

    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        ...

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Any]]:
        """Yield the micro-batches of each optimizer step of an epoch."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Return the loss terms of one micro-batch; call ``model(...)``, not its methods."""
        ...

    def evaluate(self, model: nn.Module, rank: int, world: int) -> dict[str, tuple[float, float]]:
        """Return this process's share of the validation numbers."""
        ...

    def export(self) -> Export:
        """Return the model with the weights it has now."""
        ...


class Fitted(NamedTuple):
    """How a run ended.

    Attributes:
        step: steps done.
        metrics: numbers of the last validation.
        best: best value of the criterion.
        interrupted: stopped by a signal.
        complete: reached its last step or the end of its patience; if not, it can be resumed.
    """

    step: int
    metrics: dict[str, float]
    best: float | None
    interrupted: bool
    complete: bool


def fit(run: Run) -> Fitted:
    """Train to the end, saving into the run folder.

    Raises:
        TrainingError: if a loss or gradient is not finite; nothing is updated by it.
    """
    stage, at, interrupted = run.stage, run.at, False
    over = run.reached_end() or run.stale()
    if over:
        run.console.print(
            f"{run.folder} is trained to its end (step {at.step}); raise trainer.max_steps,"
            " trainer.max_epochs or trainer.patience to go on"
        )
        return Fitted(at.step, at.metrics, at.best, interrupted=False, complete=True)
    run.begin()
    run.model.train()
    with run.tracker, _stop_signals() as asked:
        while not over:
            for micro_batches in stage.batches(at.epoch, at.step_in_epoch):
                run.set_learning_rate()
                stops = [bool(asked), run.out_of_time()]
                terms, stops = _backward(stage, run, micro_batches, stops)
                norm = _gradient_norm(run)
                _check_finite(run, terms, norm)
                run.optimizer.step()
                run.optimizer.zero_grad(set_to_none=True)
                run.average.update()
                run.advance()
                run.log(terms, norm, micro_batches)

                interrupted, late = stops
                over = late or run.reached_end()
                if run.validation_due() or (over and not interrupted):
                    run.validate()
                    over |= run.stale()
                    run.save()
                elif run.save_due():
                    run.save()
                over |= interrupted
                if over:
                    break
        run.export("last")
        run.save()
        run.accelerator.wait_for_everyone()
    complete = run.reached_end() or run.stale()
    return Fitted(at.step, at.metrics, at.best, interrupted, complete)


def _backward(
    stage: Stage, run: Run, batches: list[Any], stops: list[bool]
) -> tuple[dict[str, float], list[bool]]:
    """Backpropagate one step; return its loss terms and what any process wants to stop for."""
    accelerator = run.accelerator
    # dropout is the only user of the global generator: make it a function of the step
    place = run.at.step * accelerator.num_processes + accelerator.process_index
    torch.manual_seed((run.config.seed << 32) + place)
    sums: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        last = i + 1 == len(batches)
        with nullcontext() if last else accelerator.no_sync(run.model):
            terms = stage.loss(run.model, batch)
            accelerator.backward(terms["loss"] / len(batches))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.detach().float() / len(batches)
    # one wait for the device, and one message between processes, per step
    flags = torch.tensor(stops, dtype=torch.float32, device=accelerator.device)
    values = torch.cat([torch.stack(list(sums.values())), flags])
    values = accelerator.reduce(values, reduction="mean").tolist()  # pyright: ignore
    return dict(zip(sums, values, strict=False)), [v > 0 for v in values[len(sums) :]]


def _gradient_norm(run: Run) -> float:
    """Clip the gradients and return their norm before that."""
    run.accelerator.unscale_gradients()
    limit = run.config.trainer.clip_norm or math.inf
    return float(torch.nn.utils.clip_grad_norm_(run.parameters, limit, foreach=True))


def _check_finite(run: Run, terms: Mapping[str, float], norm: float) -> None:
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    # the loss scaler of fp16 skips steps with infinite gradients by itself
    if not math.isfinite(norm) and run.accelerator.scaler is None:
        bad.append("the gradient norm")
    if bad:
        raise TrainingError(
            f"step {run.at.step}: {', '.join(bad)} not finite, weights not updated. Lower optim.lr"
            f" or trainer.clip_norm, or set trainer.precision=no; the last save is in {run.folder}"
        )


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM so that the step can be finished; a second Ctrl-C ends at once."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        sys.stderr.write("\nfinishing the step, then saving; Ctrl-C again ends at once\n")

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, note) for number in numbers}
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
