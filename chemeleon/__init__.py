"""Train, steer and evaluate generative models of crystals.

``chemeleon.vae``, ``chemeleon.ldm``, ``chemeleon.rl``, ``chemeleon.predict``,
``chemeleon.assign``, ``chemeleon.hub``, ``chemeleon.prepare``, ``chemeleon.sample``,
``chemeleon.evaluate`` and ``chemeleon.compare`` (evaluate with several sets) are the verbs of the
command line, ``chemeleon.symmetrize`` what two of them do on request; they are imported on first
use, so that ``import chemeleon`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chemeleon.version import __version__

if TYPE_CHECKING:
    from chemeleon.api import (
        assign,
        compare,
        evaluate,
        hub,
        ldm,
        predict,
        prepare,
        rl,
        sample,
        symmetrize,
        vae,
    )

__all__ = [
    "__version__", "assign", "compare", "evaluate", "hub", "ldm", "predict", "prepare", "rl",
    "sample", "symmetrize", "vae",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        from chemeleon import api

        return getattr(api, name)
    raise AttributeError(f"module 'chemeleon' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
