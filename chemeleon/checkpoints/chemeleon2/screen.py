"""Look through a pickle before PyTorch's restricted loader makes anything of it.

That loader runs nothing but the functions on its list. But some of these take any size, and it
hashes and prints whatever it is given: numbers that collide, a tuple that holds itself forty times
over, a ``bytearray`` of 2 GB keep it busy for ever or fill the memory. So the opcodes (as listed by
``pickletools``) are followed here, with placeholders for what the loader would make, and a file
that asks for too much is refused. A second lock, not another key: nothing is made here.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.nn import Parameter

MAX_OPCODES = 500_000  # a published checkpoint has some ten thousand
# names, in all: the loader goes through those it knows at each use, and through keys at each BUILD
MAX_LOOKED_UP = 10_000_000
MAX_NAME = 512  # characters of a class name
_ITEM_BYTES = {
    **dict.fromkeys(("torch.DoubleStorage", "torch.LongStorage"), 8),
    **dict.fromkeys(("torch.FloatStorage", "torch.IntStorage"), 4),
    **dict.fromkeys(("torch.HalfStorage", "torch.BFloat16Storage", "torch.ShortStorage"), 2),
    **dict.fromkeys(("torch.CharStorage", "torch.ByteStorage", "torch.BoolStorage"), 1),
}
_HARMLESS = {"torch.Size", "torch.device", "torch._utils._rebuild_parameter"}
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}

_MAPPING = frozenset(dir(OrderedDict))
_PARAMETER = frozenset(dir(Parameter))

_LOOK_UP = {"GLOBAL", "REDUCE", "NEWOBJ", "BUILD"}
_LITERALS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING"),
}


class Refused(Exception):
    """A file breaks the rules; the text is the reason."""


class Outline(NamedTuple):
    """What a pickle asks for.

    Attributes:
        calls: names that it calls, beside those whose calls are known to be harmless.
        mappings: names whose objects it fills by key.
    """

    calls: set[str]
    mappings: set[str]


@dataclass(frozen=True)
class _Name:
    """Stands for the class or function of this name."""

    name: str


@dataclass(frozen=True)
class _Made:
    """Stands for what calling this name gives, no name for a plain dict; and for its keys."""

    name: str = ""
    keys: set[Any] = field(default_factory=set, compare=False)


@dataclass(frozen=True)
class _Storage:
    """Stands for so many numbers."""

    count: int


def screen(pickled: bytes, stored: Mapping[str, int]) -> Outline:
    """Follow a pickle to its end; ``stored`` are the bytes that there are of each storage.

    Raises:
        Refused: if it breaks the rules.
        Exception: of any kind, if it is damaged.
    """
    found = Outline(set(), set())
    stack: list[Any] = []
    outer: list[list[Any]] = []  # a mark begins a new stack, as in the loader
    memo: dict[Any, Any] = {}
    names: set[str] = set()
    built: dict[str, str] = {}  # names whose objects get attributes that a mapping must not have
    looked_up = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name in _LOOK_UP:
            looked_up += len(names)
        if count >= MAX_OPCODES or looked_up > MAX_LOOKED_UP:
            raise Refused(f"it has not ended after {count} opcodes and {len(names)} names")
        needs = opcode.stack_before
        if pickletools.markobject in needs:
            taken, stack = stack, outer.pop()
            taken[:0] = [stack.pop() for _ in needs[: needs.index(pickletools.markobject)]]
        else:
            taken = [stack.pop() for _ in needs][::-1]
        match opcode.name:
            case "STOP":
                break
            case "PROTO":
                if argument != 2:
                    raise Refused(f"pickle protocol {argument} instead of 2, that of PyTorch")
                continue
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
                continue
            case "MARK":
                outer.append(stack)
                stack = []
                continue
            case "BINGET" | "LONG_BINGET":
                made = memo[argument]
            case "GLOBAL":
                made = _name(str(argument))
                names.add(made.name)
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                made = tuple(taken)
            case "EMPTY_LIST":
                made = []
            case "EMPTY_DICT":
                made = _Made()
            case "EMPTY_SET":
                made = _Made("builtins.set")
            case "APPEND" | "APPENDS":
                made = taken[0]
                made.extend(taken[1:])
            case "SETITEM" | "SETITEMS":
                made = taken[0]
                _check_keys(taken[1::2])
                if isinstance(made, _Made):
                    found.mappings.add(made.name)
                    made.keys.update(taken[1::2])
            case "REDUCE" | "NEWOBJ":
                made = _call(taken[0], taken[1], opcode.name, found)
            case "BUILD":
                made, state = taken
                looked_up += len(state.keys) if isinstance(state, _Made) else 0
                _build(made, state, built)
            case "BINPERSID":
                made = _storage(taken[0], stored)
            case name if name in _LITERALS:
                made = argument
            case name:
                raise Refused(f"opcode {name} is not allowed")
        stack.append(made)
    for name in built.keys() & {*found.mappings, "collections.OrderedDict"}:
        raise Refused(f"a mapping, {name}, gets {built[name]}")
    return found


def _name(argument: str) -> _Name:
    if len(argument) > MAX_NAME:
        raise Refused(f"a class name of more than {MAX_NAME} characters")
    # protocol 2 has the name of Python 2; the loader knows others, too, which are refused
    return _Name(argument.replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1))


def _call(function: Any, arguments: Any, opcode: str, found: Outline) -> _Made:
    """Note what is called, unless it is harmless with these arguments."""
    if not isinstance(function, _Name):
        raise Refused("it calls something that is no name")
    match function.name, arguments:
        case "collections.OrderedDict", () if opcode == "REDUCE":
            pass
        case "builtins.set", ([*items],) if opcode == "REDUCE":
            _check_keys(items)
        case "_codecs.encode", (str(), "latin1") if opcode == "REDUCE":
            pass  # so are bytes kept
        case name, _ if name in _TENSORS and opcode == "REDUCE":
            _check_tensor(arguments)
        case "torch._utils._rebuild_parameter_with_state", (_, _, _, state) if opcode == "REDUCE":
            if wrong := _attributes(state, _PARAMETER):
                raise Refused(f"a parameter gets {wrong}")
        case name, _ if name in _HARMLESS and opcode == "REDUCE":
            pass
        case _:
            found.calls.add(function.name)
    return _Made(function.name)


def _build(made: Any, state: Any, built: dict[str, str]) -> None:
    """Note what is wrong with an object's new attributes, in case it is a mapping."""
    name = made.name if isinstance(made, _Made) else ""
    if name in _TENSORS:
        raise Refused("a tensor is told anew where its numbers are")
    if wrong := _attributes(state, _MAPPING):
        built.setdefault(name, wrong)


