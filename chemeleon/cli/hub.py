"""`chemeleon hub`: models of the hub, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chemeleon.cli.words import choice, say

Weights = Literal["raw", "ema"]
Dtype = Literal["fp32", "bf16"]
_KINDS = {
    "vae": "a VAE",
    "ldm": "an LDM with its VAE",
    "predictor": "a predictor with its VAE",
    "assignment": "a model of assignments",
}
_NEXT = {
    "vae": "Train on it: chemeleon ldm train --preset mp_20/null ldm.vae_ckpt_path={}",
    "ldm": "Sample from it: chemeleon sample --model {} -n 100 -o out",
    "assignment": "Propose with it: chemeleon assign propose LiFePO4 --model {}",
    "predictor": 'In Python: chemeleon.models.predictor.Predictor.from_pretrained("{}")',
}

app = typer.Typer(no_args_is_help=True, help="Models of the hub: list, fetch, import, publish.")


@app.command("list")
def list_models() -> None:
    """List the models that have a name: those inside this package, and those of the hub.

    A name stands for its model wherever one is needed: shipped:NAME or hub:NAME. Your own names
    go into $CHEMELEON_HUB, a YAML file of the shape of configs/hub.yaml.

    [bold]Examples[/]

    \b
    chemeleon hub list
    CHEMELEON_HUB=my_models.yaml chemeleon hub list
    """
    from rich.table import Table

    from chemeleon import api
    from chemeleon.terminal import Terminal

    console = Terminal()
    if shipped := api.hub_shipped():
        table = Table(title="models inside this package")
        for column in ("name", "what", "size"):
            table.add_column(column, overflow="fold")
        for model in shipped:
            table.add_row(model.reference, model.what, f"{model.size / 1e6:.1f} MB")
        console.print(table)
    models = api.hub_list()
    table = Table(title="models of the hub")
    for column in ("name", "also", "what", "cached"):
        table.add_column(column, overflow="fold")
    for model in models:
        cached = "yes" if model.cached else "no"
        what = model.entry.what or f"{model.entry.kind} of {model.entry.repo}"
        table.add_row(model.name, ", ".join(model.aliases), what, cached)
    table.caption = f"from {', '.join(dict.fromkeys(model.entry.repo for model in models))}"
    console.print(table)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Name, OWNER/REPO, either with @REVISION.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.")
    ] = None,
) -> None:
    """Fetch a model into the cache, so that it can be used without network.

    [bold]Examples[/]

    \b
    chemeleon hub pull mp_20_vae
    chemeleon hub pull alex_mp_20_ldm
    chemeleon hub pull me/my-model@v1
    chemeleon sample --model hub:alex_mp_20_ldm -n 100 -o out
    """
    from chemeleon import api

    say(str(api.hub_pull(name, revision=revision)))


@app.command()
def convert(
    file: Annotated[
        str,
        typer.Argument(help="Lightning checkpoint, or a run or model folder.", metavar="MODEL"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Model folder to make.", metavar="DIR")
    ],
    weights: Annotated[
        Weights, choice("--weights", Weights, "raw: as trained; ema: their running average.")
    ] = "raw",
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae",
            help="VAE of an LDM whose file lacks it or its sizes: folder, hub:NAME or .ckpt.",
            metavar="MODEL",
        ),
    ] = None,
    dtype: Annotated[
        Dtype, choice("--dtype", Dtype, "Of weights in the folder: fp32, or bf16, half the size.")
    ] = "fp32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model in the folder.")
    ] = False,
) -> None:
    """Import a Lightning checkpoint, executing nothing in it, or write a model folder anew.

    [bold]Examples[/]

    \b
    chemeleon hub convert ldm_null.ckpt -o models/ldm
    chemeleon hub convert ldm_null.ckpt -o models/ldm_ema --weights ema
    chemeleon hub convert ldm_rl.ckpt -o models/ldm_rl --vae hub:mp_20_vae
    chemeleon hub convert runs/my_ldm -o models/small --dtype bf16
    """
    from chemeleon import api

    api.hub_convert(file, output, weights=weights, vae=vae, dtype=dtype, overwrite=overwrite)
    from chemeleon.config.modelfile import read_model_config

    config = read_model_config(output / "config.yaml")
    kind = str(config["kind"])
    # an imported model that was written anew is no import any more
    imported = config.get("imported") if Path(file).is_file() else None
    kept = f"{weights} weights" if imported else "weights"
    kept += " in bf16" if dtype == "bf16" else ""
    say(f"{output}: {_KINDS[kind]}, {kept}. {_NEXT[kind].format(output)}")
    for line in (imported or {}).get("assumed") or []:
        say(f"the file does not say, so it is assumed: {line}")


@app.command()
def push(
    folder: Annotated[str, typer.Argument(help="Run or model folder.", metavar="DIR")],
    repo: Annotated[str, typer.Argument(help="Where to: OWNER/REPO.", metavar="REPO")],
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is seen by you alone.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch; made if needed.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Message of the commit.")
    ] = None,
    license: Annotated[
        str, typer.Option("--license", help="For the model card, such as mit or cc-by-4.0.")
    ] = "other",
) -> None:
    """Publish a model: config, weights and a model card. Log in first: hf auth login.

    [bold]Examples[/]

    \b
    chemeleon hub push runs/my_ldm me/my-model --private
    chemeleon hub push runs/my_ldm me/my-model --license mit -m "trained on MP-20"
    """
    from chemeleon import api

    address = api.hub_push(
        folder, repo, private=private, revision=revision, message=message, license=license
    )
    say(f"{address}\nUse it anywhere as hub:{repo}")
