"""One evaluation of a network recorded as a CUDA graph, for walks that repeat it.

Python starts kernels one by one and, at these sizes, more slowly than a GPU finishes them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class Replayed:
    """Calls ``step(z, t)``; from the third call on, inputs of the same shapes are replayed.

    The first calls are ordinary, because libraries set themselves up in them. On other devices
    than a GPU all calls are ordinary.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what ``step`` returns, in tensors of their own."""
        self.calls += 1
        if not z.is_cuda or self.calls < 3:
            return self.step(z, t)
        if self.graph is None:
            self._record(z, t)
        assert self.graph is not None
        self.z.copy_(z)
        self.t.copy_(t)
        self.graph.replay()
        prediction, variance = self.out
        return prediction.clone(), None if variance is None else variance.clone()

    def _record(self, z: Tensor, t: Tensor) -> None:
        self.z, self.t = z.clone(), t.clone()
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # thread_local: another thread may be handling crystals that are done
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.out = self.step(self.z, self.t)
