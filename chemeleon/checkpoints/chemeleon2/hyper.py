"""Plain values out of the hyper-parameters of a Lightning checkpoint.

They are a tangle of modules, OmegaConf nodes and partial functions, none of which is imported: an
``Inert`` stands for each. These helpers never follow a loop twice and never recurse deeply.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_VISITED = 1_000_000
_DEPTH = 12


class Inert:
    """Stands for an object of a class that is not imported; each such class has its own kind.

    Attributes:
        name: of the class or function that the file names.
        args: what it would have been called with.
        state: what its attributes would have been set from.
    """

    name = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def plain(value: Any) -> Any:
    """Return dicts, lists and scalars behind OmegaConf nodes and objects.

    Parts below 12 levels become None.
    """
    return _plain(value, _DEPTH, {})


def _plain(value: Any, depth: int, done: dict[tuple[int, int], Any]) -> Any:
    if isinstance(value, (str, int, float, bool)):
        return value
    key = (id(value), depth)
    if depth < 0 or len(done) > MAX_VISITED:
        return None
    # each part is turned once, or parts that hold each other many times would take for ever
    if key not in done:
        done[key] = None
        if isinstance(value, Inert):
            state = value.state if isinstance(value.state, dict) else {}
            done[key] = _plain(state.get("_content", state.get("_val", state)), depth - 1, done)
        elif isinstance(value, dict):
            parts = [(k, v) for k, v in value.items() if isinstance(k, str)]
            done[key] = {k: _plain(v, depth - 1, done) for k, v in parts}
        elif type(value) in (list, tuple):
            done[key] = [_plain(v, depth - 1, done) for v in value]
    return done[key]


def section(value: Any) -> dict[str, Any]:
    """Return a plain dict, empty if the value is something else."""
    found = plain(value)
    return found if isinstance(found, dict) else {}


def named(value: Any, name: str) -> Iterator[Any]:
    """Yield what is kept under a key, wherever that is, as plain values."""
    for item in _parts(value):
        if isinstance(item, dict) and name in item:
            yield plain(item[name])


def find(value: Any, ending: str) -> Inert | None:
    """Return the first object whose class name ends so, or None."""
    inside = (item for item in _parts(value) if isinstance(item, Inert))
    return next((item for item in inside if item.name.endswith(ending)), None)


def heads(value: Any) -> int | None:
    """Return the number of attention heads of a pickled module, or None."""
    for item in _parts(value):
        if isinstance(item, Inert) and isinstance(item.state, dict):
            count = item.state.get("num_heads")
            if type(count) is int and 0 < count <= 1024:
                return count
    return None


def _parts(value: Any) -> Iterator[Any]:
    """Yield every object and container inside a value once, outer ones and earlier ones first."""
    waiting, seen = [value], set()
    while waiting and len(seen) < MAX_VISITED:
        item = waiting.pop()
        if not isinstance(item, (Inert, dict, list, tuple)) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, Inert):
            inside = [item.args, item.state]
        else:
            inside = list(item.values() if isinstance(item, dict) else item)
        waiting.extend(reversed(inside))
