"""The learning rate as a function of the step, and what a plateau does to it."""

from __future__ import annotations

import math

from chemeleon.config.schema import OptimConfig, TrainerConfig
from chemeleon.errors import ConfigError

WARMUP_TIME = 0.05  # of the time there is, at most, when the rate follows the clock


def total_steps(trainer: TrainerConfig, steps_per_epoch: int, *, whole: bool = False) -> int | None:
    """Return the step at which training ends, or None if only the clock ends it.

    With ``whole`` it is the end of an epoch.
    """
    limits = [trainer.max_steps]
    if trainer.max_epochs is not None:
        limits.append(trainer.max_epochs * steps_per_epoch)
    known = [limit for limit in limits if limit is not None]
    if not known:
        return None
    end = min(known)
    return -(-end // steps_per_epoch) * steps_per_epoch if whole else end


class LearningRate:
    """Warm-up, then constant, cosine (of steps or of time) or reduced on plateaus.

    Raises:
        ConfigError: if a cosine has no known end.
    """

    def __init__(self, config: OptimConfig, steps: int | None) -> None:
        if config.schedule == "cosine" and steps is None:
            raise ConfigError(
                "optim.schedule=cosine needs to know its end: set trainer.max_steps or"
                " trainer.max_epochs"
            )
        self.config, self.steps = config, steps
        self.factor = 1.0
        self.waiting = 0
        self.before = self.spent = 0.0  # of the time there is, by earlier runs and by all

    def at(self, step: int) -> float:
        """Return the learning rate of the update that follows ``step`` finished ones."""
        config = self.config
        rise = min((step + 1) / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
        if config.schedule == "time_budget":  # a slow machine must not only warm up
            rise = max(rise, min(self.spent / WARMUP_TIME, 1.0))
            return config.lr * rise * self._down(self.spent)
        if step < config.warmup_steps:
            return config.lr * rise
        if config.schedule == "cosine":
            assert self.steps is not None
            length = max(self.steps - config.warmup_steps, 1)
            return config.lr * self._down(min((step - config.warmup_steps) / length, 1.0))
        return config.lr * self.factor

    def _down(self, done: float) -> float:
        """Return the cosine between 1 and ``min_lr_ratio``."""
        low = self.config.min_lr_ratio
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))

    def over(self) -> bool:
        """Return whether the time budget is spent, so that there is nothing to resume."""
        return self.config.schedule == "time_budget" and self.spent >= 1

    def passed(self, share: float) -> None:
        """Note which share of this run's time is over; a resumed run goes down from where it is."""
        if self.config.schedule == "time_budget":
            self.spent = self.before + (1 - self.before) * min(share, 1.0)

    def validated(self, improved: bool) -> None:
        """Count validations without progress and reduce the rate on a plateau."""
        if self.config.schedule != "plateau":
            return
        self.waiting = 0 if improved else self.waiting + 1
        if self.waiting >= self.config.plateau_patience:
            self.factor = max(self.factor * self.config.plateau_factor, self.config.min_lr_ratio)
            self.waiting = 0

    def state(self) -> dict[str, float]:
        """Return what resuming needs."""
        return {"factor": self.factor, "waiting": self.waiting, "spent": self.spent}

    def load(self, state: dict[str, float]) -> None:
        """Undo ``state``."""
        self.factor, self.waiting = float(state["factor"]), int(state["waiting"])
        self.before = self.spent = float(state.get("spent", 0.0))
