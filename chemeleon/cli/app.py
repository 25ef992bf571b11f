"""The `chemeleon` command: puts the sub-commands together and prints errors."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from chemeleon.cli import data, hub, ldm, predict, rl, vae
from chemeleon.cli.evaluate import evaluate
from chemeleon.cli.sample import sample
from chemeleon.errors import ChemeleonError
from chemeleon.version import __version__

DEBUG = "CHEMELEON_DEBUG"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # nobody's mistake

app = typer.Typer(
    name="chemeleon",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="A first look: [bold]chemeleon vae train --preset demo/dng -o runs/demo_vae[/]"
    "   Docs: docs/index.md",
)
app.add_typer(vae.app, name="vae")
app.add_typer(ldm.app, name="ldm")
app.add_typer(rl.app, name="rl")
app.add_typer(predict.app, name="predict")
app.add_typer(data.app, name="data")
app.add_typer(hub.app, name="hub")
app.command()(sample)
app.command()(evaluate)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chemeleon {__version__}")
        raise typer.Exit


@app.callback()
def chemeleon(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Train, steer and judge generative models of crystals.

    A VAE encodes crystals into latents (`vae`), a diffusion transformer learns to make such latents
    (`ldm`), rewards teach it what is wanted (`rl`), `sample` turns them into crystals, `evaluate`
    says how good those are, and `predict` what properties they have.
    """
    if debug:
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run the command; user errors go to stderr in words, with exit code 2."""
    # pymatgen puts elements without one last, which is all that we ask
    warnings.filterwarnings("ignore", message="No Pauling electronegativity")
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its notes of its own steps, on stderr
    if os.environ.get("RANK", "0") != "0":  # the first process says it for all
        logging.getLogger("chemeleon.data").setLevel(logging.ERROR)
    try:
        app()
    except ChemeleonError as error:
        if os.environ.get(DEBUG):
            raise
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        sys.exit(2)
    except OSError as error:  # no space, no permission, a file where a folder should be
        if os.environ.get(DEBUG) or (error.filename is None and error.errno not in _DISK):
            raise
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(f"{place}{error.strerror}", err=True)
        sys.exit(2)
