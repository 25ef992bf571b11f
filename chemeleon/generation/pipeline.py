"""From a trained model to crystals: sizes, noise, reverse diffusion, decoding.

It is the only generator: `sample` writes what it yields, and policy gradients learn from the
trajectories that it records.

Shapes: ``B`` crystals of a batch, ``N`` padded atoms, ``M`` requested crystals. A crystal depends
on the model, the seed and its number alone, not on the batch that it is made in.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from chemeleon.checkpoints.push import PushOptions
from chemeleon.checkpoints.store import weights_hash
from chemeleon.config.schedulers import SCHEDULERS, SamplerConfig
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.lattice import wrap
from chemeleon.crystals.random import fold, make_keys, normal
from chemeleon.diffusion.losses import NoiseProcess
from chemeleon.diffusion.reverse import ReverseDiffusion, Trajectory
from chemeleon.errors import GenerationError
from chemeleon.generation.conditioning import Conditioning, warn_unusual
from chemeleon.generation.denoising import GuidedDenoiser, StepwiseDenoiser
from chemeleon.generation.redraw import Drawn, Queue, load_known
from chemeleon.generation.settings import Options, Precision
from chemeleon.generation.shapes import Shapes
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.packing import Layout
from chemeleon.models.pretrained import place

AUTO_BATCH = {"cpu": 64, "cuda": 2048}  # on a CPU little padding counts for more


class Made(NamedTuple):
    """A batch of crystals, and how the model came to them.

    Attributes:
        crystals: in main memory; invalid ones are still among them.
        clean: ``(B, N, L)`` latents at the end of the trajectory, on the device.
        trajectory: latents and likelihoods, on the device; None if they were not recorded.
        estimates: of models with self-conditioning, for each branch of guidance the clean latents
            ``(S, B, N, L)`` that the denoiser was given; empty without.
    """

    crystals: Crystals
    clean: Tensor
    trajectory: Trajectory | None
    estimates: list[Tensor]


class Pipeline:
    """A latent diffusion model ready to make crystals."""

    def __init__(self, model: LatentDiffusion, device: torch.device | str | None = None) -> None:
        self.model = place(model, device)
        self.device = self.model.latent_mean.device

    @functools.cached_property
    def process(self) -> NoiseProcess:
        """The forward process that the model was trained on."""
        return NoiseProcess(self.model.config.diffusion, self.device)

    @property
    def estimator(self) -> NoiseProcess | None:
        """What tells a model with self-conditioning its last estimate; None without."""
        return self.process if self.model.config.denoiser.self_conditioning else None

    @classmethod
    def from_pretrained(
        cls, reference: str | Path, device: torch.device | str | None = None
    ) -> Pipeline:
        """Load from a run or model folder, or from the hub (``hub:NAME``, ``hub:OWNER/REPO``).

        Raises:
            CheckpointError: if there is no latent diffusion model there.
        """
        return cls(LatentDiffusion.from_pretrained(reference), device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model into a folder that ``from_pretrained`` reads, and return it."""
        return self.model.save_pretrained(folder)

    def push_to_hub(self, repo: str, **options: Unpack[PushOptions]) -> str:
        """Upload the model; see ``Pretrained.push_to_hub``. Returns the address of the commit."""
        return self.model.push_to_hub(repo, **options)

    def fingerprint(self) -> str:
        """Return a short hash of all weights."""
        return weights_hash(self.model.state_dict())

    def generate(self, num_samples: int, **options: Unpack[Options]) -> Crystals:
        """Make crystals, ``M`` or a process's share, in the order of their numbers.

        See ``stream`` for arguments and errors. Invalid crystals are still in it.
        """
        made = list(self.stream(num_samples, **options))
        if not made:
            raise GenerationError(
                f"{num_samples} crystals leave none for this process: request more"
            )
        numbers = torch.cat([drawn.numbers for drawn in made])
        return Crystals.join([drawn.crystals for drawn in made]).subset(torch.argsort(numbers))

    def stream(self, num_samples: int, **options: Unpack[Options]) -> Generator[Drawn]:
        """Make crystals and yield each finished batch.

        While the caller is busy with a batch, the next one is made by another thread. With
        ``redraw`` of the sampler, crystals that are to be drawn again come later.

        Args:
            num_samples: how many, ``M``.
            options: see ``Options``.

        Raises:
            GenerationError: if the model cannot make crystals this way, or memory is too small.
            ConfigError: if a request cannot be read, or the model does not know of it.
        """
        given = Options(**options)
        formula, assigned = given.get("atoms") is not None, given.get("assignments") is not None
        self.check_kind(formula, assigned)
        reverse = self.reverse(given.get("sampler") or self.model.config.sampler)
        if reverse.sampler.composition_penalty > 0 and (formula or assigned):
            raise GenerationError(
                "the atoms are given, so none can be left out: leave out composition_penalty"
            )
        most = reverse.sampler.redraw
        known = load_known(given.get("new_to"), most, given.get("world", 1))
        conditioning = Conditioning.read(self.model, num_samples, given)
        if given.get("rank", 0) == 0:
            warn_unusual(self.model, given)
        keys = make_keys(given.get("seed", 0), torch.arange(num_samples))
        shapes = Shapes.read(self.model, keys, given)
        order = torch.argsort(shapes.sizes, stable=True)  # like sizes together: little padding
        mine = order[given.get("rank", 0) :: given.get("world", 1)]
        queue, chosen = Queue(mine, keys, most, known), mine[:0]
        wanted = given.get("batch_size")
        size = wanted or AUTO_BATCH.get(self.device.type, AUTO_BATCH["cpu"])
        precision, stop, index = given.get("precision", "auto"), Event(), self.device.index
        if self.device.type == "cuda" and index is None:
            index = torch.cuda.current_device()

        def make(chosen: Tensor) -> Drawn:
            if self.device.type == "cuda":
                torch.cuda.set_device(index)  # each thread has its own
            context, own = self.autocast(precision), conditioning.of(chosen, self.device)
            batch = shapes.batch(chosen)
            own_keys = queue.keys_of(chosen)
            made = self.make(reverse, batch, own, own_keys, autocast=context, stop=stop)
            names = [f"sample-{i:06d}" for i in chosen.tolist()]
            return queue.judge(chosen, replace(made.crystals, ids=names), self.device)

        with ThreadPoolExecutor(1) as worker:

            def begin() -> Future[Drawn] | None:
                nonlocal chosen
                chosen = queue.take(size)
                return worker.submit(make, chosen) if len(chosen) else None

            try:
                running = begin()
                while running is not None:
                    try:
                        drawn = running.result()
                    except torch.OutOfMemoryError:
                        if wanted is not None or size == 1:
                            raise GenerationError(
                                f"not enough memory for {size} crystals at a time: lower"
                                " --batch-size, or let --batch-size auto find one that fits"
                            ) from None
                        torch.cuda.empty_cache()
                        size = max(1, size // 2)
                        queue.put_back(chosen)
                        running = begin()
                        continue
                    # the next batch is made while this one is looked at, unless that decides it
                    running = begin() if len(queue.left) else None
                    kept = queue.kept(drawn)
                    running = running or begin()
                    if len(kept.numbers):
                        yield kept
            finally:
                stop.set()  # whoever leaves early does not wait for the batch under way

    def check_kind(self, formula: bool, assigned: bool = False) -> None:
        """Refuse a formula for a model that chooses elements, and none for one that does not.

        Args:
            formula: atoms are given.
            assigned: orbits are given.

        Raises:
            GenerationError: naming the presets that train the other kind.
        """
        conditioned, orbits = self.model.config.denoiser.types, self.model.config.denoiser.sites
        if orbits and (formula or not assigned):
            raise GenerationError(
                "this model places given orbits (kind csp, tokens=orbits): name a formula with"
                " --formula, or give Pipeline.generate assignments=[...], a space group with the"
                " element and Wyckoff letter of each orbit (docs/orbits.md)"
            )
        if orbits:
            return
        if assigned:
            raise GenerationError(
                "assignments are for models that place given orbits (chemeleon ldm train --preset"
                " mp/orbits_csp_mini), and this is none: leave them out"
            )
        if formula and not conditioned:
            raise GenerationError(
                "this model chooses the elements itself and cannot be conditioned on a formula: use"
                " shipped:csp, or one trained with csp presets (chemeleon vae train"
                " --preset mp_20/csp, then chemeleon ldm train --preset mp_20/csp)"
            )
        if conditioned and not formula:
            raise GenerationError(
                "this model places given atoms (kind csp) and cannot choose elements: name them"
                " with --formula, or use a model trained with a dng preset"
            )
        if not conditioned and self.model.vae.config.kind == "csp":
            raise GenerationError(
                "this model's VAE is of kind csp but its denoiser is not conditioned on elements,"
                " so nothing can be sampled from it: train an LDM with a csp preset"
            )

    def reverse(self, sampler: SamplerConfig) -> ReverseDiffusion:
        """Return the sampler of this model's process; flow models follow the ODE.

        Raises:
            GenerationError: if it does not fit the model.
        """
        window = () if SCHEDULERS[sampler.scheduler].process == "flow" else None
        return ReverseDiffusion(self.model.config.diffusion, sampler, self.device, window)

    @torch.no_grad()
    def make(
        self,
        reverse: ReverseDiffusion,
        shapes: CrystalBatch,
        conditioning: Conditioning,
        keys: Tensor,
        *,
        autocast: AbstractContextManager[Any],
        start_keys: Tensor | None = None,
        network: nn.Module | None = None,
        stop: Event | None = None,
        graphs: bool = True,
        record: bool = False,
    ) -> Made:
        """Make one batch.

        Args:
            reverse: of `reverse`, or one with a likelihood.
            shapes: sizes of the crystals, of orbits their groups and, for csp, elements and
                letters; their geometry is not read.
            conditioning: conditions, guidance and elements, on the device.
            keys: ``(B,)`` random keys.
            autocast: context in which networks run.
            start_keys: keys of the initial noise; by default ``keys``.
            network: the model as training has prepared it; by default as it is.
            stop: set by whoever no longer wants the crystals.
            graphs: record an evaluation on a GPU and replay it in the other steps.
            record: keep latents and likelihoods.
        """
        model, shapes, keys = self.model, shapes.to(self.device), keys.to(self.device)
        first = keys if start_keys is None else start_keys.to(self.device)
        start = normal(fold(first, "start"), (shapes.width, model.vae.config.latent_dim))
        given = (
            shapes.num_atoms,
            Layout.of(shapes),
            model.known(shapes),
            conditioning,
            self.estimator,
        )
        denoiser = GuidedDenoiser(network or model, *given)
        with autocast:  # around the whole trajectory: weights are rounded once
            predict = StepwiseDenoiser(
                denoiser, len(reverse), stop=stop, graphs=graphs, record=record
            )
            trajectory = None
            if record:
                trajectory = reverse.trajectory(predict, start, shapes.mask, keys)
                clean = trajectory.zs[-1]
            else:
                clean = reverse.sample(predict, start, shapes.mask, keys)
            z = model.unstandardise(clean) * shapes.mask.unsqueeze(-1)
            decoded = conditioning.restrict(model.vae.decode(z, shapes))
        penalty = reverse.sampler.composition_penalty
        flat = model.vae.to_crystals(decoded, shapes, penalty)
        estimates = [torch.stack(steps) for steps in zip(*predict.estimates, strict=True)]
        crystals = replace(flat, frac_coords=wrap(flat.frac_coords))
        return Made(crystals, clean, trajectory, estimates)

    def precision(self, wanted: Precision) -> Literal["fp32", "bf16"]:
        """Return what ``auto`` means on this device; the other choices as they are."""
        if wanted != "auto":
            return wanted
        able = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16" if able else "fp32"

    def autocast(self, precision: Precision) -> torch.autocast:
        """Return the context that networks are called in."""
        enabled = self.precision(precision) == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
