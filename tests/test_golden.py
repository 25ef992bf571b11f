"""Seed 0 on a CPU gives what is recorded in tests/golden; `make golden` records it again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from golden import CASES, FOLDER, Bound, changes, differences

NEEDS_CHGNET = ("ranking_by_energy", "energies")
TRAINS = ("vae", "ldm", "predictor", "rl")


@pytest.mark.parametrize("name", CASES)
def test_figures_are_those_recorded(name: str, tmp_path: Path, monkeypatch) -> None:
    if name in NEEDS_CHGNET and importlib.util.find_spec("chgnet") is None:
        pytest.skip("needs chgnet: pip install chgnet")
    if name in TRAINS and torch.cuda.is_available():
        pytest.skip("figures are those of a CPU: CUDA_VISIBLE_DEVICES= hides the GPU")
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    moved = changes(name, tmp_path)
    told = "\n  ".join(moved[:20])
    assert not moved, f"{len(moved)} figures differ from {name}.json:\n  {told}"


def test_every_recorded_file_is_compared() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES)


def test_a_change_is_named_with_its_place() -> None:
    recorded = json.loads((FOLDER / "de_novo.json").read_text(encoding="utf-8"))
    bounds = CASES["de_novo"].bounds
    found = json.loads(json.dumps(recorded))
    assert list(differences(recorded, found, bounds)) == []
    names = list(found)
    found[names[0]]["lengths"][1] *= 1.01
    found[names[1]]["frac_coords"][2][0] = 0.25
    found[names[2]]["elements"][0] = "Xe"
    found["12 NaCl"] = found.pop(names[3])
    said = list(differences(recorded, found, bounds))
    assert any(line.startswith(f"{names[0]}/lengths/1: ") and "moved by" in line for line in said)
    assert any(line.startswith(f"{names[1]}/frac_coords/2/0: ") for line in said)
    assert any(line.endswith("became 'Xe'") for line in said)
    assert any(line.startswith(f"{names[3]}/") and line.endswith("is gone") for line in said)
    assert any(line.startswith("12 NaCl/") and line.endswith("is new") for line in said)


def test_numbers_are_compared_as_what_they_are() -> None:
    bounds = {"frac_coords": Bound(0, 1e-3), "loss": Bound(1e-3, 0)}
    recorded = {"frac_coords": [0.9999], "loss": 2.0, "count": 3, "share": 0.5, "gap": "nan"}
    near = {"frac_coords": [0.0001], "loss": 2.001, "count": 3, "share": 0.5, "gap": "nan"}
    assert list(differences(recorded, near, bounds)) == []
    far = {"frac_coords": [0.0012], "loss": 2.003, "count": 4, "share": 0.5000001, "gap": 0.1}
    assert len(list(differences(recorded, far, bounds))) == 5
    assert list(differences({"loss": 2.0}, {"loss": "nan"}, bounds)) == ["loss: 2.0 became 'nan'"]
