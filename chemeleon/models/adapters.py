"""Low-rank adapters on the blocks of a denoiser (Hu et al. 2021, arXiv:2106.09685), through peft.

A linear layer with weight ``W`` answers ``W x + (alpha / rank) B A x``; ``W`` is frozen, ``B``
begins at zero. Of the rest of the model only the encoder of the conditions is trained, in full.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import Tensor, nn

from chemeleon.config.architecture import LoRAConfig
from chemeleon.errors import ConfigError, nearest
from chemeleon.models.networks.base import Network

_ADAPTER = "default"  # peft can hold several by name


class Share(NamedTuple):
    """Numbers of parameters of a denoiser with its conditions, without adapters in ``total``."""

    trained: int
    total: int


def add_adapters(denoiser: Network, config: LoRAConfig) -> None:
    """Adapt layers of every block, and freeze all but adapters and conditions.

    Raises:
        ConfigError: if the blocks have no such layer, or peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise ConfigError("adapters (lora) need peft: pip install 'chemeleon[lora]'") from None
    layers = denoiser.blocks[0].named_modules()
    known = [name for name, layer in layers if isinstance(layer, nn.Linear)]
    for target in config.targets:
        if target not in known:
            raise ConfigError(
                f"lora.targets: the denoiser's blocks have no layer '{target}'"
                f"{nearest(target, known)} Known: {', '.join(known)}"
            )
    if not config.targets:
        raise ConfigError(f"lora.targets is empty; layers of a block: {', '.join(known)}")
    chosen = "|".join(map(re.escape, config.targets))
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=config.dropout,
        target_modules=rf"\d+\.({chosen})",
    )
    denoiser.requires_grad_(False)
    # not into the denoiser, whose `config` peft would take for one of transformers
    inject_adapter_in_model(settings, denoiser.blocks, _ADAPTER)
    for module in denoiser.modules():
        if isinstance(module, LoraLayer):
            # autocast chooses the precision; a cast to float32 before it would be undone
            module.cast_input_dtype_enabled = False
    if denoiser.conditions is not None:
        denoiser.conditions.requires_grad_(True)


def count(denoiser: Network) -> Share:
    """Count what is trained, and what there is."""
    parameters = list(denoiser.named_parameters())
    return Share(
        sum(p.numel() for _, p in parameters if p.requires_grad),
        sum(p.numel() for name, p in parameters if "lora_" not in name),
    )


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part the state of an adapted model: adapters, and the model as if it had none.

    Adapters are called ``LAYER.lora_A.weight`` ``(rank, in)`` and ``LAYER.lora_B.weight`` ``(out,
    rank)``.
    """
    adapters = {
        name.replace(f".{_ADAPTER}.", "."): value
        for name, value in tensors.items()
        if ".lora_" in name
    }
    plain = {
        name.replace(".base_layer.", "."): value
        for name, value in tensors.items()
        if ".lora_" not in name
    }
    return adapters, plain
