"""Plain functions as rewards.

Keyword-only parameters of a function are its options: ``def density(structure, *, power: float =
1.0)`` takes ``options: {power: 2}``, checked before training.
"""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from pydantic import create_model
from torch import Tensor

from chemeleon.config.bounds import OpenSection, Section
from chemeleon.errors import ConfigError, TrainingError
from chemeleon.reinforcement.rewards.base import Answer, Candidates, Reward


def reward_of(function: Callable[..., Any], name: str) -> type[Any]:
    """Make a reward class of a function of a Structure, or of a `batched` one.

    An attribute ``floor`` of the function is the score of crystals for which it fails.

    Raises:
        ConfigError: if its parameters do not fit.
    """
    kind = _Batched if getattr(function, "batched", False) else _Single
    floor = getattr(function, "floor", None)
    fields = {
        "function": staticmethod(function),
        "label": name,
        "Options": _options(function, name),
        "floor": None if floor is None else float(floor),
        "__doc__": inspect.getdoc(function) or "",
    }
    return type(kind.__name__, (kind,), fields)


class _Function(Reward):
    function: Callable[..., Any]
    label: str

    @property
    def arguments(self) -> dict[str, Any]:
        return {name: getattr(self.options, name) for name in type(self.options).model_fields}


class _Single(_Function):
    """A function from a Structure to a number."""

    def score(self, candidates: Candidates) -> Answer:
        values = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        reasons: dict[int, str] = {}
        raised: Exception | None = None
        tried = 0
        for row, (structure, problem) in enumerate(
            zip(candidates.structures, candidates.problems, strict=True)
        ):
            if problem is not None:
                reasons[row] = problem
                continue
            tried += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = self.function(structure, **self.arguments)
            except Exception as error:
                raised = error
                reasons[row] = f"{type(error).__name__}: {error}"
                continue
            values[row] = _number(found, self.label, candidates.name(row), structure)
            if not math.isfinite(values[row]):
                reasons[row] = f"it returned {float(values[row])}"
        if raised is not None and tried > 1 and len(reasons) == len(candidates):
            first = next(row for row, problem in enumerate(candidates.problems) if problem is None)
            raise TrainingError(
                f"reward '{self.label}' fails for every crystal; the first, number {first}"
                f" ({candidates.structures[first].composition.reduced_formula}): {reasons[first]}"
            ) from raised
        return Answer(values, reasons)


class _Batched(_Function):
    """A function from `Crystals` to ``(M,)``; it sees only sound crystals."""

    def score(self, candidates: Candidates) -> Answer:
        reasons = candidates.reasons()
        values = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        rows = candidates.sound.nonzero().flatten()
        try:
            found = self._call(candidates, rows)
        except TrainingError:
            raise
        except Exception as error:
            failing = self._failing(candidates, rows)
            if not failing or len(failing) == len(rows):
                raise TrainingError(
                    f"reward '{self.label}' fails for {len(rows)} crystals together"
                    f" ({type(error).__name__}: {error})"
                ) from error
            reasons |= failing
            rows = torch.tensor([row for row in rows.tolist() if row not in failing])
            found = self._call(candidates, rows)
        values[rows] = found
        return Answer(values, reasons)

    def _failing(self, candidates: Candidates, rows: Tensor) -> dict[int, str]:
        """Try crystals one by one, and return those for which the function raises."""
        failing = {}
        for row in rows.tolist():
            try:
                self._call(candidates, torch.tensor([row]))
            except Exception as error:
                failing[row] = f"{type(error).__name__}: {error}"
        return failing

    def _call(self, candidates: Candidates, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.zeros(0, dtype=torch.float64)
        found = self.function(candidates.crystals.subset(rows), **self.arguments)
        if isinstance(found, Tensor) and found.shape == rows.shape:
            return found.detach().cpu().double()
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TrainingError(
            f"reward '{self.label}' must return a tensor of shape ({len(rows)},), one number per"
            f" crystal, but returned {what}"
        )


def _number(found: Any, label: str, crystal: str, structure: Any) -> float:
    if isinstance(found, numbers.Real) or getattr(found, "shape", None) == ():
        return float(found)
    shape = getattr(found, "shape", None)
    what = type(found).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")
    raise TrainingError(
        f"reward '{label}' must return one number, but returned a {what} for crystal {crystal}"
        f" ({structure.composition.reduced_formula})"
    )


def _options(function: Callable[..., Any], name: str) -> type[Section]:
    parameters = list(inspect.signature(function).parameters.values())
    first, rest = parameters[:1], parameters[1:]
    wrong = [p.name for p in rest if p.kind is not p.KEYWORD_ONLY and p.default is p.empty]
    if not first or first[0].kind is first[0].KEYWORD_ONLY or wrong:
        raise ConfigError(
            f"'{name}' must take the crystal first and its options after a `*`, as in"
            f" def {function.__name__}(structure, *, power: float = 1.0)"
            + (f"; these come before: {', '.join(wrong)}" if wrong else "")
        )
    try:
        hints = get_type_hints(function)
    except NameError:  # names that only type checkers import
        hints = {}
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default)
        for p in rest
        if p.kind is p.KEYWORD_ONLY
    }
    return create_model("Options", __base__=OpenSection, **fields)
