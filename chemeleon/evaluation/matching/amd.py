"""Average minimum distances of periodic crystals, written from their paper.

``AMD_k`` of a crystal is the mean, over the atoms of a cell, of the distance to the k-th nearest
neighbour, whatever the elements; the vector ``AMD_1 .. AMD_k`` does not depend on the choice of
cell and changes continuously with the atoms (Widdowson, Mosca, Pulido, Kurlin and Cooper, "Average
minimum distances of periodic point sets", MATCH 87, 529 (2022), definitions 2 and 3). Two crystals
are compared by the Chebyshev distance of their vectors.

Shapes: ``M`` crystals, ``B`` crystals of a batch, ``N`` padded atoms, ``P`` lattice points,
``K`` neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.neighbours import minkowski_reduced
from chemeleon.crystals.soundness import writable

NEIGHBOURS = 100
MAX_CANDIDATES = 5e6  # atoms seen from the atoms of one crystal; needles and flakes have more
_CANDIDATES = {"cpu": 200_000, "cuda": 100_000_000}  # of a batch, about 30 bytes each
_FIRST_TRY = 1.08  # radius beyond that of a ball which would hold K atoms at even density


def average_minimum_distances(
    crystals: Crystals, neighbours: int = NEIGHBOURS, device: torch.device | str | None = None
) -> Tensor:
    """Return the vectors of average minimum distances.

    Args:
        crystals: ``M`` crystals in any cell.
        neighbours: ``K``.
        device: where to compute; that of the crystals by default.

    Returns:
        ``(M, K)`` float64 in angstrom, on the device of the crystals; NaN for a crystal that is not
        finite, has no volume, or a cell too thin to count its neighbours.
    """
    home = crystals.num_atoms.device
    place = home if device is None else torch.device(device)
    found = torch.full((len(crystals), neighbours), torch.nan, dtype=torch.float64, device=place)
    if len(crystals) == 0:
        return found.to(home)
    moved = crystals if place == home else crystals.to(place)
    usable, lattice = _reduced(moved)
    volume = torch.linalg.det(lattice).abs()
    atoms = moved.num_atoms.double()
    # a ball of this radius holds K atoms and the one in its middle at even density
    radius = ((neighbours + 1) * volume / atoms * 3 / (4 * torch.pi)).pow(1 / 3) * _FIRST_TRY
    todo = usable.nonzero().flatten()
    while len(todo):
        later = []
        for rows in _groups(moved, lattice, radius, todo):
            mean, farthest = _distances(moved, lattice, radius, rows, neighbours)
            # what was not looked at lies beyond the radius, and K atoms were seen up to `farthest`
            done = farthest <= radius[rows]
            found[rows[done]] = mean[done]
            radius[rows] = torch.where(done, radius[rows], farthest * (1 + 1e-9))
            later.append(rows[~done])
        todo = torch.cat(later) if later else todo[:0]
    return found.to(home)


def chebyshev(one: Tensor, two: Tensor) -> Tensor:
    """Return the largest differences of vectors ``(A, K)`` and ``(B, K)``, ``(A, B)`` angstrom."""
    return torch.cdist(one, two, p=float("inf"))


def _reduced(crystals: Crystals) -> tuple[Tensor, Tensor]:
    """Return which crystals can be looked at, ``(M,)``, and their Minkowski-reduced cells."""
    usable = writable(crystals)
    identity = torch.eye(3, dtype=torch.float64, device=usable.device)
    lattice = torch.where(usable[:, None, None], crystals.lattice.double(), identity)
    return usable, minkowski_reduced(lattice)


def _reach(lattice: Tensor, radius: Tensor) -> Tensor:
    """Return the lattice planes on either side that a ball about an atom can touch, ``(B, 3)``.

    Differences of fractional coordinates lie in [-1/2, 1/2], half a plane away.
    """
    heights = 1 / torch.linalg.vector_norm(torch.linalg.inv(lattice), dim=-2)
    return torch.floor(radius.unsqueeze(-1) / heights + 0.5)


def _groups(crystals: Crystals, lattice: Tensor, radius: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """Cut rows into batches of like size and bounded memory; leave out hopeless crystals."""
    points = (2 * _reach(lattice[rows], radius[rows]) + 1).prod(-1)
    atoms = crystals.num_atoms[rows].double()
    costs = points * atoms * atoms
    order = costs.argsort()
    order = order[costs[order] <= MAX_CANDIDATES]
    rows, sizes = rows[order], torch.stack([points, atoms], -1)[order]
    limit = _CANDIDATES.get(rows.device.type, _CANDIDATES["cpu"])
    start, most, widest = 0, 0.0, 0.0
    for i, (size, width) in enumerate(sizes.tolist()):
        # padded to the largest of both, so measured by both
        most, widest = max(most, size), max(widest, width)
        if i > start and (i + 1 - start) * most * widest * widest > limit:
            yield rows[start:i]
            start, most, widest = i, size, width
    if start < len(sizes):
        yield rows[start:]


def _distances(
    crystals: Crystals, lattices: Tensor, radii: Tensor, rows: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Return mean distances ``(B, K)`` of a batch, and the largest to a K-th neighbour ``(B,)``."""
    batch = crystals.batch(rows)
    lattice, radius = lattices[rows], radii[rows]
    frac = batch.frac_coords.double() @ batch.lattice.double() @ torch.linalg.inv(lattice)
    delta = frac.unsqueeze(1) - frac.unsqueeze(2)  # (B, N, N, 3): from query to neighbour
    vectors = (delta - delta.round()) @ lattice.unsqueeze(1)
    images, lengths = _lattice_points(lattice, radius, vectors)
    size, width, _, _ = vectors.shape
    pairs = vectors.view(size, width * width, 3)
    # |v + t|^2 = |v|^2 + |t|^2 + 2 v.t
    squares = torch.baddbmm(lengths.unsqueeze(1), pairs, images.mT, alpha=2.0)
    squares += pairs.square().sum(-1, keepdim=True)
    squares = squares.view(size, width, width, -1)
    squares.masked_fill_(~batch.mask[:, None, :, None], torch.inf)
    squares.diagonal(dim1=1, dim2=2)[:, 0] = torch.inf  # an atom is not its own neighbour
    squares = squares.view(size, width, -1)
    short = max(0, neighbours - squares.shape[-1])
    squares = torch.nn.functional.pad(squares, (0, short), value=torch.inf)
    nearest = squares.topk(neighbours, dim=-1, largest=False).values.clamp_min_(0).sqrt_()
    nearest = nearest.masked_fill(~batch.mask.unsqueeze(-1), 0)
    farthest = nearest[:, :, -1].amax(-1)
    mean = nearest.sum(1) / batch.num_atoms.unsqueeze(-1)
    # too few atoms in sight: look twice as far
    return mean, torch.where(torch.isfinite(farthest), farthest, 2 * radius)


def _lattice_points(lattice: Tensor, radius: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return lattice points ``(B, P, 3)`` that can matter, the origin first, and their squares.

    A neighbour at ``v + t`` within the radius has ``|t|`` of at most the radius and ``|v|``.
    """
    reach = _reach(lattice, radius)
    most = reach.amax(0).tolist()
    axes = [torch.arange(-m, m + 1, dtype=lattice.dtype, device=lattice.device) for m in most]
    steps = torch.cartesian_prod(*axes)  # (P, 3)
    points = steps @ lattice
    squares = points.square().sum(-1)
    limit = (radius + torch.linalg.vector_norm(vectors, dim=-1).flatten(1).amax(-1)).square()
    outside = (squares > limit.unsqueeze(-1)) | (steps.abs() > reach.unsqueeze(1)).any(-1)
    kept = int((~outside).sum(-1).amax())
    squares, order = squares.masked_fill_(outside, torch.inf).topk(kept, dim=-1, largest=False)
    points = torch.take_along_dim(points, order.unsqueeze(-1), dim=1)
    return points, squares
