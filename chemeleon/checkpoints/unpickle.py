"""Read a pickle as data: nothing in it is imported, called or executed.

A pickle is a small program. Here its opcodes (as listed by ``pickletools``) act on inert values
only: plain Python containers, numbers and strings; ``LazyTensor`` for PyTorch's tensor rebuilders;
and ``Record`` for everything else - a class that is named but never looked up, with the arguments,
state and items that the pickle would have given it. A file that would call ``os.system`` yields a
``Record`` called ``os.system``.

Work and memory are bounded: by the size of the pickle, the number of opcodes, and dict keys that
are short scalars (a nested tuple, or colliding huge integers, take for ever to hash).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from chemeleon.checkpoints.inert import (
    ClassName,
    Record,
    Refused,
    Storage,
    call,
    class_name,
    make_dict,
)
from chemeleon.errors import CheckpointError

MAX_BYTES = 64 * 2**20  # a published checkpoint has 0.1 MB of pickle beside its tensors
MAX_OPCODES = 3_000_000
MAX_BITS = 4096  # of an integer; states of random generators have a few hundred


def unpickle(data: bytes, where: str) -> Any:
    """Return the value that a pickle describes.

    Args:
        data: the pickle.
        where: name of its file, for messages.

    Raises:
        CheckpointError: if it is damaged, too large, or breaks the rules above.
    """
    if len(data) > MAX_BYTES:
        raise CheckpointError(
            f"{where}: its pickle has {len(data)} bytes, more than the {MAX_BYTES} that are read:"
            " this is not a published checkpoint"
        )
    try:
        return _Machine(data).run()
    except Refused as refused:
        reason = str(refused)
    except RecursionError:
        reason = "too deeply nested"
    except Exception as error:  # whatever a hostile byte string provokes is a damaged pickle
        reason = f"{type(error).__name__}: {error}"[:200]
    raise CheckpointError(
        f"{where}: its pickle cannot be read ({reason}): the file is damaged or no checkpoint;"
        " fetch it again"
    )


class _Machine:
    """The stack machine of a pickle, on inert values."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.rules = _rules(self)

    def run(self) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.data)):
            if count >= MAX_OPCODES:
                raise Refused(f"more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                return self.pop()
            rule = self.rules.get(opcode.name)
            if rule is None:
                raise Refused(f"opcode {opcode.name} is not allowed")
            rule(argument)
        raise Refused("no end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def literal(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise Refused(f"an integer of more than {MAX_BITS} bits")
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def drop_mark(self, _: Any) -> None:
        self.pop_mark()

    def pop_any(self, _: Any) -> None:
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def recall(self, index: Any) -> None:
        if int(index) not in self.memo:
            raise Refused(f"memo {index} was never set")
        self.push(self.memo[int(index)])

    def remember(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else int(index)] = self.top()

    def take(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def global_(self, argument: str) -> None:
        self.push(class_name(*argument.split(" ", 1)))

    def stack_global(self, _: Any) -> None:
        self.push(class_name(*self.take(2)))

    def persistent(self, identifier: Any) -> None:
        match identifier:
            case ("storage", ClassName(module="torch", name=kind), str(key), str(), int(numel)):
                self.push(Storage(kind, key, numel))
            case _:
                raise Refused("a persistent id is not a storage")

    def instance(self, argument: str) -> None:
        kind = class_name(*argument.split(" ", 1))
        self.push(call(kind, tuple(self.pop_mark())))

    def object(self, _: Any) -> None:
        values = self.pop_mark()
        if not values:
            raise Refused("an object has no class")
        self.push(call(values[0], tuple(values[1:])))

    def reduce(self, _: Any) -> None:
        function, args = self.take(2)
        self.push(call(function, args if isinstance(args, tuple) else (args,)))

    def new_object_keywords(self, _: Any) -> None:
        kind, args, keywords = self.take(3)
        self.push(Record(kind, (*args, keywords) if isinstance(args, tuple) else (args, keywords)))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Record):
            target.state = state
        # attributes of plain containers (a state_dict's `_metadata`) carry no weights

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.values.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise Refused("appends to something that is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, dict):
            raise Refused("sets items of something that is no dict")
        target.update(make_dict(values))


_LITERALS = (
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "FLOAT",
    "BINFLOAT",
)


def _rules(m: _Machine) -> dict[str, Callable[[Any], None]]:
    """Return what each allowed opcode does; extension codes and buffers are not among them."""
    return {
        **dict.fromkeys(_LITERALS, m.literal),
        **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), m.recall),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), m.remember),
        "NONE": m.push,
        "NEWTRUE": lambda _: m.push(True),
        "NEWFALSE": lambda _: m.push(False),
        "MARK": lambda _: m.marks.append(len(m.stack)),
        "POP": m.pop_any,
        "POP_MARK": m.drop_mark,
        "DUP": lambda _: m.push(m.top()),
        "EMPTY_LIST": lambda _: m.push([]),
        "EMPTY_TUPLE": lambda _: m.push(()),
        "EMPTY_DICT": lambda _: m.push({}),
        "EMPTY_SET": lambda _: m.push(Record(ClassName("builtins", "set"))),
        "LIST": lambda _: m.push(m.pop_mark()),
        "TUPLE": lambda _: m.push(tuple(m.pop_mark())),
        "TUPLE1": lambda _: m.push(m.take(1)),
        "TUPLE2": lambda _: m.push(m.take(2)),
        "TUPLE3": lambda _: m.push(m.take(3)),
        "DICT": lambda _: m.push(make_dict(m.pop_mark())),
        "FROZENSET": lambda _: m.push(Record(ClassName("builtins", "set"), (m.pop_mark(),))),
        "APPEND": lambda _: m.append([m.pop()]),
        "APPENDS": lambda _: m.append(m.pop_mark()),
        "ADDITEMS": lambda _: m.append(m.pop_mark()),
        "SETITEM": lambda _: m.set_items(list(m.take(2))),
        "SETITEMS": lambda _: m.set_items(m.pop_mark()),
        "GLOBAL": m.global_,
        "STACK_GLOBAL": m.stack_global,
        "BINPERSID": lambda _: m.persistent(m.pop()),
        "INST": m.instance,
        "OBJ": m.object,
        "REDUCE": m.reduce,
        "NEWOBJ": m.reduce,
        "NEWOBJ_EX": m.new_object_keywords,
        "BUILD": m.build,
    }
