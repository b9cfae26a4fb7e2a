"""The opcodes of plain data, and runs of pairs that are read at once."""

import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from bench.pickles import machine as state
from bench.pickles.builders import check_array, check_order
from bench.pickles.machine import Builder, Machine, check_keys

Operation = Callable[[Machine], None]


def run(machine: Machine) -> Any:
    """Return the value that the program leaves on the stack."""
    while True:
        if len(machine.data) - machine.at < state.AHEAD and not machine.ended:
            machine.fill_up()
        operation = OPERATIONS.get(machine.byte())
        if operation is None:
            raise ValueError(f"opcode {machine.data[machine.at - 1 : machine.at]!r} is not one of plain data")
        machine.operations += 1
        if operation is _stop:
            break
        operation(machine)
    if len(machine.stack) != 1 or machine.marks:
        raise ValueError(f"expected one value at the end, got {len(machine.stack)}")
    return machine.stack[0]


_INT2, _INT4, _UINT4, _UINT8 = (struct.Struct(f"<{code}") for code in "HiIQ")
_FLOAT = struct.Struct(">d")

_INTEGER_PAIRS = re.compile(rb"(?:K.G.{8}){2,}", re.DOTALL)
_SHORT_PAIRS = re.compile(rb"(?:h.G.{8}){2,}", re.DOTALL)
_LONG_PAIRS = re.compile(rb"(?:j.{4}G.{8}){2,}", re.DOTALL)
_ONE = np.dtype([("op", "u1"), ("key", "u1"), ("of", "u1"), ("value", ">f8")])
_FOUR = np.dtype([("op", "u1"), ("key", "<u4"), ("of", "u1"), ("value", ">f8")])


class _Pattern(NamedTuple):
    """Pairs of a text of one length, memoized, and a number: as they are searched for, and as they lie."""

    search: re.Pattern[bytes]
    layout: np.dtype[Any]


@lru_cache(maxsize=512)
def _text_pairs(head: bytes, length: int, memoized: bytes) -> _Pattern:
    index = 4 if memoized == b"r" else 0
    one = re.escape(head) + b".{%d}" % length + re.escape(memoized) + b".{%d}" % index + b"G.{8}"
    layout = [("head", f"S{len(head)}"), ("key", f"V{length}"), ("memo", "u1")]
    layout += [("index", "<u4")] if index else []
    return _Pattern(re.compile(b"(?:%s){2,}" % one, re.DOTALL), np.dtype([*layout, ("of", "u1"), ("value", ">f8")]))


def _pairs(machine: Machine, pattern: re.Pattern[bytes], layout: np.dtype[Any]) -> np.ndarray | None:
    """Return the run of pairs that begins with the present opcode, None where none does."""
    found = pattern.match(machine.data, machine.at - 1)
    if found is None:
        return None
    return np.frombuffer(machine.data, layout, (found.end() - found.start()) // layout.itemsize, found.start())


def _advance(machine: Machine, pairs: np.ndarray) -> None:
    machine.at += pairs.nbytes - 1
    machine.operations += len(pairs)


def _small_integer(machine: Machine) -> None:
    pairs = _pairs(machine, _INTEGER_PAIRS, _ONE)
    if pairs is None:
        machine.push(machine.byte())
    else:
        machine.push_pairs(pairs["key"].tolist(), pairs["value"])
        _advance(machine, pairs)


def _get(pattern: re.Pattern[bytes], layout: np.dtype[Any], size: int) -> Operation:
    def get(machine: Machine) -> None:
        pairs = _pairs(machine, pattern, layout)
        if pairs is None:
            machine.push(machine.memo.get(int.from_bytes(machine.take(size), "little")))
        else:
            machine.push_pairs(machine.memo.get_all(pairs["key"].tolist()), pairs["value"])
            _advance(machine, pairs)

    return get


def _text(width: int) -> Operation:
    def text(machine: Machine) -> None:
        start = machine.at - 1
        length = int.from_bytes(machine.take(width), "little")
        behind = machine.data[machine.at + length : machine.at + length + 1]
        if behind in {b"\x94", b"r"} and length < 64:
            head = machine.data[start : start + 1 + width]
            pattern = _text_pairs(head, length, behind)
            machine.at = start + 1
            pairs = _pairs(machine, pattern.search, pattern.layout)
            if pairs is not None and _in_order(machine, pairs):
                texts = machine.text_run(pairs["key"])
                machine.push_pairs(texts, pairs["value"])
                machine.memo.put(machine.memo.size, texts)
                _advance(machine, pairs)
                return
            machine.at = start + 1 + width
        machine.push(machine.text(machine.take(length)))

    return text


def _in_order(machine: Machine, pairs: np.ndarray) -> bool:
    """Return whether a run is memoized from the next entry on, one after the other."""
    names = pairs.dtype.names or ()
    return "index" not in names or bool((pairs["index"] == machine.memo.size + np.arange(len(pairs))).all())


def _raw(width: int) -> Operation:
    return lambda machine: machine.push(machine.take(int.from_bytes(machine.take(width), "little")))


def _constant(value: Any) -> Operation:
    return lambda machine: machine.push(value)


def _tuple_of(count: int) -> Operation:
    def make(machine: Machine) -> None:
        values = tuple(machine.stack[len(machine.stack) - count :])
        if len(values) < count:
            raise IndexError
        del machine.stack[len(machine.stack) - count :]
        machine.push(values)

    return make


def _persistent(_machine: Machine) -> None:
    raise ValueError("holds tensors or other outside objects; expected plain data")


def _stop(_machine: Machine) -> None:
    """End the program; the loop does what there is to do."""


def _long(machine: Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.byte()), "little", signed=True))


