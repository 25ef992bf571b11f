"""Put a trained model inside the package: chemeleon/shipped/NAME, in bf16, with its model card.

    python scripts/ship_model.py runs/my_ldm de_novo --metrics report/summary.json vae.json

The commands in the card come from the config.yaml of the run and of the runs that it began from
(its VAE, the model it fine-tunes); name those with --before if they have moved. Figures come from
files of `chemeleon evaluate` (summary.json), `chemeleon vae reconstruct`, or any JSON object of
numbers, also one object per line; TITLE=FILE gives a table a title of your own.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run_words import stage_of, training_words

from chemeleon.checkpoints import shipped
from chemeleon.checkpoints.card import loading, opening, table, validation, written
from chemeleon.checkpoints.load import read_model
from chemeleon.checkpoints.push import CARD, without_local_paths
from chemeleon.checkpoints.store import weights_hash, write_model
from chemeleon.config.hubname import is_name
from chemeleon.config.modelfile import read_model_config
from chemeleon.config.plain_yaml import read_yaml
from chemeleon.errors import ChemeleonError, ConfigError
from chemeleon.storage import MODEL_PARTS, replacing, write_text

KINDS = ("vae", "ldm", "predictor")
BEGINS_FROM = (
    "ldm.vae_ckpt_path",
    "ldm.init_ckpt_path",
    "predict.vae_ckpt_path",
    "rl.ldm_ckpt_path",
)
PARTS = (*MODEL_PARTS, CARD)
_MP = (
    "Source: the Materials Project (https://materialsproject.org; Jain et al., APL Materials 1,"
    " 011002, 2013), licence CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)."
)
DATA = {
    "mp": "Crystals of the Materials Project of July 2024, of up to 20 atoms: the train split of"
    f" `mp` (61,311), or those of it that `data.where` keeps. {_MP}",
    "mp_20": f"The train split of MP-20, crystals of up to 20 atoms. {_MP}",
}


def run_of(model: str | Path) -> Path | None:
    """Return the run folder that a model is, or lies in, if there is one."""
    for folder in (Path(model), Path(model).parent):
        path = folder / "config.yaml"
        if path.is_file() and stage_of(read_yaml(path)):
            return folder
    return None


def history(run: Path) -> list[Path]:
    """Return the runs that made a model, itself last.

    Raises:
        ConfigError: if one that it began from is not there.
    """
    _, words = training_words(run / "config.yaml")
    runs: list[Path] = []
    for path in filter(None, (_path(words.get(key)) for key in BEGINS_FROM)):
        earlier = run_of(path)
        if earlier is None:
            raise ConfigError(
                f"{run} began from {path}, which is no run folder here: name the runs before it, in"
                " order, with --before, or say what was done with --command 'TEXT'"
            )
        runs += history(earlier)
    return [*dict.fromkeys(runs), run]


def _path(value: str | None) -> str | None:
    return None if value in (None, "null") or is_name(value) else value


def _here(path: str | Path) -> str:
    folder = Path(path)
    return f"runs/{(folder.parent if folder.name in ('best', 'last') else folder).name}"


def command(run: Path) -> str:
    """Return the command that trains a run; other folders are called runs/NAME."""
    preset, words = training_words(run / "config.yaml")
    stage = stage_of(read_yaml(run / "config.yaml"))
    shown = [
        f"{key}={_here(value) if key in BEGINS_FROM and _path(value) else value}"
        for key, value in words.items()
    ]
    start = ["chemeleon", str(stage), "train", "--preset", preset, "-o", _here(run)]
    return shlex.join([*start, *shown])


def figures(word: str) -> dict[str, dict[str, Any]]:
    """Return tables of figures, heading to rows, from ``FILE`` or ``TITLE=FILE``."""
    title, equals, name = word.partition("=")
    path = Path(name if equals else word)
    heading = title if equals else f"{path.parent.name}/{path.name}".lstrip("/")
    try:
        text = path.read_text(encoding="utf-8")
        try:
            found = [json.loads(text)]
        except json.JSONDecodeError:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} holds no figures as JSON: {error}") from None
    tables = [_rows(content) for content in found]
    if not all(tables):
        raise ConfigError(f"{path} holds no figures: it must be a JSON object of numbers")
    if len(tables) == 1:
        return {heading: tables[0]}
    return {f"{heading}, {number}": rows for number, rows in enumerate(tables, 1)}


def _rows(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    if isinstance(content.get("headline"), list):  # of `chemeleon evaluate`
        return {e["label"]: _entry(e) for e in content["headline"] if e["value"] is not None}
    rows: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(value.get("value"), int | float):
            rows[name] = _entry(value)
        elif isinstance(value, dict):
            rows |= _rows(value, f"{name}.")
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            local = isinstance(value, str) and Path(value).is_absolute()
            rows |= {} if local else {name: value}
    return rows


def _entry(entry: dict[str, Any]) -> str:
    """Return a figure with its interval, and that of real crystals, where they are known."""
    text = f"{entry['value']:.4g}"
    if entry.get("low") is not None and entry.get("high") is not None:
        text += f" ({entry['low']:.4g} to {entry['high']:.4g})"
    return text if entry.get("control") is None else f"{text}; real crystals {entry['control']:.4g}"


def shipped_card(
    config: Mapping[str, Any],
    name: str,
    *,
    license: str,
    data: str,
    weights: str,
    facts: Mapping[str, Any],
    commands: Sequence[str],
    tables: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the model card of a model inside the package.

    Args:
        config: content of the model's `config.yaml`.
        name: as in ``shipped:NAME``.
        license: identifier of the hub, of the weights.
        data: source and licence of the data.
        weights: hash that samples name in their manifest.
        facts: further rows of the first table.
        commands: that trained it, in order.
        tables: heading to rows of figures.
    """
    facts = {**facts, "weights": f"bf16 on disk, float32 in use; hash `{weights}`"}
    shown = [
        "\n".join([f"### {heading}", "", *table(("figure", "value"), rows)])
        for heading, rows in tables.items()
        if rows
    ]
    parts = [
        opening(config, name, license, facts),
        f"## Data\n\n{data}",
        "\n".join(["## How it was trained", "", "```sh", *commands, "```"]),
        validation(config, "By the training itself, before weights were rounded.", ""),
        "\n\n".join(["## Figures", *shown]) if shown else "",
        loading(config, f"shipped:{name}"),
    ]
    return written(parts)


