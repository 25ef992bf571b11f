"""Adapters on disk: a small model folder that names its base, and what both make together.

The folder is like that of any model, but ``model.safetensors`` holds the adapters and what else was
trained or fitted, and ``adapter`` in ``config.yaml`` says what the rest is::

    adapter: {base: runs/my_ldm, base_weights: 0123456789abcdef, rank: 16, alpha: 32.0}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from chemeleon.checkpoints.store import (
    MODEL_WEIGHTS,
    ModelFolder,
    read_model,
    weights_hash,
    write_model,
)
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_PARTS, hold, refuse_existing

BASE_IN_RUN = "init"  # of a run's folder: the model before training
# not the base's, even where it has them
_OWN = ("denoiser.conditions.", "size_histogram", "formula_histogram")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what an adapted model does not share with its base, but for the adapters."""
    return {name: value for name, value in tensors.items() if name.startswith(_OWN)}


def base_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of what an adapted model shares with its base."""
    return weights_hash({k: v for k, v in tensors.items() if not k.startswith(_OWN)})


def combine(folder: ModelFolder, base: str | Path | None = None) -> ModelFolder:
    """Return the whole model: adapters are added to the weights of the base.

    Args:
        folder: as it was read, with ``adapter`` in its config.
        base: where the base is; by default in the run's folder, or what the config names.

    Raises:
        CheckpointError: if the base is not there, or is another model.
    """
    adapter: dict[str, Any] = folder.config["adapter"]
    found = _find_base(folder, adapter, base)
    tensors = {k: v for k, v in found.tensors.items() if not k.startswith(_OWN)}
    tensors |= own(folder.tensors)
    scale = float(adapter["alpha"]) / int(adapter["rank"])
    for name, down in folder.tensors.items():
        if name.endswith(_DOWN):
            layer = name.removesuffix(_DOWN)
            up, weight = folder.tensor(layer + _UP), tensors.get(f"{layer}.weight")
            if weight is None or weight.shape != (up.shape[0], down.shape[1]):
                raise CheckpointError(
                    f"{folder.path / MODEL_WEIGHTS}: the adapter on {layer} does not fit the base"
                    f" {found.path}"
                )
            tensors[f"{layer}.weight"] = weight + scale * (up @ down)
    config = {key: value for key, value in folder.config.items() if key != "adapter"}
    config["ldm"] = {**config["ldm"], "lora": None}
    return ModelFolder(folder.path, folder.kind, {**config, "adapted_from": adapter}, tensors)


def _find_base(
    folder: ModelFolder, adapter: Mapping[str, Any], base: str | Path | None
) -> ModelFolder:
    inside = folder.path.parent / BASE_IN_RUN
    if base is None:
        base = inside if (inside / MODEL_WEIGHTS).is_file() else str(adapter["base"])
    try:
        found = read_model(base, (folder.kind,))
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder.path} holds adapters, and the model that they adapt cannot be read: {error}."
            f" If it is elsewhere: chemeleon ldm merge {folder.path} --base FOLDER -o DIR"
        ) from None
    wanted, hashed = adapter["base_weights"], base_hash(found.tensors)
    if hashed != wanted:
        raise CheckpointError(
            f"the adapters in {folder.path} were trained on {adapter['base']}, whose weights had"
            f" the hash {wanted}, but those of {found.path} have {hashed}: it is another model, or"
            f" was trained on. If that model is elsewhere: chemeleon ldm merge {folder.path} --base"
            " FOLDER -o DIR"
        )
    return found


def merge(
    model: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the whole model of a run with adapters; the arguments are those of `ldm merge`.

    Args:
        model: run or model folder.
        output: model folder to be written.
        base: the model that is adapted, if it has moved.
        overwrite: replace an earlier model there.

    Returns:
        The folder.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    folder = read_model(model, ("ldm",), whole=False)
    if "adapter" not in folder.config:
        raise CheckpointError(f"{folder.path} is a whole model: it has no adapters to merge")
    path = Path(output)
    refuse_existing(path, MODEL_PARTS, overwrite, "name another -o")
    with hold(path, MODEL_PARTS):
        whole = combine(folder, base)
        write_model(path, whole.kind, whole.content, whole.tensors)
    return path
