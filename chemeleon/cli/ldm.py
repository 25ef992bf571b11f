"""`chemeleon ldm`: latent diffusion: the model that generates."""

from __future__ import annotations

import typer

from chemeleon.cli import options

app = typer.Typer(no_args_is_help=True, help="Latent diffusion: the model that generates.")


@app.command()
def train(
    overrides: options.Overrides = None,
    preset: options.Preset = None,
    config: options.Config = None,
    output: options.Output = None,
    resume: options.Resume = None,
    overwrite: options.Overwrite = False,
    show_config: options.ShowConfig = False,
    tracker: options.TrackerName = None,
) -> None:
    """Train a latent diffusion model on the latents of a trained VAE.

    [bold]Examples[/]

    \b
    chemeleon ldm train --preset demo/null ldm.vae_ckpt_path=runs/demo_vae -o runs/demo_ldm
    chemeleon ldm train --preset mp_20/null ldm.vae_ckpt_path=runs/my_vae trainer.max_epochs=500
    chemeleon ldm train --resume runs/ldm-mp_20-null
    accelerate launch --num_processes 2 -m chemeleon ldm train --preset mp_20/null
    """
    from chemeleon import api

    words = options.with_tracker(overrides, tracker)
    if show_config:
        options.print_config(api.resolve("ldm", preset, config, words, resume))
        return
    result = api.ldm_train(
        preset,
        words,
        config_file=config,
        output=output,
        resume=resume,
        overwrite=overwrite,
    )
    options.report_training(
        result,
        "ldm",
        f"chemeleon sample --model {result.folder} -n 10 -o out",
    )


@app.command()
def presets() -> None:
    """List the presets of this stage.

    [bold]Examples[/]

    \b
    chemeleon ldm presets
    """
    options.print_preset_names("ldm")
