"""Read and write models and the state of runs; every file is replaced in one step or not at all.

A model folder holds ``config.yaml`` (kind, architecture, where it comes from) and
``model.safetensors``. A run folder holds::

    config.yaml         the resolved training config, itself a valid --config
    metrics.jsonl       one line per logged step or validation
    best/  last/        model folders (best by validation; last, as written at the last save)
    state.safetensors   what --resume needs: raw weights, optimizer, averages, counters
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from chemeleon.checkpoints import shipped
from chemeleon.checkpoints.opened import ModelFolder, read_tensors
from chemeleon.config.modelfile import read_model_config
from chemeleon.config.plain_json import parse_json
from chemeleon.config.plain_yaml import dump_yaml
from chemeleon.config.requests import check_word
from chemeleon.errors import CheckpointError
from chemeleon.storage import (
    MODEL_CONFIG,
    MODEL_PARTS,
    MODEL_WEIGHTS,
    Draft,
    at_home,
    settle,
    write_atomically,
    write_text,
)
from chemeleon.version import __version__

Dtype = Literal["fp32", "bf16"]
# What is rounded. Anything else (means, spreads, histograms, null embeddings) is small, and of some
# of it more than three digits are needed: counts, and scales that multiply every latent.
_ROUNDED = (".weight", ".bias", ".filters")
STATE = "state.safetensors"
_REPO = re.compile(r"\w[\w.-]*/[\w.-]+")  # a folder, or a repository of the hub without hub:
_MAKERS = {
    "vae": "chemeleon vae train",
    "ldm": "chemeleon ldm train",
    "predictor": "chemeleon predict train",
    "assignment": "chemeleon assign train",
}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace a safetensors file in one step.

    Raises:
        OSError: naming ``path``.
    """
    own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def write(beside: Path) -> None:
        try:
            save_file(own, beside, dict(metadata or {}))
        except SafetensorError as error:  # a full disk, in the words of Rust
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(beside)) from error

    write_atomically(path, write)


def find_folder(reference: str | Path, kinds: Sequence[str] = ("vae", "ldm")) -> Path:
    """Return the model folder that a run or model folder stands for.

    Args:
        reference: the folder; names are for `load.find_model`.
        kinds: what it may be, for the message.

    Raises:
        CheckpointError: that names what is missing and the command that makes it.
    """
    try:
        path = at_home(reference)
        if path.is_file() and path.suffix == ".ckpt":
            raise CheckpointError(
                f"{path} is a Lightning checkpoint; import it: chemeleon hub convert {path} -o DIR"
            )
        for folder in (path, path / "best", path / "last"):
            settle(folder)
            if (folder / MODEL_WEIGHTS).is_file() and (folder / MODEL_CONFIG).is_file():
                return folder
    except OSError as error:  # no permission, a name too long
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"no model can be read at {str(reference)[:200]}: {said}") from None
    make = " or ".join(f"`{_MAKERS[kind]} -o {path}`" for kind in kinds)
    if not path.exists():
        other = f", or fetch: hub:{reference}" if _REPO.fullmatch(str(reference)) else ""
        if str(reference) in {model.name for model in shipped.list_shipped()}:
            other = f", or take that of the package: shipped:{reference}"
        raise CheckpointError(
            f"there is no model at {path}: the folder does not exist. Make: {make}{other}"
        )
    raise CheckpointError(
        f"{path} holds no {MODEL_WEIGHTS} with a {MODEL_CONFIG}, both plain files (nor do its best/"
        f" and last/): training may not have saved yet. Make: {make}"
    )


def read_folder(reference: str | Path, kinds: Sequence[str] = ("vae", "ldm")) -> ModelFolder:
    """Open a run or model folder as it is kept: adapters stay apart from what they adapt.

    Raises:
        CheckpointError: if there is none, it is damaged, or of another kind.
    """
    path = find_folder(reference, kinds)
    config = read_model_config(path / MODEL_CONFIG)
    kind = config["kind"]
    if kind not in kinds:
        raise CheckpointError(
            f"{path} is a model of kind '{kind}', but {' or '.join(kinds)} is needed here"
        )
    stored, _ = read_tensors(path / MODEL_WEIGHTS)
    return ModelFolder(path, kind, config, stored)


def rounded(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return the tensors as they are kept with ``dtype``: bf16 halves the folder.

    Raises:
        ConfigError: if that is another word.
    """
    check_word("dtype", dtype, get_args(Dtype))
    if dtype == "fp32":
        return dict(tensors)
    return {
        name: value.to(torch.bfloat16)
        if value.is_floating_point() and name.endswith(_ROUNDED)
        else value
        for name, value in tensors.items()
    }


def write_model(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: Dtype = "fp32",
) -> None:
    """Write a model folder; config and weights take the place of earlier ones together.

    Args:
        folder: made if it is missing.
        kind: ``vae``, ``ldm``, ``predictor`` or ``assignment``.
        config: what ``config.yaml`` says beside kind and version.
        tensors: the weights.
        dtype: of the weights on disk; statistics are float32 in any case.
    """
    content = {"chemeleon": __version__, "kind": kind, **config}
    kept = rounded(tensors, dtype)
    with Draft(folder, MODEL_PARTS) as draft:
        draft.begin()
        write_text(draft.path / MODEL_CONFIG, dump_yaml(content))
        write_tensors(draft.path / MODEL_WEIGHTS, kept, {"format": "pt"})
        draft.commit()


def write_state(run: Path, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
    """Write what resuming needs, in one file: it is either the old state or the new one."""
    write_tensors(run / STATE, tensors, {"counters": json.dumps(counters)})


def read_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``write_state`` wrote.

    Raises:
        CheckpointError: if the run has not saved anything yet, or the file is damaged.
    """
    if not (run / STATE).is_file():
        raise CheckpointError(
            f"{run} has no {STATE}, so there is nothing to resume: the run did not save before it"
            " ended. Start it again with --overwrite"
        )
    tensors, metadata = read_tensors(run / STATE)
    try:
        return tensors, parse_json(metadata["counters"])
    except (KeyError, ValueError) as error:
        raise damaged_state(run, f"its counters cannot be read: {error}") from None


def damaged_state(run: Path, what: str) -> CheckpointError:
    """Return the error of a run that cannot be resumed."""
    return CheckpointError(
        f"{run / STATE} is damaged ({what}), so the run cannot be resumed. Its models in best/ and"
        " last/ are files of their own, from which a new run can start"
    )


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of names, shapes and numbers, to say which weights were used."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
