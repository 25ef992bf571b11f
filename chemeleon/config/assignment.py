"""The section of a model that proposes assignments of Wyckoff letters to formulas."""

from __future__ import annotations

from pydantic import Field, model_validator

from chemeleon.config.architecture import check_heads
from chemeleon.config.bounds import Fraction, Heads, Layers, Section, Width


class AssignmentConfig(Section):
    """A transformer that proposes space groups and Wyckoff letters for a formula."""

    width: Width = Field(default=256, description="Width of the transformer.")
    layers: Layers = Field(default=6, description="Blocks of the transformer.")
    heads: Heads = Field(default=8, description="Attention heads.")
    dropout: Fraction = Field(default=0.1, description="Dropout inside the blocks.")
    energy_drop: Fraction = Field(
        default=0.1, description="Share of training crystals whose energy above hull is hidden."
    )
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="Decay of averaged weights; 0 is off."
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> AssignmentConfig:
        check_heads(self.width, self.heads)
        return self