def _attributes(state: Any, methods: frozenset[str]) -> str:
    """Say what is wrong with an object's attributes, nothing if all is well.

    The loader sets them on the object itself, so one of a method's name is called instead of it.
    """
    if not isinstance(state, _Made) or state.name:
        return "attributes that are no plain dict"
    hidden = sorted(methods & state.keys)
    return f"attributes in place of its methods: {', '.join(hidden[:5])}" if hidden else ""


def _storage(identifier: Any, stored: Mapping[str, int]) -> _Storage:
    match identifier:
        case ("storage", _Name(kind), str(key), str(), int(count)) if count >= 0:
            size = count * _ITEM_BYTES.get(kind, -1)
            if size < 0:
                raise Refused(f"storage '{key[:40]}' is of the unknown type {kind}")
            if stored.get(key, 0) != size:  # of too few the loader would take those that follow
                raise Refused(
                    f"what tensors need of entry '{key[:40]}', {size} bytes, does not fit the"
                    f" {stored.get(key, 0)} bytes stored for it: the file is incomplete"
                )
            return _Storage(count)
        case _:
            raise Refused("a persistent id is not a storage")


def _check_tensor(arguments: Any) -> None:
    match arguments:
        case (_Storage(count), offset, tuple(shape), tuple(stride), *_):
            numbers = (offset, *shape, *stride)
            possible = all(type(n) is int and 0 <= n < 2**48 for n in numbers)
        case _:
            count, offset, shape, stride, possible = 0, 0, (), (), False
    if not possible or len(shape) != len(stride) or len(shape) > 8:
        raise Refused("a tensor has an impossible storage, offset, shape or stride")
    places = zip(shape, stride, strict=True)
    extent = 1 + sum((n - 1) * step for n, step in places) if all(shape) else 0
    if offset + extent > count:
        raise Refused(
            f"a tensor of shape {shape} and stride {stride} at {offset} does not fit its"
            f" {count} numbers"
        )


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that may take long to hash, or to tell from others of the same hash."""
    for key in keys:
        short = isinstance(key, int) and -(2**60) < key < 2**60
        if not (short or key is None or isinstance(key, (str, float))):
            raise Refused("a key is neither text nor a short number")
