"""What a reward is called, how much it counts, and its own options."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from chemeleon.config.architecture import Section


class RewardConfig(Section):
    """One reward of the mix."""

    reward: str = Field(
        description="Name of a reward, `./FILE.py:NAME` or `package.module:NAME`."
    )
    weight: float = Field(default=1.0, description="Factor in the sum.")
    normalise: Literal["none", "minmax", "std"] = Field(
        default="none", description="Scaling within the group, before weighting."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="The reward's own settings."
    )
