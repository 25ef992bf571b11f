"""A model is trained on its own best crystals: make, relax, check, keep, train on, in rounds.

Each step ends with a result on disk and a word in `start.STATE`, so whoever is killed begins with
the step that was under way; a training is resumed where it was saved.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from chemeleon.checkpoints.store import STATE as RUN_STATE
from chemeleon.config.launched import is_one_of_several
from chemeleon.config.plain_json import parse_json
from chemeleon.config.schema import LDMTrainConfig
from chemeleon.data.tables import write_rows
from chemeleon.errors import ConfigError, GenerationError
from chemeleon.evaluation.evaluate import evaluate
from chemeleon.evaluation.metrics.statistics import finite
from chemeleon.evaluation.settings import Settings
from chemeleon.generation.sampling import sample
from chemeleon.reinforcement.flywheel import select
from chemeleon.reinforcement.flywheel.report import REPORT, SUMMARY, sentence, write_report
from chemeleon.reinforcement.flywheel.settings import FlywheelSettings
from chemeleon.reinforcement.flywheel.start import CONFIG, STATE, Known, State, begin
from chemeleon.reinforcement.notes import drift
from chemeleon.storage import SET_PARTS, hold, replacing, write_text
from chemeleon.terminal import Terminal, shares
from chemeleon.training import launch

ROUNDS = "rounds"
PARTS = (STATE, CONFIG, ROUNDS, SUMMARY, REPORT)
PROBED = 1000  # crystals by which a model is looked at; shares are known to 3 points then


class FlywheelResult(NamedTuple):
    """What a flywheel made.

    Attributes:
        folder: of all rounds, with report.html and summary.json.
        model: run folder of the last round.
        kept: data sets of the rounds.
        summary: content of summary.json.
    """

    folder: Path
    model: Path
    kept: list[Path]
    summary: dict[str, Any]


def turn(settings: FlywheelSettings) -> FlywheelResult:
    """Begin a flywheel, or resume the one in the folder, and turn it to its end.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
        KeyboardInterrupt: by Ctrl-C; all finished steps are kept.
    """
    settings.check()
    if is_one_of_several():
        raise ConfigError("a flywheel is one process: start it without accelerate or torchrun")
    console = settings.console or Terminal(stderr=True)
    with hold(settings.folder, PARTS):
        begun = begin(settings)
        try:
            return Flywheel(*begun, console).turn()
        except KeyboardInterrupt:
            folder = settings.folder
            console.print(f"all finished steps are kept: chemeleon rl flywheel --resume {folder}")
            raise


class Flywheel:
    """The rounds of one folder."""

    def __init__(
        self, state: State, config: LDMTrainConfig, known: Known, console: Console
    ) -> None:
        self.state, self.config, self.known, self.console = state, config, known, console
        self.settings, self.say = state.settings, console.print
        self.folder = self.settings.folder.absolute()

    def turn(self) -> FlywheelResult:
        """Do all rounds that are not done.

        Raises:
            GenerationError: if a round keeps no crystal, once the report is written.
        """
        rounds = self.settings.rounds or 0
        if self.state.done:
            self.say(f"resuming after step {self.state.done[-1]}")
        self.step(0, "probe", self.probe)
        for number in range(1, rounds + 1):
            self.step(number, "make", self.make)
            self.step(number, "judge", self.judge)
            self.step(number, "keep", self.keep)
            if not self.read(number, "keep")["kept"]:
                raise self.nothing_kept(number)
            self.step(number, "train", self.train)
            self.step(number, "probe", self.probe)
            self.report(number)
        kept = self.earlier(rounds + 1)
        model, summary = self.place(rounds) / "model", self.report(rounds)
        return FlywheelResult(self.settings.folder, model, kept, summary)

    def step(self, number: int, name: str, work: Callable[[int], None]) -> None:
        """Do a step of a round, unless it is done."""
        if f"{number}/{name}" not in self.state.done:
            self.place(number).mkdir(parents=True, exist_ok=True)
            work(number)
            self.state.finish(f"{number}/{name}")

    def make(self, number: int) -> None:
        """Sample from the last model, relax and symmetrize; what is known is drawn again."""
        settings = self.settings
        how = {"redraw": settings.redraw, "new_to": self.known.all(self.earlier(number))}
        how |= {"relax": settings.relax, "potential": settings.potential, "symmetrize": True}
        how |= {"output": self.place(number) / "made", "overwrite": True}
        relaxed = f", relaxed by {settings.potential}" if settings.relax else ""
        self.say(
            f"round {number} of {settings.rounds}: making {settings.num_samples:,} crystals with"
            f" {self.model(number - 1)}{relaxed}"
        )
        self.sample(number - 1, settings.num_samples, seed=settings.seed + number, **how)

    def sample(self, number: int, count: int, **how: Any) -> Any:
        """Sample from the model of a round, and show how many crystals there are."""
        made, sampler = 0, self.config.ldm.sampler
        without = {"eta"} if sampler.unread_eta() else set()
        with shares(not self.console.quiet) as show:

            def progress(more: int) -> None:
                nonlocal made
                made += more
                show("crystals", made / count)

            how = {**sampler.model_dump(exclude=without), "cell": "primitive", **how}
            how |= {"device": self.settings.device, "progress": progress}
            return sample(self.model(number), count, **how)

    def judge(self, number: int) -> None:
        """Find what is valid, unique, novel and near the hull."""
        settings = self.settings
        self.say(f"round {number}: evaluating them by {settings.potential}")
        energies = {"potential": settings.potential, "hull": settings.hull}
        report = self.evaluate(self.place(number) / "made", number, **energies)
        report.save(self.place(number) / "judged", overwrite=True)

    def evaluate(self, source: Any, number: int, **energies: Any) -> Any:
        """Evaluate crystals against all that was known before a round."""
        how = {"references": self.known.all(self.earlier(number)), "control": "none", **energies}
        how |= {"device": self.settings.device, "on_error": self.config.data.on_error}
        settings = Settings(**how)
        with shares(not self.console.quiet) as show:
            return evaluate(source, settings, progress=show)

    def keep(self, number: int) -> None:
        """Write the chosen crystals as a data set, and the figures of the round."""
        settings, known, place = self.settings, self.known, self.place(number)
        judged = select.read_table(place / "judged")
        steps = select.funnel(judged, settings.highest, settings.allow_p1)
        kept = select.select(judged, steps["good"], known.sizes)
        texts = [(place / "made" / "cif" / f"{x}.cif").read_text("utf-8") for x in kept["id"]]
        names = [f"{self.folder.name}-{number}-{x}" for x in kept["id"]]  # each round has its own
        rows = [["material_id", "cif"], *map(list, zip(names, texts, strict=True))]
        with (
            replacing(self.kept(number), SET_PARTS, overwrite=True) as draft,
            gzip.open(draft / SET_PARTS[0], "wt", encoding="utf-8", newline="") as file,
        ):
            write_rows(file, rows)
        found = select.figures(judged, kept, known.apart, known.elements, steps)
        self.write(number, "keep", found)
        self.say(f"round {number}: {sentence(found, settings.highest)}")

    def train(self, number: int) -> None:
        """Tune the last model on the training set and all that was kept."""
        config, folder = self.config, self.place(number) / "model"
        kept = list(map(str, self.earlier(number + 1)))
        # without conditions no column is read, and what was made has none
        targets = config.data.targets if config.ldm.conditions else []
        more = {"also": [*config.data.also, *kept], "targets": targets}
        data = config.data.model_copy(update=more)
        ldm = config.ldm.model_copy(update={"init_ckpt_path": str(self.model(number - 1))})
        self.say(f"round {number}: training on {', '.join(self.known.training)} and what was kept")
        # training on a GPU lowers it, and a flywheel that was stopped would sample as by default
        precision = torch.get_float32_matmul_precision()
        how = {"resume": (folder / RUN_STATE).is_file(), "console": self.console}
        config = config.model_copy(update={"data": data, "ldm": ldm})
        result = launch.train(config, folder, overwrite=True, **how)
        torch.set_float32_matmul_precision(precision)
        if result.fitted.interrupted:
            raise KeyboardInterrupt

    def probe(self, number: int) -> None:
        """Look at the model of a round by crystals that nothing is done to."""
        count = min(PROBED, self.settings.num_samples)
        self.say(f"looking at {count:,} crystals of {self.model(number)} as generated")
        made = self.sample(number, count, seed=self.settings.seed)
        table = self.evaluate(made.structures, number + 1).crystals
        training, kept = self.known.training, list(map(str, self.earlier(number + 1)))
        found = {
            "made": count,
            "memorisation": select.share_of(select.known_to(table, training)),
            "kept_again": select.share_of(select.known_to(table, kept)) if kept else None,
            "p1": select.share_of(select.numbers(table, "space_group") == 1),
            "element_drift": finite(drift(self.known.elements, select.held_by(table))),
        }
        self.write(number, "probe", found)

    def report(self, number: int) -> dict[str, Any]:
        """Write the report of the rounds so far, and return its figures."""
        rounds = [self.read(i, "keep") for i in range(1, number + 1)]
        probes = [self.read(i, "probe") for i in range(number + 1)]
        models = [str(self.model(i)) for i in range(number + 1)]
        kept = list(map(str, self.earlier(number + 1)))
        return write_report(self.settings, self.known, rounds, probes, models, kept)

    def nothing_kept(self, number: int) -> GenerationError:
        """Write the report, and return the error of a round without a crystal to keep."""
        self.report(number)
        found = sentence(self.read(number, "keep"), self.settings.highest)
        return GenerationError(
            f"round {number} keeps no crystal: {found}. Begin again with another -o, and a higher"
            " --highest, --allow-p1, a larger -n or a better model; the figures are in"
            f" {self.settings.folder / REPORT}"
        )

    def place(self, number: int) -> Path:
        """Return the folder of a round; 0 is before the first."""
        return self.folder / ROUNDS / str(number)

    def model(self, number: int) -> str | Path:
        """Return the model after a round."""
        return self.place(number) / "model" if number else str(self.settings.model)

    def kept(self, number: int) -> Path:
        """Return the data set of a round."""
        return self.place(number) / f"kept-{number}"

    def earlier(self, number: int) -> list[Path]:
        """Return the data sets of the rounds before one."""
        return [self.kept(i) for i in range(1, number)]

    def read(self, number: int, name: str) -> dict[str, Any]:
        """Return the figures of a step; none of one that is not done."""
        path = self.place(number) / f"{name}.json"
        return parse_json(path.read_bytes()) if path.is_file() else {}

    def write(self, number: int, name: str, found: Mapping[str, Any]) -> None:
        """Write the figures of a step."""
        write_text(self.place(number) / f"{name}.json", json.dumps(found, indent=1) + "\n")
