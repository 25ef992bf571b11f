"""Which elements a crystal gets: the likeliest ones, and no stray ones for a price."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import demo_crystals
from typer.testing import CliRunner

import chemeleon
from chemeleon.cli.app import app
from chemeleon.config.architecture import ConditionConfig
from chemeleon.errors import ConfigError, GenerationError
from chemeleon.models.condition_encoder import ConditionEncoder
from chemeleon.models.elements import choose_elements

OX, GE, SN, BA = 8, 32, 50, 56


def crystal(*atoms: dict[int, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and mask of one crystal, with a slot of padding behind its atoms."""
    logits = torch.full((1, len(atoms) + 1, 100), -20.0)
    for place, atom in enumerate(atoms):
        for number, value in atom.items():
            logits[0, place, number] = value
    mask = torch.ones(1, len(atoms) + 1, dtype=torch.bool)
    mask[0, -1] = False
    return logits, mask


def chosen(logits, mask, price) -> list[int]:
    return choose_elements(logits, mask, price)[mask].tolist()


def test_a_stray_element_is_left_out_and_a_sure_one_stays():
    tin, stray = {SN: 5.0, GE: 1.0}, {GE: 2.0, SN: 1.0}
    logits, mask = crystal(tin, tin, stray, {BA: 9.0, SN: 0.0})
    assert chosen(logits, mask, 0) == [SN, SN, GE, BA]
    assert chosen(logits, mask, 0.5) == [SN, SN, GE, BA]
    assert chosen(logits, mask, 2) == [SN, SN, SN, BA]
    assert chosen(logits, mask, 1e9) == [SN] * 4  # an element remains at any price


def test_the_loss_of_all_atoms_of_an_element_counts():
    logits, mask = crystal(*[{GE: 2.0, SN: 1.0}] * 3, {SN: 5.0, GE: -5.0})
    assert chosen(logits, mask, 2.5) == [GE, GE, GE, SN]
    assert chosen(logits, mask, 3.5) == [SN] * 4


def test_elements_that_are_not_allowed_are_not_chosen():
    logits, mask = crystal({SN: 5.0, GE: 1.0, OX: 0.0}, {OX: 3.0, GE: 2.5, SN: -9.0})
    logits[..., GE] = -torch.inf
    assert chosen(logits, mask, 0) == [SN, OX]
    assert chosen(logits, mask, 6) == [OX, OX]


def test_it_is_mostly_the_best_assignment_for_the_price_and_never_padding():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 4, 100, generator=generator)
    logits[..., 0] += 9  # what means no atom
    logits[..., 5:] -= 50
    mask = torch.ones(40, 4, dtype=torch.bool)
    score = logits.log_softmax(-1)
    hits = 0
    for price in (0.0, 0.7, 2.0):
        types = choose_elements(logits, mask, price)
        assert ((types >= 1) & (types < 5)).all()
        for row in range(40):

            def value(atoms, row=row, price=price):
                return sum(score[row, i, z] for i, z in enumerate(atoms)) - price * len(set(atoms))

            best = max(itertools.product(range(1, 5), repeat=4), key=value)
            hits += value(types[row].tolist()) >= value(best) - 1e-5
    assert hits >= 0.9 * 120  # one element is left out at a time, so now and then it is second best


def test_crystals_do_not_depend_on_each_other():
    generator = torch.Generator().manual_seed(1)
    logits, mask = torch.randn(6, 5, 100, generator=generator), torch.ones(6, 5, dtype=torch.bool)
    together = choose_elements(logits, mask, 1.5)
    for row in range(6):
        one = slice(row, row + 1)
        assert torch.equal(choose_elements(logits[one], mask[one], 1.5), together[one])


def test_padding_does_not_matter():
    generator = torch.Generator().manual_seed(2)
    logits, mask = torch.randn(6, 5, 100, generator=generator), torch.ones(6, 5, dtype=torch.bool)
    wider = torch.cat([logits, torch.randn(6, 3, 100, generator=generator)], 1)
    wide_mask = torch.cat([mask, torch.zeros(6, 3, dtype=torch.bool)], 1)
    narrow = choose_elements(logits, mask, 1.5)
    assert torch.equal(choose_elements(wider, wide_mask, 1.5)[:, :5], narrow)
    assert not torch.equal(narrow, choose_elements(logits, mask, 0))


def test_a_model_for_formulas_refuses_a_price():
    with pytest.raises(GenerationError, match="composition_penalty"):
        chemeleon.sample("shipped:csp", 1, formula="NaCl", composition_penalty=2)


def elements(crystals) -> list[int]:
    parts = crystals.atomic_numbers.split(crystals.num_atoms.tolist())
    return [len(set(part.tolist())) for part in parts]


def test_the_command_takes_a_price(tiny_ldm, tmp_path):
    words = ["sample", "--model", str(tiny_ldm), "-n", "6", "--steps", "2"]
    result = CliRunner().invoke(
        app,
        [*words, "--composition-penalty", "1000", "-o", str(tmp_path / "one"), "--format", "json"],
    )
    assert result.exit_code == 0, result.output
    one = chemeleon.sample(tiny_ldm, 6, steps=2, composition_penalty=1000)
    many = chemeleon.sample(tiny_ldm, 6, steps=2)
    assert all(len(s.composition) == 1 for s in one if s is not None)
    assert any(len(s.composition) > 1 for s in many if s is not None)
    with pytest.raises(ConfigError, match="composition_penalty"):
        chemeleon.sample(tiny_ldm, 1, composition_penalty=-1)


def test_the_number_of_elements_is_read_off_crystals_and_off_what_is_asked():
    crystals = demo_crystals("train")
    encoder = ConditionEncoder({"n": ConditionConfig(kind="num_elements")}, 8)
    found = encoder.featurise(crystals.batch(torch.arange(len(crystals))))["n"]
    asked = encoder.request({"n": elements(crystals)})
    torch.testing.assert_close(asked.features["n"], found)
    assert len(set(elements(crystals))) > 1
    for wrong in (0, 11, "two", 2.5, "²"):
        with pytest.raises(ConfigError, match=f"'{wrong}' is not a number of elements from 1 to"):
            encoder.request({"n": wrong})
