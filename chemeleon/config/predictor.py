"""The section of a model that predicts properties: set before training, saved with the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chemeleon.config.architecture import check_heads
from chemeleon.config.bounds import (
    Cutoff,
    Fraction,
    Heads,
    Layers,
    Location,
    Radials,
    Section,
    Width,
    Word,
    Words,
)


class PredictorConfig(Section):
    """Properties of crystals, from the features that a VAE's encoder gives their atoms."""

    targets: Words = Field(min_length=1, description="Columns that are predicted.")
    units: dict[Word, Word] = Field(
        default_factory=dict, description="Target to unit; training takes them from data.units."
    )
    vae_ckpt_path: Location | None = Field(
        default=None,
        description="VAE: a run or model folder, or hub:NAME. Needed unless encoder=scratch.",
    )
    encoder: Literal["frozen", "finetune", "scratch"] = Field(
        default="frozen",
        description="`frozen`: the VAE's encoder as it is; `finetune`: it is trained on, from the"
        " VAE's weights; `scratch`: a new one is trained.",
    )
    encoder_layers: Layers = Field(
        default=2, description="Blocks of the encoder that is trained from scratch."
    )
    encoder_features: bool = Field(
        default=True, description="Use the encoder's output beside the posterior mean."
    )
    head: Literal["graph", "pooled"] = Field(
        default="graph",
        description="`graph`: blocks that mix atoms by attention and distance; `pooled`: a small"
        " network on pooled features (published).",
    )
    width: Width = Field(default=256, description="Width of graph head and new encoder.")
    layers: Layers = Field(default=4, description="Blocks of the graph head.")
    heads: Heads = Field(default=8, description="Attention heads of graph head and new encoder.")
    cutoff_angstrom: Cutoff = Field(
        default=5.0, description="Graph head: atoms farther apart are not neighbours."
    )
    radial: Radials = Field(default=24, description="Graph head: radial functions to the cutoff.")
    reduce: Literal["mean", "sum"] = Field(
        default="mean", description="How what is said of atoms becomes the crystal's."
    )
    dropout: Fraction = Field(default=0.1, description="Dropout inside the head.")
    loss: Literal["mae", "mse"] = Field(
        default="mae", description="Error of the standardised targets that is made small."
    )
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="Decay of averaged weights; 0 is off."
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> PredictorConfig:
        check_heads(self.width, self.heads)
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets {self.targets} name a column twice")
        return self
