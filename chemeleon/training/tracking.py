"""Where a run's numbers go: metrics.jsonl always, a progress bar, wandb or tensorboard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chemeleon.checkpoints.store import write_text
from chemeleon.config.schema import TrainerConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

METRICS = "metrics.jsonl"


def tracker_names(trainer: TrainerConfig, console: Console) -> list[Any]:
    """Return accelerate's names of the trackers; wandb without a key goes offline, never asks."""
    if trainer.tracker == "none":
        return []
    if trainer.tracker == "wandb" and "WANDB_MODE" not in os.environ and not _has_wandb_key():
        os.environ["WANDB_MODE"] = "offline"
        console.print("wandb: no API key, logging offline (`wandb login` or tracker=none)")
    if trainer.tracker == "wandb":
        os.environ.setdefault("WANDB_SILENT", "true")
    return [trainer.tracker]


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


class Tracker:
    """Writes the numbers of one run; silent on every process but the first."""

    def __init__(
        self,
        run: Path,
        accelerator: Accelerator,
        total: int | None,
        console: Console,
        resume_step: int | None,
    ) -> None:
        self.path, self.accelerator, self.console = run / METRICS, accelerator, console
        self.main = accelerator.is_main_process
        if self.main:
            self._forget_after(resume_step)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("loss {task.fields[loss]:.4g}  {task.fields[rate]:.0f} crystals/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (self.main and console.is_terminal),
        )
        self.task = self.progress.add_task(
            run.name, total=total, completed=resume_step or 0, loss=math.nan, rate=0.0
        )
        self.progress.start()

    def _forget_after(self, step: int | None) -> None:
        """Drop lines that the resumed run will write again, and a line cut short by a kill."""
        if step is None or not self.path.exists():
            self.path.unlink(missing_ok=True)
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step and line.endswith("\n"):
                    kept.append(line)
            except ValueError:
                continue
        write_text(self.path, "".join(kept))

    def log(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Append one line of numbers."""
        if not self.main:
            return
        line = {"step": step, "epoch": epoch, **{k: round(v, 8) for k, v in values.items()}}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        self.accelerator.log(dict(values), step=step)

    def advance(self, step: int, loss: float, rate: float) -> None:
        """Move the progress bar."""
        self.progress.update(self.task, completed=step, loss=loss, rate=rate)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.main:
            self.console.print(text)

    def close(self) -> None:
        """End the bar and the trackers."""
        self.progress.stop()
        self.accelerator.end_training()


def last_metrics(run: Path) -> dict[str, Any]:
    """Return the newest value of every number that a run logged."""
    newest: dict[str, Any] = {}
    if (run / METRICS).exists():
        for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
            newest.update(json.loads(line))
    return newest
