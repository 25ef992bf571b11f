"""`chemeleon ldm`: latent diffusion: the model that generates."""

from __future__ import annotations

import typer

from chemeleon.cli import options

app = typer.Typer(no_args_is_help=True, help="Latent diffusion: the model that generates.")

options.add_training(
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
