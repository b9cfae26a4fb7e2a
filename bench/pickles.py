"""Plain data out of pickles that may be hostile or larger than memory: a pickle machine of our own.

`pickle.Unpickler` with an allow-list is not enough for benchmark tables: a memo index in five bytes makes it allocate
gigabytes, and a table of 15,625 architectures in one pickle becomes 28 GB of objects before the first can be looked at.
This machine knows the opcodes of plain data and calls nothing that a pickle names: a global is either in the list of
builders, functions of ours that make a value out of checked arguments, or an error that says where it stands. `read`
hands every finished dictionary to its caller and forgets those that the caller has taken.

Files of tables are mostly curves: runs of (epoch, number) pairs, which a regular expression finds and numpy decodes at
once, so that reading is as fast as the C unpickler. The opcodes are those of the standard library's `pickletools`.
"""

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

Finished = Callable[[dict[Any, Any]], bool]
"""Called with every dictionary once it is filled; True: taken, its content may be forgotten."""


@runtime_checkable
class Source(Protocol):
    """What is read from: a binary file, or anything that gives its bytes in order."""

    def read(self, size: int, /) -> bytes: ...


@runtime_checkable
class SeekableSource(Source, Protocol):
    """A source that can go back to the end of a pickle."""

    def seek(self, offset: int, whence: int, /) -> int: ...


class Limits(NamedTuple):
    """What a pickle may ask for between two dictionaries that its reader takes (in all, where it takes none)."""

    nbytes: int = 64 << 20
    operations: int = 4_000_000
    text_bytes: int = 64 << 20
    """Of all distinct texts together; a table repeats a few thousand."""


class Builder(NamedTuple):
    """A global that a pickle may name, and what stands in for calling it."""

    name: str
    build: Callable[[tuple[Any, ...]], Any]


Builders = Mapping[tuple[str, str], Builder]


def read(
    source: Source,
    name: str,
    builders: Builders,
    finished: Finished = lambda _: False,
    limits: Limits = Limits(),  # noqa: B008 - a named tuple cannot change
) -> Any:
    """Return the content of a file that is one pickle and nothing more.

    Args:
        source: at the pickle's first byte.
        name: of the file, for messages.
        builders: the globals the pickle may name.
        finished: called with every dictionary once it is filled.
        limits: what the pickle may ask for.

    Raises:
        ValueError: the pickle is damaged, names a global that is not in the list, or passes a limit; one sentence with
            the byte it was found at.
    """
    machine = _Machine(source, builders, finished, limits)
    content = _run(machine, name)
    if machine.at < len(machine.data) or source.read(1):
        raise ValueError(f"{name}: expected the file to end with its pickle at byte {machine.offset}, got more bytes")
    return content


def read_next(
    source: SeekableSource,
    name: str,
    builders: Builders,
    finished: Finished = lambda _: False,
    limits: Limits = Limits(),  # noqa: B008 - a named tuple cannot change
) -> Any:
    """Return the content of one of several pickles in a file that can seek; it stands behind the pickle then."""
    machine = _Machine(source, builders, finished, limits)
    content = _run(machine, name)
    source.seek(machine.at - len(machine.data), 1)
    return content


def _run(machine: "_Machine", name: str) -> Any:
    try:
        return machine.run()
    except EOFError as error:
        raise ValueError(f"{name}: the pickle ends at byte {machine.offset}, expected more: it is truncated") from error
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
        detail = str(error) if isinstance(error, ValueError) else f"a damaged pickle ({type(error).__name__})"
        raise ValueError(f"{name}, byte {machine.offset} of the pickle: {detail}") from error


class _Run(tuple[str, ...]):
    """Texts of consecutive memo entries."""

    __slots__ = ()


_FLAT = {str, int, bytes, float, bool, type(None)}


class _Memo:
    """What a pickle may refer back to; runs of texts take one place, and containers that were taken none."""

    def __init__(self) -> None:
        self.size = 0
        self._tuples: dict[Any, Any] = {}
        self._starts = array("Q")
        self._entries: list[Any] = []

    def put(self, index: int, entry: Any) -> None:
        if index < self.size:
            raise ValueError(f"expected a new memo entry from {self.size} on, got {index} again")
        self._starts.append(index)
        self._entries.append(entry)
        self.size = index + (len(entry) if type(entry) is _Run else 1)

    def get(self, index: int) -> Any:
        place = bisect_right(self._starts, index) - 1
        if place >= 0:
            entry, offset = self._entries[place], index - self._starts[place]
            if type(entry) is _Run and offset < len(entry):
                return entry[offset]
            if offset == 0:
                return entry
        raise ValueError(f"refers to memo entry {index}, which is not there or was of something already taken")

    def forget(self, since: int) -> None:
        """Drop the lists and dictionaries from an index on; what cannot change, later ones may refer to."""
        place = bisect_left(self._starts, since)
        kept = [i for i in range(place, len(self._entries)) if _lasts(self._entries[i])]
        starts, entries = [self._starts[i] for i in kept], [self._once(self._entries[i]) for i in kept]
        del self._starts[place:], self._entries[place:]
        self._starts.extend(starts)
        self._entries.extend(entries)


    def _once(self, entry: Any) -> Any:
        return self._tuples.setdefault(entry, entry) if type(entry) is tuple else entry


