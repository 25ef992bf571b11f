"""What crystals are conditioned on: properties, guidance and allowed elements, read and checked.

Shapes: ``B`` crystals of a batch, or pairs of a crystal and a step, ``M`` of a sample.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chemeleon.config.requests import MAX_GUIDANCE, check_range, guided_steps
from chemeleon.crystals.symbols import atoms_per_unit, element_numbers, formula_amounts
from chemeleon.errors import ConfigError, nearest
from chemeleon.generation.settings import Options
from chemeleon.models.condition_encoder import Request
from chemeleon.models.conditions import ELEMENT_SLOTS, Condition
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import Decoded

GUIDANCE = 2.0  # of the published models
ALL = (0.0, 1.0)  # of a trajectory
NEEDS_CONDITIONS = (
    "is towards conditions, and there are none: give --condition NAME=VALUE"
    " (in Python conditions={...}), or leave it out"
)
logger = logging.getLogger(__name__)


class Conditioning(NamedTuple):
    """Conditions, guidance and allowed elements of crystals, as `read` has them.

    Attributes:
        request: features of the conditions, or None for a model without.
        guidance: classifier-free guidance scale; 0 is unconditional.
        interval: part of the sampling trajectory that is guided.
        elements: ``(100,)`` bool, those that atoms may have; None for all.
    """

    request: Request | None
    guidance: float
    interval: tuple[float, float]
    elements: Tensor | None

    @classmethod
    def read(cls, model: LatentDiffusion, crystals: int, options: Options) -> Conditioning:
        """Return the conditioning of all ``crystals`` of a sample, checked against the model's.

        Raises:
            ConfigError: if something cannot be read, or the model does not know of it.
        """
        given = plain(options.get("conditions") or {})
        _check_names(model, given, crystals)
        encoder = model.denoiser.conditions
        return cls(
            None if encoder is None else encoder.request(given),
            guidance_scale(options.get("guidance"), given),
            _interval(options.get("guidance_interval"), given),
            _elements(model, options.get("allow_elements"), options.get("forbid_elements")),
        )

    def of(self, crystals: Tensor, device: torch.device) -> Conditioning:
        """Return that of some of the crystals, numbers ``(B,)``, on their device."""
        request = None if self.request is None else self.request.of(crystals, device)
        elements = None if self.elements is None else self.elements.to(device)
        return self._replace(request=request, elements=elements)

    def branches(self) -> list[Request | None]:
        """Return what the denoiser is conditioned on: all, then nothing where both are needed.

        Two evaluations rather than one of a doubled batch: crystals that share conditions then
        share the modulations made of them, too.
        """
        if self.request is None or self.guidance == 1:
            return [self.request]
        nothing = self.request.nothing()
        return [nothing] if self.guidance == 0 and self.interval == ALL else [self.request, nothing]

    def guided(self, steps: int) -> range:
        """Return the numbers of the steps that are guided; the others are conditional.

        Raises:
            ConfigError: if the interval holds no step.
        """
        return guided_steps(self.interval, steps)

    def restrict(self, decoded: Decoded) -> Decoded:
        """Make elements that are not allowed impossible: a projection, not a likelihood."""
        if self.elements is None or decoded.type_logits is None:
            return decoded
        logits = decoded.type_logits.masked_fill(~self.elements, -torch.inf)
        return decoded._replace(type_logits=logits)


def unit_sizes(model: LatentDiffusion, options: Options) -> list[int | None]:
    """Return the atoms of each crystal's formula unit, or of one for all; None for any."""
    for name, values in plain(options.get("conditions") or {}).items():
        if _known(model)[name].config.kind == "composition":
            return [
                None if value is None else atoms_per_unit(formula_amounts(str(value)).values())
                for value in _listed(values)
            ]
    return [None]


def warn_unusual(model: LatentDiffusion, options: Options) -> None:
    """Say which values of conditions the training data do not have."""
    for name, values in plain(options.get("conditions") or {}).items():
        facts = _facts(model).get(name)
        if facts is None:
            continue
        unit = f" {facts['unit']}" if facts.get("unit") else ""
        for value in dict.fromkeys(_listed(values)):
            unusual = None if value is None else _known(model)[name].unusual(value, facts)
            if unusual is not None:
                logger.warning("condition %s=%s%s: %s", name, value, unit, unusual)


