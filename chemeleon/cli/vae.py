"""`chemeleon vae`: the autoencoder between crystals and latents."""

from __future__ import annotations

from typing import Annotated

import typer

from chemeleon.cli import train
from chemeleon.cli.words import OnErrorWord, say

app = typer.Typer(no_args_is_help=True, help="The autoencoder between crystals and latents.")

train.add_training(
    app,
    "vae",
    """Train a VAE: crystals to per-atom latents and back.

    [bold]Examples[/]

    \b
    chemeleon vae train --preset demo/dng -o runs/demo_vae
    chemeleon vae train --preset mp_20/dng trainer.max_epochs=3000 data.batch_size=128
    chemeleon vae train --resume runs/vae-mp_20-dng
    chemeleon vae train --preset mp/dng --show-config
    """,
    next_step="chemeleon ldm train --preset PRESET ldm.vae_ckpt_path={folder}",
)


@app.command()
def reconstruct(
    model: Annotated[str, typer.Argument(help="Run or model folder, or hub:NAME.")],
    dataset: Annotated[str, typer.Argument(help="Data set, such as mp, NAME/SPLIT, or a path.")],
    split: Annotated[
        str | None, typer.Option("--split", help="train, val or test. \\[test]")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Crystals at a time.")] = 256,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Matching processes.")] = None,
    on_error: OnErrorWord = "few",
) -> None:
    """Say how well a VAE gives back crystals: match rate and RMSE at the cdvae preset.

    [bold]Examples[/]

    \b
    chemeleon vae reconstruct runs/demo_vae demo
    chemeleon vae reconstruct runs/vae-mp_20-dng mp --split val
    """
    import json

    from chemeleon import api

    found = api.reconstruct(
        model,
        dataset,
        split=split,
        batch_size=batch_size,
        device=device,
        jobs=jobs,
        on_error=on_error,
    )
    say(json.dumps(found, indent=2))
