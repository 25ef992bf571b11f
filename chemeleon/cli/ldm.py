"""`chemeleon ldm`: latent diffusion: the model that generates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chemeleon.cli import train
from chemeleon.cli.words import say

app = typer.Typer(no_args_is_help=True, help="Latent diffusion: the model that generates.")

train.add_training(
    app,
    "ldm",
    """Train a latent diffusion model on the latents of a trained VAE.

    [bold]Examples[/]

    \b
    chemeleon ldm train --preset demo/null ldm.vae_ckpt_path=runs/demo_vae -o runs/demo_ldm
    chemeleon ldm train --preset mp_20/null ldm.vae_ckpt_path=runs/my_vae trainer.max_epochs=500
    chemeleon ldm train --resume runs/ldm-mp_20-null
    accelerate launch --num_processes 2 -m chemeleon ldm train --preset mp_20/null
    """,
    next_step="chemeleon sample --model {folder} -n 10 -o out",
)


@app.command()
def merge(
    model: Annotated[str, typer.Argument(help="Run or model folder with adapters (ldm.lora).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Model folder to write.", metavar="DIR")
    ],
    base: Annotated[
        str | None, typer.Option("--base", help="The model that is adapted, if it has moved.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier model in the folder.")
    ] = False,
) -> None:
    """Add low-rank adapters to the weights of their base: a model that needs nothing else.

    Sampling from a run with adapters does so by itself.

    [bold]Examples[/]

    \b
    chemeleon ldm merge runs/my_lora -o models/my_gap_ldm
    chemeleon ldm merge runs/my_lora/last --base hub:alex_mp_20_ldm_base -o models/my_gap_ldm
    """
    from chemeleon import api

    folder = api.ldm_merge(model, output, base=base, overwrite=overwrite)
    say(f"merged: {folder}. Next: chemeleon sample --model {folder} -n 10 -o out")
