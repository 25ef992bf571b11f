"""`chemeleon rl`: reinforcement learning: teach a model what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chemeleon.cli import train
from chemeleon.cli.words import of_settings, say
from chemeleon.reinforcement.flywheel.settings import FlywheelSettings

app = typer.Typer(
    no_args_is_help=True, help="Reinforcement learning: teach a model what is wanted."
)

train.add_training(
    app,
    "rl",
    """Tune a latent diffusion model by rewards (GRPO).

    An epoch is one update: groups of crystals are generated and scored, and the policy is updated.

    Rewards named ./FILE.py:NAME or package.module:NAME in a config are code, and it is run: read a
    config from others, and what it names, before you use it with --config. A model brings none.

    [bold]Examples[/]

    \b
    chemeleon rl train --preset demo/dng -o runs/demo_rl
    chemeleon rl train --preset mp_20/dng rl.ldm_ckpt_path=runs/my_ldm trainer.max_epochs=300
    chemeleon rl train --preset mp_20/dng rl.num_group_samples=128 data.batch_size=8
    chemeleon rl train --resume runs/rl-mp_20-dng
    accelerate launch --num_processes 2 -m chemeleon rl train --preset mp_20/dng
    """,
    next_step="chemeleon sample --model {folder} -n 10 -o out",
)


Model = Annotated[str | None, typer.Option("--model", "-m")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n")]
Hulls = Annotated[list[str] | None, typer.Option(metavar="HULL")]
Apart = Annotated[
    list[str] | None,
    typer.Option(
        help="Held-out set whose crystals are not kept: data set, NAME/SPLIT or path; repeatable."
        " By default the val and test splits of the training data."
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR")]
Resume = Annotated[Path | None, typer.Option(metavar="DIR")]


@app.command()
@of_settings(FlywheelSettings, "console")
def flywheel(
    model: Model = None,
    overrides: train.Overrides = None,
    preset: train.Preset = None,
    num_samples: NumSamples = FlywheelSettings.num_samples,
    hull: Hulls = None,
    apart: Apart = None,
    output: Output = None,
    resume: Resume = None,
    **settings: Any,
) -> None:
    """Train a model on its own best crystals, in rounds.

    Each round makes crystals, relaxes and evaluates them, keeps those that are valid, unique, novel
    and near the hull as a data set, and tunes the model on it beside its training data. Stop it at
    any moment: the same command resumes it, as --resume does.

    [bold]Examples[/]

    \b
    chemeleon rl flywheel --model runs/my_ldm -n 10000 --rounds 3 -o runs/fly
    chemeleon rl flywheel --model runs/my_ldm -o runs/fly trainer.max_steps=2000 optim.lr=1e-4
    chemeleon rl flywheel --model shipped:de_novo --preset mp/mini -o runs/fly
    chemeleon rl flywheel --model runs/my_ldm --apart mp/val --apart mp/test --apart my_set -o fly
    chemeleon rl flywheel --resume runs/fly
    """
    from chemeleon import api

    settings |= {"model": model, "overrides": overrides or (), "preset": preset, "apart": apart}
    settings |= {"num_samples": num_samples, "hull": hull or (), "output": output, "resume": resume}
    result = api.rl_flywheel(**settings)
    for text in result.summary["warnings"]:
        say(f"warning: {text}")
    done = f"done after round {len(result.kept)}: {result.folder / 'report.html'}"
    say(f"{done}. Next: chemeleon sample --model {result.model} -n 10 -o out")


@app.command()
def rewards(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Only these, with all about their options; also ./FILE.py:NAME, package:NAME,"
            " which are run.",
        ),
    ] = None,
) -> None:
    """List the rewards with their options.

    [bold]Examples[/]

    \b
    chemeleon rl rewards
    chemeleon rl rewards energy
    chemeleon rl rewards ./mine.py:density
    """
    from inspect import getdoc

    from chemeleon.reinforcement.rewards._loading import built_in, find_reward

    known = names or built_in()
    width = max(map(len, known))
    for name in known:
        kind = find_reward(name)
        line = (getdoc(kind) or "").partition("\n")[0] or "no description"
        say(f"{name:<{width}}  {line}")
        options = kind.Options.model_fields
        if names:
            for key, field in options.items():
                say(f"  {key} ({_default(field)})  {field.description or ''}".rstrip())
        elif options:
            described = (f"{key}={_default(field)}" for key, field in options.items())
            say(f"{'':<{width}}  options: {', '.join(described)}")


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else str(value)
