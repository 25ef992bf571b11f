"""`chemeleon vae`: the autoencoder between crystals and latents."""

from __future__ import annotations

import typer

from chemeleon.cli import options

app = typer.Typer(no_args_is_help=True, help="The autoencoder between crystals and latents.")

options.add_training(
    app,
    "vae",
    """Train a VAE: crystals to per-atom latents and back.

    [bold]Examples[/]

    \b
    chemeleon vae train --preset demo/dng -o runs/demo_vae
    chemeleon vae train --preset mp_20/dng trainer.max_epochs=3000 data.batch_size=128
    chemeleon vae train --resume runs/vae-mp_20-dng
    chemeleon vae train --preset mp_20_open/dng --show-config
    """,
    next_step="chemeleon ldm train --preset PRESET ldm.vae_ckpt_path={folder}",
)
