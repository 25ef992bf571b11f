"""From a trained model to crystals: sizes, noise, reverse walk, decoding.

Shapes: ``B`` crystals of a batch, ``N`` padded atoms, ``M`` crystals asked for. A crystal depends
on the model, the seed and its number alone, not on the batch that it is made in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Unpack

import torch
from torch import Tensor

from chemeleon.checkpoints.hub import PushOptions
from chemeleon.checkpoints.store import weights_hash
from chemeleon.config.schema import SamplerConfig
from chemeleon.crystals.batch import CrystalBatch, FlatCrystals
from chemeleon.crystals.lattice import wrap
from chemeleon.crystals.random import fold, make_keys, normal, uniform
from chemeleon.diffusion.sampler import Predict, Sampler
from chemeleon.errors import GenerationError
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.packing import Layout
from chemeleon.models.pretrained import place

Precision = Literal["auto", "fp32", "bf16"]
AUTO_BATCH = {"cpu": 256, "cuda": 2048}


class Pipeline:
    """A latent diffusion model ready to make crystals."""

    def __init__(self, model: LatentDiffusion, device: torch.device | str | None = None) -> None:
        self.model = place(model, device)
        self.device = self.model.latent_mean.device

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

    def draw_sizes(self, keys: Tensor, allowed: Sequence[int] | None = None) -> Tensor:
        """Draw numbers of atoms ``(M,)`` from the training histogram.

        Args:
            keys: ``(M,)`` random keys.
            allowed: sizes to choose from, by their shares in the training data (evenly if none of
                them occurs there).
        """
        weights = self.model.size_histogram.double().cpu()
        if allowed is not None:
            largest = max(*allowed, len(weights) - 1)
            kept = weights.new_zeros(largest + 1)
            index = torch.tensor(sorted(set(allowed)))
            kept[: len(weights)] = weights
            chosen = kept[index]
            weights = kept.zero_().index_copy_(0, index, chosen if chosen.any() else chosen + 1)
        bounds = torch.cumsum(weights / weights.sum(), 0)
        draws = uniform(fold(keys, "size")).double().cpu()
        return torch.searchsorted(bounds, draws, right=True).clamp_max(len(weights) - 1)

    def generate(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        num_atoms: Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        batch_size: int | None = None,
        precision: Precision = "auto",
        rank: int = 0,
        world: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> FlatCrystals:
        """Make crystals.

        Args:
            num_samples: how many, ``M``.
            seed: same seed, same crystals.
            num_atoms: allowed numbers of atoms; by default the training distribution.
            sampler: scheduler, steps and eta; by default what the model's config says.
            batch_size: crystals at a time; None finds one that fits.
            precision: of the networks; ``auto`` is bf16 where a GPU has it. Steps between their
                evaluations are in float32 in any case.
            rank: make only every ``world``-th crystal of each size, beginning with this one.
            world: processes that share the work.
            progress: called with the number of crystals of each finished batch.

        Returns:
            ``M`` crystals (or a process's share) on the CPU in order of their number; broken ones
            are still in it.

        Raises:
            GenerationError: if the model cannot make crystals this way, or memory is too small.
        """
        if self.model.vae.config.kind == "csp":
            raise GenerationError(
                "this model was trained to place given atoms (kind csp) and cannot choose elements:"
                " use a model trained with a dng preset"
            )
        walker = Sampler(self.model.config.diffusion, sampler or self.model.config.sampler)
        keys = make_keys(seed, torch.arange(num_samples))
        sizes = self.draw_sizes(keys, num_atoms)
        order = torch.argsort(sizes, stable=True)  # like sizes together: little padding
        mine = order[rank::world]
        size = batch_size or AUTO_BATCH.get(self.device.type, AUTO_BATCH["cpu"])
        # even parts, or the last one may be too small to fill the device
        size = min(size, -(-len(mine) // max(1, -(-len(mine) // size))))
        made: list[CrystalBatch] = []
        start = 0
        while start < len(mine):
            chosen = mine[start : start + size]
            try:
                batch = self._generate_batch(walker, keys[chosen], sizes[chosen], precision)
            except torch.OutOfMemoryError:
                if batch_size is not None or size == 1:
                    raise GenerationError(
                        f"not enough memory for {size} crystals at a time: lower --batch-size, or"
                        " let --batch-size auto find one that fits"
                    ) from None
                torch.cuda.empty_cache()
                size = max(1, size // 2)
                continue
            made.append(batch)
            start += len(chosen)
            if progress is not None:
                progress(len(chosen))
        return _numbered(made, mine)

    @torch.no_grad()
    def _generate_batch(
        self, walker: Sampler, keys: Tensor, sizes: Tensor, precision: Precision
    ) -> CrystalBatch:
        width = int(sizes.max())
        shapes = self._shapes(sizes, width).to(self.device)
        keys, mask = keys.to(self.device), shapes.mask
        start = normal(fold(keys, "start"), (width, self.model.vae.config.latent_dim))
        with self._autocast(precision):  # around the whole walk: weights are rounded once
            z = walker.sample(self._predictor(shapes), start, mask, keys)
            z = self.model.unstandardise(z) * mask.unsqueeze(-1)
            decoded = self.model.vae.decode(z, shapes)
        return self.model.vae.to_crystals(decoded, shapes).to("cpu")

    def _autocast(self, precision: Precision) -> torch.autocast:
        if precision == "auto":
            able = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bf16" if able else "fp32"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    @staticmethod
    def _shapes(sizes: Tensor, width: int) -> CrystalBatch:
        """Return crystals of these sizes with nothing in them yet, packed."""
        mask = torch.arange(width) < sizes.unsqueeze(-1)
        full = bool(mask.all())
        return CrystalBatch(
            atomic_numbers=mask.long(),
            frac_coords=torch.zeros(len(sizes), width, 3),
            lattice=torch.eye(3).expand(len(sizes), 3, 3),
            num_atoms=sizes,
            tokens=None if full else torch.nonzero(mask.flatten()).squeeze(-1),
            full=full,
            check=False,
        )

    def _predictor(self, shapes: CrystalBatch) -> Predict:
        """Return the denoiser as a function of latents and time; conditions are left open."""
        conditions = self.model.denoiser.conditions
        sizes, layout = shapes.num_atoms, Layout.of(shapes)
        features = hidden = None
        if conditions is not None:
            features = conditions.empty(len(sizes))
            hidden = {
                name: torch.ones(len(sizes), dtype=torch.bool, device=self.device)
                for name in features
            }

        def predict(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            t = t[:1] if features is None else t  # all are at the same time
            out = self.model(z, t, sizes, features, hidden, layout)
            return out.prediction.float(), None if out.variance is None else out.variance.float()

        return predict


def _numbered(made: list[CrystalBatch], numbers: Tensor) -> FlatCrystals:
    """Join batches of the crystals ``numbers`` and put them in the order of their number."""
    flat = [batch.flatten() for batch in made]
    joined = FlatCrystals(
        atomic_numbers=torch.cat([f.atomic_numbers for f in flat]),
        frac_coords=wrap(torch.cat([f.frac_coords for f in flat])),
        lattice=torch.cat([f.lattice for f in flat]),
        num_atoms=torch.cat([f.num_atoms for f in flat]),
        targets={},
        ids=[f"sample-{i:06d}" for i in numbers.tolist()],
    )
    return joined.subset(torch.argsort(numbers))
