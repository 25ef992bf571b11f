"""Crystals that came out badly are drawn again: which, how often, and the same in any batch."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
import yaml
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from conftest import TINY_LDM, demo_crystals
from pymatgen.core import Structure
from test_csp import csp_ldm, csp_vae  # noqa: F401
from test_orbit_models import assert_symmetric, orbit_ldm, orbit_vae  # noqa: F401
from typer.testing import CliRunner

import chemeleon
from chemeleon import api
from chemeleon.checkpoints.load import find_model
from chemeleon.cli.app import app
from chemeleon.config.schedulers import SamplerConfig
from chemeleon.crystals.batch import Crystal, Crystals
from chemeleon.crystals.convert import to_structures
from chemeleon.crystals.soundness import (
    MIN_CONTACT,
    close_contacts,
    structural_problems,
    unsound,
)
from chemeleon.data.prepare import prepare
from chemeleon.errors import ConfigError, GenerationError
from chemeleon.generation.pipeline import Pipeline
from chemeleon.generation.redraw import Drawn, Queue

FEW = SamplerConfig(steps=6, temperature=0.9)
NUMBER = 24


def redrawing(most: int) -> SamplerConfig:
    return FEW.model_copy(update={"redraw": most})


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_pretrained("shipped:de_novo", "cpu")


@pytest.fixture(scope="module")
def first(pipeline) -> Crystals:
    """Crystals as they come."""
    return pipeline.generate(NUMBER, seed=2, sampler=FEW)


def assert_close(one: Crystal, other: Crystal) -> None:
    assert one.atomic_numbers.tolist() == other.atomic_numbers.tolist()
    np.testing.assert_allclose(one.lattice, other.lattice, atol=2e-3)


def has_contact(crystal: Crystal) -> bool:
    """The same by ASE's list of neighbours."""
    atoms = ase.Atoms(
        crystal.atomic_numbers, scaled_positions=crystal.frac_coords, cell=crystal.lattice, pbc=True
    )
    first, second, distance = neighbor_list("ijd", atoms, 4.5)
    radii = covalent_radii[crystal.atomic_numbers]
    return bool((distance < MIN_CONTACT * (radii[first] + radii[second])).any())


def test_contacts_and_faults_of_a_whole_batch_are_those_of_each(first) -> None:
    crystals = Crystals.join([first, demo_crystals("val").subset(torch.arange(0, 400, 20))])
    found = close_contacts(crystals)
    assert found.tolist() == [has_contact(crystal) for crystal in crystals]
    assert 0 < found.sum() < len(found)
    lattice = crystals.lattice.clone()
    lattice[1], lattice[3] = torch.nan, 0.05 * lattice[3]
    broken = crystals.with_geometry(crystals.frac_coords, lattice)
    problems = structural_problems(broken)
    assert unsound(broken).tolist() == [problem is not None for problem in problems]
    assert problems[1] == "not finite"
    assert not close_contacts(broken)[1]


def test_bad_crystals_are_drawn_again_and_good_ones_stay(pipeline, first) -> None:
    bad = close_contacts(first) | unsound(first)
    assert 3 < bad.sum() < NUMBER - 3
    drawn = {}
    for batch in pipeline.stream(NUMBER, seed=2, sampler=redrawing(4)):
        rows = zip(batch.crystals, batch.redraws.tolist(), batch.close.tolist(), strict=True)
        drawn |= dict(zip(batch.numbers.tolist(), rows, strict=True))
    assert sorted(drawn) == list(range(NUMBER))
    for number, crystal in enumerate(first):
        new, redraws, close = drawn[number]
        assert len(new.atomic_numbers) == len(crystal.atomic_numbers)
        assert (redraws > 0) == bad[number]
        assert close == has_contact(new)
        assert not close or redraws == 4
        if redraws == 0:
            assert_close(new, crystal)
        else:
            assert not np.allclose(new.lattice, crystal.lattice, atol=0.05)
    assert sum(close for _, _, close in drawn.values()) < 0.5 * bad.sum()


def test_a_crystal_depends_on_model_seed_and_number_alone(pipeline) -> None:
    whole = list(pipeline.generate(NUMBER, seed=2, sampler=redrawing(2)))
    parts = list(pipeline.generate(NUMBER, seed=2, sampler=redrawing(2), batch_size=5))
    fewer = list(pipeline.generate(9, seed=2, sampler=redrawing(2)))
    shared = {}
    for rank in range(2):
        how = {"seed": 2, "sampler": redrawing(2), "rank": rank, "world": 2}
        for batch in pipeline.stream(NUMBER, **how):
            shared |= dict(zip(batch.numbers.tolist(), batch.crystals, strict=True))
    for number, crystal in enumerate(whole):
        assert_close(parts[number], crystal)
        assert_close(shared[number], crystal)
        if number < len(fewer):
            assert_close(fewer[number], crystal)


