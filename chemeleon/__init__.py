"""Train, steer and judge generative models of crystals.

``chemeleon.vae``, ``chemeleon.ldm``, ``chemeleon.rl``, ``chemeleon.predict``, ``chemeleon.hub``,
``chemeleon.prepare``, ``chemeleon.sample``, ``chemeleon.evaluate`` and ``chemeleon.compare``
(evaluate with several sets) are the verbs of the command line; they are imported on first use, so
that ``import chemeleon`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chemeleon.version import __version__

if TYPE_CHECKING:
    from chemeleon.api import compare, evaluate, hub, ldm, predict, prepare, rl, sample, vae

_VERBS = ("compare", "evaluate", "hub", "ldm", "predict", "prepare", "rl", "sample", "vae")
__all__ = [
    "__version__",
    "compare",
    "evaluate",
    "hub",
    "ldm",
    "predict",
    "prepare",
    "rl",
    "sample",
    "vae",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        from chemeleon import api

        return getattr(api, name)
    raise AttributeError(f"module 'chemeleon' has no attribute '{name}'")
