"""From a config to a running training: folder, processes, stage, loop."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from chemeleon.checkpoints.adapters import BASE_IN_RUN
from chemeleon.checkpoints.store import write_model
from chemeleon.config.launched import tell_if_alone
from chemeleon.config.presets import to_yaml
from chemeleon.config.schema import StageConfig
from chemeleon.storage import Draft, hold, refuse_existing, write_text
from chemeleon.terminal import Terminal
from chemeleon.training.loop import Fitted, fit
from chemeleon.training.run import Run, keep_freed_memory, make_accelerator
from chemeleon.training.stage import RunContext, Stage
from chemeleon.training.tracking import read_metrics

if TYPE_CHECKING:
    import pandas

RUN_PARTS = (
    "config.yaml",
    "metrics.jsonl",
    "state.safetensors",
    "best",
    "last",
    "init",
    "scores.json",
    "parity.png",
    "pictures",
    "report.html",
)


class TrainResult(NamedTuple):
    """The run folder and how training ended."""

    folder: Path
    fitted: Fitted

    def history(self) -> pandas.DataFrame:
        """Return what was logged (``metrics.jsonl``), a row for each step with anything to say."""
        import pandas

        rows = read_metrics(self.folder)
        frame = pandas.DataFrame(rows) if rows else pandas.DataFrame({"step": [], "epoch": []})
        return frame.groupby("step").first()


def train(
    config: StageConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train a stage in a run folder; call it on every process of `accelerate launch`.

    A run that is overwritten is there until the new one has saved for the first time.

    Raises:
        ConfigError: if the folder holds a run and neither ``resume`` nor ``overwrite`` is given,
            or if another command trains there.
    """
    console = console or Terminal(stderr=True)
    parts: dict[str, Any] = {
        "parts": RUN_PARTS,
        "overwrite": overwrite or resume,
        "remedy": "resume it by --resume, or name another -o",
    }
    refuse_existing(folder, **parts)
    accelerator = make_accelerator(config.trainer, folder, console)
    tell_if_alone()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    main = accelerator.is_main_process
    console.quiet |= not main
    with hold(folder, **parts) if main else nullcontext(), Draft(folder, RUN_PARTS) as draft:
        return _train(config, RunContext(draft, accelerator, console, resume))


def _train(config: StageConfig, context: RunContext) -> TrainResult:
    draft, accelerator = context.draft, context.accelerator
    # built before anything is written: bad input must not cost the earlier run
    kind: type[Stage] = resolve_name(config.stage)
    stage = kind.start(config, context)
    run = Run(stage, config, context)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if not context.resume:
            draft.begin(fresh=not draft.replaces())
            if (first := stage.initial()) is not None:
                write_model(draft.path / BASE_IN_RUN, *first)
        write_text(draft.path / "config.yaml", to_yaml(config))
    accelerator.wait_for_everyone()
    fitted = fit(run)
    if accelerator.is_main_process:
        stage.finish(context, interrupted=fitted.interrupted)
    return TrainResult(draft.folder, fitted)
