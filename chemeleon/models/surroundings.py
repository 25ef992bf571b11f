"""What a token sees around it in an estimate of the crystal: all atoms, symmetry images included.

Latents say where atoms are, but how far two of them are apart follows from the cell and, for models
on orbits, from the operations of 230 space groups. Here the estimate is decoded and its atoms are
put in their places, so that the denoiser need not know all that by heart.

Shapes: ``B`` crystals, ``N`` padded tokens (atoms, or orbits), ``K`` of them that are looked from,
``A`` padded atoms of the primitive cell, ``T`` lattice translations, ``F`` features of a pair of
tokens, ``E`` classes of elements.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.config.architecture import DenoiserConfig
from chemeleon.crystals.batch import LETTERS, CrystalBatch, Crystals
from chemeleon.crystals.symbols import SPACE_GROUPS
from chemeleon.crystals.wyckoff import group
from chemeleon.models.elements import CLASSES
from chemeleon.models.heads import GraphBlock
from chemeleon.models.layers import zero_linear
from chemeleon.models.neighbours import times
from chemeleon.models.packing import Layout
from chemeleon.models.vae import CrystalVAE

IMAGES = 8_834  # atoms of all sites of all space groups, and one of a padded token
SHELLS = 16  # Gaussians of the distance: from FIRST angstrom on, STEP apart and as wide
FIRST, STEP = 0.6, 0.3
DIRECTED = 8  # of them, the nearest also say in which direction
FEATURES = SHELLS + 3 * DIRECTED
_PARTS = 24  # shifts of operations are multiples of 1/24; whole numbers are exact in bf16
_ITSELF = 1e6  # added to the square of an atom's distance to itself
_NEAREST = 0.1  # angstrom; directions of what is nearer are not told


class Surroundings(NamedTuple):
    """What is estimated of crystals.

    Attributes:
        types: ``(B, N, E)`` how likely each token is of each element.
        pairs: ``(B, N, N, F)`` where the atoms of the second token are, seen from the first.
        known: ``(B,)`` crystals that there is an estimate of; what is said of others is not meant.
    """

    types: Tensor
    pairs: Tensor
    known: Tensor


class _Atoms(NamedTuple):
    """``coords (B, A, 3)`` in the primitive cell ``(B, 3, 3)``, the token that each belongs to and
    its number among the images of that token ``(B, A)``, and which there are ``(B, A)``."""

    coords: Tensor
    token: Tensor
    image: Tensor
    real: Tensor


class Shells(nn.Module):
    """Sorts the images of atoms by how far from a token they are."""

    worth_compiling = True  # fifty sums over the same distances, which then are written nowhere

    def forward(self, way: Tensor, moves: Tensor, itself: Tensor) -> Tensor:
        """Return of each shell the number of images in it, then the sums of unit vectors to them.

        Args:
            way: ``(K, A, 3)`` from a token to an atom of its cell, in angstrom.
            moves: ``(K, T, 3)`` lattice translations.
            itself: ``(K, A)`` where the atom is that token's own.

        Returns:
            ``(K, A, F)``.
        """
        square = torch.zeros((), device=way.device)
        for axis in range(3):  # one at a time: no (K, A, T, 3)
            along = way[..., axis].unsqueeze(-1) + moves[:, None, :, axis]
            square = square + along.square()
        unmoved = torch.arange(moves.shape[1], device=way.device) == moves.shape[1] // 2
        square = square + (itself.unsqueeze(-1) & unmoved) * _ITSELF
        distance = square.clamp_min(1e-12).sqrt()
        counts, directions = [], []
        for shell, near in enumerate(_shells(distance)):
            counts.append(near.sum(-1))
            if shell < DIRECTED:
                near = near / distance.clamp_min(_NEAREST)
                directions.append(way * near.sum(-1, keepdim=True) + _moved(near, moves))
        return torch.cat([torch.stack(counts, -1), *directions], -1)


class Unfolding(nn.Module):
    """Turns decoded latents into the atoms of the primitive cell, and these into `Surroundings`."""

    steps: Tensor
    largest: Tensor
    counts: Tensor
    images: Tensor
    primitive: Tensor
    inverse: Tensor

    def __init__(self, tokens: str, most_atoms: int = 20) -> None:
        """Prepare.

        Args:
            tokens: of the VAE.
            most_atoms: ``A``; others of a larger estimate are left out. `fit` sets it.
        """
        super().__init__()
        self.register_buffer("largest", torch.tensor(float(most_atoms)))
        self._most: int | None = None  # of `largest`, which may be on a GPU that is not to wait
        # not in the file of weights, so it must exist where the rest is only outlined (meta)
        axis = torch.arange(-1, 2, dtype=torch.float32, device="cpu")
        self.register_buffer("steps", torch.cartesian_prod(axis, axis, axis), persistent=False)
        self.shells = Shells()
        self.orbits = tokens == "orbits"
        if self.orbits:
            self.register_buffer("counts", torch.zeros((SPACE_GROUPS + 1) * LETTERS))
            self.register_buffer("images", torch.zeros(IMAGES, 12))
            self.register_buffer("primitive", torch.zeros(SPACE_GROUPS + 1, 9))
            self.register_buffer("inverse", torch.zeros(SPACE_GROUPS + 1, 9))
            if not self.counts.is_meta:
                self._fill()

    def _fill(self) -> None:
        self.counts[0] = 1  # of padded tokens
        self.primitive[0], self.inverse[0] = torch.eye(3).flatten() * _PARTS, torch.eye(3).flatten()
        rows, shifts = [torch.eye(3).view(1, 9)], [torch.zeros(1, 3)]
        for number in range(1, SPACE_GROUPS + 1):
            table = group(number)
            self.primitive[number] = torch.from_numpy(table.primitive).flatten() * _PARTS
            self.inverse[number] = torch.from_numpy(table.primitive).inverse().flatten()
            for letter, place in enumerate(table.places):
                rows.append(torch.from_numpy(place.images.rotations).flatten(1))
                shifts.append(torch.from_numpy(place.images.shifts) * _PARTS)
                self.counts[number * LETTERS + letter] = len(place.images.shifts)
        self.images.copy_(torch.cat([torch.cat(rows), torch.cat(shifts)], 1).round())
        self.primitive.round_()
        self.inverse.round_()

    @property
    def most_atoms(self) -> int:
        """Atoms of an estimate that are seen, ``A``."""
        if self._most is None:
            self._most = int(self.largest)
        return self._most

    def fit(self, train: Crystals) -> None:
        """See as many atoms as the largest primitive cell of training crystals has."""
        most = train.num_atoms.max()
        if train.sites is not None:
            sizes = self.counts.to(train.sites.device)[train.sites]
            most = torch.bincount(train.owners, sizes).max()
        # rounded up to what bf16 holds exactly
        self.largest.fill_(-(-int(most) // 4) * 4)
        self._most = None

    def sound(self, most: int) -> bool:
        """Tell whether the numbers of a file can be worked with.

        Args:
            most: atoms of a cell.
        """
        if not 0 < float(self.largest) < most + 4:
            return False
        if not self.orbits:
            return True
        tables = self.images, self.primitive, self.inverse
        counted = (self.counts >= 0).all() and float(self.counts.sum()) == IMAGES
        return bool(counted and all(table.isfinite().all() for table in tables))

    @torch.no_grad()
    def forward(
        self,
        vae: CrystalVAE,
        z: Tensor,
        batch: CrystalBatch,
        known: Tensor,
    ) -> Surroundings:
        """Look around in the crystals that latents stand for.

        Args:
            vae: that decodes them.
            z: ``(B, N, L)`` latents.
            batch: sizes, and what else the decoder is told; of packed ones its tokens look around.
            known: ``(B,)``, see `Surroundings`.
        """
        decoded = vae.decode(z, batch)
        with torch.autocast(z.device.type, enabled=False):  # bf16 has no digits for distances
            if decoded.type_logits is None:
                types = F.one_hot(batch.atomic_numbers, CLASSES).float()
            else:
                types = decoded.type_logits.float().softmax(-1)
            if decoded.letter_logits is not None and batch.sites is not None:
                letters = decoded.letter_logits.argmax(-1)
                sites = (batch.sites // LETTERS * LETTERS + letters) * batch.mask
                batch = replace(batch, sites=sites, check=False)
            coords, cell = vae.geometry(decoded, batch)
            pairs = self.pairs(coords, cell, batch.sites, batch.mask, batch.tokens)
        return Surroundings(types, pairs * known.view(-1, 1, 1, 1), known)

    def pairs(
        self,
        coords: Tensor,
        cell: Tensor,
        sites: Tensor | None,
        mask: Tensor,
        slots: Tensor | None = None,
    ) -> Tensor:
        """Return what tokens see of each other, ``(B, N, N, F)``; 0 on padded slots.

        Of each shell the number of atoms in it, then the sums of the unit vectors to them.

        Args:
            coords: ``(B, N, 3)`` fractional, of one atom of each token.
            cell: ``(B, 3, 3)`` to which they refer, in angstrom.
            sites: ``(B, N)`` of orbits, whose atoms the coordinates need not be moved onto; None
                where tokens are atoms.
            mask: ``(B, N)`` real tokens.
            slots: ``(K,)`` that look around, see `CrystalBatch.tokens`; all if not given.
        """
        size, width = mask.shape
        places = torch.arange(width, device=mask.device)
        if sites is None:
            tokens = places.expand_as(mask)
            atoms = _Atoms(coords, tokens, torch.zeros_like(tokens), mask)
        else:
            coords, cell, atoms = self._unfolded(coords, cell, sites, mask)
        if slots is None:
            slots = torch.arange(size * width, device=mask.device)
        crystal = slots // width
        # from here on there are K tokens in place of the B N slots
        way = atoms.coords[crystal] - coords.flatten(0, 1)[slots].unsqueeze(1)
        way = times(way - way.round(), cell[crystal].unsqueeze(1))  # (K, A, 3)
        moves = times(self.steps, cell.unsqueeze(1))[crystal]  # (K, T, 3)
        itself = (atoms.token[crystal] == (slots % width).unsqueeze(1)) & (
            atoms.image[crystal] == 0
        )
        seen = self.shells(way, moves, itself)
        owners = (atoms.token.unsqueeze(1) == places.view(1, -1, 1)) & atoms.real.unsqueeze(1)
        owners = (owners & mask.unsqueeze(-1)).to(seen.dtype)  # (B, N, A)
        seen = (owners[crystal] @ seen) * mask.flatten()[slots].view(-1, 1, 1)
        whole = seen.new_zeros(size * width, width, FEATURES).index_copy(0, slots, seen)
        return whole.view(size, width, width, FEATURES)

    def _unfolded(
        self, coords: Tensor, cell: Tensor, sites: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, _Atoms]:
        """Return coordinates ``(B, N, 3)`` in the primitive cell, that cell, and its atoms."""
        number = sites[:, 0] // LETTERS
        primitive = self.primitive[number].view(-1, 3, 3).float() / _PARTS
        inverse = self.inverse[number].view(-1, 1, 3, 3).float()
        counts = self.counts.long()
        first = counts.cumsum(0) - counts
        sizes = counts[sites] * mask
        ends = sizes.cumsum(1)
        places = torch.arange(self.most_atoms, device=mask.device).expand(len(mask), -1)
        token = torch.searchsorted(ends, places.contiguous(), right=True)
        token = token.clamp_max(mask.shape[1] - 1)
        image = places - (ends - sizes).gather(1, token)
        real = places < ends[:, -1:]
        image = image * real
        maps = self.images[first[sites].gather(1, token) + image].float()
        own = coords.gather(1, token.unsqueeze(-1).expand(-1, -1, 3))
        moved = times(own, maps[..., :9].unflatten(-1, (3, 3)).mT) + maps[..., 9:] / _PARTS
        atoms = _Atoms(times(moved, inverse), token, image, real)
        return times(coords, inverse), times(primitive, cell.unsqueeze(1)), atoms


class Looking(nn.Module):
    """What tokens see of an estimate, as something to add to them."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = config.width
        self.types = nn.Linear(CLASSES, width, bias=False)
        self.pairs = nn.Linear(FEATURES, SHELLS, bias=False)  # 0 of padding stays 0
        self.layers = nn.ModuleList(
            GraphBlock(width, config.heads, SHELLS, config.dropout)
            for _ in range(config.neighbour_layers)
        )
        self.out = zero_linear(width, width)

    def forward(self, x: Tensor, seen: Surroundings, layout: Layout) -> Tensor:
        """Return something of the form of ``x``, 0 for crystals without an estimate.

        Args:
            x: ``(B, N, D)`` or ``(T, D)`` tokens, with the time.
            seen: what is around them.
            layout: how tokens belong to crystals.
        """
        pairs = F.silu(self.pairs(seen.pairs))
        x = x + self.types(layout.pack(seen.types))
        for layer in self.layers:
            x = layer(x, pairs, layout)
        return self.out(x) * layout.spread(seen.known.to(x.dtype).unsqueeze(-1))


