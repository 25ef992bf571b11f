"""Where a run's numbers go: metrics.jsonl always, a progress bar, wandb or tensorboard."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chemeleon.config.plain_json import parse_json
from chemeleon.config.schema import StageConfig, TrainerConfig
from chemeleon.errors import ConfigError
from chemeleon.storage import Draft, write_atomically
from chemeleon.terminal import words

if TYPE_CHECKING:
    from accelerate import Accelerator

METRICS = "metrics.jsonl"
# metrics of reinforcement learning that count things
TABLES = ("formulas", "elements", "num_elements")
LARGEST = 1e100  # beyond, no axis can be drawn


def tracker_names(trainer: TrainerConfig, console: Console) -> list[Any]:
    """Return accelerate's names of the trackers; wandb without a key goes offline, never asks."""
    if trainer.tracker == "none":
        return []
    if trainer.tracker == "wandb" and "WANDB_MODE" not in os.environ and not _has_wandb_key():
        os.environ["WANDB_MODE"] = "offline"
        console.print("wandb: no API key, logging offline (`wandb login` or tracker=none)")
    if trainer.tracker == "wandb":
        os.environ.setdefault("WANDB_SILENT", "true")
    if importlib.util.find_spec(trainer.tracker) is None:
        raise ConfigError(
            f"trainer.tracker={trainer.tracker} needs a package: pip install {trainer.tracker}, or"
            " set trainer.tracker=none"
        )
    return [trainer.tracker]


def start_trackers(
    accelerator: Accelerator, config: StageConfig, run: Path, console: Console
) -> None:
    """Open the configured tracker under the run's name; wandb without a network goes offline."""
    project, mine = config.trainer.project, {"name": run.name, "dir": str(run)}
    flat = _flat(config.model_dump(mode="json"))
    try:
        accelerator.init_trackers(project, config=flat, init_kwargs={"wandb": mine})
    except Exception as error:  # wandb raises many kinds; training must not depend on it
        if config.trainer.tracker != "wandb" or os.environ.get("WANDB_MODE") == "offline":
            raise
        console.print(f"wandb: cannot log online ({error}), logging offline")
        accelerator.trackers.clear()  # or the one that failed would be started once more
        mine["mode"] = "offline"  # wandb has read the environment by now
        accelerator.init_trackers(project, config=flat, init_kwargs={"wandb": mine})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Turn nested settings into dotted keys with plain values, as tensorboard wants them."""
    flat: dict[str, str | float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float)) else str(value)
    return flat


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _jsonable(value: Any) -> Any:
    # JSON has no NaN; an RMSE is one where nothing matched
    if isinstance(value, float):
        return round(value, 8) if math.isfinite(value) else None
    return value


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ``metrics.jsonl`` that `Tracker` has written.

    One that was cut short by a kill, or that somebody changed into something else, is left out.
    """
    path = run / METRICS
    lines = path.read_bytes().splitlines() if path.is_file() else ()
    return [row for row in map(_row, lines) if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """Return one line of metrics, or None if it is none."""
    with suppress(ValueError):
        row = parse_json(line, finite=True)
        counted = isinstance(row, dict) and all(type(row.get(k)) is int for k in ("step", "epoch"))
        if counted and all(_fits(name, value) for name, value in row.items()):
            return row
    return None


def _fits(name: str, value: Any) -> bool:
    if name in TABLES:
        return isinstance(value, dict) and all(_fits("", count) for count in value.values())
    return value is None or (isinstance(value, int | float) and abs(value) < LARGEST)


class Tracker:
    """Writes the numbers of one run; silent on every process but the first."""

    def __init__(
        self,
        draft: Draft,
        accelerator: Accelerator,
        total: int | None,
        console: Console,
        resume_step: int | None,
    ) -> None:
        self.draft, self.accelerator, self.console = draft, accelerator, console
        self.main = accelerator.is_main_process
        if self.main:
            self._forget_after(resume_step)
        self.progress = Progress(
            words(),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("loss {task.fields[loss]:.4g}  {task.fields[rate]:.0f} crystals/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (self.main and console.is_terminal),
        )
        self.task = self.progress.add_task(
            draft.folder.name, total=total, completed=resume_step or 0, loss=math.nan, rate=0.0
        )
        self.progress.start()

    @property
    def path(self) -> Path:
        """The file of numbers, which moves with the run."""
        return self.draft.path / METRICS

    def _forget_after(self, step: int | None) -> None:
        """Drop lines that the resumed run will write again, and a line cut short by a kill."""
        if step is None or not self.path.exists():
            self.path.unlink(missing_ok=True)
            return
        rows = [(line, _row(line)) for line in self.path.read_bytes().split(b"\n")[:-1]]
        kept = [line + b"\n" for line, row in rows if row is not None and row["step"] <= step]
        if odd := sum(row is None for _, row in rows):
            self.say(f"{self.path}: {odd} damaged lines are left out")
        write_atomically(self.path, lambda beside: beside.write_bytes(b"".join(kept)))

    def log(self, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Append one line; what is no number goes there alone, not to the tracker."""
        if not self.main:
            return
        line = {"step": step, "epoch": epoch, **{k: _jsonable(v) for k, v in values.items()}}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        self.accelerator.log(numbers, step=step)

    def advance(self, step: int, loss: float, rate: float) -> None:
        """Move the progress bar."""
        self.progress.update(self.task, completed=step, loss=loss, rate=rate)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.main:
            self.console.print(text)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.accelerator.end_training()
