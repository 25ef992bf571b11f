"""Types of settings, with their bounds: of a training's config and of that of any model.

A model may come from anybody, its config with it. Upper bounds are about ten times what anybody
uses: below them a network is outlined within a second, without memory, and can be compared with
its file of weights before a number is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from chemeleon.config.renamed import current
from chemeleon.errors import ConfigError

Positive = Annotated[int, Field(gt=0, le=10**12)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

Layers = Annotated[int, Field(gt=0, le=128)]  # of one transformer; the largest preset has 24
MoreLayers = Annotated[int, Field(ge=0, le=128)]  # before others, if any
Width = Annotated[int, Field(gt=0, le=16_384)]  # 1,024
HiddenWidth = Annotated[int, Field(gt=0, le=65_536)]  # of an MLP: 3,072
WidthRatio = Annotated[int, Field(gt=0, le=64)]  # of an MLP to the block around it: 4
Heads = Annotated[int, Field(gt=0, le=256)]  # 16
Channels = Annotated[int, Field(gt=0, le=1_024)]  # of an atom's latent: 8
Waves = Annotated[int, Field(gt=0, le=1_024)]  # per cell: 8
Radials = Annotated[int, Field(ge=4, le=1_024)]  # functions of a distance: 24
Cutoff = Annotated[float, Field(gt=1, le=100)]  # of neighbours, angstrom: 5
TimeSteps = Annotated[int, Field(gt=0, le=10_000)]  # of diffusion: 1,000
Redraws = Annotated[int, Field(ge=0, le=100)]  # of a crystal in sampling: 8
Classes = Annotated[int, Field(gt=0, le=1_000)]  # of a condition; there are 230 space groups
MOST_CLASSES = 2_000  # of all conditions; those of the training data are listed in the model
Rank = Annotated[int, Field(gt=0, le=1_024)]  # of adapters: 16
Scale = Annotated[float, Field(gt=0, le=1e6)]  # of adapters: 32

_ONE_LINE = r"^[^\t\n]*$"
Word = Annotated[str, Field(max_length=200, pattern=_ONE_LINE)]  # a column, a unit, a layer
Location = Annotated[str, Field(max_length=4_096, pattern=_ONE_LINE)]  # a path, a model's name
Words = Annotated[list[Word], Field(max_length=1_000)]
Locations = Annotated[list[Location], Field(max_length=1_000)]
# a key of the config and of the weights, so no dots
ConditionName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", max_length=200)]


def checked(check: Callable[[Any], object]) -> AfterValidator:
    """Let pydantic report a ConfigError of ``check`` with whatever else is wrong."""

    def validated(value: Any) -> Any:
        try:
            check(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validated)


class Section(BaseModel):
    """Base of all sections: frozen, strict about names, without NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, values: Any) -> Any:
        try:
            return current(values, cls.model_fields) if isinstance(values, dict) else values
        except ConfigError as error:
            raise ValueError(str(error)) from None


class OpenSection(Section):
    """A section in which a limit may be infinite, which is none; as options of rewards may be."""

    model_config = ConfigDict(allow_inf_nan=True)
