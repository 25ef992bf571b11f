"""`chemeleon rl`: reinforcement learning: teach a model what is wanted."""

from __future__ import annotations

import typer

from chemeleon.cli import options
from chemeleon.cli.rl_rewards import rewards

app = typer.Typer(
    no_args_is_help=True, help="Reinforcement learning: teach a model what is wanted."
)

options.add_training(
    app,
    "rl",
    """Tune a latent diffusion model by rewards (GRPO).

    An epoch is one update: groups of crystals are made, scored and learned from.

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
app.command()(rewards)
