"""Inert values: what a pickle may become when nothing in it is imported or called.

A class or function that the pickle names stays a name; an object stays a ``Record`` of what it
would have been made from. Only PyTorch's tensor rebuilders and mappings are understood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_NAME = 512  # characters of a class name


class ClassName(NamedTuple):
    """A class or function that the pickle names; it is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What the pickle says of an object of a class that is not rebuilt.

    Attributes:
        kind: the class or function named by the pickle.
        args: what it would have been called with.
        state: what its attributes would have been set from.
        items: pairs that would have been set by key.
        values: what would have been appended.
    """

    kind: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Dotted name of the class, or an empty string if it is not a plain name."""
        return str(self.kind) if isinstance(self.kind, ClassName) else ""

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute of the state, else an item."""
        if isinstance(self.state, dict) and key in self.state:
            return self.state[key]
        return self.items.get(key, default)


class Storage(NamedTuple):
    """Numbers kept outside the pickle: PyTorch's class, the entry's name and the count."""

    kind: str
    key: str
    numel: int


class LazyTensor(NamedTuple):
    """A view of a storage; nothing is read until it is asked for."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Refused(Exception):
    """The pickle breaks the rules; the text is the reason."""


def class_name(module: Any, name: Any = "") -> ClassName:
    """Return a name, if it is text of a sane length."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise Refused("a class name is not text")
    if len(module) + len(name) > MAX_NAME:
        raise Refused(f"a class name of more than {MAX_NAME} characters")
    return ClassName(module, name)


def make_dict(values: list[Any]) -> dict[Any, Any]:
    """Pair up keys and values; a key that is slow to hash is kept by its identity."""
    if len(values) % 2:
        raise Refused("a key has no value")
    keys = (key if _hashes_fast(key) else Record(key) for key in values[::2])
    return dict(zip(keys, values[1::2], strict=True))


def _hashes_fast(key: Any) -> bool:
    if isinstance(key, int):
        return -(2**60) < key < 2**60
    return key is None or isinstance(key, (str, float))


def call(function: Any, args: tuple[Any, ...]) -> Any:
    """Return what a call would have made, for the few functions that are known; else a record."""
    known = _KNOWN.get(str(function)) if isinstance(function, ClassName) else None
    if known is None:
        return Record(function, args)
    try:
        return known(*args)
    except TypeError:
        raise Refused(f"{function} has wrong arguments") from None


def _make_mapping(*args: Any) -> dict[Any, Any]:
    pairs = args[-1] if args and isinstance(args[-1], list) else []
    if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
        raise Refused("a mapping is made of something else than pairs")
    return make_dict([part for pair in pairs for part in pair])


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> LazyTensor:
    numbers = (offset, *shape, *stride)
    fits = isinstance(storage, Storage) and len(shape) == len(stride) <= 8
    if not fits or any(type(n) is not int or not 0 <= n < 2**48 for n in numbers):
        raise Refused("a tensor has an impossible storage, offset, shape or stride")
    return LazyTensor(storage, offset, tuple(shape), tuple(stride))


def _keep_first(value: Any, *_: Any) -> Any:
    return value


_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _make_mapping,
    "collections.defaultdict": _make_mapping,
    "torch._utils._rebuild_tensor": _make_tensor,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _keep_first,
    "torch._utils._rebuild_parameter_with_state": _keep_first,
}
