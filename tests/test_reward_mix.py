"""Rewards together: the mix, own functions, what is refused, the recorded numbers."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from reward_helpers import DOCS, mix, score
from typer.testing import CliRunner

from chemeleon.cli.app import app
from chemeleon.config.rl import RLConfig
from chemeleon.crystals.convert import from_structures
from chemeleon.errors import ConfigError, TrainingError
from chemeleon.reinforcement.rewards._loading import built_in
from chemeleon.reinforcement.rewards.mix import Mix, combined, normalise

pytest_plugins = ["reward_fixtures"]


# --- the mix


def test_the_mix_scales_weighs_and_adds(crystals, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def size(structure):\n    return len(structure)\n\n\n"
        "def heavy(structure):\n    return max(site.specie.Z for site in structure)\n"
    )
    group = torch.tensor([5, 5, 5, 5, 2, 2, 2, 2])
    made = mix(
        None,
        size={"reward": f"{file}:size", "weight": 0.5, "normalise": "minmax"},
        heavy={"reward": f"{file}:heavy", "weight": -2, "normalise": "std", "within": "batch"},
    )
    scores = made.score(crystals, group)
    size = crystals.num_atoms.double()
    heavy = torch.stack([part.max() for part in crystals.atomic_numbers.split(size.int().tolist())])
    assert torch.equal(scores.raw["size"], size.float())
    expected = torch.zeros(8, dtype=torch.float64)
    for rows in (slice(0, 4), slice(4, 8)):
        part = size[rows]
        expected[rows] = 0.5 * (part - part.min()) / (part.max() - part.min() + 1e-4)
    heavy = heavy.double()
    expected -= 2 * (heavy - heavy.mean()) / (heavy.std() + 1e-4)
    assert torch.allclose(scores.total.double(), expected, atol=1e-6)
    assert set(scores.seconds) == {"size", "heavy"}


def test_a_product_is_large_where_all_rewards_are():
    values = {"gap": torch.tensor([1.0, 0.5, 0.0, 1.0]), "new": torch.tensor([0.25, 0.25, 1, 0])}
    group = torch.zeros(4, dtype=torch.int64)
    total = combined(values, {"gap": 2.0, "new": 0.5}, group, "product")
    assert total.tolist() == [0.5, 0.125, 0, 0]
    values["new"][3] = -0.1
    with pytest.raises(TrainingError, match=r"rl\.rewards\.new\.normalise=minmax"):
        combined(values, {"gap": 1.0, "new": 1.0}, group, "product")
    rewards = {"energy": {"reward": "energy", "normalise": "std"}}
    with pytest.raises(ValidationError, match="minmax"):
        RLConfig.model_validate({"rewards": rewards, "combine": "product"})


def test_on_the_pareto_front_no_crystal_of_the_group_is_better_in_all():
    values = {
        "gap": torch.tensor([3.0, 2.0, 1.0, 1.0, 3.0, 0.0]),
        "cost": torch.tensor([3.0, 1.0, 0.0, 2.0, 3.0, 9.0]),  # to be small
    }
    group = torch.tensor([0, 0, 0, 0, 0, 1])
    total = combined(values, {"gap": 0.1, "cost": -5.0}, group, "pareto")
    # the first three are a front; the fourth is worse than the second and the third, the fifth
    # equals the first, and the last is alone in its group
    assert total.tolist() == pytest.approx([0, 0, 0, -0.4, 0, 0])


def test_the_order_of_crystals_does_not_matter_to_scaling():
    values, group = torch.randn(12), torch.arange(12) % 3
    order = torch.randperm(12)
    for how in ("minmax", "std", "mean"):
        scaled = normalise(values, group, how)
        assert torch.allclose(normalise(values[order], group[order], how), scaled[order])
        for g in range(3):
            assert torch.allclose(
                scaled[group == g], normalise(values[group == g], torch.zeros(4), how)
            )


def test_all_mistakes_are_told_at_once(train, tmp_path):
    with pytest.raises(ConfigError) as told:
        mix(
            None,
            a="creativty",
            b="creativity",
            c={"reward": "energy", "options": {"hul": "x", "relax_steps": -1}},
            d={"reward": "energy", "options": {"hull": str(tmp_path / "no.json")}},
            e="./nowhere.py:density",
            f="no_such_package.thing:name",
            g={"reward": "elements", "options": {"forbid": ["Xx"]}},
            h="structure_diversity",
            i={"reward": "predictor", "options": {"model": str(tmp_path / "none")}},
            j={"reward": "energy", "options": {"potential": "chgnt", "hull": "x"}},
        )
    text = str(told.value)
    assert "did you mean 'creativity'" in text
    assert "b: needs a training set" in text
    assert "c.options.hul: unknown option; did you mean 'hull'" in text
    assert "c.options.relax_steps" in text
    assert re.search(r"d: there is no hull .*no.json", text)
    assert "no file" in text
    assert "nowhere.py" in text
    assert "No module named 'no_such_package'" in text
    assert "'Xx' is not the symbol of an element" in text
    assert "h: needs a training set" in text
    assert "h: needs a VAE" in text
    assert re.search(r"i: .*none", text)
    assert re.match(r"1\d problems in the rewards", text)


# --- the user's own


def documented(number: int) -> str:
    """The Python examples of the page, in order."""
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[number]


@pytest.mark.parametrize("number", [0, 1])
def test_the_documented_examples_run(number, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(documented(number))
    monkeypatch.chdir(tmp_path)
    from pymatgen.core import Lattice, Structure

    cell, sites = Lattice.cubic(4), [[0] * 3, [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5]]
    formulas = [("Li", "Co", "O", "O"), ("Li", "Li", "O", "O"), ("Li", "Li", "Li", "V")]
    structures = [Structure(cell, symbols, sites) for symbols in formulas]
    options = {"most": 300.0} if number == 0 else {}
    made = mix(None, it={"reward": "./mine.py:capacity", "options": options})
    found = score(made, from_structures(structures)).raw["it"].tolist()
    # LiCoO2 has 274 mAh/g, as every textbook says
    vanadium = 300.0 if number == 0 else 26_801 / (3 * 6.94 + 50.94)
    assert found == pytest.approx([273.8, 0, vanadium], rel=1e-3)
    assert len(documented(0).splitlines()) <= 16


def own(tmp_path: Path, body: str, **more: Any) -> Mix:
    file = tmp_path / "own.py"
    file.write_text(
        f"import torch\nfrom chemeleon.reinforcement.rewards.base import batched\n\n{body}\n"
    )
    return mix(None, own={"reward": f"{file}:own", **more})


FAILING = {
    "raises": "def own(s):\n    assert len(s) != {n}, 'too odd'\n    return 2 + len(s)",
    "nan": "def own(s):\n    return float('nan') if len(s) == {n} else 2 + len(s)",
    "batched": (
        "@batched\ndef own(c):\n    if (c.num_atoms == {n}).any(): raise ValueError('too odd')\n"
        "    return 2 + c.num_atoms"
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_crystals_without_names_are_told_by_their_numbers(kind, crystals, tmp_path, caplog):
    sizes = crystals.num_atoms.tolist()
    reward = own(tmp_path, FAILING[kind].format(n=sizes[1]))
    with caplog.at_level(logging.WARNING):
        score(reward, replace(crystals, ids=[]))
    assert f"crystal {sizes.index(sizes[1])} (" in caplog.text
    list_for_one = own(tmp_path, "def own(s): return [1.0, 2.0]")
    with pytest.raises(TrainingError, match=r"for crystal 0 \("):
        score(list_for_one, replace(crystals, ids=[]))


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("floor", [None, -7.0])
def test_a_failing_crystal_gets_the_floor_is_counted_and_named(
    kind, floor, crystals, tmp_path, caplog
):
    sizes = crystals.num_atoms.tolist()
    odd = sizes[1]
    body = FAILING[kind].format(n=odd) + (f"\nown.floor = {floor}" if floor is not None else "")
    with caplog.at_level(logging.WARNING):
        scores = score(own(tmp_path, body), crystals)
    lost = [i for i, n in enumerate(sizes) if n == odd]
    lowest = min(2 + n for n in sizes if n != odd)
    for i, n in enumerate(sizes):
        assert scores.raw["own"][i] == (2 + n if i not in lost else floor or lowest)
    assert scores.failed == {"own": len(lost)}
    said = caplog.text
    assert "reward 'own'" in said
    assert f"crystal {crystals.ids[lost[0]]}" in said
    assert ("too odd" if kind != "nan" else "nan") in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def own(s): return [1.0, 2.0]", r"one number, but returned a list for crystal .* \("),
        ("def own(s): return torch.zeros(3)", r"Tensor of shape \(3,\) for crystal"),
        ("def own(s): raise KeyError('always')", r"fails for every crystal.*always"),
        ("@batched\ndef own(c): return torch.zeros(3)", r"shape \(8,\).*returned \(3,\)"),
        ("@batched\ndef own(c): return [1.0]", r"shape \(8,\).*returned list"),
        ("@batched\ndef own(c): raise KeyError('always')", r"fails for 8 crystals.*always"),
    ],
)
def test_a_reward_that_cannot_work_stops_with_words(body, said, crystals, tmp_path):
    with pytest.raises(TrainingError, match=said):
        score(own(tmp_path, body), crystals)


@pytest.mark.parametrize(
    ("body", "options", "said"),
    [
        ("def own(s, power): return 1", {}, "after a `*`"),
        ("def own(s, *, power: float): return 1", {}, "power: Field required"),
        ("def own(s, *, power: float = 1): return 1", {"power": "x"}, "power: Input should be"),
        ("def own(s, *, power: float = 1): return 1", {"powr": 1}, "did you mean 'power'"),
        ("other = 1", {}, "has no 'own'"),
        ("own = 1", {}, "is a int"),
        ("raise RuntimeError('at once')", {}, "cannot be run: RuntimeError: at once"),
    ],
)
def test_own_rewards_are_checked_before_training(body, options, said, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(said)):
        own(tmp_path, body, options=options)


def test_a_reward_can_come_from_a_module(crystals, tmp_path, monkeypatch):
    (tmp_path / "my_rewards_module.py").write_text("def size(structure): return len(structure)\n")
    monkeypatch.syspath_prepend(tmp_path)
    scores = score(mix(None, it="my_rewards_module:size"), crystals)
    assert torch.equal(scores.total, crystals.num_atoms.float())
    sys.modules.pop("my_rewards_module")


def test_the_command_lists_rewards_and_options(tmp_path):
    found = CliRunner().invoke(app, ["rl", "rewards"])
    assert found.exit_code == 0
    listed = [line.split()[0] for line in found.output.splitlines() if not line.startswith(" ")]
    assert listed == built_in()
    one = CliRunner().invoke(app, ["rl", "rewards", "energy"])
    assert "relax_steps (0)" in one.output
    (tmp_path / "mine.py").write_text(documented(0))
    mine = CliRunner().invoke(app, ["rl", "rewards", f"{tmp_path}/mine.py:capacity"])
    assert "Gravimetric capacity, mAh/g" in mine.output
    assert "most (400.0)" in mine.output


# --- the recorded numbers


def test_recorded_rewards_are_reproduced(tmp_path):
    from parity import BOUND, Golden, difference
    from parity_rewards import reward_arrays

    golden = Golden(tmp_path)
    compared = {}
    for file, arrays in reward_arrays(golden).items():
        for found in arrays:
            error = difference(found.value, golden.get(file, found.array))
            compared[found.array] = error
    assert {name: error for name, error in compared.items() if not error <= BOUND} == {}
    expected = {
        *("normalize_out", "standardize_out", "normalize_const_out", "standardize_const_out"),
        *("mmd_r", "mmd_r_indiv", "grp_adv", "reward_norm", "reward_subtract_mean", "reward_clip"),
        *("reward_std", "reward_raw", "amd_100", "amd_cdist", "gen_unique", "gen_novel"),
        *("gen_creativity", "frechet"),
    }
    assert set(compared) == expected
