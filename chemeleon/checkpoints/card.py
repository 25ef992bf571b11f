"""The README.md of a model on the hub, written from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

_TITLES = {
    "vae": "crystal autoencoder",
    "ldm": "latent diffusion model of crystals",
    "predictor": "property predictor for crystals",
}
_TAGS = {
    "vae": ["vae", "autoencoder"],
    "ldm": ["diffusion", "latent-diffusion", "crystal-generation"],
    "predictor": ["property-prediction"],
}
_CLASSES = {"vae": "CrystalVAE", "ldm": "LatentDiffusion", "predictor": "Predictor"}
_MODULES = {"vae": "vae", "ldm": "denoiser", "predictor": "predictor"}


def model_card(config: Mapping[str, Any], repo: str, license: str = "other") -> str:
    """Return the text of a model card.

    Args:
        config: content of the model's `config.yaml`.
        repo: where it will lie, ``OWNER/REPO``.
        license: identifier of the hub.
    """
    kind = str(config["kind"])
    # a Lightning file does not say what it was trained on
    data = None if config.get("imported") else (config.get("data") or {}).get("name")
    head: dict[str, Any] = {
        "library_name": "chemeleon",
        "license": license,
        "tags": ["chemeleon", "crystal-structure", "materials-science", *_TAGS.get(kind, [])],
    }
    if data:
        head["datasets"] = [data]
    trained = config.get("trained") or {}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {repo.partition('/')[2]}",
        f"A {_TITLES.get(kind, kind)}, made with chemeleon {config.get('chemeleon', '')}.".replace(
            " .", "."
        ),
        _facts(config, data, trained),
        _metrics(trained),
        _loading(kind, repo),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(config: Mapping[str, Any], data: str | None, trained: Mapping[str, Any]) -> str:
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
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def _metrics(trained: Mapping[str, Any]) -> str:
    metrics = trained.get("metrics") or {}
    if not metrics:
        return ""
    rows = [f"| {name} | {_number(value)} |" for name, value in metrics.items()]
    return "\n".join(["## Validation", "", "| metric | value |", "|---|---|", *rows])


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _loading(kind: str, repo: str) -> str:
    commands = {
        "vae": f"chemeleon ldm train --preset mp_20/null ldm.vae_ckpt_path=hub:{repo}",
        "ldm": f"chemeleon sample --model hub:{repo} -n 100 -o out",
        "predictor": f"chemeleon predict run hub:{repo} FILES -o out.csv",
    }
    command = commands.get(kind, f"chemeleon hub pull {repo}")
    lines = ["## How to load", "", "```sh", "pip install chemeleon", command, "```"]
    if kind in _CLASSES:
        name = _CLASSES[kind]
        lines += [
            "",
            "```python",
            f"from chemeleon.models.{_MODULES[kind]} import {name}",
            "",
            f'model = {name}.from_pretrained("hub:{repo}")',
            "```",
        ]
    return "\n".join([*lines, "", "The weights are safetensors: loading them runs no code."])
