"""What a reward is called, how much it counts, and its own options."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from chemeleon.config.bounds import Section

Normalise = Literal["none", "minmax", "std", "mean", "clip"]


class RewardConfig(Section):
    """One reward of a mix."""

    reward: str = Field(
        description="A name of `chemeleon rl rewards`, `./FILE.py:NAME` or `package.module:NAME`."
    )
    weight: float = Field(
        default=1.0, allow_inf_nan=False, description="Factor in the sum, after normalising."
    )
    normalise: Normalise = Field(
        default="none",
        description="`minmax`: to [0, 1]; `std`: mean 0, deviation 1; `mean`: mean 0; `clip`: to"
        " [-1, 1].",
    )
    within: Literal["group", "batch"] = Field(
        default="group",
        description="Crystals that are normalised together: a group, or all (published).",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="The reward's own settings: `chemeleon rl rewards NAME`."
    )
