"""Loss and gradients of a micro-batch, recorded once per shape and replayed by the device.

At these model sizes a GPU waits for Python: a step is a thousand small kernels. A CUDA graph starts
them all at once. Recording costs about one step, so short runs lose nothing, and the kernels are
those of the ordinary way, so the numbers are the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from chemeleon.errors import ConfigError

ORDINARY_STEPS = 2  # of each shape before it is recorded: libraries make their workspaces in them
DECIDE_AFTER = 100  # steps, by which it is known how long one takes
WORTH_SECONDS = 240.0  # compiling takes half a minute and makes steps 1.4 times as fast
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

    def __init__(
        self, backward: Callable[[Any, int], dict[str, Tensor]], say: Callable[[str], object]
    ) -> None:
        self.backward, self.say = backward, say
        self.possible = True
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
            full = len(self.recorded) >= MOST_GRAPHS or not self.possible
            if self.seen[key] <= ORDINARY_STEPS or full or not batch.resident:
                return self._ordinary(batch, parts)
            try:
                self._record(key, batch, parts)
            except RuntimeError as error:  # nothing has been computed yet: this step is not lost
                self.possible = False
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self.say(
                    "a step cannot be recorded as a CUDA graph, going on more slowly without"
                    f" (trainer.cuda_graphs=false does not try): {reason}"
                )
                return self._ordinary(batch, parts)
        graph, place, terms = self.recorded[key]
        torch._foreach_copy_(place.tensors(), batch.tensors())  # pyright: ignore
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


class GraphedCall:
    """A function of tensors that is called many times with the same shapes, without gradients.

    The first call is ordinary, the second is recorded, the others are replayed. Results are valid
    until the next call; whatever else the function reads must stay where it is.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, *tensors: Tensor) -> Any:
        """Return the function's value."""
        self.calls += 1
        if self.calls == 1:
            return self.function(*tensors)
        if self.calls == 2:
            try:
                self._record(tensors)
            except RuntimeError:  # the kernels can still be started one by one
                self.graph = None
        if self.graph is None:
            return self.function(*tensors)
        torch._foreach_copy_(self.place, list(tensors))  # pyright: ignore
        self.graph.replay()
        return self.found

    def _record(self, tensors: tuple[Tensor, ...]) -> None:
        self.place = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream())
        # not torch.cuda.graph: it would give back the memory that PyTorch holds, at every rollout
        with torch.cuda.stream(self.stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.found = self.function(*self.place)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        self.graph = graph


class Compiler:
    """Decides on ``torch.compile`` for the blocks of a model that declare themselves worth it.

    Raises:
        ConfigError: if it is asked for and cannot be had.
    """

    def __init__(self, model: nn.Module, mode: Literal["auto", "on", "off"]) -> None:
        self.model, self.open = model, mode == "auto"
        if mode == "on":
            if not _can_compile():
                raise ConfigError(
                    "trainer.compile=on needs Triton and a C compiler; with trainer.compile=auto"
                    " training goes without where they are missing"
                )
            self._compile()

    def decide(self, steps: int, seconds_left: float) -> bool:
        """Compile once it is known that much work is ahead; return whether that was now."""
        if not self.open or steps < DECIDE_AFTER:
            return False
        self.open = False
        if seconds_left < WORTH_SECONDS or not _can_compile():
            return False
        # a run that goes well must not end because compiling fails
        torch._dynamo.config.suppress_errors = True
        self._compile()
        return True

    def _compile(self) -> None:
        for module in self.model.modules():
            if getattr(module, "worth_compiling", False):
                module.forward = torch.compile(module.forward)


def _can_compile() -> bool:
    from torch.utils._triton import has_triton

    return has_triton() and any(shutil.which(name) for name in ("cc", "gcc", "clang"))