def _mark(machine: Machine) -> None:
    machine.marks.append((len(machine.stack), machine.memo.size))


def _set_items(machine: Machine) -> None:
    since = machine.marks[-1][1]
    items = machine.popped()
    machine.fill(machine.stack[-1], items, since)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill(machine.stack[-1], [key, value], machine.memo.size)


def _append(machine: Machine) -> None:
    _extend(machine, [machine.stack.pop()])


def _extend(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is set:
        check_keys(values)
        target.update(values)
    elif type(target) is list:
        target += values
    else:
        raise ValueError(f"expected a list to extend, got a {type(target).__name__}")


def _global(machine: Machine) -> None:
    _push_builder(machine, machine.line(), machine.line())


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(module) is not str or type(name) is not str:
        raise ValueError(f"expected a module and a name, got {type(module).__name__} and {type(name).__name__}")
    _push_builder(machine, module[:80], name[:80])


def _push_builder(machine: Machine, module: str, name: str) -> None:
    builder = machine.builders.get((module, name))
    if builder is None:
        raise ValueError(f"names {module}.{name}, which is not plain data: nothing was run, the file is not read")
    machine.push(builder)


def _reduce(machine: Machine) -> None:
    arguments, builder = machine.stack.pop(), machine.stack.pop()
    if not isinstance(builder, Builder) or type(arguments) is not tuple:
        raise ValueError(f"expected a name and its arguments, got {type(builder).__name__}, {type(arguments).__name__}")
    machine.push(builder.build(arguments))


def _build(machine: Machine) -> None:
    """Set the state of a number type or an array, the only states in plain data."""
    content, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, np.dtype):
        check_order(content)
    elif isinstance(target, np.ndarray):
        check_array(content)
    else:
        raise ValueError(f"expected the state of an array, got that of a {type(target).__name__}")
    target.__setstate__(content)


OPERATIONS: Mapping[int, Operation] = {
    code[0]: operation
    for code, operation in {
        b".": _stop,
        b"\x80": lambda machine: machine.byte() and None,  # the protocol
        b"\x95": lambda machine: machine.take(8) and None,  # the length of a frame; frames do not matter here
        b"(": _mark,
        b"0": lambda machine: machine.stack.pop(),
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"K": _small_integer,
        b"M": lambda machine: machine.push(machine.number(_INT2)),
        b"J": lambda machine: machine.push(machine.number(_INT4)),
        b"\x8a": _long,
        b"G": lambda machine: machine.push(machine.number(_FLOAT)),
        b"\x8c": _text(1),
        b"X": _text(4),
        b"\x8d": _text(8),
        b"C": _raw(1),
        b"B": _raw(4),
        b"\x8e": _raw(8),
        b"U": _raw(1),
        b"T": _raw(4),
        b")": _constant(()),
        b"\x85": _tuple_of(1),
        b"\x86": _tuple_of(2),
        b"\x87": _tuple_of(3),
        b"t": lambda machine: machine.push(tuple(machine.popped())),
        b"]": lambda machine: machine.push([]),
        b"l": lambda machine: machine.push(machine.popped()),
        b"a": _append,
        b"e": lambda machine: _extend(machine, machine.popped()),
        b"\x8f": lambda machine: machine.push(set()),
        b"\x90": lambda machine: _extend(machine, machine.popped()),
        b"}": lambda machine: machine.push({}),
        b"s": _set_item,
        b"u": _set_items,
        b"\x94": lambda machine: machine.memo.put(machine.memo.size, machine.stack[-1]),
        b"q": lambda machine: machine.memo.put(machine.byte(), machine.stack[-1]),
        b"r": lambda machine: machine.memo.put(machine.number(_UINT4), machine.stack[-1]),
        b"h": _get(_SHORT_PAIRS, _ONE, 1),
        b"j": _get(_LONG_PAIRS, _FOUR, 4),
        b"c": _global,
        b"\x93": _stack_global,
        b"R": _reduce,
        b"b": _build,
        b"Q": _persistent,
    }.items()
}
