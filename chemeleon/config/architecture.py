"""Sections that describe a model: they are set before training and saved with the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chemeleon.config.bounds import (
    MOST_CLASSES,
    Channels,
    Classes,
    ConditionName,
    Fraction,
    Heads,
    HiddenWidth,
    Layers,
    Location,
    MoreLayers,
    NonNegative,
    Rank,
    Scale,
    Section,
    TimeSteps,
    Waves,
    Width,
    WidthRatio,
    Word,
    Words,
)
from chemeleon.config.schedulers import SamplerConfig


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that heads cannot share evenly.

    Raises:
        ValueError: saying so.
    """
    if width % heads or width % 2:
        raise ValueError(f"width {width} must be even and a multiple of heads {heads}")


class VAELossConfig(Section):
    """Weights of the terms of the VAE's loss."""

    types: NonNegative = Field(default=1.0, description="Cross entropy of the elements.")
    lengths: NonNegative = Field(
        default=5.0, description="Squared error of lengths / N^(1/3), angstrom^2."
    )
    angles: NonNegative = Field(
        default=50.0, description="Squared error of the cell angles, radian^2."
    )
    coords: NonNegative = Field(default=30.0, description="Error of the fractional coordinates.")
    letters: NonNegative = Field(
        default=1.0, description="Cross entropy of the Wyckoff letters (tokens=orbits)."
    )
    kl: NonNegative = Field(
        default=1e-4, description="KL to N(0, 1), summed over channels, mean of atoms."
    )


class VAEConfig(Section):
    """The autoencoder between crystals and per-atom latents."""

    latent_dim: Channels = Field(default=8, description="Latent channels per atom.")
    width: Width = Field(default=512, description="Width of both transformers.")
    encoder_layers: Layers = Field(default=8, description="Blocks of the encoder.")
    decoder_layers: Layers = Field(default=8, description="Blocks of the decoder.")
    heads: Heads = Field(default=8, description="Attention heads.")
    feedforward: HiddenWidth = Field(default=2048, description="Hidden width of the blocks' MLP.")
    dropout: Fraction = Field(default=0.0, description="Dropout inside the blocks.")
    kind: Literal["dng", "csp"] = Field(
        default="dng",
        description="`dng` decodes elements; `csp` is conditioned on them, and on the Wyckoff"
        " letters of orbits (crystal structure prediction).",
    )
    tokens: Literal["atoms", "orbits"] = Field(
        default="atoms",
        description="`atoms`: a latent for each atom of the primitive cell; `orbits`: one for each"
        " orbit of the space group, which models are conditioned on, so that crystals have its"
        " symmetry exactly.",
    )
    decoder_types: bool = Field(
        default=False,
        description="csp: the decoder sees each atom's element; in published models it does not.",
    )
    atom_order: Literal["file", "number", "canonical"] = Field(
        default="file",
        description="`file`: as in the data (published); `number`: by atomic number; `canonical`:"
        " rare elements first, one of them at the origin, atoms of an element by coordinates, so"
        " that structure types lie together. Formula to structure needs one of the last two.",
    )
    coordinate_head: Literal["raw", "angle"] = Field(
        default="angle",
        description="`raw`: three numbers, squared error (published); `angle`: a sine and cosine"
        " pair per axis, error of the wrapped difference.",
    )
    coordinate_input: Literal["raw", "fourier"] = Field(
        default="raw", description="`raw`: three numbers (published); `fourier`: sines and cosines."
    )
    fourier_frequencies: list[Waves] = Field(
        default_factory=lambda: [1, 2, 4, 8],
        max_length=64,
        description="Waves per cell of the Fourier input.",
    )
    wrap_input: bool = Field(
        default=True,
        description="Bring input coordinates into [0, 1) first, so that a lattice translation"
        " changes nothing; imported models keep the raw numbers.",
    )
    latent_noise: Fraction = Field(
        default=0.0,
        description="Least noise on latents in training, as a share of their spread: what they say"
        " then survives such errors of the denoiser.",
    )
    loss: VAELossConfig = Field(default_factory=VAELossConfig)

    @model_validator(mode="after")
    def _heads_divide(self) -> VAEConfig:
        check_heads(self.width, self.heads)
        if self.tokens == "orbits" and self.coordinate_head != "angle":
            raise ValueError("tokens=orbits needs coordinate_head=angle")
        if self.tokens == "orbits" and self.atom_order != "file":
            raise ValueError("tokens=orbits has an order of its own: leave out atom_order")
        if self.decoder_types and self.kind == "dng":
            raise ValueError("decoder_types=true would tell the decoder of kind=dng the answer")
        if self.decoder_types and self.atom_order == "file" and self.tokens == "atoms":
            raise ValueError(
                "decoder_types=true needs an atom_order that follows from the formula: set it to"
                " canonical"
            )
        return self