def ship(words: argparse.Namespace) -> Path:
    """Write the folder and return it.

    Raises:
        ChemeleonError: saying what is missing, or how much too large it is.
    """
    folder = read_model(words.model, KINDS)
    data = words.data or DATA.get((folder.config.get("data") or {}).get("name", ""))
    if data is None:
        raise ConfigError("say where the data are from and their licence: --data 'TEXT'")
    run = run_of(words.model)
    commands = list(words.command)
    if not commands:
        if run is None:
            raise ConfigError(
                f"{words.model} is no run folder, so what trained it must be said: --command 'TEXT'"
            )
        runs = [*map(Path, words.before), run] if words.before else history(run)
        commands = [command(one) for one in runs]
    seed = None
    if run is not None:
        path = run / "config.yaml"
        seed = read_yaml(path).get("seed")
    tables = {title: rows for word in words.metrics for title, rows in figures(word).items()}
    target = (words.root or shipped.root()) / words.name
    with replacing(target, PARTS, words.overwrite, "choose another NAME") as making:
        config = without_local_paths(folder.content)
        write_model(making, folder.kind, config, folder.tensors, "bf16")
        hashed = weights_hash(read_model(making, KINDS).tensors)
        numbers = sum(value.numel() for value in folder.tensors.values())
        facts = {"parameters": f"{numbers:,}", "seed": seed}
        card = shipped_card(
            read_model_config(making / "config.yaml"),
            words.name,
            license=words.license,
            data=data,
            weights=hashed,
            facts=facts,
            commands=commands,
            tables=tables,
        )
        write_text(making / CARD, card)
        size = sum(file.stat().st_size for file in making.iterdir()) / 1e6
        if size > words.limit:
            raise ConfigError(
                f"{words.name} would have {size:.2f} MB, over {words.limit:g} MB: train a smaller"
                " model, or allow more with --limit"
            )
    print(f"{target}: {size:.2f} MB of at most {words.limit:g}; use it as shipped:{words.name}")
    if not tables:
        print("the card has no figures but those of training: give some with --metrics")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=form)
    parser.add_argument("model", metavar="RUN", help="run or model folder")
    parser.add_argument("name", metavar="NAME", help="of the folder: shipped:NAME")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="[TITLE=]FILE.json")
    parser.add_argument("--before", nargs="+", default=[], metavar="RUN", help="earlier runs")
    parser.add_argument("--command", action="append", default=[], help="that trained it; repeat")
    parser.add_argument("--data", help="source and licence of the data, for the card")
    parser.add_argument("--license", default="mit", help="of the weights")
    parser.add_argument("--limit", type=float, default=20.0, metavar="MB")
    parser.add_argument("--root", type=Path, help="instead of the package's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier one")
    try:
        ship(parser.parse_args(arguments))
    except ChemeleonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
