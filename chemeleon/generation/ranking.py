"""Candidates of one formula in order of promise: by a potential's energy, or by the model.

Shapes: ``M`` crystals, ``B`` of a batch.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.config.requests import check_word
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.lattice import lattice_angles, lattice_from_parameters, lattice_lengths
from chemeleon.crystals.random import make_keys
from chemeleon.crystals.soundness import writable
from chemeleon.errors import ConfigError
from chemeleon.generation.conditioning import Conditioning
from chemeleon.generation.denoising import GuidedDenoiser
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.settings import Precision
from chemeleon.models.packing import Layout

CHOICES = ("auto", "energy", "model", "none")
POTENTIAL = "chgnet"
TIMES = 16  # of noise, evenly spread, at which the model is evaluated
BATCH = 512


class Scorer(NamedTuple):
    """Gives every crystal a number, the lower the better; NaN where there is none.

    Attributes:
        name: of the numbers, for manifests.
        score: crystals to ``(M,)`` float64.
    """

    name: str
    score: Callable[[Crystals], Tensor]


def make_scorer(
    by: str,
    pipeline: Pipeline | None,
    precision: Precision = "auto",
    device: torch.device | str | None = None,
) -> Scorer | None:
    """Return the scorer of that name, or None where candidates keep the order they were made in.

    Args:
        by: ``energy`` (CHGNet, eV/atom of the crystal as it is), ``model`` (see
            ``denoising_error``), ``auto`` (energy where CHGNet is installed, else model), ``none``.
        pipeline: the model; None where there is none.
        precision: of its networks.
        device: of the potential where there is no model.

    Raises:
        ConfigError: for another name, or if CHGNet or a model is requested and missing.
    """
    if check_word("rank_by", by, CHOICES) == "none":
        return None
    installed = importlib.util.find_spec(POTENTIAL) is not None
    if by == "energy" and not installed:
        raise ConfigError(
            f"ranking by energy needs a package that is not installed: pip install {POTENTIAL}, or"
            " rank by model"
        )
    if by == "energy" or (by == "auto" and installed):
        from chemeleon.energy.potentials import load_potential

        potential = load_potential(POTENTIAL, device if pipeline is None else pipeline.device)
        return Scorer(
            f"energy, eV/atom ({potential.name} {potential.version})",
            lambda crystals: torch.from_numpy(potential.energies(crystals).per_atom_ev),
        )
    if pipeline is None and by == "model":
        raise ConfigError("there is no model that could rank prototypes: rank by energy or none")
    # of given orbits the loss says nothing of the letters, which proposals have an order of
    if pipeline is None or (by == "auto" and pipeline.model.config.denoiser.sites):
        return None
    return Scorer(
        "denoising error of the model",
        lambda crystals: denoising_error(pipeline, crystals, precision),
    )


@torch.no_grad()
def denoising_error(
    pipeline: Pipeline, crystals: Crystals, precision: Precision = "auto"
) -> Tensor:
    """Return how badly the model recognises crystals in Niggli cells, ``(M,)`` float64.

    The training loss of each crystal's latents (posterior means), averaged over 16 evenly spread
    times: up to weights of the times a bound of -log p (Ho et al. 2020, arXiv:2006.11239, eq. 12;
    used to judge images in Li et al. 2023, arXiv:2303.16203). All crystals see the same noise, so
    that their differences are their own. It costs 16 evaluations of the denoiser. NaN where a
    crystal has no atoms or no cell.
    """
    model, errors = pipeline.model, torch.full((len(crystals),), math.nan, dtype=torch.float64)
    rows = torch.nonzero(writable(crystals)).squeeze(-1)  # others have no orbits
    if not len(rows):
        return errors
    crystals = model.vae.arranged(crystals.subset(rows))
    nothing = Conditioning.read(model, len(crystals), {})
    # turned as training crystals are: the encoder looks at the matrix of the cell
    cells = lattice_from_parameters(
        lattice_lengths(crystals.lattice), lattice_angles(crystals.lattice)
    )
    crystals = replace(crystals, lattice=cells)
    process = pipeline.process
    order = torch.argsort(crystals.num_atoms, stable=True)
    for chunk in order.split(BATCH):
        batch = crystals.batch(chunk).to(pipeline.device)
        mask, keys = batch.mask, make_keys(0, torch.zeros_like(batch.num_atoms))
        given = batch.num_atoms, Layout.of(batch), model.known(batch)
        # a model with self-conditioning is shown no estimate, alike for all candidates
        denoiser = GuidedDenoiser(model, *given, nothing.of(chunk, pipeline.device), None)
        with pipeline.autocast(precision):
            x0 = model.standardise(model.vae.encode(batch).mean) * mask.unsqueeze(-1)
            total = torch.zeros(len(batch), device=pipeline.device)
            for index in range(TIMES):
                time = (index + 0.5) / TIMES * model.config.diffusion.steps
                t = torch.full((len(batch),), time, device=pipeline.device)
                t = t if model.config.diffusion.process == "flow" else t.long()
                noised = process.at(x0, mask, keys, t)
                prediction, _ = denoiser.predict(noised.z, t)
                total += process.losses(prediction, None, x0, noised, mask)["mse"]
        errors[rows[chunk]] = (total / TIMES).double().cpu()
    return errors


def best_first(
    groups: Sequence[range], scores: Sequence[float], problems: Sequence[str | None]
) -> list[int]:
    """Return candidates by score within their groups.

    Those with a structural problem go behind the others, those without a score to the end.
    """

    def merit(candidate: int) -> tuple[bool, bool, float]:
        value = scores[candidate]
        missing = math.isnan(value)
        return missing, problems[candidate] is not None, 0.0 if missing else value

    return [candidate for group in groups for candidate in sorted(group, key=merit)]
