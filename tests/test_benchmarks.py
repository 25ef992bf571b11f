"""Every file of benchmarks/ runs, at a small size and on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_LDM, demo_crystals
from pymatgen.core import Structure

from chemeleon import api
from chemeleon.checkpoints.shipped import default_model
from chemeleon.crystals.convert import to_structures
from chemeleon.data.prepare import prepare

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
COLUMNS = {"formation_energy_per_atom": -1.0, "band_gap": 1.0, "e_above_hull": 0.0, "density": 3.0}
# words of each run, in which {model}, {csp}, {ldm}, {predictor} and {run} are folders
RUNS = {
    "assignments": "mp/val --prototypes mp/train --model {assign} --limit 4 -k 3",
    "assignments structures": "mp/val --prototypes mp/train --limit 4 -k 3 --structures",
    "compounds": "{cases} --prototypes mp/train -n 2 --relax 2",
    "conditions": "{ldm} --predictor {predictor} --num 4 --samples 4 --guidance 1 --targets 3"
    " --number-guidance 1 -o {out}",
    "csp": "{csp} mp/val --limit 4 --sampler ddim:2:1 --jobs 1",
    "csp_order": "mp",
    "data_processing": "mp",
    "de_novo": "{model} -n 8 --sampler ddim:2:1 --jobs 1",
    "energy": "--device cpu --crystals 8 --package-crystals 4 --relax 2",
    "evaluate": "mp --crystals 8 --plain 4",
    "evaluate carbon": "carbon --crystals 6 --plain 2",
    "evaluate_growth": "--sizes 20 --jobs 1",
    "large_start": "--crystals 40 --only dng",
    "layouts": "--batch 8 --steps 2 --num 4",
    "memorisation": "{model} -n 4 --sampler ddim:2:1 --jobs 1 --out {out}",
    "orbits": "mp/val --limit 20 --jobs 1",
    "potentials": "--device cpu --crystals 4 --potentials chgnet --ase 0 --relax 2",
    "plain_step": "--rounds 1 --steps 3",
    "predictor": "--split val --targets band_gap",
    "ranking": "mp/val --prototypes mp/train --limit 4 -n 3 --relax 2",
    "rewards": "--device cpu --crystals 64 --rounds 1 --jobs 1",
    "rl_curves": "first={run} --plot {out}",
    "rl_step": "--updates 2 --skip 1",
    "sample": "--model {model} --num 4 --sampler ddim:2:1 --no-command",
    "train_step": "--data perov_5 --batch 4 --steps 2",
    "two_gpus": "--steps 20 --num 64",
    "without": "{table} perov_5/val -o {out}",
}


def test_every_benchmark_has_a_run() -> None:
    assert {name.split()[0] for name in RUNS} == {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Small sets of the names that benchmarks ask for."""
    root = tmp_path_factory.mktemp("data")
    structures = to_structures(demo_crystals("train"))
    many = structures[:: max(1, len(structures) // 120)]
    for i, structure in enumerate(many):
        structure.properties = {name: value + i / 100 for name, value in COLUMNS.items()}
    prepare(many, root / "mp", (0.6, 0.2, 0.2))
    five = [s for s in structures if len(s) == 5][:40]
    prepare(five, root / "perov_5", (0.6, 0.2, 0.2))
    carbon = [Structure(s.lattice, ["C"] * len(s), s.frac_coords) for s in structures[:60]]
    prepare(carbon, root / "carbon_24", (0.5, 0.5, 0.0))
    (root / "cases").mkdir()
    for name in ("NaCl", "TiO2_rutile"):
        [found] = [s for s in structures if s.composition.reduced_formula == name[:4]][:1]
        found.to(str(root / "cases" / f"{name}.cif"))
    return root


@pytest.fixture(scope="module")
def models(tiny_vae, tmp_path_factory) -> dict[str, str]:
    """Trained for a few steps, where the models of the package will not do."""
    folder = tmp_path_factory.mktemp("models")
    words = [*TINY_LDM, "trainer.max_steps=3", f"ldm.vae_ckpt_path={tiny_vae}"]
    words += ["ldm.conditions={what: {kind: composition}, gap: {kind: number, column: density}}"]
    api.ldm_train("demo/null", words, output=folder / "ldm")
    words = [f"predict.vae_ckpt_path={tiny_vae}", "trainer.max_steps=3", "data.batch_size=32"]
    api.predict_train("demo/density", words, output=folder / "predictor")
    words = ["data.name=demo", "data.targets=[]", "trainer.max_steps=3", "trainer.tracker=none"]
    api.assign_train("mp/mini", words, output=folder / "assign")
    (folder / "run").mkdir()
    rows = [{"step": i, "epoch": i, "rollout/reward": 1.0, "fact/msun": i / 10} for i in range(12)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "run" / "metrics.jsonl").write_text(lines)
    names = {"model": default_model().reference, "csp": default_model(True).reference}
    return names | {name: str(folder / name) for name in ("ldm", "predictor", "assign", "run")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RUNS)
def test_it_runs(name: str, data: Path, models: dict[str, str], tmp_path: Path) -> None:
    if name == "two_gpus" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if name == "predictor" and importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs scikit-learn: pip install chemeleon[benchmarks]")
    out = tmp_path / ("out.png" if name == "rl_curves" else "out")
    words = (
        RUNS[name]
        .format(out=out, cases=data / "cases", table=next((data / "mp").glob("train*")), **models)
        .split()
    )
    environment = {
        **os.environ,
        "CHEMELEON_DATA": str(data),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment |= {"CHEMELEON_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    if name != "two_gpus":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(FOLDER / f"{name.split()[0]}.py"), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(letter.isdigit() for letter in done.stdout)  # figures
