"""What can be set, in what unit, within which bounds.

Every section is frozen and refuses unknown keys; a field's description is its one line of meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from chemeleon.config.architecture import LDMConfig, VAEConfig
from chemeleon.config.assignment import AssignmentConfig
from chemeleon.config.bounds import (
    Fraction,
    Locations,
    NonNegative,
    Positive,
    Section,
    Word,
    Words,
    checked,
)
from chemeleon.config.predictor import PredictorConfig
from chemeleon.config.requests import MAX_SEED
from chemeleon.config.rl import RLConfig
from chemeleon.config.where import read_where


class DownloadConfig(Section):
    """Where a public data set can be fetched, and what must arrive."""

    url: str = Field(description="Address of the files; `{split}` stands for train, val or test.")
    rows: dict[str, Positive] = Field(description="Crystals that each split must hold.")


class LimitsConfig(Section):
    """Bounds on one file: more is refused, unread. Defaults as `data.limits`."""

    bytes: Positive = Field(
        default=1 << 28, description="Of one structure file after decompression."
    )
    atoms: Positive = Field(default=10_000, description="Atoms of one crystal, symmetry applied.")
    operations: Positive = Field(default=1_000, description="Symmetry operations of one CIF.")
    frames: Positive = Field(
        default=1_000_000, description="Crystals of one file that is not a table."
    )


class AugmentConfig(Section):
    """Random changes to each training crystal that keep it the same crystal."""

    translate: bool = Field(default=True, description="Move the origin by a uniform random vector.")
    rotate: bool = Field(default=True, description="Turn the cell by a uniformly random rotation.")
    permute: bool = Field(default=False, description="Shuffle the order of the atoms.")
    noise_angstrom: NonNegative = Field(
        default=0.0,
        description="Noise on the VAE's input positions in training, angstrom (std per axis).",
    )


def spoiled_form(vae: VAEConfig, augment: AugmentConfig) -> str | None:
    """Return why a VAE's crystals would not be in the form that it sees them in, or None."""
    if vae.tokens == "orbits" and (
        augment.rotate or augment.translate or augment.permute or augment.noise_angstrom
    ):
        return (
            "a VAE with tokens=orbits sees crystals in one setting of their space group: set"
            " rotate, translate and permute of data.augment to false, and noise_angstrom to 0"
        )
    if vae.atom_order == "canonical" and augment.rotate:
        return (
            "a VAE with atom_order=canonical sees cells in one orientation: set"
            " data.augment.rotate=false"
        )
    if vae.atom_order != "file" and augment.permute:
        return (
            f"a VAE with atom_order={vae.atom_order} sees atoms in that order: set"
            " data.augment.permute=false"
        )
    return None


