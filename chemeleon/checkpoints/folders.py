"""Keep what earlier commands made, unless told to replace it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from chemeleon.errors import ConfigError

RUN_PARTS = (
    "config.yaml",
    "metrics.jsonl",
    "state.safetensors",
    "best",
    "last",
    "init",
    "scores.json",
    "parity.png",
    "pictures",
    "report.html",
)
SAMPLE_PARTS = (
    "manifest.json",
    "cif",
    "structures.extxyz",
    "structures.json.gz",
    "contact_sheet.png",
    "evaluation",
)


def refuse_existing(folder: Path, parts: Sequence[str], overwrite: bool, remedy: str) -> None:
    """Raise ConfigError if the folder holds any of ``parts`` and they may not be replaced."""
    present = [part for part in parts if (folder / part).exists()]
    if present and not overwrite:
        raise ConfigError(
            f"{folder} already holds {', '.join(present)}: {remedy}, or replace it with --overwrite"
        )


def remove_parts(folder: Path, parts: Sequence[str]) -> None:
    """Remove ``parts`` of a folder and nothing else."""
    for part in parts:
        path = folder / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
