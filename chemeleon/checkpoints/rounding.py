"""The numbers of a model on disk: in full, or weights in bf16, which halves the folder.

Models are in float32 while they are used, whatever they are kept in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from chemeleon.config.requests import check_word

Dtype = Literal["fp32", "bf16"]
# What is rounded. Anything else (means, spreads, histograms, null embeddings) is small, and of some
# of it more than three digits are needed: counts, and scales that multiply every latent.
_ROUNDED = (".weight", ".bias", ".filters")


def rounded(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return the tensors as they are kept with ``dtype``.

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


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as models compute with them: 16-bit numbers in float32, exactly."""
    short = (torch.bfloat16, torch.float16)
    return {n: t.float() if t.dtype in short else t for n, t in tensors.items()}