def _moved(near: Tensor, moves: Tensor) -> Tensor:
    """Return ``near (K, A, T) @ moves (K, T, 3)``."""
    if not torch.compiler.is_compiling():
        return near @ moves
    # sums can be fused with what else is made of `near`, a product cannot
    return torch.stack([(near * moves[:, None, :, axis]).sum(-1) for axis in range(3)], -1)


def _shells(distance: Tensor) -> list[Tensor]:
    """Return how much distances belong to each shell, from 0 to 1.

    That is ``exp(-(distance - FIRST - STEP k)^2 / (2 STEP^2))``; the ratio of one shell to the next
    follows from a single exponential, and from the middle one on nothing underflows.
    """
    middle = SHELLS // 2
    place = ((distance - FIRST) / STEP).clamp_max(SHELLS + 3) - middle
    found = {middle: torch.exp(-0.5 * place.square())}
    ratio = torch.exp(place)
    for shell in range(middle + 1, SHELLS):
        found[shell] = found[shell - 1] * (ratio * math.exp(middle - shell + 0.5))
    inverse = ratio.reciprocal()
    for shell in range(middle - 1, -1, -1):
        found[shell] = found[shell + 1] * (inverse * math.exp(shell - middle + 0.5))
    return [found[shell] for shell in range(SHELLS)]
