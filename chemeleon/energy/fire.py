"""FIRE for many crystals at once, positions and cells together.

Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), with ASE's constants; each crystal has its own
time step. The cell enters through its deformation F, as in ASE's `UnitCellFilter` (Tadmor et al.,
Phys. Rev. B 59, 235 (1999)): lattice = start F^T and positions = p F^T, so the generalised
coordinates are p and n F, with n the number of atoms; their forces are f F and -V s F^-T / n.

Shapes: ``M`` crystals, ``A`` atoms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.ragged import ranges
from chemeleon.energy.potential import Potential

START_STEP, MAX_STEP, MAX_MOVE = 0.1, 1.0, 0.2  # dt, its bound, angstrom per step of a crystal
GROW, SHRINK, PATIENCE = 1.1, 0.5, 5
START_MIXING, MIXING_DECAY = 0.1, 0.99


class Walk(NamedTuple):
    """Where the crystals got.

    Attributes:
        cells: the last geometry, coordinates not wrapped, so that they can be compared.
        energies: ``(S + 1, M)`` float64, eV of the whole cell after each step; NaN after the last
            of a crystal.
        steps: ``(M,)`` int64 steps taken.
        fmax: ``(M,)`` float64, largest generalised force at the last geometry, eV/angstrom.
        reasons: for each crystal None, or why it left the walk.
    """

    cells: Crystals
    energies: Tensor
    steps: Tensor
    fmax: Tensor
    reasons: list[str | None]


class _State(NamedTuple):
    """The crystals that still move, and how; ``atoms`` rows first, then ``crystals`` rows."""

    crystals: Tensor  # rows of the whole
    start: Tensor  # (M, 3, 3) lattices at F = 1
    deformation: Tensor  # (M, 3, 3) F
    velocity: Tensor  # (A, 3)
    cell_velocity: Tensor  # (M, 3, 3)
    dt: Tensor  # (M,)
    mixing: Tensor  # (M,)
    downhill: Tensor  # (M,) steps since the last uphill one

    def subset(self, kept: Tensor, atoms: Tensor) -> _State:
        parts = [part[kept] for part in self]
        parts[3] = self.velocity[atoms]
        return _State(*parts)


def walk(
    cells: Crystals, potential: Potential, steps: int, fmax: float, relax_cell: bool = True
) -> Walk:
    """Relax crystals; those that converge or fail leave the batch.

    Args:
        cells: crystals that `usable.check` finds nothing wrong with.
        potential: gives forces and stresses.
        steps: most steps.
        fmax: largest generalised force at which a crystal is converged, eV/angstrom.
        relax_cell: False keeps the lattices.
    """
    count, device = len(cells.num_atoms), cells.device
    whole = cells.with_geometry(cells.frac_coords.clone(), cells.lattice.clone())
    energies: list[Tensor] = []  # of each step: few take as many as they may
    taken = torch.zeros_like(cells.num_atoms)
    largest = torch.full_like(cells.lattice[:, 0, 0], torch.nan)
    reasons: list[str | None] = [None] * count
    state, now = _begin(cells), whole
    for step in range(steps + 1):
        if not len(state.crystals):
            break
        found = potential.evaluate(now, forces=True, stresses=relax_cell)
        assert found.forces is not None
        force, cell_force = _generalised(now, state, found.forces, found.stresses)
        size = _largest(now, force, cell_force)
        good = torch.isfinite(size) & torch.isfinite(found.energies)
        rows = state.crystals
        energies.append(torch.full((count,), torch.nan, dtype=torch.float64, device=device))
        energies[-1][rows] = found.energies
        taken[rows], largest[rows] = step, size
        flags = torch.stack([good, good & (size > fmax)], 1)
        for i, fine in zip(rows.tolist(), flags[:, 0].tolist(), strict=True):
            if not fine:
                reasons[i] = "the potential gave no finite forces"
        for i, reason in zip(rows.tolist(), found.reasons, strict=True):
            reasons[i] = reason or reasons[i]
        if step == steps:
            break
        moving = torch.nonzero(flags[:, 1]).flatten()
        if len(moving) < len(rows):
            atoms = ranges(now.starts[moving], now.num_atoms[moving])
            state, now = state.subset(moving, atoms), now.subset(moving)
            force, cell_force = force[atoms], cell_force[moving]
        state, now = _step(now, state, force, cell_force)
        atoms = ranges(cells.starts[state.crystals], now.num_atoms)
        whole.frac_coords[atoms] = now.frac_coords
        whole.lattice[state.crystals] = now.lattice
    table = torch.stack(energies) if energies else whole.lattice.new_empty((0, count))
    return Walk(whole, table, taken, largest, reasons)


def _begin(cells: Crystals) -> _State:
    lattice = cells.lattice
    ones = torch.ones_like(lattice[:, 0, 0])
    return _State(
        torch.arange(len(lattice), device=lattice.device),
        lattice.clone(),
        torch.eye(3, dtype=lattice.dtype, device=lattice.device).expand_as(lattice).clone(),
        torch.zeros_like(cells.frac_coords),
        torch.zeros_like(lattice),
        START_STEP * ones,
        START_MIXING * ones,
        torch.zeros_like(cells.num_atoms),
    )


def _generalised(
    cells: Crystals, state: _State, forces: Tensor, stresses: Tensor | None
) -> tuple[Tensor, Tensor]:
    force = torch.einsum("ai,aij->aj", forces, state.deformation[cells.owners])
    if stresses is None:
        return force, torch.zeros_like(cells.lattice)
    virial = -cells.volume[:, None, None] * stresses
    inverse = torch.linalg.inv_ex(state.deformation).inverse  # a collapsed cell must not raise
    return force, virial @ inverse.transpose(1, 2) / cells.num_atoms[:, None, None]


def _largest(cells: Crystals, force: Tensor, cell_force: Tensor) -> Tensor:
    """Return ``(M,)`` the largest norm of a row; NaN if anything is."""
    norms = torch.linalg.vector_norm(force, dim=1)
    start = torch.linalg.vector_norm(cell_force, dim=2).amax(1)
    return start.scatter_reduce(0, cells.owners, norms, "amax")


def _dots(cells: Crystals, a: Tensor, b: Tensor, cell_a: Tensor, cell_b: Tensor) -> Tensor:
    """Return ``(M,)`` scalar products over all coordinates of each crystal."""
    products = (cell_a * cell_b).sum((1, 2))
    return products.index_add(0, cells.owners, (a * b).sum(1))


def _step(
    cells: Crystals, state: _State, force: Tensor, cell_force: Tensor
) -> tuple[_State, Crystals]:
    """Take one step of every crystal."""
    owners, v, w = cells.owners, state.velocity, state.cell_velocity
    downhill = _dots(cells, force, v, cell_force, w) > 0
    squares = _dots(cells, force, force, cell_force, cell_force).clamp(min=1e-60)
    ratio = _dots(cells, v, v, w, w) / squares
    keep = torch.where(downhill, 1 - state.mixing, 0.0)
    turn = torch.where(downhill, state.mixing * ratio.sqrt(), 0.0)
    faster = downhill & (state.downhill > PATIENCE)
    dt = torch.where(faster, (state.dt * GROW).clamp(max=MAX_STEP), state.dt)
    dt = torch.where(downhill, dt, state.dt * SHRINK)
    # the first step starts from rest, which is no step uphill
    dt = torch.where((ratio == 0) & (state.downhill == 0), state.dt, dt)
    mixing = torch.where(faster, state.mixing * MIXING_DECAY, state.mixing)
    mixing = torch.where(downhill, mixing, START_MIXING)
    v = keep[owners, None] * v + (turn + dt)[owners, None] * force
    w = keep[:, None, None] * w + (turn + dt)[:, None, None] * cell_force
    move, cell_move = dt[owners, None] * v, dt[:, None, None] * w
    length = _dots(cells, move, move, cell_move, cell_move).sqrt()
    factor = (MAX_MOVE / length.clamp(min=1e-30)).clamp(max=1.0)
    move = factor[owners, None] * move
    cell_move = factor[:, None, None] * cell_move

    # positions p = x F^-T are fractional coordinates times the starting lattice
    inverse = torch.linalg.inv_ex(state.start).inverse
    frac = cells.frac_coords + torch.einsum("ai,aij->aj", move, inverse[owners])
    deformation = state.deformation + cell_move / cells.num_atoms[:, None, None]
    lattice = state.start @ deformation.transpose(1, 2)
    downs = torch.where(downhill, state.downhill + 1, 0)
    moved = state._replace(
        deformation=deformation, velocity=v, cell_velocity=w, dt=dt, mixing=mixing, downhill=downs
    )
    return moved, cells.with_geometry(frac, lattice)
