"""The commands that write results, and what a user sees of a result.

Each makes an old result A, a new one B of other content, and a small one C, in the same place.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conftest import TINY_VAE
from forks import Done, Forks

NAMES = ("sample", "sheet", "evaluate", "prepare", "convert", "hull", "train")
# what two honest runs of the same command do not share
CHANGING = {"created", "seconds", "seconds_per_step", "time", "minutes", "date", "steps_per_second"}
DATES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?([+-]\d\d:\d\d|Z)?")
SIZES = ("--steps", 5, "--num-atoms", "2,4")
STEPS = 30  # of a training
ELEMENTS = (  # noqa: SIM905, metals, then others
    "Li Na K Rb Cs Be Mg Ca Sr Ba Sc Y La Ti Zr Hf V Nb Ta Cr Mo W Mn Re Fe Ru Co Rh Ni Pd Pt Cu Ag"
    " Au Zn Cd Al Ga In Tl O S Se Te F Cl Br I N P As"
).split()


class Case(NamedTuple):
    """One command.

    Attributes:
        output: name of the file or folder that it makes.
        arguments: ``a``, ``b`` or ``c`` and the output's path -> words of the command line.
        reader: the output's path -> words of a command that reads it, and writes elsewhere.
    """

    output: str
    arguments: Callable[[str, Path], list[Any]]
    reader: Callable[[Path], list[Any]]


def make_inputs(folder: Path, forks: Forks) -> dict[str, Case]:
    """Make what the commands read, in two kinds, and return the commands."""
    for seed, which in enumerate("abc"):
        count = 3 if which == "c" else 16
        words = ("sample", "-n", count, *SIZES, "--seed", seed, "-o", folder / f"crystals_{which}")
        done = forks.run(*words)
        assert done.code == 0, done
        _model(folder / f"model_{which}", seed)
        _energies(folder / f"energies_{which}.csv", seed)

    def judged(output: Path) -> list[Any]:
        return ["evaluate", output, "--jobs", 1, "-o", folder / "read", "--overwrite"]

    def copied(output: Path) -> list[Any]:
        return ["hub", "convert", output, "-o", folder / "copied", "--overwrite"]

    def case(name: str, reader: Callable[[Path], list[Any]], *words: object) -> Case:
        words = (*words, "--overwrite", "-o")
        return Case(name, lambda w, o: [*(str(x).replace("WHICH", w) for x in words), o], reader)

    def sampled(count: int, *more: object) -> Case:
        words = ("--overwrite", *SIZES, "--seed")
        numbers = {"a": ("-n", count, *more), "b": ("-n", count, *more), "c": ("-n", 5)}
        return Case("out", lambda w, o: ["sample", "-o", o, *words, ord(w), *numbers[w]], judged)

    def trained(which: str, output: Path) -> list[Any]:
        steps = (f"trainer.max_steps={8 if which == 'c' else STEPS}", "trainer.val_every_steps=8")
        often = ("trainer.save_every_minutes=0.001", f"seed={ord(which)}", "--overwrite")
        return ["vae", "train", "--preset", "demo/dng", *TINY_VAE, *steps, *often, "-o", output]

    # reports are read by people alone, so by the next command that cannot do what it should
    hopeless = ["evaluate", folder / "nothing", "--overwrite", "-o"]
    cif = folder / "crystals_WHICH" / "cif"
    prepare = ("data", "prepare", cif, "--split", "0.5,0.25,0.25", "--on-error", "skip")
    return {
        "sample": sampled(300),
        "sheet": sampled(12, "--format", "cif,extxyz,json", "--contact-sheet"),
        "evaluate": case("report", lambda o: [*hopeless, o], "evaluate", cif, "--jobs", 1),
        "prepare": case("set", lambda o: ["data", "describe", o], *prepare),
        "convert": case("model", copied, "hub", "convert", folder / "model_WHICH"),
        "hull": case("hull.json.gz", lambda o: ["data", "hull", "mp", "-o", folder / "h.json.gz"],
                     "data", "hull", folder / "energies_WHICH.csv"),
        "train": Case("run", trained, copied),
    }  # fmt: skip


def _model(folder: Path, seed: int) -> None:
    """Write a VAE of some megabytes, so that writing takes a while."""
    import torch

    from chemeleon.config.architecture import VAEConfig
    from chemeleon.models.vae import CrystalVAE

    torch.manual_seed(seed)
    sizes = {"width": 192, "heads": 4, "encoder_layers": 3, "decoder_layers": 3}
    CrystalVAE(VAEConfig(**sizes, feedforward=768)).save_pretrained(folder)


def _energies(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["formula", "formation_energy_per_atom"])
        for metal in ELEMENTS[:40]:
            for other in ELEMENTS[40:]:
                for first, second in ((1, 1), (1, 2), (2, 3), (3, 1)):
                    energy = draw.uniform(-3, 0.1)
                    writer.writerow([f"{metal}{first}{other}{second}", f"{energy:.4f}"])


def listing(folder: Path) -> list[str]:
    """Return the paths of everything in a folder, hidden or not."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def hidden(path: str) -> bool:
    """Whether users do not see it."""
    return any(part.startswith(".") for part in Path(path).parts)


def seen(place: Path) -> dict[str, Any]:
    """Return what a user sees in a folder: path to content, without dates."""
    files = [path for path in place.rglob("*") if path.is_file()]
    named = {str(path.relative_to(place)): path for path in files}
    empty = [p for p in place.rglob("*") if p.is_dir() and not any(p.iterdir())]
    found = {name: _content(path) for name, path in named.items() if not hidden(name)}
    found |= {f"{name}/": "" for p in empty if not hidden(name := str(p.relative_to(place)))}
    return found