def _lasts(entry: Any) -> bool:
    flat = type(entry) in _FLAT or (type(entry) is tuple and set(map(type, entry)) <= _FLAT)
    return flat or isinstance(entry, _Run | Builder | np.dtype)


_CHUNK = 1 << 20
_AHEAD = 1 << 14
"""Bytes that are there when an operation begins, unless the file ends: more than a run of an architecture."""
_DEEP = 1 << 20
"""Values on the stack."""


class _Machine:
    def __init__(self, source: Source, builders: Builders, finished: Finished, limits: Limits) -> None:
        self.source, self.builders, self.finished, self.limits = source, builders, finished, limits
        self.memo = _Memo()
        self.stack: list[Any] = []
        self.marks: list[tuple[int, int]] = []
        self.data, self.at, self.base, self.ended = b"", 0, 0, False
        self.texts: dict[bytes, str] = {}
        self.runs: dict[tuple[int, bytes], _Run] = {}
        self.text_bytes = 0
        self.operations, self.taken_at = 0, 0

    @property
    def offset(self) -> int:
        return self.base + self.at

    def run(self) -> Any:
        while True:
            if len(self.data) - self.at < _AHEAD and not self.ended:
                self._fill()
            operation = _OPERATIONS.get(self.byte())
            if operation is None:
                raise ValueError(f"opcode {self.data[self.at - 1 : self.at]!r} is not one of plain data")
            self.operations += 1
            if operation is _stop:
                return self._end()
            operation(self)

    def _end(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise ValueError(f"expected one value at the end, got {len(self.stack)}")
        return self.stack[0]

    def _fill(self) -> None:
        more = self.source.read(_CHUNK)
        self.ended = not more
        self.base, self.data, self.at = self.base + self.at, self.data[self.at :] + more, 0
        if self.base - self.taken_at > self.limits.nbytes or self.operations > self.limits.operations:
            raise ValueError(
                f"{self.base - self.taken_at:,} bytes and {self.operations:,} operations without an architecture; "
                f"expected at most {self.limits.nbytes:,} and {self.limits.operations:,}"
            )
        if len(self.stack) > _DEEP:
            raise ValueError(f"{len(self.stack):,} values on the stack; expected at most {_DEEP:,}")

    def byte(self) -> int:
        if self.at >= len(self.data):
            return self.take(1)[0]
        self.at += 1
        return self.data[self.at - 1]

    def take(self, count: int) -> bytes:
        if count > self.limits.nbytes:
            raise ValueError(f"{count:,} bytes in one value, expected at most {self.limits.nbytes:,}")
        while len(self.data) - self.at < count and not self.ended:
            more = self.source.read(max(_CHUNK, count - len(self.data) + self.at))
            self.ended = not more
            self.data += more
        if len(self.data) - self.at < count:
            raise EOFError
        self.at += count
        return self.data[self.at - count : self.at]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise ValueError("expected a name of at most 255 bytes and the end of its line")
        return self.take(end + 1 - self.at)[:-1].decode("ascii", "replace")

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def text(self, raw: bytes) -> str:
        """Return a text, the same object for the same bytes."""
        found = self.texts.get(raw)
        if found is None:
            self.text_bytes += len(raw)
            if self.text_bytes > self.limits.text_bytes:
                raise ValueError(f"more than {self.limits.text_bytes:,} bytes of distinct texts")
            found = self.texts[raw] = raw.decode("utf-8", "surrogatepass")
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def popped(self) -> list[Any]:
        """Return the values above the last mark, which is taken away."""
        start, _ = self.marks.pop()
        if start > len(self.stack):
            raise ValueError("a mark stands above the stack")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def text_run(self, keys: np.ndarray) -> _Run:
        """Return texts of one length, the same objects for the same bytes."""
        raw = length, _ = keys.itemsize, keys.tobytes()
        found = self.runs.get(raw)
        if found is None:
            self.text_bytes += len(raw[1])
            texts = (raw[1][start : start + length] for start in range(0, len(raw[1]), length))
            found = self.runs[raw] = _Run(map(self.text, texts))
        return found

    def push_pairs(self, keys: Iterable[Any], values: np.ndarray) -> None:
        pairs: list[Any] = [None] * (2 * len(values))
        pairs[::2], pairs[1::2] = keys, values.tolist()
        self.stack += pairs

    def fill(self, target: Any, items: list[Any], since: int) -> None:
        if type(target) is not dict or len(items) % 2:
            raise ValueError(f"expected pairs for a dictionary, got {len(items)} values for a {type(target).__name__}")
        keys = items[::2]
        _check_keys(keys)
        target.update(zip(keys, items[1::2], strict=True))
        if self.finished(target):
            target.clear()
            self.memo.forget(since)
            self.taken_at, self.operations = self.offset, 0


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuse keys that could be deep: hashing them recurses in C, without end."""
    if set(map(type, keys)) <= _FLAT:
        return
    for key in keys:
        inside = key if type(key) is tuple and len(key) <= 4 else (key,)
        if not set(map(type, inside)) <= _FLAT:
            raise ValueError(f"expected texts and numbers as keys, got a {type(key).__name__}")


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


def _pairs(machine: _Machine, pattern: re.Pattern[bytes], layout: np.dtype[Any]) -> np.ndarray | None:
    """Return the run of pairs that begins with the present opcode, None where none does."""
    found = pattern.match(machine.data, machine.at - 1)
    if found is None:
        return None
    return np.frombuffer(machine.data, layout, (found.end() - found.start()) // layout.itemsize, found.start())


def _advance(machine: _Machine, pairs: np.ndarray) -> None:
    machine.at += pairs.nbytes - 1
    machine.operations += len(pairs)


def _small_integer(machine: _Machine) -> None:
    pairs = _pairs(machine, _INTEGER_PAIRS, _ONE)
    if pairs is None:
        machine.push(machine.byte())
    else:
        machine.push_pairs(pairs["key"].tolist(), pairs["value"])
        _advance(machine, pairs)


def _get(pattern: re.Pattern[bytes], layout: np.dtype[Any], size: int) -> "_Operation":
    def get(machine: _Machine) -> None:
        pairs = _pairs(machine, pattern, layout)
        if pairs is None:
            machine.push(machine.memo.get(int.from_bytes(machine.take(size), "little")))
        else:
            machine.push_pairs(list(map(machine.memo.get, pairs["key"].tolist())), pairs["value"])
            _advance(machine, pairs)

    return get


def _text(width: int) -> "_Operation":
    def text(machine: _Machine) -> None:
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


def _in_order(machine: _Machine, pairs: np.ndarray) -> bool:
    """Return whether a run is memoized from the next entry on, one after the other."""
    names = pairs.dtype.names or ()
    return "index" not in names or bool((pairs["index"] == machine.memo.size + np.arange(len(pairs))).all())


def _raw(width: int) -> "_Operation":
    return lambda machine: machine.push(machine.take(int.from_bytes(machine.take(width), "little")))


def _constant(value: Any) -> "_Operation":
    return lambda machine: machine.push(value)


def _tuple_of(count: int) -> "_Operation":
    def make(machine: _Machine) -> None:
        values = tuple(machine.stack[len(machine.stack) - count :])
        if len(values) < count:
            raise IndexError
        del machine.stack[len(machine.stack) - count :]
        machine.push(values)

    return make


def _persistent(_machine: _Machine) -> None:
    raise ValueError("holds tensors or other outside objects; expected plain data")


def _stop(_machine: _Machine) -> None:
    """End the program; the loop does what there is to do."""


def _long(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.byte()), "little", signed=True))


def _mark(machine: _Machine) -> None:
    machine.marks.append((len(machine.stack), machine.memo.size))


def _set_items(machine: _Machine) -> None:
    since = machine.marks[-1][1]
    items = machine.popped()
    machine.fill(machine.stack[-1], items, since)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill(machine.stack[-1], [key, value], machine.memo.size)


def _append(machine: _Machine) -> None:
    _extend(machine, [machine.stack.pop()])


def _extend(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is set:
        _check_keys(values)
        target.update(values)
    elif type(target) is list:
        target += values
    else:
        raise ValueError(f"expected a list to extend, got a {type(target).__name__}")


def _global(machine: _Machine) -> None:
    _push_builder(machine, machine.line(), machine.line())


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    _push_builder(machine, str(module)[:80], str(name)[:80])


def _push_builder(machine: _Machine, module: str, name: str) -> None:
    builder = machine.builders.get((module, name))
    if builder is None:
        raise ValueError(f"names {module}.{name}, which is not plain data: nothing was run, the file is not read")
    machine.push(builder)


def _reduce(machine: _Machine) -> None:
    arguments, builder = machine.stack.pop(), machine.stack.pop()
    if not isinstance(builder, Builder) or type(arguments) is not tuple:
        raise ValueError(f"expected a name and its arguments, got {type(builder).__name__}, {type(arguments).__name__}")
    machine.push(builder.build(arguments))


def _build(machine: _Machine) -> None:
    """Set the state of a number type or an array, the only states in plain data."""
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, np.dtype):
        _check_order(state)
    elif isinstance(target, np.ndarray):
        _check_array(state)
    else:
        raise ValueError(f"expected the state of an array, got that of a {type(target).__name__}")
    target.__setstate__(state)


def _check_order(state: Any) -> None:
    plain = type(state) is tuple and len(state) == 8 and state[0] == 3 and state[1] in {"<", ">", "|", b"<", b">", b"|"}
    if not plain or state[2:5] != (None, None, None) or state[5:] != (-1, -1, 0):
        raise ValueError("expected the byte order of a plain number type")


def _check_array(state: Any) -> None:
    if type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple or type(state[4]) is not bytes:
        raise ValueError("expected an array's version, shape, type, order and bytes")
    _, shape, kind, _, raw = state
    if not isinstance(kind, np.dtype) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("expected an array's shape in whole numbers and its type")
    nbytes = kind.itemsize
    for length in shape:
        nbytes *= length
    if nbytes != len(raw):
        raise ValueError(f"expected {nbytes} bytes for an array of shape {shape}, got {len(raw)}")


def _number_type(arguments: tuple[Any, ...]) -> np.dtype[Any]:
    code = arguments[0]
    code = code.decode("ascii") if type(code) is bytes else code
    if type(code) is not str or not re.fullmatch(r"[<>|=]?(?:[iu][1248]|f[248]|b1)", code):
        raise ValueError("expected a type of plain numbers")
    return np.dtype(code, copy=True)


def _scalar(arguments: tuple[Any, ...]) -> Any:
    kind, raw = arguments
    if not isinstance(kind, np.dtype) or type(raw) is not bytes or len(raw) != kind.itemsize:
        raise ValueError("expected a number's type and as many bytes")
    return np.frombuffer(raw, kind)[0].item()


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Return a dictionary for `OrderedDict`: it keeps the order too. Python 2 gave the pairs as an argument."""
    pairs = arguments[0] if arguments else []
    _check_keys([key for key, _ in pairs])
    return {key: value for key, value in pairs}


def _set(arguments: tuple[Any, ...]) -> set[Any]:
    values = arguments[0] if arguments else []
    if type(values) is not list:
        raise ValueError("expected the list of a set")
    _check_keys(values)
    return set(values)


def _latin(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if type(text) is not str or encoding not in {"latin1", "latin-1"}:
        raise ValueError("expected bytes as text in latin1")
    return text.encode("latin1")


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise ValueError("expected no arguments, as for the empty bytes")
    return b""


def _empty_array(arguments: tuple[Any, ...]) -> np.ndarray:
    kind, shape, _ = arguments
    if not isinstance(kind, Builder) or kind.name != "ndarray" or shape != (0,):
        raise ValueError("expected an array that gets its shape with its state")
    return np.empty(0, np.int8)


def _never(_arguments: tuple[Any, ...]) -> Any:
    raise ValueError("an array type is a name here, never called")


def _named(modules: Iterable[str], name: str, build: Callable[[tuple[Any, ...]], Any]) -> dict[tuple[str, str], Builder]:
    return {(module, name): Builder(name, build) for module in modules}


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")

CONTAINERS: Builders = (
    _named(["collections"], "OrderedDict", _ordered)
    | _named(["builtins", "__builtin__"], "set", _set)
    | _named(["builtins", "__builtin__"], "bytes", _no_bytes)
    | _named(["_codecs"], "encode", _latin)
)
"""Dictionaries, sets, and the spelling of bytes in old protocols."""

NUMBERS: Builders = {**CONTAINERS, **_named(["numpy"], "dtype", _number_type), **_named(_NUMPY, "scalar", _scalar)}
"""Also single numbers of numpy, which become Python's."""

ARRAYS: Builders = {
    **NUMBERS,
    **_named(_NUMPY, "_reconstruct", _empty_array),
    **_named(["numpy"], "ndarray", _never),
}
"""Also arrays of plain numbers."""

_Operation = Callable[[_Machine], None]
_OPERATIONS: Mapping[int, _Operation] = {
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
