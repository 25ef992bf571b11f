"""What the report of a run warns of: made-up rollouts, through the notes that a run takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rl_helpers import Scores

from chemeleon.config.rl import RewardConfig
from chemeleon.crystals.batch import Crystals
from chemeleon.reinforcement.cautions import cautions
from chemeleon.reinforcement.notes import Notes

ANYWHERE = torch.tensor([[0.0, 0.0, 0.0], [0.11, 0.23, 0.37], [0.42, 0.71, 0.65]])
SALTS = [(11, 17), (19, 35), (37, 53), (3, 9), (55, 17)]  # NaCl, KBr, RbI, LiF, CsCl


class Made(NamedTuple):
    """A made-up crystal: atoms of a cube of 6 angstrom, and its energy above hull."""

    elements: Sequence[int]
    symmetric: bool = True
    e_hull: float = 0.05


def rollout(made: Sequence[Made]) -> tuple[Crystals, Scores]:
    numbers, places = [], []
    for crystal in made:
        count = len(crystal.elements)
        numbers += crystal.elements
        line = torch.arange(count).unsqueeze(1).expand(-1, 3) / count
        places.append(line if crystal.symmetric else ANYWHERE[:count])
    count = torch.tensor([len(crystal.elements) for crystal in made])
    lattice = (6 * torch.eye(3)).expand(len(made), 3, 3)
    crystals = Crystals(torch.tensor(numbers), torch.cat(places), lattice, count, {}, [])
    above = torch.tensor([crystal.e_hull for crystal in made])
    reward = {"energy": -above}
    return crystals, Scores(-above, reward, {"energy": 0}, {"e_hull": above}, {"energy": 0.0})


def run(folder: Path, *updates: Sequence[Made], every: int = 1) -> list[dict[str, Any]]:
    """Return the lines of metrics of a run that made these crystals."""
    notes = Notes({"energy": RewardConfig(reward="energy")}, folder, resume=False)
    rows = []
    for number, made in enumerate(updates):
        notes.take(*rollout(made), symmetry=number % every == 0)
        rows.append(notes.summary())
    return rows


BASE = [Made(pair) for pair in SALTS for _ in range(2)]
FORMULAS = [*[Made((11, 17))] * 5, *BASE[:5]]


def worse(change: int, **other: Any) -> list[Made]:
    """Return the base's crystals, of which the first so many are others."""
    return [crystal._replace(**other) for crystal in BASE[:change]] + BASE[change:]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (BASE, []),
        # energies: five of ten are not more than half
        (worse(5, e_hull=0.0), []),
        (worse(6, e_hull=0.0), ["too stable", "60 % of them lie on the hull or below"]),
        (worse(4, e_hull=-0.2), ["too stable", "mean energy is 0.05 eV/atom below the hull"]),
        # symmetry: beside none of the base's ten one more is chance
        (worse(1, symmetric=False), []),
        (worse(2, symmetric=False), ["20 % of the last crystals have no symmetry", "0 % of the"]),
        # elements: a fifth of the atoms, then all, in crystals of one formula
        (worse(3, elements=(79, 17)), []),
        (worse(5, elements=(79, 17)), ["40 % of the atoms became other elements (more Au, Cl)"]),
        (
            worse(10, elements=(79, 47, 29)),
            ["Formulas repeat", "have 10 different formulas per 100", "was made 10 times",
             "100 % of the atoms became other elements (more Ag, Au, Cu)",
             "off by 1.0 (3.0 on average, the base model's 2.0)"],
        ),
    ],
)  # fmt: skip
def test_each_caution_comes_when_it_should(tmp_path, made, said):
    found = " ".join(cautions(run(tmp_path, BASE, BASE, *[made] * 3)))
    assert bool(found) == bool(said), found
    for text in said:
        assert text in found


def test_cautions_are_alone_where_one_thing_is_wrong(tmp_path):
    kinds = {
        "too stable": worse(10, e_hull=-0.1),
        "Symmetry gets lost": worse(10, symmetric=False),
        "drifted": [Made((*pair, 8)) for pair in SALTS for _ in range(2)],
    }
    for word, made in kinds.items():
        found = cautions(run(tmp_path, BASE, BASE, *[made] * 3))
        assert len(found) == 1
        assert word in found[0]


def test_compositions_that_are_given_neither_repeat_nor_drift(tmp_path):
    """For csp the formulas of a group are those that were requested, anew for each update."""
    assert cautions(run(tmp_path, FORMULAS, FORMULAS, FORMULAS, FORMULAS)) == []
    others = [[Made((79, 47, 29))] * 10] * 3
    rows = run(tmp_path, BASE, BASE, *others)
    assert len(cautions(rows)) == 2
    assert cautions(rows, compositions_given=True) == []
    rows = run(tmp_path, BASE, BASE, *[worse(10, symmetric=False, e_hull=-0.1)] * 3)
    assert len(cautions(rows, compositions_given=True)) == 2


def test_small_rollouts_drift_by_chance(tmp_path):
    """What the second rollout is away from the first one has not been learned."""
    half = [Made((11, 17)), Made((19, 35)), Made((37, 53)), Made((3, 9))]
    other = [*half[:2], Made((55, 17)), Made((3, 53))]
    moved = run(tmp_path, half, *[other] * 4)
    assert moved[1]["rollout/element_drift"] == moved[-1]["rollout/element_drift"] == 0.25
    assert cautions(moved) == []
    far = [Made((79, 47))] + [Made((z, 29)) for z in (30, 31, 49)]
    learned = cautions(run(tmp_path, half, other, *[far] * 3))
    assert len(learned) == 1
    assert "100 % of the atoms" in learned[0]
    # where chance is all there is, nothing is said
    assert cautions(run(tmp_path, half, *[far] * 4)) == []
    # so with numbers of elements
    three = [Made((*crystal.elements, 8)) for crystal in half]
    few = run(tmp_path, half, [*half[:2], *three[2:]], *[[half[0], *three[1:]]] * 3)
    assert few[-1]["rollout/num_elements_distance"] == 0.75
    assert cautions(few) == []
    many = run(tmp_path, half, half, *[[half[0], *three[1:]]] * 3)
    assert "off by 0.8 (2.8 on average" in " ".join(cautions(many))


def test_one_update_says_nothing_of_change_and_none_nothing(tmp_path):
    assert cautions([]) == []
    assert cautions(run(tmp_path, worse(10, symmetric=False))) == []
    # runs of earlier versions lack the newer figures
    rows = run(tmp_path, BASE, worse(10, symmetric=False))
    newer = ("fact/p1", "rollout/num_elements_distance", "num_elements")
    old = [{k: v for k, v in row.items() if k not in newer} for row in rows]
    assert cautions(old) == []
    assert len(cautions(rows)) == 1


def test_a_resumed_run_is_compared_with_its_own_beginning(tmp_path):
    import json

    rows = run(tmp_path, BASE)
    line = json.dumps({"step": 2, "epoch": 1, **rows[0]})
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    notes = Notes({"energy": RewardConfig(reward="energy")}, tmp_path, resume=True)
    notes.take(*rollout([Made((*pair, 8)) for pair in SALTS]), symmetry=False)
    found = notes.summary()
    assert found["rollout/num_elements_distance"] == pytest.approx(1)
    assert found["rollout/element_drift"] == pytest.approx(1 / 3)
    assert "fact/p1" not in found
