"""How far apart atoms are in the periodic crystal, as smooth features of pairs.

Shapes: ``B`` crystals, ``N`` padded atoms, ``I`` images of an atom, ``K`` radial functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from chemeleon.crystals.batch import CrystalBatch

# A fixed number of images keeps shapes independent of the data. These are all within 5 angstrom for
# nearly every reduced cell; of the smallest ones, the nearest two shells at least.
REACH = 3  # lattice translations of up to this many cells along each axis are looked at,
TRANSLATIONS = 125  # the shortest of them are tried for each pair of atoms,
IMAGES = 32  # and the nearest images of each pair are kept


class PairFeatures(nn.Module):
    """What atom i sees of the periodic images of atom j, ``(B, N, N, K)``.

    ``sum over images of sin(k pi d / cutoff) * f(d)`` for k = 1 .. K, with the cosine cutoff ``f``
    of Behler (2011, doi:10.1063/1.3553717): a Fourier series of the images' density along the
    distance d. Rotations and lattice translations change nothing, and shapes do not depend on data.
    """

    steps: Tensor

    def __init__(self, cutoff_angstrom: float, functions: int) -> None:
        super().__init__()
        self.cutoff, self.functions = cutoff_angstrom, functions
        # not in the file of weights, so it must exist where the rest is only outlined (meta)
        axis = torch.arange(-REACH, REACH + 1, dtype=torch.float32, device="cpu")
        steps = torch.cartesian_prod(axis, axis, axis)
        self.register_buffer("steps", steps, persistent=False)

    @torch.no_grad()
    def forward(self, batch: CrystalBatch) -> Tensor:
        """Return float32 features; 0 where either atom is padding, and for an atom with itself."""
        with torch.autocast(batch.device.type, enabled=False):  # bf16 has no digits for distances
            distance = self._distances(batch.frac_coords.float(), batch.lattice.float())
            angle = distance.clamp_max(self.cutoff) * (math.pi / self.cutoff)
            twice_cosine = 2 * torch.cos(angle)
            near = 0.5 + 0.25 * twice_cosine
            # sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x): two sines instead of K; at
            # distance 0 all of them vanish, so an atom is no neighbour of itself
            before, now = torch.zeros_like(angle), torch.sin(angle) * near
            sums = [now.sum(-1)]
            for _ in range(self.functions - 1):
                before, now = now, twice_cosine * now - before
                sums.append(now.sum(-1))
            real = batch.mask.unsqueeze(1) & batch.mask.unsqueeze(2)
            return torch.stack(sums, dim=-1) * real.unsqueeze(-1)

    def _distances(self, frac: Tensor, cell: Tensor) -> Tensor:
        """Return distances of atom i to the nearest images of atom j, ``(B, N, N, I)``."""
        delta = frac.unsqueeze(1) - frac.unsqueeze(2)
        delta = times(delta - delta.round(), cell[:, None, None])
        translations = times(self.steps, cell.unsqueeze(1))
        shortest = translations.square().sum(-1).topk(TRANSLATIONS, largest=False).indices
        images = translations.gather(1, shortest.unsqueeze(-1).expand(-1, -1, 3))
        squares = torch.zeros((), device=cell.device)
        for axis in range(3):  # one at a time: no (B, N, N, TRANSLATIONS, 3)
            along = delta[..., axis].unsqueeze(-1) + images[:, None, None, :, axis]
            squares = squares + along.square()
        # distances alone are kept, so it does not matter which of equally near images are
        return squares.topk(IMAGES, largest=False, sorted=False).values.sqrt()


def times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply ``(..., 3)`` by ``(..., 3, 3)`` in full float32; a GPU's matrix product has TF32."""
    return (rows.unsqueeze(-1) * matrix).sum(-2)
