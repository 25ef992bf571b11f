"""Rewards: the contract of every one, their meaning, the mix, own functions, what is refused."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import REFERENCE
from typer.testing import CliRunner

from chemeleon.cli.app import app
from chemeleon.config.rewards import RewardConfig
from chemeleon.config.schema import PredictorConfig, VAEConfig
from chemeleon.crystals.batch import FlatCrystals
from chemeleon.crystals.convert import from_structures
from chemeleon.crystals.prototypes import demo_crystals
from chemeleon.energy.hull import Hull
from chemeleon.errors import ConfigError, TrainingError
from chemeleon.models.predictor import Predictor
from chemeleon.models.vae import CrystalVAE
from chemeleon.rewards._diversity import leave_one_out, polynomial_mmd
from chemeleon.rewards._loading import built_in, find_reward
from chemeleon.rewards._normalise import normalise
from chemeleon.rewards._vae import features_of, mean_latent
from chemeleon.rewards.mix import Mix, Scores

CPU = torch.device("cpu")
TINY = VAEConfig(width=16, encoder_layers=1, decoder_layers=1, heads=2, feedforward=16)
DOCS = Path(__file__).parents[1] / "docs" / "rewards.md"


@pytest.fixture(scope="module")
def train() -> FlatCrystals:
    return demo_crystals("train")


@pytest.fixture(scope="module")
def crystals(train) -> FlatCrystals:
    """Eight sound crystals: five new ones, two copies of one of these, one of the training set."""
    new = demo_crystals("val").subset(torch.tensor([215, 89, 98, 255, 371, 215, 215]))
    return FlatCrystals.join([new, train.subset(torch.tensor([4]))])


@pytest.fixture(scope="module")
def vae() -> CrystalVAE:
    torch.manual_seed(0)
    return CrystalVAE(TINY).eval()


@pytest.fixture(scope="module")
def needed(vae, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Options of the rewards that have to be told something."""
    folder = tmp_path_factory.mktemp("rewards")
    torch.manual_seed(1)
    config = PredictorConfig(targets=["density"], head="pooled", encoder="frozen")
    Predictor(config, vae).save_pretrained(folder / "predictor")
    references: dict[str, float | None] = {}
    from ase.data import chemical_symbols

    references.update(dict.fromkeys(chemical_symbols[1:], -0.1))
    Hull([(("Na", 0.5), ("Cl", 0.5))], [-1.0], references, {}).save(folder / "hull.json")
    lennard_jones = {"potential": "energy_helpers:lennard_jones"}
    return {
        "predictor": {"model": str(folder / "predictor")},
        "elements": {"forbid": ["O"]},
        "energy": {**lennard_jones, "hull": str(folder / "hull.json")},
    }


def mix(train: FlatCrystals | None, vae: CrystalVAE | None = None, **rewards: Any) -> Mix:
    configs = {
        name: RewardConfig(**({"reward": given} if isinstance(given, str) else given))
        for name, given in rewards.items()
    }
    return Mix(configs, reference=train, device=CPU, jobs=1, vae=vae)


def score(made: Mix, crystals: FlatCrystals) -> Scores:
    return made.score(crystals, torch.zeros(len(crystals), dtype=torch.int64))


def broken(crystals: FlatCrystals) -> FlatCrystals:
    """The same with a NaN in the second crystal, and two atoms of the third in one place."""
    frac = crystals.frac_coords.clone()
    frac[crystals.starts[1]] = torch.nan
    frac[crystals.starts[2] + 1] = frac[crystals.starts[2]]
    return replace(crystals, frac_coords=frac)


# --- every reward of the folder


@pytest.mark.parametrize("name", built_in())
def test_every_reward_keeps_the_contract(name, train, crystals, vae, needed):
    made = mix(train, vae, it={"reward": name, "options": needed.get(name, {})})
    before = [t.clone() for t in (crystals.frac_coords, crystals.lattice, crystals.atomic_numbers)]
    scores = score(made, crystals)
    assert scores.raw["it"].shape == scores.total.shape == (8,)
    assert scores.total.dtype == torch.float32
    assert torch.isfinite(scores.raw["it"]).all()
    assert scores.failed == {"it": 0}
    after = (crystals.frac_coords, crystals.lattice, crystals.atomic_numbers)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(score(made, crystals).total, scores.total)  # nothing is remembered
    shifted = replace(crystals, frac_coords=(crystals.frac_coords + torch.tensor([2.0, -1, 3])))
    assert torch.allclose(score(made, shifted).total, scores.total, atol=1e-3)  # whole cells

    kind = find_reward(name)
    assert (kind.__doc__ or "").strip()
    assert all(field.description for field in kind.Options.model_fields.values())
    assert kind.busy in ("cpu", "gpu")


