"""What the ``config.yaml`` of a model folder may say; it is all checked before any of it is used.

The folder may come from anybody. Nothing in it is imported or run, and no path in it is followed
but the base of adapters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, ValidationError, model_validator

from chemeleon.config.architecture import LDMConfig, VAEConfig
from chemeleon.config.assignment import AssignmentConfig
from chemeleon.config.bounds import ConditionName, Location, Rank, Scale, Section, Word
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.config.predictor import PredictorConfig
from chemeleon.errors import CheckpointError, ConfigError, printable
from chemeleon.version import __version__

SHOWN = 3  # problems of one file


class ImportedConfig(Section):
    """What an imported model was, and what was done to it on the way in."""

    file: str = Field(description="Name of the Lightning checkpoint.")
    weights: Literal["raw", "ema"] = Field(
        description="`raw`: its state_dict; `ema`: the averages kept beside it."
    )
    lora_merged: list[str] = Field(
        default_factory=list, description="Layers into whose weights an adapter was added."
    )
    lora_inert: list[str] = Field(
        default_factory=list,
        description="Layers whose adapter was left out, because it never acted: PyTorch's attention"
        " reads the weight of out_proj itself and passes the adapter by.",
    )
    assumed: list[str] = Field(
        default_factory=list,
        description="What the file does not say and was taken from the published models.",
    )


class _Told(BaseModel):
    """What only informs: other versions may say more. Numbers are numbers, not texts of them."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class ConditionFacts(_Told):
    """What is known of a condition's values in training: those of its kind."""

    unit: Word | None = None
    low: float | None = None
    high: float | None = None
    classes: list[int] | None = None

    @model_validator(mode="after")
    def _range(self) -> ConditionFacts:
        if (self.low is None) != (self.high is None):
            raise ValueError("`low` and `high` go together")
        return self


class DataFacts(_Told):
    """What is known of the training data."""

    name: Word | None = None
    niggli: bool = True
    conditions: dict[ConditionName, ConditionFacts] | None = None


class Trained(_Told):
    """How long a model was trained, and how it was judged then."""

    steps: int | None = None
    epochs: float | None = None
    metrics: dict[str, Annotated[float, AllowInfNan(True)] | None] = Field(default_factory=dict)


class AdapterConfig(Section):
    """What adapters adapt, and how strongly."""

    base: Location | None = Field(description="The model that is adapted: a folder, or its name.")
    base_weights: str = Field(pattern="^[0-9a-f]{16}$", description="Hash of its weights.")
    rank: Rank = Field(description="Rank of the update.")
    alpha: Scale = Field(description="The update is scaled by alpha / rank.")


class AdaptedFrom(_Told):
    """Of a model that adapters were merged into: what it was before."""

    base: Location | None = None
    base_weights: Word | None = None
    rank: int | None = None
    alpha: float | None = None


class ModelConfig(BaseModel):
    """The whole of it; ``adapter`` is there where the weights are adapters."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Word
    chemeleon: Word | float | None = None
    vae: VAEConfig | None = None
    ldm: LDMConfig | None = None
    predictor: PredictorConfig | None = None
    assign: AssignmentConfig | None = None
    data: DataFacts | None = None
    trained: Trained | None = None
    rewarded_by: list[Location] | None = None
    imported: ImportedConfig | None = None
    adapter: AdapterConfig | None = None
    adapted_from: AdaptedFrom | None = None


def read_model_config(path: Path) -> dict[str, Any]:
    """Return the content of a model's ``config.yaml``, which `ModelConfig` describes.

    Raises:
        CheckpointError: if it is not one, or was written by a newer version.
    """
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise CheckpointError(f"{error}. Fetch the model again, or make it anew") from None
    if not isinstance(content, dict) or "kind" not in content:
        raise CheckpointError(f"{path} is not the config of a model: it has no 'kind'")
    try:
        ModelConfig.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(
            f"{path} cannot be read by chemeleon {__version__} (it was written by"
            f" {str(content.get('chemeleon'))[:40]}): {in_one_line(error)}. Install a newer"
            " version, or fetch the model again"
        ) from None
    return content


def in_one_line(error: ValidationError) -> str:
    """Say what is wrong with a section, and where."""
    problems = error.errors()
    said = [
        f"{printable('.'.join(map(str, p['loc']))):.100}:"
        f" {p['msg'].removeprefix('Value error, ')[:200]}"
        + ("" if isinstance(p["input"], dict | list) else f", got {p['input']!r:.40}")
        for p in problems[:SHOWN]
    ]
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(said) + more
