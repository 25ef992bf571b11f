"""The README.md of a model on the hub, from its config; and the parts that any model card has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from chemeleon.config.presets import RENAMED

_TITLES = {
    "vae": "crystal autoencoder",
    "ldm": "latent diffusion model of crystals",
    "predictor": "property predictor for crystals",
    "assignment": "model of space groups and Wyckoff letters for formulas",
}
_TAGS = {
    "vae": ["vae", "autoencoder"],
    "ldm": ["diffusion", "latent-diffusion", "crystal-generation"],
    "predictor": ["property-prediction"],
    "assignment": ["crystal-structure-prediction"],
}
_CLASSES = {
    "vae": "CrystalVAE",
    "ldm": "LatentDiffusion",
    "predictor": "Predictor",
    "assignment": "AssignmentModel",
}
_MODULES = {"vae": "vae", "ldm": "denoiser", "predictor": "predictor", "assignment": "assignment"}


def model_card(config: Mapping[str, Any], repo: str, license: str = "other") -> str:
    """Return the text of a model card.

    Args:
        config: content of the model's `config.yaml`.
        repo: where it will lie, ``OWNER/REPO``.
        license: identifier of the hub.
    """
    title = repo.partition("/")[2]
    return written(
        [opening(config, title, license), validation(config), loading(config, f"hub:{repo}")]
    )


def written(parts: Iterable[str]) -> str:
    """Return the text of those parts of a card that are not empty."""
    return "\n\n".join(part for part in parts if part) + "\n"


def opening(
    config: Mapping[str, Any], title: str, license: str, more: Mapping[str, Any] | None = None
) -> str:
    """Return head, title and first table; ``more`` are further rows of that."""
    kind = str(config["kind"])
    # a Lightning file does not say what it was trained on
    data = [] if config.get("imported") else [name.split("/")[-1] for name in trained_on(config)]
    head: dict[str, Any] = {
        "library_name": "chemeleon",
        "license": license,
        "tags": ["chemeleon", "crystal-structure", "materials-science", *_TAGS.get(kind, [])],
    }
    if data:
        head["datasets"] = data
    made = f"A {_TITLES.get(kind, kind)}, made with chemeleon {config.get('chemeleon', '')}."
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        made.replace(" .", "."),
        _facts(config, ", ".join(data) or None, more or {}),
    ]
    return "\n\n".join(part for part in parts if part)


def trained_on(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the data sets in a model's config; none if it does not say."""
    data = config.get("data") or {}
    return [name for name in (data.get("name"), *(data.get("also") or ())) if name]


def _facts(config: Mapping[str, Any], data: str | None, more: Mapping[str, Any]) -> str:
    trained = config.get("trained") or {}
    ldm, vae = config.get("ldm") or {}, config.get("vae") or {}
    predictor = config.get("predictor") or {}
    units = predictor.get("units") or {}
    predicted = [f"{n} ({units[n]})" if n in units else n for n in predictor.get("targets") or []]
    conditions = ", ".join(ldm.get("conditions") or {})
    facts = {
        "data set": data,
        "training steps": trained.get("steps"),
        "epochs": trained.get("epochs"),
        "imported from": (config.get("imported") or {}).get("file"),
        "latent channels": vae.get("latent_dim"),
        "decodes": {"dng": "elements and structure", "csp": "structure"}.get(vae.get("kind", "")),
        "predicts": ", ".join(predicted) or None,
        "conditions": conditions or ("none" if ldm else None),
        **more,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return "\n".join(table(("", ""), known)) if known else ""


def validation(config: Mapping[str, Any], *notes: str) -> str:
    """Return the metrics of the last validation, with lines in front of the table."""
    metrics = (config.get("trained") or {}).get("metrics") or {}
    if not metrics:
        return ""
    return "\n".join(["## Validation", "", *notes, *table(("metric", "value"), metrics)])


def table(header: tuple[str, str], values: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table of two columns."""
    first = f"| {header[0]} | {header[1]} |" if any(header) else "| | |"
    return [first, "|---|---|", *(f"| {name} | {_number(v)} |" for name, v in values.items())]


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def loading(config: Mapping[str, Any], reference: str) -> str:
    """Return the commands that use the model ``hub:OWNER/REPO`` or ``shipped:NAME``."""
    kind = str(config["kind"])
    told = ((config.get("ldm") or {}).get("denoiser") or {}).get("types")
    wish = "--formula LiFePO4 -n 20" if told else "-n 100"
    vae, data = config.get("vae") or {}, (config.get("data") or {}).get("name")
    preset = "mp_20" if vae.get("atom_order", "file") == "file" or data is None else data
    preset = RENAMED.get(preset, preset)
    preset += "/csp" if vae.get("kind") == "csp" else "/null"
    commands = {
        "vae": f"chemeleon ldm train --preset {preset} ldm.vae_ckpt_path={reference}",
        "ldm": f"chemeleon sample --model {reference} {wish} -o out",
        "predictor": f"chemeleon predict run {reference} FILES -o out.csv",
        "assignment": f"chemeleon assign propose LiFePO4 --model {reference}",
    }
    command = commands.get(kind, f"chemeleon hub pull {reference.removeprefix('hub:')}")
    lines = ["## How to load", "", "```sh", "pip install chemeleon", command, "```"]
    if kind in _CLASSES:
        name = _CLASSES[kind]
        lines += [
            "",
            "```python",
            f"from chemeleon.models.{_MODULES[kind]} import {name}",
            "",
            f'model = {name}.from_pretrained("{reference}")',
            "```",
        ]
    return "\n".join([*lines, "", "The weights are safetensors: loading them runs no code."])