def test_each_draw_has_noise_of_its_own(pipeline) -> None:
    """The second draw is the same, whether there may be a third one or not."""
    once = {}
    for batch in pipeline.stream(NUMBER, seed=2, sampler=redrawing(1)):
        once |= dict(zip(batch.numbers.tolist(), batch.crystals, strict=True))
    seen = set()
    for batch in pipeline.stream(NUMBER, seed=2, sampler=redrawing(3)):
        rows = zip(batch.numbers.tolist(), batch.redraws.tolist(), batch.crystals, strict=True)
        for number, redraws, crystal in rows:
            seen.add(redraws)
            if redraws <= 1:
                assert_close(crystal, once[number])
            else:
                assert not np.allclose(crystal.lattice, once[number].lattice, atol=0.05)
    assert {0, 1, 3} <= seen


def test_what_is_known_is_drawn_again(pipeline, first, tmp_path: Path, monkeypatch) -> None:
    """Also written in another cell and in another place, and not what only has its formula."""
    monkeypatch.setenv("CHEMELEON_DATA", str(tmp_path))
    good = torch.nonzero(~(close_contacts(first) | unsound(first))).flatten().tolist()
    taken, other = good[:3], good[3]
    structures = to_structures(first)
    for number in taken:
        structures[number].translate_sites(range(len(structures[number])), [0.3, 0.1, 0.2])
    structures[taken[1]].make_supercell([1, 1, 2])
    structures[other].scale_lattice(1.8 * structures[other].volume)  # the matcher scales volumes
    structures[other].perturb(1.5)
    known = [structures[i] for i in (*taken, other)]
    prepare(known, tmp_path / "mine", (1.0, 0.0, 0.0))
    how = {"seed": 2, "sampler": redrawing(3), "new_to": "mine"}
    drawn, original = {}, list(first)
    for batch in pipeline.stream(NUMBER, **how):
        rows = zip(batch.crystals, batch.redraws.tolist(), batch.known.tolist(), strict=True)
        drawn |= dict(zip(batch.numbers.tolist(), rows, strict=True))
    assert sorted(drawn) == list(range(NUMBER))
    for number in good:
        crystal, redraws, still = drawn[number]
        assert (redraws > 0) == (number in taken)
        if not redraws:
            assert_close(crystal, original[number])
        assert not still or redraws == 3
    with_one = redrawing(1)  # whose only further draw is known, too
    again = {number: drawn[number][0] for number in taken if drawn[number][1] == 1}
    assert again
    prepare([*known, *to_structures(Crystals.of(again.values()).tensors())],
            tmp_path / "more", (1.0, 0.0, 0.0))  # fmt: skip
    still = {}
    for batch in pipeline.stream(NUMBER, seed=2, sampler=with_one, new_to=["more"]):
        still |= dict(zip(batch.numbers.tolist(), batch.known.tolist(), strict=True))
    assert [number for number in good if still[number]] == sorted(again)
    parts = list(pipeline.generate(NUMBER, **how, batch_size=5))
    for number, crystal in enumerate(parts):
        assert_close(crystal, drawn[number][0])
    with pytest.raises(GenerationError, match="redraw is 0"):
        pipeline.generate(2, new_to="mine", sampler=FEW)


def test_batches_of_a_queue_hold_every_crystal_once() -> None:
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    queue = Queue(order[:41], torch.arange(50), 2)
    seen: list[int] = []
    again = torch.tensor([3, 7, 8, 40])
    size = 12
    while len(chosen := queue.take(size)):
        assert len(chosen) <= size
        if len(seen) == 22:  # as if memory had been too small
            queue.put_back(chosen)
            size = 4
            seen.append(-1)
            continue
        assert len(queue.keys_of(chosen).unique()) == len(chosen)
        seen += chosen.tolist()
        nothing = Crystals.of([None] * len(chosen)).tensors()
        bad, redraws = torch.isin(chosen, again), queue.redraws[chosen]
        kept = queue.kept(Drawn(chosen, nothing, redraws, bad, *[torch.zeros_like(bad)] * 2))
        assert set(kept.numbers.tolist()) == set(chosen[~(bad & (redraws < 2))].tolist())
    seen = [number for number in seen if number >= 0]
    wanted = sorted([*order[:41].tolist(), *[n for n in again.tolist() if n in order[:41]] * 2])
    assert sorted(seen) == wanted


