"""Crystals that are relaxed as soon as they are made."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pymatgen.core import Structure
from reward_helpers import mix, score
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.crystals.batch import Crystals
from chemeleon.crystals.convert import to_structures
from chemeleon.energy.potential import Evaluation, Potential
from chemeleon.energy.scales import MP2020
from chemeleon.errors import ConfigError
from chemeleon.generation.relaxation import Relaxer

REST = 3.0  # angstrom


class Springs(Potential):
    """A cubic cell of two atoms has least energy at a volume of REST^3; one with one atom fails."""

    name, version, device = "springs", "1", torch.device("cpu")

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        volume = torch.linalg.det(cells.lattice)
        strain = (volume / REST**3).log() / 3
        energies = 60.0 * strain.square()
        stress = torch.eye(3).to(volume) * (40.0 * strain / volume).view(-1, 1, 1)
        reasons = ["one atom alone" if n == 1 else None for n in cells.num_atoms.tolist()]
        return Evaluation(
            energies.masked_fill(cells.num_atoms == 1, torch.nan),
            torch.zeros_like(cells.frac_coords) if forces else None,
            stress if stresses else None,
            reasons,
        )


class Hole(Potential):
    """Pulls the two atoms of a cell into each other."""

    name, version, device = "hole", "1", torch.device("cpu")

    def evaluate(
        self, cells: Crystals, *, forces: bool = False, stresses: bool = False
    ) -> Evaluation:
        firsts = torch.cumsum(cells.num_atoms, 0) - cells.num_atoms
        between = cells.frac_coords[firsts + cells.num_atoms - 1] - cells.frac_coords[firsts]
        way = torch.einsum("mi,mij->mj", between - between.round(), cells.lattice)
        force = torch.zeros_like(cells.frac_coords)
        force.index_add_(0, firsts, 5 * way).index_add_(0, firsts + cells.num_atoms - 1, -5 * way)
        return Evaluation(
            2.5 * way.square().sum(1) * (cells.num_atoms > 1),
            force if forces else None,
            torch.zeros_like(cells.lattice) if stresses else None,
            [None] * len(firsts),
        )


def cube(edge: float, atoms: int) -> Crystals:
    return Crystals(
        atomic_numbers=torch.tensor([55, 17][:atoms]),
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]][:atoms]),
        lattice=edge * torch.eye(3)[None],
        num_atoms=torch.tensor([atoms]),
        targets={},
        ids=[str(edge)],
    )


def test_cells_go_to_their_least_energy_and_failures_stay_as_they_were():
    crystals = Crystals.join([cube(3.4, 2), cube(3.3, 1), cube(REST, 2)])
    relaxed, notes = Relaxer(Springs(), 200)(crystals)
    edges = relaxed.lattice.diagonal(dim1=1, dim2=2)
    np.testing.assert_allclose(edges[0], REST, rtol=1e-2)
    assert torch.equal(relaxed.lattice[1], crystals.lattice[1])
    np.testing.assert_allclose(edges[2], REST, rtol=1e-4)
    assert torch.equal(relaxed.atomic_numbers, crystals.atomic_numbers)
    assert torch.equal(crystals.lattice[0], 3.4 * torch.eye(3))  # what was given is not touched
    assert [note.converged for note in notes] == [True, False, True]
    assert notes[0].steps > 0 == notes[2].steps
    told = Relaxer(Springs(), 200).to_manifest(notes, ["a", "b", "c"])
    assert told["converged"] == 2
    assert told["failed"] == [{"id": "b", "reason": "one atom alone"}]
    json.dumps(told, allow_nan=False)


def test_a_crystal_that_relaxation_would_break_stays_as_given():
    broken = cube(4.0, 2)
    broken.frac_coords[1] = torch.tensor([0.05, 0, 0])
    crystals = Crystals.join([cube(3.4, 2), cube(3.3, 1), broken])
    relaxer = Relaxer(Hole(), 100)
    after, notes = relaxer(crystals)
    assert [note.taken_back for note in notes] == [True, False, False]
    assert torch.equal(after.frac_coords[:3], crystals.frac_coords[:3])
    assert not torch.equal(after.frac_coords[3:], crystals.frac_coords[3:])  # it was broken before
    assert torch.equal(after.lattice, crystals.lattice)
    assert notes[0].rmsd_angstrom == 0
    assert not notes[0].converged
    assert "relaxation would break it (atoms 0 and 1 are" in str(notes[0].reason)
    told = relaxer.to_manifest(notes, ["a", "b", "c"])
    assert told["failed"] == []
    assert told["kept_as_given"] == [{"id": "a", "reason": notes[0].reason}]
    json.dumps(told, allow_nan=False)


class KnownHole(Hole):
    energy_scale = MP2020


def test_a_reward_is_not_for_falling_into_a_hole():
    pair = cube(4.1, 2)
    pair.frac_coords[1] -= torch.tensor([0.01, 0.02, 0.005])
    options = {"potential": f"{__name__}:KnownHole", "hull": "mp", "lowest": -99, "highest": 99}
    fell, given = (
        score(mix(None, e={"reward": "energy", "options": {**options, "relax_steps": steps}}), pair)
        for steps in (100, 0)
    )
    assert fell.failed == {"e": 0}
    assert fell.facts["e_hull"] == pytest.approx(given.facts["e_hull"])


def test_an_evaluation_takes_back_what_breaks_and_idealises_what_it_then_has():
    pair = to_structures(cube(4.1, 2))[0]
    pair.translate_sites([1], [0.01, 0.02, 0.005])
    alone = to_structures(cube(3.3, 1))[0]
    report = chemeleon.evaluate(
        [pair, alone], potential=f"{__name__}:Hole", relax_steps=100, symmetrize=True
    )
    rows = report.crystals
    assert rows["relax_taken_back"].tolist() == [True, False]
    assert "would break it" in rows["reason"][0]
    assert rows["relaxed_energy_ev_per_atom"][0] == rows["energy_ev_per_atom"][0] > 0
    assert report.relaxed[0] is not None
    assert np.allclose(report.relaxed[0].frac_coords, pair.frac_coords)
    manifest = report.summary["manifest"]
    assert manifest["relax_taken_back"] == 1
    # moved along the diagonal the pair is cheaper off the middle, by far more than 5 meV/atom
    assert rows["idealised_space_group"].tolist()[1] == 221
    assert rows["idealise_refused"][0].startswith("Pm-3m refused: the energy rises by 0.")
    assert rows["idealised"].tolist() == [False, True]
    assert manifest["idealise"]["refused_a_higher_group"] == 1


def test_unfit_requests_are_refused_before_the_work():
    assert Relaxer.named("chgnet", 0) is None
    with pytest.raises(ConfigError, match="relax must be from 0 to 10,000"):
        Relaxer.named("chgnet", -1)
    with pytest.raises(ConfigError, match="needs a potential"):
        Relaxer.named("none", 5)
    with pytest.raises(ConfigError, match="did you mean 'chgnet'"):
        Relaxer.named("chgnett", 5)


def test_sampled_crystals_are_written_relaxed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "chemeleon.generation.relaxation.load_potential", lambda name, device: Springs()
    )
    words = ["sample", "-n", "3", "--steps", "10", "--num-atoms", "2"]
    raw, relaxed = tmp_path / "raw", tmp_path / "relaxed"
    assert CliRunner().invoke(app, [*words, "-o", str(raw)]).exit_code == 0
    answer = CliRunner().invoke(app, [*words, "-o", str(relaxed), "--relax", "300"])
    assert answer.exit_code == 0, answer.output
    manifest = json.loads((relaxed / "manifest.json").read_text())
    assert manifest["relaxation"]["potential"] == "springs 1"
    assert "relaxation" not in json.loads((raw / "manifest.json").read_text())
    made = chemeleon.sample(n=3, steps=10, num_atoms=[2], relax=300)
    before = chemeleon.sample(n=3, steps=10, num_atoms=[2])
    assert len(made) == len(before) == 3
    for raw_one, one in zip(before, made, strict=True):
        assert one.composition == raw_one.composition
        assert one.volume == pytest.approx(REST**3, rel=0.02)
    assert max(abs(one.volume / REST**3 - 1) for one in before) > 0.3
    written = Structure.from_file(relaxed / "cif" / "sample-000001.cif")
    assert written.volume == pytest.approx(REST**3, rel=0.02)
