"""The one training loop. It knows a `Stage`, and nothing of models, crystals or diffusion."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from chemeleon.training.run import Run


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
        remedy = "raise trainer.max_steps, trainer.max_epochs or trainer.patience to resume"
        if run.schedule.over():
            remedy = "its time budget is spent: for more, train anew for longer"
        elif beyond := run.beyond():
            remedy = f"its last validation is beyond a limit ({'; '.join(beyond)}): widen that one"
        run.console.print(f"{run.folder} is trained to its end (step {at.step}); {remedy}")
        run.finish()
        return Fitted(at.step, at.metrics, at.best, interrupted=False, complete=True)
    run.begin()
    run.step.model.train()
    with run.tracker, _stop_signals() as asked:
        while not over:
            for micro_batches in stage.batches(at.epoch, at.step_in_epoch):
                terms, norm = run.step(micro_batches, at.step, run.schedule.at(at.step))
                run.advance()
                run.record(terms, norm, micro_batches)
                if not run.reading_due():
                    continue
                # the only place that waits for the device and the other processes
                interrupted, late = run.read([bool(asked), run.out_of_time()])
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
