"""How this process was started, as its environment tells: alone, or as one of several."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from chemeleon.config.requests import whole_number

logger = logging.getLogger(__name__)
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def is_one_of_several() -> bool:
    """Return whether a launcher such as `accelerate launch` started several processes."""
    return _size("WORLD_SIZE") > 1


def is_first() -> bool:
    """Return whether this is the process that speaks for all."""
    return not is_one_of_several() or os.environ.get("RANK", "0") == "0"


def tell_if_alone() -> None:
    """Say so if several processes were asked for, and `accelerate launch` started one.

    It does so without --multi_gpu unless it finds several GPUs, whatever --cpu, --num_processes
    and its config say. An address to meet at, which it sets for several alone, gives it away.
    """
    known = any(_size(name) > 1 for name in _SIZES)
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and not known:
        logger.warning(
            "accelerate launch started this process alone. If several were meant, CPUs or GPUs:"
            " accelerate launch --multi_gpu --num_processes N, or torchrun --nproc_per_node N"
        )


def _size(name: str) -> int:
    return whole_number(os.environ.get(name, "1")) or 1


class Share(NamedTuple):
    """This process's part of work that is shared under ``accelerate launch``.

    Attributes:
        device: torch's name, or None to choose.
        rank: number of the process.
        world: how many there are.
    """

    device: str | None
    rank: int = 0
    world: int = 1

    def gather(self, items: Iterable[Any]) -> Iterable[Any]:
        """Return the items of all processes, on each of them; of one process one by one."""
        if self.world == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(list(items))


def share(device: str | None) -> Share:
    """Return what this process should do; all of it if nothing launched several.

    Args:
        device: torch's name; each of several processes takes its own GPU if that is not given.
    """
    if not is_one_of_several():
        tell_if_alone()
        return Share(device)
    import torch
    from accelerate import PartialState

    # without it, processes that torchrun starts on a CPU would not know of each other
    state = PartialState(cpu=not torch.accelerator.is_available())
    return Share(device or str(state.device), state.process_index, state.num_processes)
