"""Plain values out of the hyper-parameters of a Lightning checkpoint.

They are a tangle of records (see ``chemeleon.checkpoints.inert``): modules, OmegaConf nodes,
partial functions. These helpers never follow a loop twice and never recurse deeply.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chemeleon.checkpoints.inert import Record

MAX_VISITED = 1_000_000
_DEPTH = 12


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
        if isinstance(value, Record):
            value = _inner(value)
            done[key] = _plain(value, depth - 1, done)
        elif isinstance(value, dict):
            parts = [(k, v) for k, v in value.items() if isinstance(k, str)]
            done[key] = {k: _plain(v, depth - 1, done) for k, v in parts}
        elif type(value) in (list, tuple):
            done[key] = [_plain(v, depth - 1, done) for v in value]
    return done[key]


def _inner(record: Record) -> Any:
    for name in ("_content", "_val"):
        if isinstance(record.state, dict) and name in record.state:
            return record.state[name]
    return record.items or (record.state if isinstance(record.state, dict) else None)


def section(value: Any) -> dict[str, Any]:
    """Return a plain dict, empty if the value is something else."""
    found = plain(value)
    return found if isinstance(found, dict) else {}


def records(value: Any) -> Iterator[Record]:
    """Yield every record inside a value once, outer ones and earlier ones first."""
    return (item for item in _parts(value) if isinstance(item, Record))


def named(value: Any, name: str) -> Iterator[Any]:
    """Yield what is kept under a key, wherever that is, as plain values."""
    for item in _parts(value):
        if isinstance(item, dict) and name in item:
            yield plain(item[name])


def _parts(value: Any) -> Iterator[Any]:
    """Yield every record and container inside a value once."""
    waiting, seen = [value], set()
    while waiting and len(seen) < MAX_VISITED:
        item = waiting.pop()
        if not isinstance(item, (Record, dict, list, tuple)) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, Record):
            inside = [item.kind, item.args, item.state, item.items, item.values]
        else:
            inside = list(item.values() if isinstance(item, dict) else item)
        waiting.extend(reversed(inside))


def find(value: Any, ending: str) -> Record | None:
    """Return the first record whose class name ends so, or None."""
    return next((record for record in records(value) if record.name.endswith(ending)), None)


def heads(value: Any) -> int | None:
    """Return the number of attention heads of a pickled module, or None."""
    for record in records(value):
        count = record.get("num_heads")
        if type(count) is int and 0 < count <= 1024:
            return count
    return None
