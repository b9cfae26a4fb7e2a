"""The message `ModelMetrics` of a NAS-Bench-101 record, from the wire format of protocol buffers.

    ModelMetrics:   1 evaluation_data, repeated EvaluationData; 2 trainable_parameters, int32; 3 total_time, double
    EvaluationData: 1 current_epoch, 2 training_time, 3 train_accuracy, 4 validation_accuracy, 5 test_accuracy, double;
                    6 checkpoint_path, string

One fixed message of two levels does not need the protobuf package; unknown fields are skipped, as its readers do.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_BITS = 64
"""Of a varint."""

_DOUBLE = struct.Struct("<d")
_PLAIN = struct.Struct("<BBBdBdBdBdBd")
_PLAIN_TAGS = (1 << 3 | BYTES, _PLAIN.size - 2, *(number << 3 | FIXED64 for number in range(1, 6)))
"""An evaluation of five doubles in order, as all of the published files seem to be, is unpacked in one step."""


class Evaluation(NamedTuple):
    """Seconds of training and accuracies at one instant of a training."""

    epoch: float
    train_time_s: float
    train: float
    val: float
    test: float


class Metrics(NamedTuple):
    evaluations: list[Evaluation]
    params: int


Value = int | float | bytes


def parse(message: bytes) -> Metrics:
    """Return what a message says.

    Raises:
        ValueError: it is not such a message.
    """
    evaluations, place, params = [], 0, None
    while len(message) - place >= _PLAIN.size:
        head, length, *found = _PLAIN.unpack_from(message, place)
        if (head, length, *found[::2]) != _PLAIN_TAGS:
            break
        evaluations.append(Evaluation(*found[1::2]))
        place += _PLAIN.size
    for number, value in _fields(message, place):
        if number == 1 and isinstance(value, bytes):
            evaluations.append(_evaluation(value))
        elif number == 2 and isinstance(value, int):
            params = value
    if params is None or not 0 < params < 2**31:
        raise ValueError(f"expected a positive number of trainable parameters in the metrics, got {params}")
    return Metrics(evaluations, params)


def _evaluation(message: bytes) -> Evaluation:
    numbers = {number: value for number, value in _fields(message, 0) if isinstance(value, float)}
    missing = [name for number, name in enumerate(Evaluation._fields, start=1) if number not in numbers]
    if missing:
        raise ValueError(
            f"expected epoch, time and three accuracies in an evaluation, got none of {', '.join(missing)}"
        )
    return Evaluation(*(numbers[number] for number in range(1, 6)))


def _fields(message: bytes, place: int) -> Iterator[tuple[int, Value]]:
    """Yield the fields from a place on."""
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        value: Value
        if kind == VARINT:
            value, place = _varint(message, place)
        elif kind == FIXED64:
            (value,), place = _DOUBLE.unpack(_slice(message, place, 8)), place + 8
        elif kind == BYTES:
            length, place = _varint(message, place)
            value, place = _slice(message, place, length), place + length
        elif kind == FIXED32:
            value, place = _slice(message, place, 4), place + 4
        else:
            raise ValueError(f"expected a field of the metrics, got wire type {kind} before byte {place}")
        yield number, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, MOST_BITS, 7):
        if place >= len(message):
            break
        byte = message[place]
        value, place = value | (byte & 0x7F) << shift, place + 1
        if byte < 0x80:
            return value, place
    raise ValueError(f"expected a whole number in the metrics, got none that ends by byte {place} of {len(message)}")


def _slice(message: bytes, place: int, length: int) -> bytes:
    if place + length > len(message):
        raise ValueError(f"expected {length} bytes in the metrics from byte {place}, got {len(message) - place}")
    return message[place : place + length]
