"""What this package gives for seed 0 on a CPU, as recorded in tests/golden, and how near it stays.

``CASES`` maps the name of a file there to what makes its content. `make golden` records all of them
again (``python tests/golden.py``, or only those that are named).

Tolerances are not there to let changes through: float32 sums taken in another order (another
processor, another library for products, two threads) move a figure a little, and the walk of a
sampler or the steps of an optimiser make more of it. Each tolerance is at least ten times what was
seen between such machines (CONTRIBUTING.md says how) and far below what a change of method does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
FOLDER = Path(__file__).parent / "golden"
DIGITS = 7
Json = Any


class Bound(NamedTuple):
    """How far a number may be from the recorded one: the larger of the two.

    Attributes:
        relative: share of the recorded number.
        absolute: in the number's own unit.
    """

    relative: float
    absolute: float


class Case(NamedTuple):
    """One recorded file.

    Attributes:
        make: folder to work in -> what is recorded: dictionaries, lists, numbers and text.
        bounds: part of a path to the bound of the numbers there, the first that fits; whole
            numbers, text and numbers without a bound must be equal.
    """

    make: Callable[[Path], Json]
    bounds: dict[str, Bound]


def record(name: str, folder: Path = FOLDER) -> None:
    """Write a file anew, one line for each entry."""
    with TemporaryDirectory() as work:
        found = rounded(CASES[name].make(Path(work)))
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def changes(name: str, work: Path) -> list[str]:
    """Return what differs from the recorded file, a line each: where, both values, the bound."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(rounded(CASES[name].make(work))))
    return list(differences(recorded, found, CASES[name].bounds))


def differences(recorded: Json, found: Json, bounds: dict[str, Bound]) -> Iterator[str]:
    """Compare two nested values leaf by leaf."""
    one, two = dict(leaves(recorded)), dict(leaves(found))
    for path in [*one, *(path for path in two if path not in one)]:
        if path not in two:
            yield f"{path}: {one[path]!r} is gone"
        elif path not in one:
            yield f"{path}: {two[path]!r} is new"
        elif one[path] != two[path]:
            bound = next((bounds[part] for part in bounds if part in path), None)
            yield from _difference(path, one[path], two[path], bound)


def _difference(path: str, recorded: Json, found: Json, bound: Bound | None) -> Iterator[str]:
    both = (recorded, found)
    # 1.0 is written as a float by Python's json, so what is whole there was counted
    numbers = all(isinstance(x, float) for x in both)
    if not numbers or bound is None:
        yield f"{path}: {recorded!r} became {found!r}"
        return
    moved = abs(found - recorded)
    if "frac_coords" in path:
        moved = min(moved, 1 - moved)
    allowed = max(bound.relative * abs(recorded), bound.absolute)
    if not moved <= allowed:
        yield f"{path}: {recorded:g} became {found:g}, moved by {moved:.2g} of {allowed:.2g}"


