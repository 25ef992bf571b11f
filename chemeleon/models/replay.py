"""A computation recorded as a CUDA graph, for walks that repeat it.

Python starts kernels one by one and, at these sizes, more slowly than a GPU finishes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Replayed:
    """A function of tensors that is called many times with the same shapes, without gradients.

    On a GPU the first call is ordinary, the second is recorded, the others are replayed. Results
    are valid until the next call; whatever else the function reads must stay where it is.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *tensors: Tensor) -> Any:
        """Return the function's value."""
        self.calls += 1
        if self.calls == 1 or not tensors[0].is_cuda:
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
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # not torch.cuda.graph: it would give back the memory that PyTorch holds, at every rollout
        # weights are rounded within the graph: autocast's rounded ones are thrown away by whichever
        # thread leaves autocast, a ranking or a relaxation beside this walk
        kept, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        rounding = torch.autocast("cuda", dtype, enabled=kept, cache_enabled=False)
        with torch.cuda.stream(stream), rounding:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.found = self.function(*self.place)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = graph
