"""What is asked of the crystals of a sample: conditions with guidance, and elements.

Shapes: ``B`` crystals of a batch, or pairs of a crystal and a step, ``M`` crystals asked for, ``N``
padded atoms, ``L`` latent channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from chemeleon.config.requests import guided_steps
from chemeleon.crystals.symbols import atoms_per_unit, element_numbers, formula_amounts
from chemeleon.errors import ConfigError, nearest
from chemeleon.models.condition_encoder import Request
from chemeleon.models.conditions import ELEMENT_SLOTS
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.vae import Decoded

GUIDANCE = 2.0  # of the published models
ALL = (0.0, 1.0)  # of a trajectory
NEEDS_CONDITIONS = (
    "is towards conditions, and there are none: give --condition NAME=VALUE"
    " (in Python conditions={...}), or leave it out"
)
logger = logging.getLogger(__name__)


class Wishes(TypedDict, total=False):
    """What can be asked of crystals.

    Attributes:
        conditions: condition to a value as users write it, or to a list with one per crystal, in
            which None asks nothing.
        guidance: how hard to push, see `denoising.guide`; by default 2.
        guidance_interval: part of the walk in which to push, from and to as shares; the rest is
            told the conditions, and no more (Kynkäänniemi et al. 2024, arXiv:2404.07724).
        allow_elements: symbols of the only elements that atoms may have.
        forbid_elements: symbols of elements that atoms may not have.
    """

    conditions: Mapping[str, object] | None
    guidance: float | None
    guidance_interval: tuple[float, float] | None
    allow_elements: Collection[str] | None
    forbid_elements: Collection[str] | None


class Asked(NamedTuple):
    """What is asked of the crystals of one batch, on their device.

    Attributes:
        request: features of the conditions, or None for a model without.
        guidance: how hard to push; 0 not at all.
        interval: shares of the walk between which to push.
        elements: ``(100,)`` bool, those that atoms may have; None for all.
    """

    request: Request | None
    guidance: float
    interval: tuple[float, float]
    elements: Tensor | None

    def branches(self) -> list[Request | None]:
        """Return what the denoiser is asked with: conditions, then nothing where both are needed.

        Two evaluations rather than one of a doubled batch: crystals that share conditions then
        share the modulations made of them, too.
        """
        if self.request is None or self.guidance == 1:
            return [self.request]
        nothing = self.request.nothing()
        return [nothing] if self.guidance == 0 and self.interval == ALL else [self.request, nothing]

    def pushed(self, steps: int) -> range:
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


class Steering:
    """What is asked of all ``crystals`` of a sample, checked against what the model knows.

    Raises:
        ConfigError: if something cannot be read, or the model does not know of it.
    """

    def __init__(self, model: LatentDiffusion, crystals: int, wishes: Wishes) -> None:
        given = plain(wishes.get("conditions") or {})
        encoder = model.denoiser.conditions
        self.known = {n: encoder[n] for n in encoder.encoders} if encoder is not None else {}
        self.facts = (model.origin.get("data") or {}).get("conditions") or {}
        self._check_names(given, crystals)
        self.given = given
        self.request = None if encoder is None else encoder.request(given)
        self.guidance = _guidance(wishes.get("guidance"), given)
        self.interval = _interval(wishes.get("guidance_interval"), given)
        self.elements = _elements(
            model, wishes.get("allow_elements"), wishes.get("forbid_elements")
        )
        self.largest = len(model.size_histogram) - 1

    def of(self, crystals: Tensor, device: torch.device) -> Asked:
        """Return what is asked of some crystals, numbers ``(B,)``."""
        request = None if self.request is None else self.request.of(crystals, device)
        elements = None if self.elements is None else self.elements.to(device)
        return Asked(request, self.guidance, self.interval, elements)

    def draw_sizes(
        self, draw: Callable[[Tensor, Sequence[int] | None], Tensor], keys: Tensor
    ) -> Tensor:
        """Return numbers of atoms ``(M,)``, such that formulas asked for go into them.

        Args:
            draw: draws for keys from allowed numbers (None: any), see ``Pipeline.draw_sizes``.
            keys: ``(M,)`` random keys.
        """
        units = self._unit_sizes()
        units = units * len(keys) if len(units) == 1 else units
        sizes = torch.zeros(len(keys), dtype=torch.int64)
        for unit in set(units):
            mine = torch.tensor([i for i, other in enumerate(units) if other == unit])
            allowed = None if unit is None else range(unit, max(unit, self.largest) + 1, unit)
            sizes[mine] = draw(keys[mine], allowed)
        return sizes

    def _unit_sizes(self) -> list[int | None]:
        """Return the atoms of the formula unit asked of each crystal, or one for all."""
        for name, values in self.given.items():
            if self.known[name].config.kind == "composition":
                return [
                    None if value is None else atoms_per_unit(formula_amounts(str(value)).values())
                    for value in _listed(values)
                ]
        return [None]

    def warn(self) -> None:
        """Say which values the training data do not have."""
        for name, values in self.given.items():
            facts = self.facts.get(name)
            if facts is None:
                continue
            unit = f" {facts['unit']}" if facts.get("unit") else ""
            for value in dict.fromkeys(_listed(values)):
                unusual = None if value is None else self.known[name].unusual(value, facts)
                if unusual is not None:
                    logger.warning("condition %s=%s%s: %s", name, value, unit, unusual)

    def _check_names(self, given: Mapping[str, object], crystals: int) -> None:
        for name, value in given.items():
            if not self.known:
                raise ConfigError(
                    f"this model was trained without conditions, so it cannot be asked for {name}:"
                    " train one, for example with `chemeleon ldm train --preset mp/band_gap`"
                )
            if name not in self.known:
                raise ConfigError(
                    f"this model was not trained with a condition '{name}'"
                    f"{nearest(name, self.known)} It knows {'; '.join(map(self._said, self.known))}"
                )
            if isinstance(value, list | tuple) and len(value) != crystals:
                raise ConfigError(
                    f"condition {name} lists values of {len(value)} crystals, but {crystals} are"
                    " asked for"
                )

    def _said(self, name: str) -> str:
        """Return what a condition takes, in words."""
        facts = self.facts.get(name, {})
        unit = f" in {facts['unit']}" if facts.get("unit") else ""
        known = facts.get("low") is not None
        trained = f", trained on {facts['low']:g} to {facts['high']:g}" if known else ""
        return f"{name} ({self.known[name].meaning}{unit}{trained})"


def plain(conditions: Mapping[str, object]) -> dict[str, object]:
    """Return conditions with arrays, tensors and their numbers as Python's lists and numbers."""
    return {name: _plain(value) for name, value in conditions.items()}


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    own = getattr(value, "tolist", None)  # of NumPy, torch and pandas
    return value if own is None else own()


def _guidance(scale: float | None, given: Mapping[str, object]) -> float:
    if not given:
        if scale is not None:
            raise ConfigError(f"guidance {NEEDS_CONDITIONS}")
        return 0.0
    if scale is not None and not 0 <= scale < float("inf"):
        raise ConfigError(f"guidance must be 0 or more, got {scale}")
    return GUIDANCE if scale is None else float(scale)


def _interval(
    interval: tuple[float, float] | None, given: Mapping[str, object]
) -> tuple[float, float]:
    if interval is None:
        return ALL
    if not given:
        raise ConfigError(f"a guidance interval {NEEDS_CONDITIONS}")
    first, last = interval
    if not 0 <= first < last <= 1:
        raise ConfigError(
            "the guidance interval is two shares of the walk, 0 its beginning and 1 its end, such"
            f" as 0.2,0.8; got {first:g},{last:g}"
        )
    return first, last


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
