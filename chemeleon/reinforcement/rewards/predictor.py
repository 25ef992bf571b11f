"""A property that a trained predictor gives: as large or small as can be, near a target or in a
range."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chemeleon.config.bounds import OpenSection
from chemeleon.errors import ChemeleonError, ConfigError, nearest
from chemeleon.models.predictor import Predictor as Model
from chemeleon.models.pretrained import place
from chemeleon.reinforcement.rewards.base import HIT, Answer, Candidates, Context, Reward


class PredictorOptions(OpenSection):
    """Settings of `Predictor`."""

    model: str = Field(description="Folder of `chemeleon predict train`, or hub:NAME.")
    property: str | None = Field(
        default=None, description="Which of the predictor's properties; needed if it has several."
    )
    goal: Literal["maximise", "minimise", "target", "range"] = Field(
        default="maximise",
        description="`target`: minus the squared distance to `target`; `range`: that to `range`, 0"
        " within it.",
    )
    target: float | None = Field(default=None, description="In the property's unit.")
    range: tuple[float, float] | None = Field(
        default=None, description="Lowest and highest value, in the property's unit."
    )
    clip: tuple[float, float] | None = Field(
        default=None, description="Predictions beyond these count as these, in their unit."
    )

    @model_validator(mode="after")
    def _fits(self) -> PredictorOptions:
        if (self.goal == "target") != (self.target is not None):
            raise ValueError("goal: target and a number for target belong together")
        if (self.goal == "range") != (self.range is not None):
            raise ValueError("goal: range and two numbers for range belong together")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("range must be two growing numbers")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError("clip must be two growing numbers")
        return self


class Predictor(Reward):
    """A trained predictor's property: maximised, minimised, near a target or in a range."""

    Options = PredictorOptions
    busy = "gpu"

    def __init__(self, options: PredictorOptions, context: Context) -> None:
        super().__init__(options, context)
        self.model = place(Model.from_pretrained(options.model), context.device)
        self.property = self._choose(self.model.config.targets)
        self.judge = f"predictor {options.model} ({self.property})"

    @classmethod
    def problems(cls, options: PredictorOptions, context: Context) -> list[str]:
        """See `Reward`."""
        from chemeleon.checkpoints.load import read_model

        try:
            read_model(options.model, Model.kinds)
        except ChemeleonError as error:
            return [str(error)]
        return []

    def _choose(self, known: list[str]) -> str:
        given = self.options.property
        if given is None and len(known) == 1:
            return known[0]
        if given not in known:
            raise ConfigError(
                f"the predictor {self.options.model} gives {', '.join(known)}: name one of them as"
                f" options.property, got {given!r}{nearest(given or '', known)}"
            )
        return given

    def score(self, candidates: Candidates) -> Answer:
        """See `Reward`."""
        predicted, reasons, _ = candidates.of_sound(
            lambda part: self.model.predict_all(part)[self.property]
        )
        goal, clip = self.options.goal, self.options.clip
        values = predicted if clip is None else predicted.clamp(*clip)
        if goal == "minimise":
            values = -values
        elif goal == "target":
            values = -(values - self.options.target).square()
        facts = {self.property: predicted.float()}
        if self.options.range is not None:
            low, high = self.options.range
            values = -(values - values.clamp(low, high)).square()
            # crystals without a prediction are no hits, as evaluation counts
            facts[HIT + self.property] = (predicted >= low) & (predicted <= high)
        unfit = (candidates.sound & ~values.isfinite()).nonzero().flatten().tolist()
        infinite = dict.fromkeys(unfit, "the prediction is not finite")
        return Answer(values, {**reasons, **infinite}, facts)