class DataConfig(Section):
    """Which crystals, and how they are batched."""

    name: Word = Field(
        default="demo", description="Name of the data set: its folder under `data.root`."
    )
    root: str | None = Field(
        default=None, description="Folder of data sets; default $CHEMELEON_DATA, else ./data."
    )
    id_column: str = Field(default="material_id", description="Column with the crystal's name.")
    cif_column: str = Field(default="cif", description="Column with the CIF text.")
    targets: Words = Field(
        default_factory=list, description="Property columns to read; a missing one is an error."
    )
    units: dict[Word, Word] = Field(
        default_factory=dict, description="Property column to the unit of its numbers."
    )
    max_atoms: Positive | None = Field(
        default=None, description="Leave out crystals with more atoms."
    )
    niggli: bool = Field(default=True, description="Reduce every cell to its Niggli form.")
    where: Annotated[str, checked(read_where)] | None = Field(
        default=None,
        description="Keep the rows of which this is true, in every split: an expression over"
        " columns, num_atoms, num_elements and elements, such as"
        " `e_above_hull <= 0.1 and known(band_gap)` (docs/data.md).",
    )
    also: Locations = Field(
        default_factory=list,
        description="Data sets, names or absolute paths, whose train splits are trained on, too;"
        " `where` does not hold for them, and val and test are those of `name` alone.",
    )
    on_error: Literal["few", "skip", "fail"] = Field(
        default="few",
        description="Bad rows: `few` leaves out up to 1 % of the rows and stops at more; `skip`"
        " leaves out any number; `fail` stops with the list.",
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    batch_size: Positive = Field(default=256, description="Crystals per step and process.")
    pad_to_multiple: Positive = Field(
        default=4, description="Pad a batch to a multiple of this many atoms."
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    download: DownloadConfig | None = None
    instead: str | None = Field(
        default=None, description="KEY=VALUE words to take instead where this set is not found."
    )

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, values: Any) -> Any:
        # runs of before say `source`, which the name of a set tells today; they can be resumed
        if isinstance(values, dict) and values.get("source") in ("table", "demo"):
            return {key: value for key, value in values.items() if key != "source"}
        return values

    @model_validator(mode="after")
    def _distinct(self) -> DataConfig:
        twice = [name for name, count in Counter(self.sets).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice: leave it out of `also`")
        return self

    @property
    def sets(self) -> list[str]:
        """All sets that are trained on."""
        return [self.name, *self.also]

    def facts(self, earlier: Iterable[str] = ()) -> dict[str, Any]:
        """Return what a trained model says of its data.

        Args:
            earlier: sets that it was trained on before it was tuned.
        """
        also = [*self.also, *(name for name in earlier if name not in self.sets)]
        return {"name": self.name, **({"also": also} if also else {}), "niggli": self.niggli}


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """AdamW and its learning rate."""

    lr: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    weight_decay: NonNegative = Field(default=0.0, description="Decoupled weight decay.")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="Averages of AdamW.")
    schedule: Literal["constant", "cosine", "time_budget", "plateau"] = Field(
        default="constant",
        description="Learning rate after warm-up; `cosine` ends at min_lr_ratio with the last step,"
        " `time_budget` is a time-budgeted cosine decay, over when trainer.max_minutes are, on any"
        " machine (so no two runs are the same; warm-up takes a twentieth of the time at most).",
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up.")
    min_lr_ratio: Fraction = Field(default=0.0, description="Last over peak learning rate.")
    plateau_factor: float = Field(
        default=0.5, gt=0, lt=1, description="Plateau: factor of a reduction."
    )
    plateau_patience: Positive = Field(
        default=10, description="Plateau: validations without progress."
    )


class TrainerConfig(Section):
    """How long, how precise, how often."""

    max_epochs: Positive | None = Field(default=None, description="Passes over the data.")
    max_steps: Positive | None = Field(
        default=None, description="Optimizer steps; the first limit ends."
    )
    max_minutes: float | None = Field(
        default=None, gt=0, description="Wall-clock limit of this run in minutes; ends it in order."
    )
    precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        default="auto", description="`auto`: bf16 where a GPU has it, else float32."
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="torch.compile on a GPU (not in fp16); `auto`: if 4 more minutes are ahead.",
    )
    cuda_graphs: bool = Field(
        default=True, description="GPU: record a step once and replay it; same numbers, faster."
    )
    grad_accumulation: Positive = Field(default=1, description="Batches per optimizer step.")
    clip_norm: NonNegative = Field(default=10.0, description="Largest gradient norm; 0 is off.")
    val_every_epochs: Positive = Field(default=1, description="Epochs between validations.")
    val_every_steps: Positive | None = Field(
        default=None, description="Optimizer steps between validations, instead of epochs."
    )
    patience: Positive | None = Field(
        default=None, description="Stop after this many validations without progress."
    )
    checkpoint_selection: Literal["best", "last"] = Field(
        default="best",
        description="Checkpoint selection: `best` by validation, kept beside `last`; or `last`"
        " alone, for diffusion whose loss says little of its samples.",
    )
    val_match_samples: int = Field(
        default=256,
        ge=0,
        description="VAE, and LDM of kind csp: validation crystals that are matched each time; 0 is"
        " none. An LDM is then kept by its match rate instead of its loss.",
    )
    save_every_minutes: NonNegative = Field(
        default=5.0, description="Minutes between saves for --resume, beside those at validations."
    )
    log_every: Positive = Field(default=50, description="Steps between logged training losses.")
    tracker: Literal["wandb", "tensorboard", "none"] = Field(
        default="wandb",
        description="Where metrics go besides metrics.jsonl; wandb is offline without key.",
    )
    project: str = Field(default="chemeleon", description="Project name for wandb.")

    @model_validator(mode="after")
    def _ends(self) -> TrainerConfig:
        if self.max_epochs is None and self.max_steps is None and self.max_minutes is None:
            raise ValueError("training never ends: set max_epochs, max_steps or max_minutes")
        return self


class StageConfig(Section):
    """What every training stage has.

    Attributes:
        stage: where the class is that trains with it (`training.stage.Stage`), as module:class. It
            is imported when a training starts, as what it needs takes seconds.
    """

    stage: ClassVar[str]
    seed: int = Field(
        default=42, ge=0, le=MAX_SEED, description="Start of every random number of the run."
    )
    data: DataConfig = Field(default_factory=DataConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    trainer: TrainerConfig

    @model_validator(mode="after")
    def _time_budget(self) -> StageConfig:
        if self.optim.schedule == "time_budget" and self.trainer.max_minutes is None:
            raise ValueError("optim.schedule=time_budget needs trainer.max_minutes")
        return self

    def unread(self, given: Collection[str] = ()) -> list[str]:
        """Return what would change nothing, and why; this command itself has set ``given``."""
        return []


class VAETrainConfig(StageConfig):
    """`chemeleon vae train`."""

    stage = "chemeleon.training.vae:VAEStage"
    vae: VAEConfig = Field(default_factory=VAEConfig)

    @model_validator(mode="after")
    def _one_form(self) -> VAETrainConfig:
        problem = spoiled_form(self.vae, self.data.augment)
        if problem:
            raise ValueError(problem)
        return self


class LDMTrainConfig(StageConfig):
    """`chemeleon ldm train`."""

    stage = "chemeleon.training.ldm:LDMStage"
    ldm: LDMConfig = Field(default_factory=LDMConfig)

    def unread(self, given: Collection[str] = ()) -> list[str]:
        """See ``StageConfig``."""
        eta = self.ldm.sampler.unread_eta()
        return [] if eta is None else [f"ldm.sampler.{eta}"]

    @model_validator(mode="after")
    def _targets(self) -> LDMTrainConfig:
        missing = [
            f"ldm.conditions.{name} needs column '{c.column}'"
            for name, c in self.ldm.conditions.items()
            if c.column is not None and c.column not in self.data.targets
        ]
        if missing:
            raise ValueError(f"{'; '.join(missing)}: add it to data.targets")
        return self


class RLTrainConfig(StageConfig):
    """`chemeleon rl train`; an epoch is one update, and data.batch_size counts groups."""

    stage = "chemeleon.reinforcement.rl:RLStage"
    rl: RLConfig

    def unread(self, given: Collection[str] = ()) -> list[str]:
        """See ``StageConfig``."""
        own = self.rl.unread([key.removeprefix("rl.") for key in given])
        return [f"rl.{text}" for text in own]

    @model_validator(mode="after")
    def _whole_updates(self) -> RLTrainConfig:
        if self.trainer.val_every_steps is not None:
            raise ValueError("set trainer.val_every_epochs (an epoch is an update), not _steps")
        if self.trainer.grad_accumulation != 1:
            raise ValueError("set rl.micro_batch and leave trainer.grad_accumulation at 1")
        return self


class PredictTrainConfig(StageConfig):
    """`chemeleon predict train`; it reads the columns of `predict.targets`, not `data.targets`."""

    stage = "chemeleon.prediction.predictor:PredictStage"
    predict: PredictorConfig


class AssignTrainConfig(StageConfig):
    """`chemeleon assign train`; of `data.targets` it reads e_above_hull."""

    stage = "chemeleon.training.assignment:AssignmentStage"
    assign: AssignmentConfig = Field(default_factory=AssignmentConfig)


# every stage: its name, also that of its section, of its command and of its folder of presets
STAGES: dict[str, type[StageConfig]] = {
    "vae": VAETrainConfig,
    "ldm": LDMTrainConfig,
    "rl": RLTrainConfig,
    "predict": PredictTrainConfig,
    "assign": AssignTrainConfig,
}
