"""Random numbers that belong to a crystal, not to a batch.

Each number is a hash of (seed, purpose, crystal, position) - a counter-based generator, with the
output function of SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195). So a draw does
not depend on batch size, padding, number of processes or what was drawn before: a resumed run, a
run on two ranks and a sample made in another batch see the same numbers, and nothing is stored.

Shapes: ``B`` crystals; keys are ``(B,)`` int64.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from chemeleon.config.requests import MAX_SEED, check_seed


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the hash needs zeros to come in from the left
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def make_keys(seed: int, ids: Tensor) -> Tensor:
    """Return one key per crystal, ``(B,)``, from the seed and the crystals' numbers ``(B,)``.

    Raises:
        ConfigError: if the seed does not have 64 bits: it would be taken for another.
    """
    # full, not tensor: a number copied to a GPU would wait for it
    start = torch.full((), _signed(check_seed(seed)), dtype=torch.int64, device=ids.device)
    return _mix(_mix(start) + (ids.to(torch.int64) + 1) * _GOLDEN)


def torch_seed(seed: int, place: int, bits: int) -> int:
    """Return a seed of torch's own generators for one place of a run, such as an epoch.

    Args:
        seed: of the run.
        place: below ``2**bits``.
        bits: tells purposes apart, too.
    """
    if seed < 1 << (63 - bits):
        return (seed << bits) + place
    key = fold(make_keys(seed, torch.tensor([place])), f"torch {bits}")
    return int(key.item()) & MAX_SEED


def fold(keys: Tensor, purpose: str, step: int | Tensor = 0) -> Tensor:
    """Return keys ``(B,)`` for one purpose and step; different purposes are independent."""
    salt = _signed((zlib.crc32(purpose.encode()) + 1) * _GOLDEN)
    return _mix(keys ^ _mix(keys + salt + step))


def _bits(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device) * _GOLDEN
    return _mix(keys.unsqueeze(-1) + counter).view(keys.shape[0], *shape)


def uniform(keys: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Return float32 numbers in [0, 1), ``(B, *shape)``; a longer first axis only adds numbers."""
    return _shift_right(_bits(keys, shape), 40).to(torch.float32) * 2.0**-24


def normal(keys: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Return standard normal float32 numbers, ``(B, *shape)``, by the Box-Muller transform."""
    bits = _bits(keys, shape)
    first = (_shift_right(bits, 40).to(torch.float32) + 0.5) * 2.0**-24
    second = (bits & 0xFFFFFF).to(torch.float32) * 2.0**-24
    return torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)


def integers(keys: Tensor, high: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Return int64 numbers in [0, high), ``(B, *shape)``; the bias is below ``high / 2**63``."""
    return _shift_right(_bits(keys, shape), 1) % high
