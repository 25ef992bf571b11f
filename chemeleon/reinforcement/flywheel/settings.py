"""What `rl flywheel` takes: each keyword, its default and what it means, said once.

Nothing here imports torch or pymatgen, so that the command line can read it for its help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon.config.requests import MAX_RELAX_STEPS, check_range, check_request, check_seed
from chemeleon.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

ROUNDS = 3
MOST_ROUNDS = 100
_CHANGED = ("rounds", "output", "resume", "device", "console")  # by whoever resumes, at will


@dataclass(frozen=True)
class FlywheelSettings:
    """A model, and how it is trained on its own crystals.

    Attributes:
        model: run or model folder, ``hub:NAME`` or ``shipped:NAME`` of a latent diffusion model
            that chooses elements.
        overrides: KEY=VALUE words on top of the settings of training, such as
            trainer.max_steps=2000; data.name is the data set that the model is trained beside.
        preset: settings of training, such as mp/null; by default those that the model's run was
            trained with. The architecture is the model's.
        rounds: how often crystals are made and trained on; by default 3, of a flywheel that is
            resumed as many as before.
        num_samples: crystals to make in each round.
        redraw: how often a crystal is drawn again, at least 1, while it is invalid, has atoms too
            close, or is known: in the training set, an earlier round's set or a set kept apart.
        relax: most steps of relaxation of what was made.
        potential: by which to relax and choose: chgnet, sevennet, mace, pkg:thing or another
            (docs/energy.md).
        hull: convex hulls: mp (the default where it takes the energies), mp_all, or files of
            ``chemeleon data hull``; of several the highest energy above hull counts.
        highest: highest energy above hull of crystals that are kept, eV/atom.
        allow_p1: also keep crystals without symmetry (space group P1).
        apart: held-out sets whose crystals are not kept: data sets, NAME/SPLIT or paths; by
            default the val and test splits of the training data.
        seed: same seed, same crystals.
        device: of sampling and energies: cpu, cuda, cuda:1 or another name of torch's; a GPU is
            used if there is one, in training in any case.
        output: folder to write to.
        resume: folder of a flywheel that was stopped; it brings all other settings.
        console: where progress is told; by default standard error.
    """

    model: str | Path | None = None
    overrides: Sequence[str] = ()
    _: KW_ONLY
    preset: str | None = None
    rounds: int | None = None
    num_samples: int = 10_000
    redraw: int = 4
    relax: int = 30
    potential: str = "chgnet"
    hull: Sequence[str] = ()
    highest: float = 0.08
    allow_p1: bool = False
    apart: Sequence[str] | None = None
    seed: int = 0
    device: str | None = None
    output: str | Path | None = None
    resume: str | Path | None = None
    console: Console | None = None

    @property
    def folder(self) -> Path:
        """The folder that is written to."""
        return Path(self.resume or self.output or "")

    def told(self) -> dict[str, Any]:
        """Return what makes this flywheel another one than others, as JSON."""
        found = {k: v for k, v in vars(self).items() if k not in _CHANGED}
        lists = {key: list(found[key]) for key in ("overrides", "hull")}
        apart = None if self.apart is None else list(self.apart)
        return {**found, **lists, "apart": apart, "model": str(self.model)}

    def check(self) -> None:
        """Refuse what cannot be done, before anything is loaded.

        Raises:
            ConfigError: saying what is wrong.
        """
        if self.rounds is not None:
            check_range("rounds", self.rounds, 1, MOST_ROUNDS)
        if self.resume is not None:
            given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if more := sorted({*given} - {*_CHANGED} | {*given} & {"output"}):
                raise ConfigError(
                    f"--resume takes the settings of the flywheel there: leave out {more[0]}"
                )
            return
        if self.output is None:
            raise ConfigError("a flywheel is written to disk: name a folder with -o")
        if self.model is None:
            raise ConfigError("name the model to begin from with --model, such as shipped:de_novo")
        check_request(self.num_samples)
        check_seed(self.seed)
        check_range("redraw", self.redraw, 1, 100)
        check_range("relax", self.relax, 0, MAX_RELAX_STEPS)
        check_range("highest", self.highest, -10, 10)
        if self.potential == "none":
            raise ConfigError("crystals are chosen by their energies: name a potential like chgnet")
