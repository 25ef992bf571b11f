"""Any ASE calculator as a potential, one crystal after the other."""

from __future__ import annotations

from typing import Any

import torch

from chemeleon.crystals.batch import Crystals
from chemeleon.energy.potential import Evaluation, Potential, empty_evaluation
from chemeleon.energy.scales import stated_scale


class ASEPotential(Potential):
    """Energies of an ASE calculator.

    Args:
        calculator: an ASE calculator; it is used for every crystal in turn.
        name: for messages and manifests.
        version: for manifests.
        device: where the calculator computes.
        energy_scale: one of `scales.SCALES`; by default what the calculator states.
    """

    def __init__(
        self,
        calculator: Any,
        name: str,
        version: str,
        device: torch.device,
        energy_scale: str | None = None,
    ) -> None:
        self.calculator = calculator
        self.name, self.version, self.device = name, version, device
        self.energy_scale = energy_scale or stated_scale(calculator, name)

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        """Evaluate each crystal; what the calculator raises becomes the crystal's reason."""
        from ase import Atoms

        found = empty_evaluation(cells, forces, stresses)
        for i, (numbers, frac, lattice) in enumerate(cells):
            atoms: Any = Atoms(numbers, cell=lattice, pbc=True)
            atoms.set_scaled_positions(frac)
            atoms.calc = self.calculator
            try:
                energy = float(atoms.get_potential_energy())
                force = atoms.get_forces() if forces else None
                stress = atoms.get_stress(voigt=False) if stresses else None
            except Exception as error:  # calculators raise anything
                text = " ".join(str(error).split())[:200]
                found.reasons[i] = f"{self.name}: {type(error).__name__}: {text}"
                continue
            found.energies[i] = energy
            if found.forces is not None:
                found.forces[cells.owners == i] = torch.as_tensor(force).to(found.forces)
            if found.stresses is not None:
                found.stresses[i] = torch.as_tensor(stress)
        return found