def leaves(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Yield the path and the value of everything that is no dictionary or list."""
    inner = None
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    if inner is None or not value:
        yield path, value
    else:
        for key, entry in inner:
            yield from leaves(entry, f"{path}/{key}" if path else str(key))


def rounded(value: Json) -> Json:
    """Return the value with numbers of `DIGITS` digits, and text for those that are not finite."""
    if isinstance(value, dict):
        return {str(key): rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value


# --- crystals


def crystals(structures: list[Any]) -> dict[str, Json]:
    """Return every crystal under its number and formula."""
    return {
        f"{number} {s.formula.replace(' ', '')}": {
            "elements": [site.specie.symbol for site in s],
            "lengths": list(s.lattice.abc),
            "angles": list(s.lattice.angles),
            "frac_coords": s.frac_coords.tolist(),
        }
        for number, s in enumerate(structures)
    }


def de_novo(work: Path) -> Json:
    """Twelve crystals of the model that makes new ones."""
    import chemeleon

    return crystals(list(chemeleon.sample("shipped:de_novo", 12, seed=0, device="cpu")))


FORMULAS = ["NaCl", "SrTiO3", "GaAs", "LiFePO4", "TiO2", "MgAl2O4", "Fe2O3", "CsPbBr3", "LaB6"]
FORMULAS += ["CuInSe2", "YBa2Cu3O7", "Bi2Te3"]


def csp(work: Path) -> Json:
    """A crystal of each of twelve formulas."""
    import chemeleon

    words: dict[str, Any] = {"formula": FORMULAS, "formula_units": [1, 2], "rank_by": "none"}
    return crystals(list(chemeleon.sample("shipped:csp", 1, seed=0, device="cpu", **words)))


def ranking(work: Path, by: str = "model") -> Json:
    """Six candidates of one formula, the most promising first, with their scores."""
    import chemeleon

    words: dict[str, Any] = {"formula": "TiO2", "rank_by": by, "output": work / by}
    made = chemeleon.sample("shipped:csp", 6, seed=0, device="cpu", **words)
    manifest = json.loads((work / by / "manifest.json").read_text(encoding="utf-8"))
    told = {key: manifest[key] for key in ("ranked_by", "candidates")}
    return {**told, **crystals(list(made))}


def ranking_by_energy(work: Path) -> Json:
    """The same by CHGNet."""
    return ranking(work, "energy")


# --- training

STEPS = ["trainer.max_steps=20", "trainer.log_every=1", "trainer.val_every_steps=20", "seed=0"]
STEPS += ["trainer.max_minutes=null", "data.batch_size=16", "trainer.val_match_samples=0"]
STEPS += ["optim.warmup_steps=5"]
AVERAGED = "{}.ema_decay=0.5"  # a longer average is all warm-up in 20 steps


def logged(folder: Path) -> Json:
    """Return what a run logged, step by step, without times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps: dict[str, dict[str, Json]] = {}
    for row in map(json.loads, lines):
        own = steps.setdefault(f"step {row.pop('step')}", {})
        own |= {key: value for key, value in row.items() if not _of_the_clock(key)}
    return steps


def _of_the_clock(key: str) -> bool:
    return any(word in key for word in ("second", "time", "per_s", "memory", "hours", "minutes"))


def vae(work: Path) -> Json:
    """Losses of 20 steps of a VAE."""
    from chemeleon import api

    api.vae_train("demo/dng", STEPS, output=work / "vae")
    return logged(work / "vae")


def ldm(work: Path) -> Json:
    """Losses of 20 steps of a latent diffusion model, on the VAE of the package."""
    from chemeleon import api

    words = [*STEPS, "ldm.vae_ckpt_path=shipped:de_novo", AVERAGED.format("ldm")]
    api.ldm_train("demo/null", words, output=work / "ldm")
    return logged(work / "ldm")


def predictor(work: Path) -> Json:
    """Losses of 20 steps of a predictor, on the VAE of the package."""
    from chemeleon import api

    words = [*STEPS, "predict.vae_ckpt_path=shipped:de_novo", AVERAGED.format("predict")]
    api.predict_train("demo/density", words, output=work / "predictor")
    return logged(work / "predictor")


def rl(work: Path) -> Json:
    """Rewards and losses of one update of reinforcement learning."""
    from chemeleon import api

    words = ["rl.ldm_ckpt_path=shipped:de_novo", "trainer.max_epochs=1", "seed=0"]
    words += ["trainer.max_minutes=null", "data.batch_size=2", "rl.num_group_samples=8"]
    words += ["rl.val_samples=8", "rl.pictures_every=0", "trainer.log_every=1"]
    words += ["trainer.val_every_epochs=1"]
    api.rl_train("demo/dng", words, output=work / "rl")
    return logged(work / "rl")


# --- evaluation


def evaluate(work: Path) -> Json:
    """The whole summary of tests/golden/crystals, against tests/golden/known.csv, and the table."""
    known = "known.csv"
    words: dict[str, Any] = {"references": [known], "control": known, "targets": known}
    return judged(**words, base=known)


def energies(work: Path) -> Json:
    """Energies of the same crystals by CHGNet, and above the hull that comes with the package."""
    found = judged(control=None, potential="chgnet", hull="mp", device="cpu")
    columns = ("energy_ev_per_atom", "e_above_hull_ev", "hull_state")
    table = {name: row for name, row in found.items() if "status" in row}
    return {
        "headline": found["headline"],
        **{name: {column: row[column] for column in columns} for name, row in table.items()},
    }


def judged(**words: Any) -> dict[str, Json]:
    """Return the summary of tests/golden/crystals and a row for each of them."""
    import chemeleon

    with contextlib.chdir(FOLDER):  # columns are named after the path
        report = chemeleon.evaluate("crystals", **words, jobs=1)
    summary = {key: value for key, value in report.summary.items() if key != "manifest"}
    table = {row.pop("id"): row for row in report.crystals.to_dict("records")}
    for row in table.values():
        del row["source"]
        if row["status"] == "failed":
            del row["reason"]  # words of a reader
    return {**summary, **table}


# seen: 8e-7 of lengths, 3e-5 degrees, 1.5e-4 of coordinates, 5e-6 of scores
CRYSTALS = {
    "lengths": Bound(1e-4, 0),
    "angles": Bound(0, 0.01),
    "frac_coords": Bound(0, 2e-3),
    "score": Bound(1e-4, 1e-4),
}
# seen: 3e-6 of losses, 4e-5 of the norm of gradients
STEPPED = {"grad_norm": Bound(1e-3, 0), "lr": Bound(1e-6, 0), "": Bound(1e-4, 1e-7)}
# seen: 3e-8; the loss of a first update is what is left of advantages whose mean is zero
UPDATED = {"loss": Bound(0, 1e-5), "surrogate": Bound(0, 1e-5), **STEPPED}
JUDGED = {"": Bound(1e-5, 1e-6)}
ENERGIES = {"": Bound(1e-4, 2e-4)}  # eV/atom

CASES = {
    "de_novo": Case(de_novo, CRYSTALS),
    "csp": Case(csp, CRYSTALS),
    "ranking": Case(ranking, CRYSTALS),
    "ranking_by_energy": Case(ranking_by_energy, CRYSTALS),
    "vae": Case(vae, STEPPED),
    "ldm": Case(ldm, STEPPED),
    "predictor": Case(predictor, STEPPED),
    "rl": Case(rl, UPDATED),
    "evaluate": Case(evaluate, JUDGED),
    "energies": Case(energies, ENERGIES),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        record(name)
        print(f"recorded {FOLDER / name}.json")
