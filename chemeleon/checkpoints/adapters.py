"""Adapters on disk: a small model folder that names its base, and what both make together.

The folder is like that of any model, but ``model.safetensors`` holds the adapters and what else was
trained or fitted, and ``adapter`` in ``config.yaml`` says what the rest is::

    adapter: {base: runs/my_ldm, base_weights: 0123456789abcdef, rank: 16, alpha: 32.0}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from chemeleon.checkpoints.opened import KEPT_AS, MODEL_WEIGHTS, ModelFolder, shown
from chemeleon.checkpoints.store import Fits, anything, read_model, weights_hash, write_model
from chemeleon.config.modelfile import AdapterConfig
from chemeleon.errors import CheckpointError
from chemeleon.storage import MODEL_PARTS, hold

BASE_IN_RUN = "init"  # of a run's folder: the model before training
MOST_CHAINED = 8  # adapters of adapters
# not the base's, even where it has them
_OWN = ("denoiser.conditions.", "size_histogram", "formula_histogram")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what an adapted model does not share with its base, but for the adapters."""
    return {name: value for name, value in tensors.items() if name.startswith(_OWN)}


def base_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of what an adapted model shares with its base."""
    return weights_hash({k: v for k, v in tensors.items() if not k.startswith(_OWN)})


def combine(
    folder: ModelFolder,
    base: str | Path | None = None,
    *,
    fits: Fits = anything,
    above: tuple[Path, ...] = (),
) -> ModelFolder:
    """Return the whole model: adapters are added to the weights of the base.

    Args:
        folder: as it was read, with ``adapter`` in its config.
        base: where the base is; by default in the run's folder, or what the config names.
        fits: see ``read_model``.
        above: folders of adapters whose base this one is.

    Raises:
        CheckpointError: if the base is not there, or is another model, or adapters do not fit it.
    """
    adapter = AdapterConfig.model_validate(folder.config["adapter"])
    if folder.kind != "ldm":
        raise folder.problem(f"a {folder.kind} has no adapters, which 'adapter' says these are")
    found = _find_base(folder, adapter, base, fits, above)
    tensors = {k: v for k, v in found.tensors.items() if not k.startswith(_OWN)}
    tensors |= own(folder.stored)
    scale = adapter.alpha / adapter.rank
    for layer, (down, up) in _pairs(folder).items():
        if not _fits(tensors.get(f"{layer}.weight"), down, up, adapter.rank):
            raise folder.problem(f"the adapter on {shown(layer)} does not fit base {found.path}")
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] + scale * (
            up.float() @ down.float()
        )
    config = {key: value for key, value in folder.config.items() if key != "adapter"}
    config["ldm"] = {**(config.get("ldm") or {}), "lora": None}
    adapted = {**config, "adapted_from": folder.config["adapter"]}
    return ModelFolder(folder.path, folder.kind, adapted, tensors)


def _pairs(folder: ModelFolder) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the adapters of each layer, ``(rank, in)`` and ``(out, rank)``, as they are kept."""
    rest = [name for name in folder.stored if not name.startswith(_OWN)]
    layers = [name.removesuffix(_DOWN) for name in rest if name.endswith(_DOWN)]
    other = set(rest) - {layer + part for layer in layers for part in (_DOWN, _UP)}
    if other:
        raise folder.problem(f"{shown(min(other))} is no part of adapters")
    return {layer: (folder.tensor(layer + _DOWN), folder.tensor(layer + _UP)) for layer in layers}


def _fits(weight: Tensor | None, down: Tensor, up: Tensor, rank: int) -> bool:
    return (
        weight is not None
        and weight.dim() == 2
        and down.shape == (rank, weight.shape[1])
        and up.shape == (weight.shape[0], rank)
        and {down.dtype, up.dtype} <= KEPT_AS
    )


def _find_base(
    folder: ModelFolder,
    adapter: AdapterConfig,
    base: str | Path | None,
    fits: Fits,
    above: tuple[Path, ...],
) -> ModelFolder:
    chain = (*above, folder.path.resolve())
    if len(chain) > MOST_CHAINED or chain[-1] in above:
        raise CheckpointError(
            f"{folder.path} holds adapters of adapters"
            + (" that lead back to themselves" if chain[-1] in above else f", over {MOST_CHAINED}")
            + ": name the model at their end, as in chemeleon ldm merge DIR --base FOLDER -o OUT"
        )
    elsewhere = f"chemeleon ldm merge {folder.path} --base FOLDER -o DIR"
    inside = folder.path.parent / BASE_IN_RUN
    if base is None:
        base = inside if (inside / MODEL_WEIGHTS).is_file() else adapter.base
    if base is None:
        raise CheckpointError(
            f"{folder.path} holds adapters, and does not say of which model: {elsewhere}"
        )
    try:
        found = read_model(base, (folder.kind,), whole=False)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder.path} holds adapters, and the model that they adapt cannot be read: {error}."
            f" If it is elsewhere: {elsewhere}"
        ) from None
    if found.config.get("adapter") is not None:
        found = combine(found, fits=fits, above=chain)
    fits(found)
    wanted, hashed = adapter.base_weights, base_hash(found.tensors)
    if hashed != wanted:
        raise CheckpointError(
            f"the adapters in {folder.path} were trained on {adapter.base}, whose weights had"
            f" the hash {wanted}, but those of {found.path} have {hashed}: it is another model, or"
            f" was trained on. If that model is elsewhere: {elsewhere}"
        )
    return found


def merge(
    model: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    overwrite: bool = False,
    fits: Fits = anything,
) -> Path:
    """Write the whole model of a run with adapters; the arguments are those of `ldm merge`.

    Args:
        model: run or model folder.
        output: model folder to be written.
        base: the model that is adapted, if it has moved.
        overwrite: replace an earlier model there.
        fits: see ``read_model``.

    Returns:
        The folder.

    Raises:
        ChemeleonError: one of its subclasses, saying what to do.
    """
    folder = read_model(model, ("ldm",), whole=False)
    if folder.config.get("adapter") is None:
        raise CheckpointError(f"{folder.path} is a whole model: it has no adapters to merge")
    path = Path(output)
    with hold(path, MODEL_PARTS, overwrite=overwrite):
        whole = combine(folder, base, fits=fits)
        fits(whole)
        write_model(path, whole.kind, whole.content, whole.tensors)
    return path