def _known(model: LatentDiffusion) -> dict[str, Condition]:
    """Return the conditions that a model was trained with, by name."""
    encoder = model.denoiser.conditions
    return {} if encoder is None else {name: encoder[name] for name in encoder.encoders}


def _facts(model: LatentDiffusion) -> dict[str, Any]:
    """Return what is known of their values in the training data."""
    return (model.origin.get("data") or {}).get("conditions") or {}


def _check_names(model: LatentDiffusion, given: Mapping[str, object], crystals: int) -> None:
    known = _known(model)
    for name, value in given.items():
        if name == "space_group" and name not in known and model.config.denoiser.space_group:
            raise ConfigError(
                "this model is on orbits, whose space group is no condition:"
                " say space_group (--space-group) instead"
            )
        if not known:
            preset = "mp/space_group" if name == "space_group" else "mp/band_gap"
            raise ConfigError(
                f"this model was trained without conditions, so it cannot be conditioned on {name}:"
                f" train one, for example with `chemeleon ldm train --preset {preset}`"
            )
        if name not in known:
            meant = "; ".join(_said(model, other) for other in known)
            raise ConfigError(
                f"this model was not trained with a condition '{name}'{nearest(name, known) or '.'}"
                f" It knows {meant}"
            )
        if isinstance(value, list | tuple) and len(value) != crystals:
            raise ConfigError(
                f"condition {name} lists values of {len(value)} crystals, but {crystals} are"
                " requested"
            )


def _said(model: LatentDiffusion, name: str) -> str:
    """Return what a condition takes, in words."""
    facts = _facts(model).get(name, {})
    unit = f" in {facts['unit']}" if facts.get("unit") else ""
    known = facts.get("low") is not None
    trained = f", trained on {facts['low']:g} to {facts['high']:g}" if known else ""
    return f"{name} ({_known(model)[name].meaning}{unit}{trained})"


def plain(conditions: Mapping[str, object]) -> dict[str, object]:
    """Return conditions with arrays, tensors and their numbers as Python's lists and numbers."""
    return {name: _plain(value) for name, value in conditions.items()}


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    own = getattr(value, "tolist", None)  # of NumPy, torch and pandas
    return value if own is None else own()


def guidance_scale(scale: float | None, given: Mapping[str, object]) -> float:
    """Return the scale of classifier-free guidance for these conditions, by default `GUIDANCE`.

    Raises:
        ConfigError: for one without conditions, or out of bounds.
    """
    if not given:
        if scale is not None:
            raise ConfigError(f"guidance {NEEDS_CONDITIONS}")
        return 0.0
    if scale is None:
        return GUIDANCE
    check_range("guidance", scale, 0, MAX_GUIDANCE)
    return float(scale)


def _interval(
    interval: tuple[float, float] | None, given: Mapping[str, object]
) -> tuple[float, float]:
    if interval is None:
        return ALL
    if not given:
        raise ConfigError(f"a guidance interval {NEEDS_CONDITIONS}")
    return interval


def _elements(
    model: LatentDiffusion, allow: Collection[str] | None, forbid: Collection[str] | None
) -> Tensor | None:
    """Return which elements atoms may have, ``(100,)`` bool."""
    if allow is not None and not allow:
        raise ConfigError("allow_elements names no element: name some, or leave it out")
    if not allow and not forbid:
        return None
    if model.vae.config.kind == "csp":
        raise ConfigError(
            "a model of kind csp takes its elements from the formula: leave out allowed and"
            " forbidden elements"
        )
    kept = torch.ones(ELEMENT_SLOTS, dtype=torch.bool)
    if allow:
        kept = torch.zeros_like(kept)
        kept[element_numbers(allow)] = True
    kept[[0, *element_numbers(forbid or ())]] = False
    if not kept.any():
        raise ConfigError("every allowed element is forbidden, too")
    return kept


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]