def test_the_manifest_says_how_many(tmp_path: Path) -> None:
    words = ["sample", "-n", str(NUMBER), "--steps", "6", "--seed", "2", "--format", "json"]
    counts = {}
    for most in (0, 2):
        out = tmp_path / str(most)
        done = CliRunner().invoke(app, [*words, "--redraw", str(most), "-o", str(out)])
        assert done.exit_code == 0, done.output
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["sampler"]["redraw"] == most
        rows = json.loads(gzip.decompress((out / "structures.json.gz").read_bytes()))
        written = [
            Crystal(np.array(s.atomic_numbers), s.frac_coords, s.lattice.matrix)
            for s in (Structure.from_dict(row) for row in rows)
        ]
        counts[most] = manifest, sum(map(has_contact, written))
    assert "redraw" not in counts[0][0]
    done = CliRunner().invoke(app, [*words, "--new-to", "demo", "-o", str(tmp_path / "none")])
    assert "redraw is 0" in str(done.exception)
    out = tmp_path / "new"
    more = ["--redraw", "1", "--new-to", "demo", "--new-to", "demo/val", "-o", str(out)]
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["new_to"] == ["demo", "demo/val"]
    assert manifest["redraw"]["still_known"] == 0
    told = counts[2][0]["redraw"]
    assert told["least_distance_over_radii"] == 0.75
    assert told["redrawn"] == counts[0][1] > 0
    assert told["still_close"] == counts[2][1] < counts[0][1]
    assert told["still_invalid"] == len(counts[2][0]["invalid"])
    assert told["redrawn"] <= told["redraws"] <= 2 * told["redrawn"]


def test_the_last_draw_stays(tiny_ldm, tmp_path: Path) -> None:
    """Of a model that has not learned what cells are, nothing helps."""
    how = {"steps": 3, "num_atoms": [12]}
    before = chemeleon.sample(tiny_ldm, 5, **how)
    after = chemeleon.sample(tiny_ldm, 5, redraw=3, output=tmp_path / "out", **how)
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (told["redraw"]["redrawn"], told["redraw"]["redraws"]) == (5, 15)
    assert told["redraw"]["still_invalid"] == len(told["invalid"]) == 5
    assert told["requested"] == len(after.problems) == 5
    for one, other in zip(before.structures, after.structures, strict=True):
        assert one is None or other is None or one != other


def test_a_model_may_say_it_and_the_option_goes_first(tiny_ldm, tmp_path: Path) -> None:
    shutil.copytree(tiny_ldm, tmp_path / "run")
    path = find_model(tmp_path / "run") / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["ldm"]["sampler"]["redraw"] = 2
    path.write_text(yaml.safe_dump(config))
    how = {"steps": 3, "num_atoms": [12]}
    for number, (more, most) in enumerate((({}, 2), ({"redraw": 0}, 0), ({"redraw": 1}, 1))):
        out = tmp_path / str(number)
        chemeleon.sample(tmp_path / "run", 2, output=out, **how, **more)
        told = json.loads((out / "manifest.json").read_text())
        assert told["sampler"]["redraw"] == most
        assert told.get("redraw", {"redraws": 0})["redraws"] == 2 * most
    for wrong in (-1, 101):
        with pytest.raises(ConfigError, match="redraw"):
            chemeleon.sample("runs/nowhere", 1, redraw=wrong)


def test_a_preset_carries_it(tiny_vae, tmp_path: Path) -> None:
    words = [*TINY_LDM, "trainer.max_steps=2", f"ldm.vae_ckpt_path={tiny_vae}"]
    api.ldm_train("demo/null", [*words, "ldm.sampler.redraw=3"], output=tmp_path / "run")
    assert Pipeline.from_pretrained(tmp_path / "run", "cpu").model.config.sampler.redraw == 3


def test_orbits_keep_their_group(orbit_ldm) -> None:  # noqa: F811
    pipeline = Pipeline.from_pretrained(orbit_ldm, "cpu")
    how = {"seed": 1, "space_group": [225, 221, 166, 194]}
    before = list(pipeline.generate(4, sampler=FEW, **how))
    after = list(pipeline.generate(4, sampler=redrawing(1), **how))
    for one, other, number in zip(before, after, how["space_group"], strict=True):
        assert_symmetric(other, number)
        assert not np.allclose(one.lattice, other.lattice, atol=1e-3)


def test_formulas_keep_their_atoms(csp_ldm, tmp_path: Path) -> None:  # noqa: F811
    how = {"steps": 3, "formula": ["NaCl", "KF"], "rank_by": "none"}
    made = chemeleon.sample(csp_ldm, 3, redraw=2, output=tmp_path / "out", **how)
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["redraw"]["redraws"] > 0
    for name, structure in zip(made.names, made.structures, strict=True):
        if structure is not None:
            assert structure.reduced_formula == name.split("-")[0]
