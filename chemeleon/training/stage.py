"""What the stages have in common that go through a data set epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chemeleon.data.loader import Draw, Loader


class DataStage:
    """The part of a ``Stage`` that follows from its loader."""

    criterion = "val/loss"
    whole_epochs = False
    loader: Loader

    def steps_per_epoch(self) -> int:
        """See ``Stage``."""
        return len(self.loader)

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Draw]]:
        """See ``Stage``."""
        return self.loader.epoch(epoch, first_step)

    def notes(self) -> dict[str, Any]:
        """See ``Stage``."""
        return {}
