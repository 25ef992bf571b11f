"""The `chemeleon` command: puts the sub-commands together and prints errors."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from chemeleon.cli import assign, data, hub, ldm, predict, rl, vae
from chemeleon.cli.evaluate import evaluate
from chemeleon.cli.sample import sample
from chemeleon.config.launched import is_first, is_one_of_several
from chemeleon.config.renamed import current_flags
from chemeleon.errors import ChemeleonError, visible
from chemeleon.version import __version__

DEBUG = "CHEMELEON_DEBUG"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # nobody's mistake


def _stop() -> NoReturn:
    typer.echo("stopped", err=True)
    sys.exit(130)


class _Group(TyperGroup):
    """Commands of one name, whose help comes without pydantic."""

    def get_params(self, ctx: Any) -> Any:
        """Return the options before a command, of which flags not given are False.

        Typer has None for some, and reads any None by pydantic, whose import takes 0.1 s.
        """
        found = super().get_params(ctx)
        for option in found:
            if getattr(option, "is_flag", False):
                option.default = False
        return found


class _Commands(_Group):
    """All commands; Ctrl-C ends each with a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of which typer says nothing, or a word that fits no training
            _stop()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; of several processes, only the first runs one that is not shared."""
        if is_one_of_several() and args[0] != "sample" and args[1:2] != ["train"]:
            if not is_first():
                typer.echo("this process did nothing: the command takes the first alone", err=True)
                ctx.exit()
            typer.echo("this command takes one process: the others have ended", err=True)
        name, command, rest = super().resolve_command(ctx, args)
        options = [] if command is None else [o for one in command.params for o in one.opts]
        return name, command, current_flags(rest, options)


app = typer.Typer(
    name="chemeleon",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="A first look: [bold]chemeleon vae train --preset demo/dng -o runs/demo_vae[/]"
    "   Docs: docs/index.md",
)
_GROUPS = {
    "vae": vae,
    "ldm": ldm,
    "rl": rl,
    "predict": predict,
    "assign": assign,
    "data": data,
    "hub": hub,
}
for _name, _module in _GROUPS.items():
    app.add_typer(_module.app, name=_name, cls=_Group)
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
    """Train, steer and evaluate generative models of crystals.

    A VAE encodes crystals into latents (`vae`), a diffusion transformer learns to make such latents
    (`ldm`), rewards teach it what is wanted (`rl`), `sample` turns them into crystals, `evaluate`
    says how good those are, `predict` what properties they have, and `assign` which symmetry a
    formula may have.
    """
    if debug:
        os.environ[DEBUG] = "1"


class _Visible(logging.Formatter):
    """Shows what files say in messages as it stands, see `chemeleon.errors.visible`."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def main() -> None:
    """Run the command; user errors go to stderr in words, with exit code 2."""
    # pymatgen puts elements without one last, which is all that we ask
    warnings.filterwarnings("ignore", message="No Pauling electronegativity")
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its notes of its own steps, on stderr
    _prepare_output()
    try:
        app()
    except KeyboardInterrupt:  # before the command had begun
        _stop()
    except ChemeleonError as error:
        _fail(error, str(error))
    except OSError as error:  # no space, no permission, a file where a folder should be
        if error.filename is None and error.errno not in _DISK:
            raise
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _fail(error, f"{place}{error.strerror}")
    except (MemoryError, RuntimeError) as error:
        words = _exhausted(error)
        if words is None:
            raise
        _fail(error, words)


def _prepare_output() -> None:
    """Let nothing in a text of any origin stop it from being shown, or steer the terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it cannot encode becomes an escape
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible())
    logger = logging.getLogger("chemeleon")
    logger.addHandler(handler)
    logger.propagate = False
    if not is_first():
        logging.getLogger("chemeleon.data").setLevel(logging.ERROR)


def _fail(error: Exception, words: str) -> NoReturn:
    """Print one error in words and end; with --debug, as Python prints it."""
    if os.environ.get(DEBUG):
        raise error
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(visible(words), err=True)
    sys.exit(2)


def _exhausted(error: MemoryError | RuntimeError) -> str | None:
    """Say what this process has run out of; None for errors of another kind."""
    if isinstance(error, RecursionError):
        return "what was given is nested too deeply to be read"
    torch_says = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    if not (isinstance(error, MemoryError) or torch_says):
        return None
    said = str(error).partition("\n")[0] or "no more can be had"
    return f"memory is short ({said}): request fewer crystals, a smaller batch or a smaller model"