@pytest.mark.parametrize("name", built_in())
def test_broken_crystals_get_the_floor_and_change_nothing_else(
    name, train, crystals, vae, needed, caplog
):
    made = mix(train, vae, it={"reward": name, "options": needed.get(name, {})})
    scores = score(made, broken(crystals))
    assert torch.isfinite(scores.total).all()
    assert scores.facts["valid"].tolist() == [True, False, False, *[True] * 5]
    if name not in ("validity", "elements"):  # which have an opinion on broken ones too
        assert scores.failed == {"it": 2}
        floor = made.rewards["it"].floor
        sound = scores.raw["it"][scores.facts["valid"]]
        assert scores.raw["it"][1] == scores.raw["it"][2]
        assert scores.raw["it"][1] == pytest.approx(float(sound.min()) if floor is None else floor)
    assert score(made, crystals.subset(torch.tensor([0]))).total.shape == (1,)  # a group of one


# --- what they mean


def test_creativity_is_1_for_new_crystals_and_a_distance_for_half_new_ones(train, crystals):
    noisy = crystals.frac_coords.clone()
    noisy[crystals.starts[5]] += 0.004  # no exact copy any more
    scores = score(mix(train, creativity="creativity"), replace(crystals, frac_coords=noisy))
    unique, novel = scores.facts["unique"].tolist(), scores.facts["novel"].tolist()
    assert unique == [True, True, True, True, True, False, False, True]
    assert novel[-1] is False
    value = scores.raw["creativity"]
    for i, (one, two) in enumerate(zip(unique, novel, strict=True)):
        if one and two:
            assert value[i] == 1
    assert novel[5]
    assert 0 < value[5] < 0.1
    assert value[6] == 0  # an exact copy
    assert value[7] == 0  # of the training set


def test_uniqueness_can_be_judged_in_each_group_alone(train, crystals):
    twice = crystals.subset(torch.tensor([0, 5, 6]))
    group = torch.tensor([3, 7, 7])
    options = {"unique_within": "group"}
    made = mix(train, it={"reward": "creativity", "options": options})
    assert made.score(twice, group).facts["unique"].tolist() == [True, True, False]
    made = mix(train, it="creativity")
    assert made.score(twice, group).facts["unique"].tolist() == [True, False, False]


def test_energy_is_minus_the_clamped_energy_above_hull(train, crystals, needed):
    from chemeleon.energy.hull_sources import compositions_of
    from chemeleon.energy.potentials import load_potential

    options = {**needed["energy"], "lowest": -0.5, "highest": 2.0}
    scores = score(mix(train, energy={"reward": "energy", "options": options}), crystals)
    hull = Hull.load(options["hull"])
    formulas = [dict(parts) for parts in compositions_of(crystals)]
    total = load_potential(options["potential"], "cpu").energies(crystals).per_atom_ev
    above = hull.above(formulas, hull.formation_energies(formulas, total)).e_above_hull_ev
    assert torch.allclose(scores.facts["e_hull"], torch.from_numpy(above).float())
    wanted = -torch.from_numpy(above).clamp(-0.5, 2.0).float()
    assert torch.allclose(scores.raw["energy"], wanted)


def test_relaxation_lowers_energies(train, crystals, needed):
    before, after = (
        score(
            mix(train, it={"reward": "energy", "options": {**needed["energy"], "relax_steps": n}}),
            crystals,
        ).facts["e_hull"]
        for n in (0, 8)
    )
    assert (after <= before + 1e-6).all()
    assert (after < before - 1e-3).any()


def test_a_hull_is_made_of_the_training_set_once(train, crystals, tmp_path, monkeypatch, needed):
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path))
    few = train.subset(torch.arange(0, 60, 20))
    options = {"potential": needed["energy"]["potential"]}
    made = mix(few, energy={"reward": "energy", "options": options})
    (kept,) = (tmp_path / "hulls").iterdir()
    stamp = kept.stat().st_mtime_ns
    again = mix(few, energy={"reward": "energy", "options": options})
    assert kept.stat().st_mtime_ns == stamp
    whole = kept.read_bytes()
    kept.write_bytes(whole[:50])  # as a process leaves it that was killed
    mix(few, energy={"reward": "energy", "options": options})
    assert kept.read_bytes() == whole
    own = score(made, few)
    assert torch.equal(own.total, score(again, few).total)
    assert (own.facts["e_hull"] >= -1e-6).all()  # its own phases are not below it
    unknown = score(made, crystals)  # other elements: no answer, so the worst
    assert unknown.failed["energy"] > 0
    assert float(unknown.raw["energy"].min()) == -1


def test_a_hull_of_another_potential_is_refused(train, tmp_path, needed):
    Hull([(("Na", 1.0),)], [0.0], {"Na": -1.0}, {"potential": "chgnet 0.3.0"}).save(
        tmp_path / "h.json"
    )
    options = {**needed["energy"], "hull": str(tmp_path / "h.json")}
    with pytest.raises(ConfigError, match=r"h\.json holds energies of chgnet 0\.3\.0"):
        mix(train, energy={"reward": "energy", "options": options})


def test_leaving_one_out_is_the_difference_of_two_discrepancies():
    generator = torch.Generator().manual_seed(3)
    sample, reference = (
        torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (9, 30)
    )
    whole = polynomial_mmd(sample, reference)
    for i, value in enumerate(leave_one_out(sample, reference)):
        others = sample[torch.arange(9) != i]
        assert float(value) == pytest.approx(float(polynomial_mmd(others, reference) - whole))
    for few in (0, 1, 2):
        assert leave_one_out(sample[:few], reference).tolist() == [0.0] * few


