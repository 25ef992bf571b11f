"""Loss and gradients of a micro-batch, recorded once per shape and replayed by the device.

At these model sizes a GPU waits for Python: a step is a thousand small kernels. A CUDA graph starts
them all at once. Recording costs about one step, so short runs lose nothing, and the kernels are
those of the ordinary way, so the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

ORDINARY_STEPS = 2  # of each shape before it is recorded: libraries make their workspaces in them
MOST_GRAPHS = 16  # further shapes go the ordinary way: each graph keeps its memory


class Recordable(Protocol):
    """A batch whose tensors can be replaced under a recorded computation."""

    @property
    def form(self) -> tuple[object, ...]:
        """What tells batches of different shapes apart."""
        ...

    @property
    def resident(self) -> bool:
        """Whether all that is computed from it is on the device."""
        ...

    def tensors(self) -> list[Tensor]:
        """All that differs between batches of one form."""
        ...

    def clone(self) -> Any:
        """A copy with tensors of its own."""
        ...


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    place: Recordable
    terms: dict[str, Tensor]


class GraphedBackward:
    """Calls ``backward(batch, parts)``, or replays it for a batch of a recorded form.

    Gradients must be accumulated into tensors that stay where they are.
    """

    def __init__(self, backward: Callable[[Any, int], dict[str, Tensor]]) -> None:
        self.backward = backward
        self.forget()

    def forget(self) -> None:
        """Drop what is recorded, because the computation has changed."""
        self.seen: dict[Any, int] = {}
        self.recorded: dict[Any, _Recorded] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Recordable, parts: int) -> dict[str, Tensor]:
        """Return the loss terms, valid until the next call."""
        key = (parts, batch.form)
        if key not in self.recorded:
            self.seen[key] = self.seen.get(key, 0) + 1
            full = len(self.recorded) >= MOST_GRAPHS
            if self.seen[key] <= ORDINARY_STEPS or full or not batch.resident:
                return self._ordinary(batch, parts)
            self._record(key, batch, parts)
        graph, place, terms = self.recorded[key]
        torch._foreach_copy_(place.tensors(), batch.tensors())
        graph.replay()
        return terms

    def _ordinary(self, batch: Recordable, parts: int) -> dict[str, Tensor]:
        # as it will be recorded, so that whatever is set up or compiled at first is done now
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            terms = self.backward(batch.clone(), parts)
        torch.cuda.current_stream().wait_stream(self.stream)
        return terms

    def _record(self, key: Any, batch: Recordable, parts: int) -> None:
        place = batch.clone()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # thread_local: NCCL's watchdog may ask about its events meanwhile
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            terms = self.backward(place, parts)
        self.recorded[key] = _Recorded(graph, place, terms)


def compile_blocks(model: nn.Module) -> None:
    """Have ``torch.compile`` fuse the parts of a model that declare themselves worth it."""
    for module in model.modules():
        if getattr(module, "worth_compiling", False):
            module.forward = torch.compile(module.forward)
