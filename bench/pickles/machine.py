"""The state of a pickle machine: its stack, its memo, and the bytes it reads."""

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
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


class Run(tuple[str, ...]):
    """Texts of consecutive memo entries."""

    __slots__ = ()


FLAT = {str, int, bytes, float, bool, type(None)}


class Memo:
    """What a pickle may refer back to; runs of texts take one place, and containers that were taken none."""

    def __init__(self) -> None:
        self.size = 0
        self._tuples: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._starts = array("Q")
        self._entries: list[Any] = []

    def put(self, index: int, entry: Any) -> None:
        if index < self.size:
            raise ValueError(f"expected a new memo entry from {self.size} on, got {index} again")
        self._starts.append(index)
        self._entries.append(entry)
        self.size = index + (len(entry) if type(entry) is Run else 1)

    def get(self, index: int) -> Any:
        place = bisect_right(self._starts, index) - 1
        if place >= 0:
            entry, offset = self._entries[place], index - self._starts[place]
            if type(entry) is Run and offset < len(entry):
                return entry[offset]
            if offset == 0:
                return entry
        raise ValueError(f"refers to memo entry {index}, which is not there or was of something already taken")

    def get_all(self, indices: list[int]) -> list[Any]:
        """Return several entries; those that are one after the other in a run are taken at once."""
        found: list[Any] = []
        while len(found) < len(indices):
            index, start = indices[len(found)], len(found)
            place = bisect_right(self._starts, index) - 1
            texts = self._entries[place] if place >= 0 else None
            first = index - self._starts[place] if type(texts) is Run else 0
            stretch = texts[first : first + len(indices) - start] if type(texts) is Run else ()
            if stretch and indices[start : start + len(stretch)] == list(range(index, index + len(stretch))):
                found += stretch
            else:
                found.append(self.get(index))
        return found

    def forget(self, since: int) -> None:
        """Drop the lists and dictionaries from an index on; what cannot change, later ones may refer to."""
        place = bisect_left(self._starts, since)
        kept = [i for i in range(place, len(self._entries)) if _lasts(self._entries[i])]
        starts, entries = [self._starts[i] for i in kept], [self._once(self._entries[i]) for i in kept]
        del self._starts[place:], self._entries[place:]
        self._starts.extend(starts)
        self._entries.extend(entries)

    def _once(self, entry: Any) -> Any:
        """Return the same object for equal tuples of texts and whole numbers, which are names of results."""
        named = type(entry) is tuple and set(map(type, entry)) <= {str, int}
        return self._tuples.setdefault(entry, entry) if named else entry


def _lasts(entry: Any) -> bool:
    flat = type(entry) in FLAT or (type(entry) is tuple and set(map(type, entry)) <= FLAT)
    return flat or isinstance(entry, Run | Builder | np.dtype)


CHUNK = 1 << 20
AHEAD = 1 << 14
"""Bytes that are there when an operation begins, unless the file ends: more than a run of an architecture."""
DEEP = 1 << 20
"""Values on the stack."""


class Machine:
    def __init__(self, source: Source, builders: Builders, finished: Finished, limits: Limits) -> None:
        self.source, self.builders, self.finished, self.limits = source, builders, finished, limits
        self.memo = Memo()
        self.stack: list[Any] = []
        self.marks: list[tuple[int, int]] = []
        self.data, self.at, self.base, self.ended = b"", 0, 0, False
        self.texts: dict[bytes, str] = {}
        self.runs: dict[tuple[int, bytes], Run] = {}
        self.text_bytes = 0
        self.operations, self.taken_at = 0, 0

    @property
    def offset(self) -> int:
        return self.base + self.at

    def fill_up(self) -> None:
        more = self.source.read(CHUNK)
        self.ended = not more
        self.base, self.data, self.at = self.base + self.at, self.data[self.at :] + more, 0
        if self.base - self.taken_at > self.limits.nbytes or self.operations > self.limits.operations:
            raise ValueError(
                f"{self.base - self.taken_at:,} bytes and {self.operations:,} operations without an architecture; "
                f"expected at most {self.limits.nbytes:,} and {self.limits.operations:,}"
            )
        if len(self.stack) > DEEP:
            raise ValueError(f"{len(self.stack):,} values on the stack; expected at most {DEEP:,}")

    def byte(self) -> int:
        if self.at >= len(self.data):
            return self.take(1)[0]
        self.at += 1
        return self.data[self.at - 1]

    def take(self, count: int) -> bytes:
        if count > self.limits.nbytes:
            raise ValueError(f"{count:,} bytes in one value, expected at most {self.limits.nbytes:,}")
        while len(self.data) - self.at < count and not self.ended:
            more = self.source.read(max(CHUNK, count - len(self.data) + self.at))
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

    def text_run(self, keys: np.ndarray) -> Run:
        """Return texts of one length, the same objects for the same bytes."""
        raw = length, _ = keys.itemsize, keys.tobytes()
        found = self.runs.get(raw)
        if found is None:
            self.text_bytes += len(raw[1])
            texts = (raw[1][start : start + length] for start in range(0, len(raw[1]), length))
            found = self.runs[raw] = Run(map(self.text, texts))
        return found

    def push_pairs(self, keys: Iterable[Any], values: np.ndarray) -> None:
        pairs: list[Any] = [None] * (2 * len(values))
        pairs[::2], pairs[1::2] = keys, values.tolist()
        self.stack += pairs

    def fill(self, target: Any, items: list[Any], since: int) -> None:
        if type(target) is not dict or len(items) % 2:
            raise ValueError(f"expected pairs for a dictionary, got {len(items)} values for a {type(target).__name__}")
        keys = items[::2]
        check_keys(keys)
        target.update(zip(keys, items[1::2], strict=True))
        if self.finished(target):
            target.clear()
            self.memo.forget(since)
            self.taken_at, self.operations = self.offset, 0


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse keys that could be deep: hashing them recurses in C, without end."""
    if set(map(type, keys)) <= FLAT:
        return
    for key in keys:
        inside = key if type(key) is tuple and len(key) <= 4 else (key,)
        if not set(map(type, inside)) <= FLAT:
            raise ValueError(f"expected texts and numbers as keys, got a {type(key).__name__}")