@pytest.mark.parametrize("order", ["number", "canonical"])
def test_a_csp_encoder_sees_atoms_in_its_order(order, crystals):
    torch.manual_seed(0)
    vae = CrystalVAE(TINY.model_copy(update={"kind": "csp", "atom_order": order})).eval()
    config = PredictorConfig(targets=["density"], head="pooled", encoder="frozen")
    model = Predictor(config, vae).eval()
    last = crystals.atomic_numbers.argsort(descending=True, stable=True)
    owner = torch.repeat_interleave(crystals.num_atoms)
    last = last[owner[last].argsort(stable=True)]
    turned = replace(
        crystals,
        atomic_numbers=crystals.atomic_numbers[last],
        frac_coords=crystals.frac_coords[last],
    )
    assert not torch.equal(turned.atomic_numbers, crystals.atomic_numbers)
    found, again = (features_of(vae, given, mean_latent) for given in (crystals, turned))
    torch.testing.assert_close(found, again)
    found, again = (model.predict_all(given)["density"] for given in (crystals, turned))
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("name", ["structure_diversity", "composition_diversity"])
def test_diversity_features_do_not_depend_on_batches(name, train, vae):
    reward: Any = mix(train, vae, it=name).rewards["it"]
    some = train.subset(torch.tensor([5, 300, 40]))
    alone = [reward.features(some.subset(torch.tensor([i]))) for i in range(3)]
    assert torch.allclose(reward.features(some), torch.cat(alone), atol=1e-5)
    assert len(reward.reference) == len(train)


def test_predictor_maximises_minimises_and_aims(train, crystals, needed):
    made = mix(
        None,
        most={"reward": "predictor", "options": needed["predictor"]},
        least={"reward": "predictor", "options": {**needed["predictor"], "goal": "minimise"}},
        near={
            "reward": "predictor",
            "options": {**needed["predictor"], "goal": "target", "target": 1.0, "clip": [0, 0.5]},
        },
    )
    scores = score(made, crystals)
    predicted = scores.facts["density"]
    assert torch.allclose(scores.raw["most"], predicted)
    assert torch.allclose(scores.raw["least"], -predicted)
    assert torch.allclose(scores.raw["near"], -(predicted.clamp(0, 0.5) - 1).square())


def test_elements_allow_and_forbid():
    from pymatgen.core import Lattice, Structure

    structures = [
        Structure(Lattice.cubic(4), symbols, [[0] * 3, [0.5] * 3])
        for symbols in (["Na", "Cl"], ["Cs", "Cl"], ["Fe", "O"])
    ]
    made = mix(
        None,
        only={"reward": "elements", "options": {"allow": ["Na", "Cl"]}},
        not_iron={"reward": "elements", "options": {"forbid": ["Fe"], "share": True}},
    )
    scores = score(made, from_structures(structures))
    assert scores.raw["only"].tolist() == [1, 0, 0]
    assert scores.raw["not_iron"].tolist() == [1, 1, 0.5]


def test_validity_asks_for_structure_and_composition(crystals):
    from pymatgen.core import Lattice, Structure

    def pair(symbols: list[str], edge: float) -> Structure:
        return Structure(Lattice.cubic(edge), symbols, [[0] * 3, [0.5] * 3])

    made = mix(
        None,
        both="validity",
        structure={"reward": "validity", "options": {"composition": False}},
    )
    flat = from_structures(
        [pair(["Na", "Cl"], 3.5), pair(["Ba", "Cl"], 4.0), pair(["Na", "Cl"], 0.5)]
    )
    scores = score(made, flat)
    assert scores.raw["both"].tolist() == [1, 0, 0]
    assert scores.raw["structure"].tolist() == [1, 1, 0]


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
def test_the_documented_examples_run(number, crystals, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(documented(number))
    monkeypatch.chdir(tmp_path)
    options = {"power": 0.5} if number == 0 else {}
    made = mix(None, density={"reward": "./mine.py:density", "options": options})
    scores = score(made, crystals)
    volume = torch.linalg.det(crystals.lattice.double()).abs()
    wanted = (crystals.num_atoms / volume).pow(options.get("power", 1.0))
    assert torch.allclose(scores.raw["density"], wanted.float())
    assert len(documented(0).splitlines()) <= 15


def own(tmp_path: Path, body: str, **more: Any) -> Mix:
    file = tmp_path / "own.py"
    file.write_text(f"import torch\nfrom chemeleon.rewards.base import batched\n\n{body}\n")
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
    mine = CliRunner().invoke(app, ["rl", "rewards", f"{tmp_path}/mine.py:density"])
    assert "Number of atoms per volume, to a power." in mine.output
    assert "power (1.0)" in mine.output


# --- the recorded numbers


@pytest.mark.skipif(
    not (REFERENCE / "golden").is_dir(),
    reason=f"{REFERENCE} is missing: the recorded numbers are not part of the repository",
)
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
