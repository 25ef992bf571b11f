"""Adapters on disk: a small model folder that names its base, and what both make together.

The folder is like that of any model, but ``model.safetensors`` holds the adapters and what else was
trained or fitted, and ``adapter`` in ``config.yaml`` says what the rest is::

    adapter: {base: runs/my_ldm, base_weights: 0123456789abcdef, rank: 16, alpha: 32.0}
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from chemeleon.checkpoints.opened import KEPT_AS, ModelFolder
from chemeleon.checkpoints.store import weights_hash
from chemeleon.config.modelfile import AdapterConfig
from chemeleon.errors import printable

BASE_IN_RUN = "init"  # of a run's folder: the model before training
# not the base's, even where it has them
_OWN = ("denoiser.conditions.", "size_histogram", "formula_histogram", "group_histogram")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what an adapted model does not share with its base, but for the adapters."""
    return {name: value for name, value in tensors.items() if name.startswith(_OWN)}


def base_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of what an adapted model shares with its base."""
    return weights_hash({k: v for k, v in tensors.items() if not k.startswith(_OWN)})


def combine(folder: ModelFolder, base: ModelFolder) -> ModelFolder:
    """Return the whole model: adapters are added to the weights of their base.

    Raises:
        CheckpointError: if they do not fit it.
    """
    adapter = AdapterConfig.model_validate(folder.config["adapter"])
    tensors = {k: v for k, v in base.tensors.items() if not k.startswith(_OWN)}
    tensors |= own(folder.stored)
    scale = adapter.alpha / adapter.rank
    for layer, (down, up) in _pairs(folder).items():
        weight = tensors.get(f"{layer}.weight")
        kept = {down.dtype, up.dtype} <= KEPT_AS
        if weight is None or not kept or not adapts(weight, down, up) or len(down) != adapter.rank:
            raise folder.problem(
                f"the adapter on {printable(layer)[:80]} does not fit base {base.path}"
            )
        tensors[f"{layer}.weight"] = weight + scale * (up.float() @ down.float())
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
        raise folder.problem(f"{printable(min(other))[:80]} is no part of adapters")
    return {layer: (folder.tensor(layer + _DOWN), folder.tensor(layer + _UP)) for layer in layers}


def adapts(weight: Tensor, down: Tensor, up: Tensor) -> bool:
    """Tell whether ``up @ down`` has the shape of a weight."""
    if not weight.dim() == down.dim() == up.dim() == 2:
        return False
    return weight.shape == (up.shape[0], down.shape[1]) and up.shape[1] == down.shape[0] > 0
