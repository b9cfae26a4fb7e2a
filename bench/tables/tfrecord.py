"""Records of a TFRecord file, each checked against both of its checksums; TensorFlow is not needed.

A record is a length (uint64, little-endian), the checksum of these eight bytes, the data, and the checksum of the data.
Checksums are CRC-32C (RFC 3720), rotated right by 15 bits plus a constant, uint32.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MOST_BYTES = 1 << 20
"""Of a record: far above any of a benchmark, and little memory."""
CHUNK_BYTES = 1 << 20

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class Record(NamedTuple):
    """A record and where in the file it begins."""

    offset: int
    data: bytes


def recognises(path: Path, first: bytes) -> bool:
    """Return whether a file begins with a length and then data that begins in this way."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEADER.size + len(first))
    return head[_HEADER.size :] == first and int.from_bytes(head[:8], "little") <= MOST_BYTES


def records(path: Path, seen: Callable[[bytes], None]) -> Iterator[Record]:
    """Yield every record; `seen` is given the bytes of the file as they are read.

    Raises:
        ValueError: a checksum does not hold, the file ends inside a record, or google-crc32c is not installed.
    """
    checksum = _checksum()
    with path.open("rb", buffering=0) as file:
        buffer, begin = b"", 0
        while chunk := file.read(CHUNK_BYTES):
            seen(chunk)
            buffer, place = buffer + chunk, 0
            while (end := _end(path, buffer, place, begin, checksum)) <= len(buffer):
                data = buffer[place + _HEADER.size : end - _CHECKSUM.size]
                _check(path, begin + place, "data", checksum(data), *_CHECKSUM.unpack_from(buffer, end - 4))
                yield Record(begin + place, data)
                place = end
            buffer, begin = buffer[place:], begin + place
    if buffer:
        raise ValueError(
            f"{path} ends inside the record that begins at byte {begin}: expected "
            f"{_end(path, buffer, 0, begin, checksum)} bytes or more, got {len(buffer)}; get the file again"
        )


def _end(path: Path, buffer: bytes, place: int, begin: int, checksum: Callable[[bytes], int]) -> int:
    """Return where a record ends in the buffer; its header is checked as soon as it is there."""
    if len(buffer) < place + _HEADER.size:
        return place + _HEADER.size + _CHECKSUM.size
    length, stored = _HEADER.unpack_from(buffer, place)
    _check(path, begin + place, "length", checksum(buffer[place : place + 8]), stored)
    if length > MOST_BYTES:
        raise ValueError(
            f"{path}: expected a record of at most {MOST_BYTES} bytes at byte {begin + place}, got {length}"
        )
    return place + _HEADER.size + length + _CHECKSUM.size


def _check(path: Path, offset: int, what: str, found: int, stored: int) -> None:
    if found != stored:
        raise ValueError(
            f"{path} is damaged: the {what} of the record at byte {offset} has the checksum {found:08x}, expected "
            f"{stored:08x}; get the file again"
        )


def _checksum() -> Callable[[bytes], int]:
    """Return the masked CRC-32C."""
    try:
        from google_crc32c import value
    except ImportError as error:
        raise ValueError("reading a .tfrecord needs google-crc32c: pip install 'nas-stability[tfrecord]'") from error

    def masked(data: bytes) -> int:
        crc = value(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    return masked


def frame(data: bytes) -> bytes:
    """Return a record as it stands in a file."""
    checksum, length = _checksum(), len(data).to_bytes(8, "little")
    return length + _CHECKSUM.pack(checksum(length)) + data + _CHECKSUM.pack(checksum(data))
