"""A run while it is alive: its counters and folder, and what is done between steps."""

from __future__ import annotations

import ctypes
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from rich.console import Console
from torch import Tensor

from chemeleon.checkpoints.store import write_model
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.config.schema import StageConfig, TrainerConfig
from chemeleon.errors import ConfigError, TrainingError
from chemeleon.storage import MODEL_CONFIG
from chemeleon.training import state
from chemeleon.training.schedule import LearningRate, total_steps
from chemeleon.training.stage import RunContext, Stage
from chemeleon.training.step import Step
from chemeleon.training.tracking import Tracker, start_trackers, tracker_names

READ_EVERY = 50  # steps that a GPU is given ahead of the numbers it has returned


def make_accelerator(trainer: TrainerConfig, folder: Path, console: Console) -> Accelerator:
    """Set up devices, processes, precision and trackers."""
    precision = trainer.precision
    if precision == "auto":
        capable = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        precision = "bf16" if capable else "no"
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(
        # without it, processes that torchrun starts on a CPU would not know of each other
        cpu=not torch.accelerator.is_available(),
        mixed_precision=precision,
        log_with=tracker_names(trainer, console) or None,
        project_dir=str(folder),
        kwargs_handlers=[ddp],
    )


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that are freed.

    By default it gives them back, and every step begins with 20,000 page faults for its gradients.
    """
    trim, top_pad, mmap = -1, -2, -3  # malloc.h
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(mmap, 1 << 30):  # without it the others would make things worse
            mallopt(trim, (1 << 31) - 1)
            mallopt(top_pad, 256 << 20)


class Run:
    """Everything that the loop handles, and what is done between steps."""

    def __init__(self, stage: Stage, config: StageConfig, context: RunContext) -> None:
        self.stage, self.config = stage, config
        self.draft, self.accelerator, self.console, self.resumed = context
        self.step = step = Step(stage, config, context)
        self.read_every = READ_EVERY if step.flat else 1
        self.end = total_steps(config.trainer, stage.steps_per_epoch(), whole=stage.whole_epochs)
        self.schedule = LearningRate(config.optim, self.end)
        self.kept = (step.weights, step.optimizer, step.average, self.schedule)
        self.at = state.Counters(steps_per_epoch=stage.steps_per_epoch())
        if self.resumed:
            self.at = state.load(self.folder, *self.kept, self.accelerator.scaler)
            self._fit_epoch()
            self._fit_criterion()
        self.at.criterion = stage.criterion
        self.written: dict[str, int] = {}  # subfolder to the step of the model in it
        self.rows: list[Tensor] = []  # terms and gradient norm of the steps not read yet
        self.started = self.saved_at = self.logged_at = time.monotonic()
        self.seen = 0

    @property
    def folder(self) -> Path:
        """The run folder; what is written goes to ``draft.path``, which becomes that."""
        return self.draft.folder

    def _fit_epoch(self) -> None:
        """Resume with the next epoch if epochs have another length than when the run was saved."""
        now, before = self.stage.steps_per_epoch(), self.at.steps_per_epoch
        if now != before and self.at.step_in_epoch:
            self.console.print(
                f"an epoch has {now} steps now and had {before}: resuming with the next epoch, so"
                " this is not exactly the run that never stopped"
            )
            self.at.epoch, self.at.step_in_epoch = self.at.epoch + 1, 0
        self.at.steps_per_epoch = now

    def _fit_criterion(self) -> None:
        """Forget the best value if it is one of another number: they cannot be compared."""
        now, before = self.stage.criterion, self.at.criterion
        if before and now != before:
            self.console.print(
                f"models are kept by {now} now and were by {before}: the best starts anew"
            )
            self.at.best, self.at.stale = None, 0

    def begin(self) -> None:
        """Open the trackers; the earlier run's numbers are replaced or gone on with from here."""
        start_trackers(self.accelerator, self.config, self.folder, self.console)
        first = self.at.step if self.resumed else None
        self.tracker = Tracker(self.draft, self.accelerator, self.end, self.console, first)
        self.started = self.saved_at = self.logged_at = time.monotonic()
        self.first_step = self.at.step

    def advance(self) -> None:
        """Count a finished step."""
        self.at.step += 1
        self.at.step_in_epoch += 1
        if self.at.step_in_epoch == self.stage.steps_per_epoch():
            self.at.epoch, self.at.step_in_epoch = self.at.epoch + 1, 0

    def reached_end(self) -> bool:
        """Return whether the last step is done, or the time budget is spent."""
        return self.schedule.over() or (self.end is not None and self.at.step >= self.end)

    def time_spent(self) -> float:
        """Return the share of ``max_minutes`` that has passed, 0 if there is no such limit."""
        minutes = self.config.trainer.max_minutes
        return 0.0 if minutes is None else (time.monotonic() - self.started) / (60 * minutes)

    def out_of_time(self) -> bool:
        """Return whether ``max_minutes`` have passed."""
        return self.time_spent() >= 1

    def stale(self) -> bool:
        """Return whether patience is at its end, or a limit of the stage has been passed."""
        patience = self.config.trainer.patience
        return (patience is not None and self.at.stale >= patience) or bool(self.beyond())

    def beyond(self) -> list[str]:
        """Return which limits the last validation has passed, each with its number."""
        metrics = self.at.metrics
        known = {n: b for n, b in self.stage.limits.items() if n.removeprefix("-") in metrics}
        return [
            f"{name.removeprefix('-')} {metrics[name.removeprefix('-')]:.4g}, limit {bound:g}"
            for name, bound in known.items()
            if _to_fall(metrics, name) > (-bound if name.startswith("-") else bound)
        ]

    def validation_due(self) -> bool:
        """Return whether the step just finished is followed by a validation."""
        trainer, at = self.config.trainer, self.at
        if trainer.val_every_steps:
            return at.step % trainer.val_every_steps == 0
        return at.step_in_epoch == 0 and at.epoch % trainer.val_every_epochs == 0

    def save_due(self) -> bool:
        """Return whether this process should save between validations."""
        return time.monotonic() - self.saved_at >= 60 * self.config.trainer.save_every_minutes

    def _consider_compiling(self) -> None:
        done, elapsed = self.at.step - self.first_step, time.monotonic() - self.started
        minutes = self.config.trainer.max_minutes
        left = math.inf if minutes is None else 60 * minutes - elapsed
        if self.end is not None:
            left = min(left, (self.end - self.at.step) * elapsed / done)
        self.step.consider_compiling(done, left)

    def record(self, terms: Mapping[str, Tensor], norm: Tensor, batches: list[Any]) -> None:
        """Keep a step's numbers, still on the device."""
        self.names = [*terms, "grad_norm"]
        self.rows.append(torch.stack([*terms.values(), norm]))
        self.seen += sum(b.members for b in batches) * self.accelerator.num_processes

    def reading_due(self) -> bool:
        """Return whether the numbers of the last steps must be known now."""
        step, trainer = self.at.step, self.config.trainer
        if self.stage.whole_epochs:
            return self.at.step_in_epoch == 0
        return (
            step % self.read_every == 0
            or step % trainer.log_every == 0
            or self.validation_due()
            or self.reached_end()
        )

    def read(self, stops: list[bool]) -> list[bool]:
        """Wait for the recorded steps, check and log them; return what any process stops for.

        Raises:
            TrainingError: if a loss or gradient was not finite; no weight was changed since.
        """
        device, count = self.accelerator.device, len(self.rows)
        # time as well: processes must agree on it
        flags = torch.tensor([*stops, self.time_spent()], dtype=torch.float32).to(device)
        values = torch.cat([*self.rows, flags])
        values = self.accelerator.reduce(values, reduction="mean").tolist()  # pyright: ignore
        width = len(self.names)
        for i in range(count):
            row = dict(zip(self.names, values[i * width : (i + 1) * width], strict=True))
            self._check_finite(row, self.at.step - count + i)
            self.norm = row.pop("grad_norm")
            for name, value in row.items():
                self.at.window[name] = self.at.window.get(name, 0.0) + value
        self.at.window_steps += count
        self.rows.clear()
        self._consider_compiling()
        if self.stage.whole_epochs or self.at.step % self.config.trainer.log_every == 0:
            self._log()
        *wanted, spent = values[count * width :]
        self.schedule.passed(spent)
        return [value > 0 for value in wanted]

    def _check_finite(self, row: Mapping[str, float], step: int) -> None:
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if self.accelerator.scaler is not None and "loss" not in bad:
            bad = []  # the loss scaler of fp16 skips steps with infinite gradients by itself
        if bad:
            named = ", ".join(bad).replace("grad_norm", "the gradient norm")
            saved = "nothing of this run has been saved yet"
            if self.written or self.resumed:
                saved = f"the last save is in {self.folder}"
            raise TrainingError(
                f"step {step}: {named} not finite, weights not updated. Lower optim.lr or"
                f" trainer.clip_norm, or set trainer.precision=no; {saved}"
            )

    def _log(self) -> None:
        """Write out the means since the last time."""
        at, now = self.at, time.monotonic()
        rate = self.seen / max(now - self.logged_at, 1e-9)
        logged = {f"train/{name}": value / at.window_steps for name, value in at.window.items()}
        logged |= {"train/grad_norm": self.norm, "lr": self.schedule.at(at.step - 1)}
        logged |= {"crystals_per_s": rate, **self.stage.notes()}
        self.tracker.log(at.step, at.epoch, logged)
        self.tracker.advance(at.step, loss=logged["train/loss"], rate=rate)
        at.window, at.window_steps = {}, 0
        self.seen, self.logged_at = 0, now

    def validate(self) -> None:
        """Evaluate with averaged weights and keep the model if it is the best within the limits."""
        at, accelerator = self.at, self.accelerator
        self.step.model.eval()
        with self.step.average.applied():
            # the bare model: DDP talks in every forward, and processes may have unequal batches
            with torch.no_grad():
                shares = self.stage.evaluate(
                    self.stage.model, accelerator.process_index, accelerator.num_processes
                )
            at.metrics = _weighted_means(gather_object([shares]))
            value, beyond = _to_fall(at.metrics, self.stage.criterion), self.beyond()
            better = at.best is None or value < at.best
            improved = better and not beyond and not math.isnan(value)
            if improved:
                at.best = value
            selection = self.config.trainer.checkpoint_selection
            if improved or selection == "last":
                self._write(selection)
        self.step.model.train()
        at.stale = 0 if improved else at.stale + 1
        self.schedule.validated(improved)
        self.tracker.log(at.step, at.epoch, at.metrics)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in at.metrics.items())
        mark = "  (best)" if improved and selection == "best" else ""
        self.tracker.say(f"step {at.step}  epoch {at.epoch}  {shown}{mark}")
        if beyond:
            self.tracker.say(f"ends here: {'; '.join(beyond)}")

    def export(self, name: str) -> None:
        """Write the model with averaged weights into a subfolder, unless it is there already."""
        if self.written.get(name) != self.at.step:
            with self.step.average.applied():
                self._write(name)

    def finish(self) -> None:
        """Write the last model of a run that was killed between its last step and that."""
        if not self.accelerator.is_main_process:
            return
        try:
            steps = read_yaml(self.folder / "last" / MODEL_CONFIG)["trained"]["steps"]
        except (ConfigError, KeyError, TypeError):
            steps = None
        if steps != self.at.step:
            self.export("last")

    def _write(self, name: str) -> None:
        self.written[name] = self.at.step
        if self.accelerator.is_main_process:
            kind, content, tensors = self.stage.export()
            trained = {"steps": self.at.step, "epochs": self.at.epoch, "metrics": self.at.metrics}
            write_model(self.draft.path / name, kind, {**content, "trained": trained}, tensors)
            if name == "last" == self.config.trainer.checkpoint_selection:  # it was best before
                shutil.rmtree(self.draft.path / "best", ignore_errors=True)

    def save(self) -> None:
        """Write the state that resuming needs; the first one takes an earlier run's place."""
        if not (self.written or self.resumed):
            self.export("last")  # a run that can be resumed has a model
        if self.accelerator.is_main_process:
            if self.accelerator.scaler is not None:
                self.at.scaler = self.accelerator.scaler.state_dict()
            state.save(self.draft.path, self.at, *self.kept)
            self.draft.commit()
        self.saved_at = time.monotonic()


def _to_fall(metrics: Mapping[str, float], name: str) -> float:
    """Return a number, negative if a minus stands before its name: smaller is better."""
    value = metrics[name.removeprefix("-")]
    return -value if name.startswith("-") else value


def _weighted_means(shares: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Add up the processes' (sum, weight) pairs; a process may lack a name."""
    sums: dict[str, tuple[float, float]] = {}
    for share in shares:
        for name, (total, weight) in share.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + total, before[1] + weight
    return {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}
