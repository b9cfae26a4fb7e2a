"""Keys of a table: where a key stands, and which key stands where.

Rows are sorted by the `digest` of their key, a 64-bit number, so that a query is a binary search in the file. Where all
keys are 32 hexadecimal digits, as in NAS-Bench-101, they are two numbers: the first half is the digest, the second the
column `tail`. Else they are text in the column `key`, and the digest is the first 8 bytes of their md5, big-endian.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

HEXADECIMAL = re.compile(r"[0-9a-f]{32}")


class Columns(NamedTuple):
    """What is stored of keys, and the order that it is in.

    Attributes:
        digest: ascending.
        rest: the column `tail` or `key`.
        order: row of each stored row in what was given.
    """

    digest: pa.Array
    name: str
    rest: pa.Array
    order: np.ndarray


def columns(keys: Sequence[str]) -> Columns:
    """Return the columns of keys."""
    if all(map(HEXADECIMAL.fullmatch, keys)):
        numbers = np.frombuffer(bytes.fromhex("".join(keys)), ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((numbers[:, 1], numbers[:, 0]))
        return Columns(pa.array(numbers[order, 0]), "tail", pa.array(numbers[order, 1]), order)
    digests = np.array([digest(key) for key in keys], dtype=np.uint64)
    order = np.array(sorted(range(len(keys)), key=lambda row: (int(digests[row]), keys[row])))
    return Columns(pa.array(digests[order]), "key", pa.array([keys[row] for row in order], pa.string()), order)


def digest(key: str) -> np.uint64:
    """Return the first 8 bytes of the md5 of a key as a big-endian number."""
    return np.uint64(int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:8], "big"))


class Keys:
    """The keys of a mapped file; views, no copies."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._digests = _numbers(batch.column("digest"))
        self._texts = batch.column("key") if "key" in batch.schema.names else None
        self._tails = _numbers(batch.column("tail")) if self._texts is None else self._digests[:0]

    def find(self, key: str) -> int | None:
        """Return the row of a key, None where the table does not have it."""
        if self._texts is None and not HEXADECIMAL.fullmatch(key):
            return None
        wanted = np.uint64(int(key[:16], 16)) if self._texts is None else digest(key)
        for row in range(int(self._digests.searchsorted(wanted)), len(self._digests)):
            if self._digests[row] != wanted:
                return None
            if self[row] == key:
                return row
        return None

    def __getitem__(self, row: int) -> str:
        if self._texts is not None:
            return self._texts[row].as_py()
        return f"{self._digests[row]:016x}{self._tails[row]:016x}"

    def all(self) -> tuple[str, ...]:
        """Return every key in the order of the rows."""
        if self._texts is not None:
            return tuple(self._texts.to_pylist())
        halves = zip(self._digests.tolist(), self._tails.tolist(), strict=True)
        return tuple(f"{head:016x}{tail:016x}" for head, tail in halves)


def _numbers(array: pa.Array) -> np.ndarray:
    return np.frombuffer(array.buffers()[1], np.uint64, len(array))
