"""`chemeleon STAGE train` and `presets`, the same for every stage."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chemeleon.cli.words import say
from chemeleon.config.launched import is_first

if TYPE_CHECKING:
    from chemeleon.config.presets import Loaded
    from chemeleon.training.launch import TrainResult

Preset = Annotated[
    str | None,
    typer.Option("--preset", "-p", help="Named settings, such as mp_20/null; see `presets`."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings on top, such as trainer.max_epochs=3."),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML file on top of the preset.", metavar="FILE")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Run folder; default runs/STAGE-PRESET.", metavar="DIR"),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", help="Resume the run in this folder.", metavar="DIR")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run made.")]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print every setting and who set it, then stop.")
]
TrackerName = Annotated[
    str | None,
    typer.Option("--tracker", help="wandb, tensorboard or none; short for trainer.tracker=..."),
]


def add_training(app: typer.Typer, stage: str, help: str, next_step: str) -> None:
    """Add the commands `train` and `presets` of a stage.

    Args:
        app: the stage's group of commands.
        stage: its name.
        help: description and examples of `train`.
        next_step: what to type after training; `{folder}` stands for the run's.
    """

    @app.command(help=inspect.cleandoc(help))
    def train(
        overrides: Overrides = None,
        preset: Preset = None,
        config: Config = None,
        output: Output = None,
        resume: Resume = None,
        overwrite: Overwrite = False,
        show_config: ShowConfig = False,
        tracker: TrackerName = None,
    ) -> None:
        from chemeleon import api

        words = _with_tracker(overrides, tracker)
        if show_config:
            _print_config(api.resolve(stage, preset, config, words, resume))
            return
        result = api.train(
            stage,
            preset,
            words,
            config_file=config,
            output=output,
            resume=resume,
            overwrite=overwrite,
        )
        _report_training(result, stage, next_step.format(folder=result.folder))

    example = f"[bold]Examples[/]\n\n\b\nchemeleon {stage} presets"

    @app.command(help=f"List the presets of this stage.\n\n{example}")
    def presets() -> None:
        _print_preset_names(stage)


def _with_tracker(overrides: list[str] | None, tracker: str | None) -> list[str]:
    """Return the KEY=VALUE words with the tracker option among them."""
    return [*(overrides or []), *([f"trainer.tracker={tracker}"] if tracker else [])]


def _print_config(loaded: Loaded) -> None:
    """Print every key, its value and its origin."""
    import json

    from chemeleon.config.presets import flatten

    lines = []
    for key, value in flatten(loaded.config.model_dump(mode="json")):
        text = json.dumps(value, ensure_ascii=False)
        lines.append((f"{key}: {text}", loaded.origins[key]))
    width = min(max(len(text) for text, _ in lines), 60)
    for text, origin in lines:
        say(f"{text:<{width}}  # {origin}")


def _print_preset_names(stage: str) -> None:
    """Print a stage's presets, one per line, with what each does."""
    from chemeleon.config.presets import describe_preset, list_presets

    names = list_presets(stage)
    width = max(map(len, names))
    for name in names:
        say(f"{name:<{width}}  {describe_preset(stage, name)}")


def _report_training(result: TrainResult, stage: str, next_step: str) -> None:
    """Say how a run ended and what to type next; only the first process speaks."""
    if not is_first():
        return
    folder, fitted = result.folder, result.fitted
    go_on = f"Resume with: chemeleon {stage} train --resume {folder}"
    if fitted.interrupted:
        say(f"stopped at step {fitted.step}, all saved. {go_on}")
        raise typer.Exit(130)
    if not fitted.complete:
        say(f"trainer.max_minutes is over at step {fitted.step}, all saved. {go_on}")
    say(f"done after {fitted.step} steps: {folder}. Next: {next_step}")