class DenoiserConfig(Section):
    """The network that predicts noise in latents, by default a diffusion transformer over atoms."""

    network: Word = Field(
        default="dit", description="Which network, a file of `chemeleon/models/networks/`."
    )
    width: Width = Field(default=768, description="Width of the transformer.")
    layers: Layers = Field(default=12, description="Blocks.")
    heads: Heads = Field(default=12, description="Attention heads.")
    mlp_ratio: WidthRatio = Field(default=4, description="Hidden width of the MLP over the width.")
    dropout: Fraction = Field(
        default=0.0, description="Dropout after attention and inside the MLP."
    )
    modulation: Literal["block", "shared"] = Field(
        default="block",
        description="What time and conditions do to a block: `block`: by a layer of its own"
        " (published), a third of all weights; `shared`: by one layer for all, and an offset each.",
    )
    types: bool = Field(
        default=False,
        description="The denoiser is conditioned on species; goes with a VAE of kind csp.",
    )
    space_group: bool = Field(
        default=False,
        description="The denoiser is conditioned on the space group; goes with a VAE of"
        " tokens=orbits. With types also on the Wyckoff letters.",
    )
    self_conditioning: bool = Field(
        default=False,
        description="The denoiser sees its own last estimate of the clean latents (Chen et al."
        " 2023, arXiv:2208.04202); for prediction v or flow.",
    )
    neighbour_layers: MoreLayers = Field(
        default=0,
        description="Layers before the blocks that see how far apart all atoms of the last estimate"
        " are, symmetry images included; needs self_conditioning.",
    )
    token_layout: Literal["per_atom", "interleaved"] = Field(
        default="per_atom",
        description="`per_atom`: an atom's outputs come from its own token; `interleaved`: the"
        " published models' view of (B, N, 2L) as (B, 2N, L), which imported weights need.",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> DenoiserConfig:
        check_heads(self.width, self.heads)
        if self.neighbour_layers and not self.self_conditioning:
            raise ValueError("neighbour_layers needs self_conditioning=true")
        return self

    @property
    def told(self) -> float:
        """Share of training crystals whose last estimate is shown, with self_conditioning."""
        return 0.9 if self.neighbour_layers else 0.5

    @property
    def sites(self) -> bool:
        """Whether it is conditioned on element and site of each orbit, all but the geometry."""
        return self.types and self.space_group

    @property
    def of_formulas(self) -> bool:
        """Whether it is conditioned on the elements of atoms, which a formula tells."""
        return self.types and not self.space_group


class DiffusionConfig(Section):
    """The noising process and what the denoiser predicts."""

    process: Literal["ddpm", "flow"] = Field(
        default="ddpm", description="`ddpm`: variance preserving; `flow`: straight paths to noise."
    )
    prediction: Literal["epsilon", "v", "flow"] = Field(
        default="epsilon", description="What the network predicts; `flow` goes with process=flow."
    )
    learned_variance: bool = Field(
        default=True, description="Learn the reverse variance between its two bounds (ddpm only)."
    )
    steps: TimeSteps = Field(default=1000, description="Time steps of training.")
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = Field(
        default="linear", description="How the noise grows, in diffusers' names."
    )
    beta_start: float = Field(
        default=1e-4, gt=0, lt=1, description="First beta of the linear schedule."
    )
    beta_end: float = Field(
        default=0.02, gt=0, lt=1, description="Last beta of the linear schedule."
    )
    logit_normal: bool = Field(
        default=False, description="Flow only: sample times from a logit-normal, not uniformly."
    )

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionConfig:
        if (self.process == "flow") != (self.prediction == "flow"):
            raise ValueError(
                f"process={self.process} does not go with prediction={self.prediction}:"
                " use ddpm with epsilon or v, or flow with flow"
            )
        if self.process == "flow" and self.learned_variance:
            raise ValueError("learned_variance=true needs process=ddpm: set it to false for flow")
        return self


class ConditionConfig(Section):
    """One property that generation is conditioned on."""

    kind: Literal[
        "composition", "chemical_system", "num_elements", "number", "category", "space_group"
    ] = Field(description="How the value is turned into numbers.")
    column: Word | None = Field(
        default=None, description="Data column of a number, category or space group."
    )
    categories: Classes | None = Field(default=None, description="Number of classes of a category.")

    @model_validator(mode="after")
    def _complete(self) -> ConditionConfig:
        if self.kind in {"number", "category", "space_group"} and self.column is None:
            raise ValueError(f"a condition of kind {self.kind} needs `column`")
        if self.kind == "category" and self.categories is None:
            raise ValueError("a condition of kind category needs `categories`")
        return self


class LoRAConfig(Section):
    """Low-rank adapters for fine-tuning (Hu et al. 2021)."""

    rank: Rank = Field(default=16, description="Rank of the update.")
    alpha: Scale = Field(default=32.0, description="Scale of the update is alpha / rank.")
    dropout: Fraction = Field(default=0.0, description="Dropout on the adapter's input.")
    targets: Words = Field(
        default_factory=lambda: ["attn.qkv", "attn.out", "mlp.up", "mlp.down"],
        description="Linear layers that are adapted.",
    )


class LDMConfig(Section):
    """Latent diffusion on a frozen VAE."""

    vae_ckpt_path: Location | None = Field(
        default=None, description="VAE: a run or model folder, or hub:NAME. Needed for training."
    )
    init_ckpt_path: Location | None = Field(
        default=None, description="LDM to start from (fine-tuning): a folder, or hub:NAME."
    )
    denoiser: DenoiserConfig = Field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    conditions: dict[ConditionName, ConditionConfig] = Field(
        default_factory=dict,
        max_length=64,
        description="Name to condition; empty is unconditional.",
    )
    condition_drop: Fraction = Field(
        default=0.2,
        description="Share of training crystals whose condition is dropped, which classifier-free"
        " guidance needs; of several"
        " conditions each by itself, and for the same share all together.",
    )
    latent_scale: Literal["channel", "scalar"] = Field(
        default="channel",
        description="Standardise latents per channel, or by one number (published).",
    )
    sample_posterior: bool = Field(
        default=True, description="Train on samples of the posterior (published) or on its mean."
    )
    ema_decay: float = Field(
        default=0.9999, ge=0, lt=1, description="Decay of averaged weights; 0 is off."
    )
    lora: LoRAConfig | None = Field(default=None, description="Train low-rank adapters only.")

    @model_validator(mode="after")
    def _consistent(self) -> LDMConfig:
        together = sum(condition.categories or 0 for condition in self.conditions.values())
        if together > MOST_CLASSES:
            raise ValueError(
                f"the conditions have {together:,} categories together, over {MOST_CLASSES:,}"
            )
        if self.denoiser.self_conditioning and self.diffusion.prediction == "epsilon":
            raise ValueError(
                "denoiser.self_conditioning=true needs diffusion.prediction=v or flow: at high"
                " noise a prediction of the noise says nothing of the clean latents"
            )
        return self
