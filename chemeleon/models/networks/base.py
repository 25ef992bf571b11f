"""What a denoiser's network is, and how it is found by name.

A network is one file of this folder with a class ``Denoiser``: ``dit.py`` is called ``dit`` in
``denoiser.network``. It is built from the model's config; what only it can be told goes into
`config.architecture.DenoiserConfig`.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from torch import Tensor, nn

from chemeleon.config.architecture import LDMConfig
from chemeleon.errors import ConfigError, nearest
from chemeleon.models import networks
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.packing import Layout
from chemeleon.models.surroundings import Surroundings


class Denoised(NamedTuple):
    """What the denoiser says of each slot, ``(B, N, L)`` each.

    ``prediction`` is the noise, the velocity or the flow, as the model was trained; ``variance`` is
    the place of the reverse log-variance between its bounds (-1 lower, 1 upper), or None.
    """

    prediction: Tensor
    variance: Tensor | None


class Known(NamedTuple):
    """What a model is conditioned on, of each token, ``(B, N)``; 0 on padded slots.

    ``types`` are atomic numbers. ``sites``, see `Crystals`, are of models on orbits; without types
    only their space groups are known. None where the model is not told.
    """

    types: Tensor | None = None
    sites: Tensor | None = None


class Network(nn.Module, ABC):
    """What predicts the noise (or velocity, or flow) in noisy latents.

    Attributes:
        conditions: encoder of the conditions, or None; conditions may be added to a model later.
        blocks: its repeated part, whose linear layers low-rank adapters act on.
        looking: layers that see the surroundings of an estimate, or None.
    """

    conditions: ConditionEncoder | None
    looking: nn.Module | None
    blocks: nn.ModuleList

    def __init__(self, config: LDMConfig, latent_dim: int) -> None:
        super().__init__()
        self.config = config.denoiser
        self.latent_dim = latent_dim
        self.looking = None

    @property
    def kept_per_token(self) -> int:
        """Numbers that are kept of each token for the backward pass, but for a factor."""
        return self.config.layers * self.config.width

    @abstractmethod
    def forward(
        self,
        z: Tensor,
        t: Tensor,
        num_atoms: Tensor,
        features: Mapping[str, Tensor] | None = None,
        drop: Mapping[str, Tensor] | None = None,
        layout: Layout | None = None,
        known: Known = Known(),
        estimate: Tensor | None = None,
        seen: Surroundings | None = None,
    ) -> Denoised:
        """Predict the noise (or velocity, or flow) in ``z``.

        Args:
            z: ``(B, N, L)`` noisy latents, 0 on padded slots.
            t: ``(B,)`` times, 0 .. 999 (flow: 1000 times the time); ``(1,)`` where all crystals
                share it, which saves their modulations if they share the conditions, too.
            num_atoms: ``(B,)``.
            features: condition name to ``(B, F)``, or ``(1, F)`` where all crystals share it, for a
                conditional model.
            drop: condition name to ``(B,)`` or ``(1,)`` bool, True where the condition is hidden.
            layout: how the batch is packed, if it is.
            known: elements (``types``) and space groups (``space_group``), with both whole sites.
            estimate: ``(B, N, L)`` the clean latents that were predicted at the time before, for a
                model with self-conditioning; without them it is told nothing.
            seen: what tokens see around them in that estimate, for a model with
                ``neighbour_layers``.
        """


def known_networks() -> list[str]:
    """Return the names of the networks that there are."""
    return sorted(found.name for found in iter_modules(networks.__path__) if found.name != "base")


def find_network(name: str) -> type[Network]:
    """Return the class of a network.

    Raises:
        ConfigError: if there is none of that name; says what there is.
    """
    known = known_networks()
    if name not in known:
        raise ConfigError(
            f"denoiser.network: there is no network '{name}'{nearest(name, known) or '.'} Known:"
            f" {', '.join(known)}"
        )
    return import_module(f"{networks.__name__}.{name}").Denoiser