def whole(place: Path) -> dict[str, str]:
    """Return the hash of each file that users see."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file()]
    named = {str(path.relative_to(place)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if not hidden(name)
    }


def _content(path: Path) -> Any:
    data = path.read_bytes()
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if path.name.removesuffix(".gz").endswith(".json"):
            return _steady(json.loads(data))
        if path.suffix == ".jsonl":
            return [_steady(json.loads(line)) for line in data.splitlines()]
    except (ValueError, EOFError, OSError) as error:
        return f"damaged: {error!r}"
    if path.suffix == ".html":
        data = DATES.sub("DATE", data.decode()).encode()
    return hashlib.sha256(data).hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(v) for key, v in value.items() if key not in CHANGING}
    if isinstance(value, list):
        return [_steady(v) for v in value]
    return DATES.sub("DATE", value) if isinstance(value, str) else value


class Place:
    """A folder of its own in which a command replaces its old result A by a new one B.

    Attributes:
        work: the folder; nothing else is in it.
        output: the result.
        old: what a user sees of A.
        new: what a user sees of B.
        files: all that an honest run leaves in ``work``, by its kind.
        steps: when B changes files, of an undisturbed run.
    """

    def __init__(self, name: str, case: Case, forks: Forks, folder: Path) -> None:
        self.name, self._case, self._forks, self._folder = name, case, forks, folder
        self.work = folder / "work"
        self.output = self.work / case.output
        self.work.mkdir(parents=True)
        self.files: dict[str, list[str]] = {}
        self._honest("a")
        self.old, self.old_bytes = seen(self.work), whole(self.work)
        self._kept = shutil.copytree(self.work, folder / "kept")
        self._honest("c")
        self.small = seen(self.work)
        self.restore()
        self.steps = self._honest("b").steps
        self.new = seen(self.work)
        self.restore()
        self.words = self._honest("b").words
        again = seen(self.work)
        assert again == self.new, f"{name}: {differences(again, self.new)} differ by chance"
        assert self.old != self.new
        self.restore()

    def _honest(self, which: str) -> Done:
        done = self.run(which)
        assert done.code == 0, done
        self.files[which] = listing(self.work)
        assert not any(map(hidden, self.files[which])), self.files[which]
        return done

    def arguments(self, which: str) -> list[Any]:
        """Return the words of a command line."""
        return self._case.arguments(which, self.output)

    def run(self, which: str, **more: Any) -> Done:
        """Run the command to its end."""
        return self._forks.run(*self.arguments(which), watch=self.work, **more)

    def start(self, which: str, **more: Any):
        """Start the command."""
        return self._forks.start(*self.arguments(which), watch=self.work, **more)

    def restore(self) -> None:
        """Have result A there, and nothing else."""
        empty(self.work)
        shutil.copytree(self._kept, self.work, dirs_exist_ok=True)

    def pulse(self) -> tuple[Any, ...]:
        """Return what changes when a file is made, renamed or removed here."""
        found = []
        for folder in [self.work, *(p for p in self.work.iterdir() if p.is_dir())]:
            try:
                found.append((folder.name, folder.stat().st_mtime_ns))
            except FileNotFoundError:
                found.append((folder.name, 0))
        if self.output.is_file():
            found.append(self.output.stat().st_mtime_ns)
        return tuple(found)

    def state(self) -> str:
        """Return ``old`` or ``new``, or what is wrong with the result.

        Where neither is there, a command that reads the result has the first look.
        """
        told = self.bare_state()
        if told in ("old", "new"):
            return told
        done = self._forks.run(*self._case.reader(self.output))
        if done.code not in (0, 2 if self.name == "evaluate" else 0):
            return f"{told}; a reader: {done.code} {done.errors[-2:]}"
        after = self.bare_state()
        return after if after in ("old", "new") else f"{after}, after a reader, too"

    def bare_state(self) -> str:
        """Return the same, of the files as they are."""
        found = seen(self.work)
        if found == self.old:
            return "old"
        if self.name == "train":
            return self._resumed()
        if found == self.new:
            return "new"
        return (
            f"neither old ({differences(found, self.old)}) nor new ({differences(found, self.new)})"
        )

    def _resumed(self) -> str:
        config = self.output / "config.yaml"
        if not config.is_file() or f"seed: {ord('b')}\n" not in config.read_text():
            return f"the old run is not whole, and there is no config of a new: {self.left()}"
        done = self._forks.run("vae", "train", "--resume", self.output)
        if done.code != 0:
            return f"the new run cannot be resumed: {done.errors}; {self.left()}"
        found = seen(self.work)
        wrong = [n for n in differences(found, self.new) if not n.endswith("state.safetensors")]
        return f"the resumed run differs in {wrong}" if wrong else "new"

    def left(self) -> list[str]:
        """Return what is there, shortened."""
        files = listing(self.work)
        return files if len(files) < 12 else [*files[:11], f"and {len(files) - 11} more"]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what differs, shortened."""
    names = sorted(n for n in {*one, *other} if one.get(n) != other.get(n))
    return names if len(names) < 6 else [*names[:5], f"and {len(names) - 5} more"]


def empty(folder: Path) -> None:
    """Remove what is in a folder, but not the folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
