"""The weights of a published checkpoint by their published names, read one at a time.

Here prefixes of wrapped models are taken off, averaged weights take the place of raw ones, and
low-rank adapters (Hu et al. 2021) are added to the weights they act on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemeleon.checkpoints.adapters import adapts
from chemeleon.checkpoints.chemeleon2 import hyper
from chemeleon.checkpoints.chemeleon2.archive import AGAIN, load
from chemeleon.checkpoints.chemeleon2.layouts import Layout
from chemeleon.checkpoints.chemeleon2.screen import Refused
from chemeleon.checkpoints.opened import shorten

_PREFIXES = ("", "ldm.", "ldm_module.", "module.")
_LORA = "denoiser.base_model.model."
# what a file holds is told by the first of these: a diffusion model has a VAE inside, too
_MARKS = {
    "denoiser.x_embedder.weight": "ldm",
    f"{_LORA}x_embedder.weight": "ldm",
    "proj.0.weight": "predictor",
    "encoder.atom_type_embedder.weight": "vae",
}


@dataclass
class Source:
    """The weights of an open checkpoint by published name, without prefixes.

    Attributes:
        kind: ``ldm``, ``predictor``, ``vae``, or nothing if there is none of these.
        budget: bytes that may still be read.
    """

    kind: str
    tensors: dict[str, Tensor]
    hyper: Any
    budget: int
    scales: dict[str, float] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    merged: list[str] = field(default_factory=list)
    inert: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Published name to shape."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def setting(self, name: str) -> Any:
        """Return one hyper-parameter as it was pickled, or None."""
        return self.hyper.get(name) if isinstance(self.hyper, dict) else None

    def section(self, name: str) -> dict[str, Any]:
        """Return one hyper-parameter as a plain dict, empty if it is something else."""
        return hyper.section(self.setting(name))

    def read(self, name: str) -> Tensor:
        """Read a tensor as float32.

        Raises:
            Refused: if it holds anything but finite numbers.
        """
        self.used.add(name)
        value = self.tensors[name].detach()
        places = zip(value.shape, value.stride(), strict=True)
        extent = 1 + sum((n - 1) * step for n, step in places) if value.numel() else 0
        if extent != value.numel():
            raise Refused(
                f"has a tensor '{name}' of shape {tuple(value.shape)} and stride {value.stride()},"
                f" which does not fit the numbers stored for it: the file is damaged; {AGAIN}"
            )
        self.budget -= value.untyped_storage().nbytes()
        if self.budget < 0:
            raise Refused(
                "has tensors that claim more numbers than it holds: it is damaged or hostile;"
                f" {AGAIN}"
            )
        if not value.is_floating_point():
            raise Refused(
                f"has a tensor '{name}' of {value.dtype}, not real numbers: this is not a published"
                " checkpoint"
            )
        value = value.to(torch.float32)
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise Refused(
                f"has {bad} of {value.numel()} numbers in tensor '{name}' that are NaN or infinite:"
                " the training run had failed or the file is damaged; use an earlier checkpoint or"
                " fetch it again"
            )
        return value

    def weight(self, name: str) -> Tensor:
        """Read a tensor and add the adapter on it, if there is one that acted."""
        value = self.read(name)
        base = name.removesuffix(".weight")
        if base not in self.scales:
            return value
        down, up = f"{base}.lora_A.default.weight", f"{base}.lora_B.default.weight"
        self.used.update((down, up))
        if base.endswith("attn.out_proj"):
            self.inert.append(base)
            return value
        self.merged.append(base)
        return value + self.scales[base] * (self.read(up) @ self.read(down))

    def take(self, layout: Layout, prefix: str = "") -> dict[str, Tensor]:
        """Read everything a layout asks for.

        Raises:
            Refused: naming missing and misshapen tensors.
        """
        problems, shapes = [], self.shapes
        for name, shape in layout.values():
            found = shapes.get(prefix + name)
            if found is None:
                problems.append(f"missing {prefix + name}")
            elif found != shape:
                problems.append(f"{prefix + name} has shape {found}, expected {shape}")
        if problems:
            raise Refused(
                f"does not hold the model that its sizes describe: {shorten(problems)}. It is"
                " damaged or of a version that is not known here"
            )
        return {ours: self.weight(prefix + wanted.name) for ours, wanted in layout.items()}


def open_source(path: Path, weights: str) -> Source:
    """Find the weights of a checkpoint.

    Raises:
        Refused: if there are none, or not of the kind ``raw`` or ``ema`` that is wanted.
    """
    content = load(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise Refused(
            "has no `state_dict`: it was saved by PyTorch, but it is no Lightning checkpoint; give"
            " the .ckpt file that training wrote"
        )
    state = {k: v for k, v in content["state_dict"].items() if isinstance(v, Tensor)}
    if weights == "ema":
        state = _averages(state, content.get("ema_state"))
    plain = {str(k).replace("_orig_mod.", ""): v for k, v in state.items()}
    kind, tensors = _find_model(plain)
    source = Source(kind, tensors, content.get("hyper_parameters"), path.stat().st_size)
    _find_adapters(source)
    return source


def _find_model(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return kind and own part of the model: RL wraps it and may hold reward models beside it.

    Raises:
        Refused: if there are several models and none has a known place.
    """
    for mark, kind in _MARKS.items():
        found = {name.removesuffix(mark) for name in state if f".{name}".endswith(f".{mark}")}
        found = [prefix for prefix in _PREFIXES if prefix in found][:1] or sorted(found)
        if len(found) > 1:
            raise Refused(
                f"holds several models, under {shorten(found)}: it is of a version that is not"
                " known here"
            )
        if found:
            start = found[0]
            own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            return kind, own
    return "", dict(state)


