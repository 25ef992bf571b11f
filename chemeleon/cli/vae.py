"""`chemeleon vae`: the autoencoder between crystals and latents."""

from __future__ import annotations

import typer

from chemeleon.cli import options

app = typer.Typer(no_args_is_help=True, help="The autoencoder between crystals and latents.")


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
    """Train a VAE: crystals to per-atom latents and back.

    [bold]Examples[/]

    \b
    chemeleon vae train --preset demo/dng -o runs/demo_vae
    chemeleon vae train --preset mp_20/dng trainer.max_epochs=3000 data.batch_size=128
    chemeleon vae train --resume runs/vae-mp_20-dng
    chemeleon vae train --preset mp_20_open/dng --show-config
    """
    from chemeleon import api

    words = options.with_tracker(overrides, tracker)
    if show_config:
        options.print_config(api.resolve("vae", preset, config, words, resume))
        return
    result = api.vae_train(
        preset,
        words,
        config_file=config,
        output=output,
        resume=resume,
        overwrite=overwrite,
    )
    options.report_training(
        result,
        "vae",
        f"chemeleon ldm train --preset PRESET ldm.vae_ckpt_path={result.folder}",
    )


@app.command()
def presets() -> None:
    """List the presets of this stage.

    [bold]Examples[/]

    \b
    chemeleon vae presets
    """
    options.print_preset_names("vae")