def _averages(state: dict[str, Tensor], ema: Any) -> dict[str, Any]:
    """Return the state with averages for weights; they are a list without names.

    Its order is that of ``parameters()``, which is the state_dict's without buffers.
    """
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadow, list):
        raise Refused(
            "holds no averaged weights (`ema_state`): use its raw weights (--weights raw)"
        )
    names = [name for name in state if name.rpartition(".")[2] != "latent_std"]
    shapes = [value.shape if isinstance(value, Tensor) else None for value in shadow]
    if shapes != [state[name].shape for name in names]:
        raise Refused(
            f"has {len(shadow)} averaged weights that do not fit its {len(names)} raw ones: use the"
            " raw weights (--weights raw)"
        )
    return {**state, **dict(zip(names, shadow, strict=True))}


def _find_adapters(source: Source) -> None:
    """Undo the names that the adapter library gives, and find the scale of every adapter."""
    if not any(name.startswith(_LORA) for name in source.tensors):
        return
    settings = source.section("lora_configs")
    renamed = {
        name.replace(_LORA, "denoiser.").replace(".base_layer.", "."): value
        for name, value in source.tensors.items()
    }
    source.tensors = renamed
    for name, value in renamed.items():
        if not name.endswith(".lora_A.default.weight"):
            continue
        base = name.removesuffix(".lora_A.default.weight")
        other = renamed.get(f"{base}.lora_B.default.weight")
        target = renamed.get(f"{base}.weight")
        alpha = settings.get("lora_alpha", settings.get("alpha"))
        if not isinstance(alpha, (int, float)) or not alpha > 0:
            raise Refused(
                "has hyper-parameters that do not say the `lora_alpha` of the adapters in it, so"
                " they cannot be merged: give a checkpoint without adapters"
            )
        if other is None or target is None or not adapts(target, value, other):
            raise Refused(
                f"has an adapter on '{base}' that does not fit its layer: the file is damaged;"
                " fetch it again"
            )
        rank = value.shape[0]
        source.scales[base] = float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)
