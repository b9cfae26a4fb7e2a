"""Damaged, truncated and hostile NAS-Bench-101 files: the clean sentence, with file and place, and no table."""

import base64
import json
import struct
from collections.abc import Callable
from functools import cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.tables import nasbench101, tfrecord
from bench.tables.__main__ import main
from bench.tables.metrics101 import Evaluation, parse
from bench.tables.sample101 import hashed_cells, message, record, trainings
from bench.tables.tfrecord import frame

pytest.importorskip("google_crc32c", reason="needs the extra [tfrecord]")

MANY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def whole() -> tuple[bytes, ...]:
    """The records of a file of two cells."""
    drawn = trainings((4, 108))
    return tuple(frame(record(cell, one)) for cell in hashed_cells(2) for one in islice(drawn, 6))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nasbench.tfrecord"


def read(path: Path) -> Any:
    return nasbench101.read(path, lambda done, total: None)


def trained(path: Path) -> int:
    """How many trainings are read."""
    return sum(int((~np.isnan(m.values)).sum()) for s, m in read(path).measurements.items() if s.what == "test") // 2


def frames(path: Path) -> list[tfrecord.Record]:
    return list(tfrecord.records(path, lambda chunk: None))


def refusal(call: Callable[[], object]) -> str | None:
    """The sentence of a ValueError, None where there was none; any other error is the test's."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def starts() -> list[int]:
    return [0, *accumulate(map(len, whole()))]


def test_a_file_cut_between_records_loses_no_row_and_says_what_is_missing(path: Path) -> None:
    for count in range(1, len(whole()) + 1):
        path.write_bytes(b"".join(whole()[:count]))
        assert trained(path) == count
        notes = "\n".join(read(path).provenance)
        assert "expected 423,624 cells, got" in notes
        short = {4: min(count, 3), 108: min(max(count - 3, 0), 3)}
        assert ("at 4 epochs" in notes) == (count < 3 or 6 < count < 9)
        assert ("at 108 epochs" in notes) == (3 < count < 6 or 6 < count < 12), short


def test_a_file_cut_anywhere_else_is_refused_with_the_place(path: Path) -> None:
    content = b"".join(whole()[:2])
    first = len(whole()[0])
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        if length != first:
            begin = 0 if length < first else first
            sentence = refusal(lambda: frames(path)) or ""
            assert sentence.startswith(f"{path} ends inside the record that begins at byte {begin}: expected ")
    assert refusal(lambda: read(path)) == sentence


@MANY
@given(place=st.integers(0, 2**30), flipped=st.integers(1, 255))
def test_a_flipped_byte_is_found_and_named(path: Path, place: int, flipped: int) -> None:
    content = bytearray(b"".join(whole()))
    place %= len(content)
    content[place] ^= flipped
    path.write_bytes(content)
    begin = max(start for start in starts() if start <= place)
    sentence = refusal(lambda: frames(path)) or ""
    assert sentence.startswith(f"{path} is damaged: the ")
    assert f" of the record at byte {begin} has the checksum " in sentence


@pytest.mark.parametrize("damage", ["cut", "flipped", "record"])
def test_nothing_half_read_becomes_a_table(path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    content = bytearray(b"".join(whole()))
    if damage == "flipped":
        content[-100] ^= 1
    path.write_bytes({"cut": content[:-1], "flipped": content, "record": content + frame(b'["')}[damage])
    out = path.with_name("out") / "nb101.arrow"
    assert main(["import", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert error.count("\n") == 1
    assert not out.parent.exists()


def test_a_record_that_claims_gigabytes_is_not_read(path: Path) -> None:
    length = (1 << 40).to_bytes(8, "little")
    head = length + struct.pack("<I", tfrecord._checksum()(length))
    path.write_bytes(whole()[0] + head + b"x" * 100)
    with pytest.raises(ValueError, match=rf"at most 1048576 bytes at byte {len(whole()[0])}, got 1099511627776"):
        read(path)


def row(**changes: Any) -> list[Any]:
    cell, training = hashed_cells(3)[2], next(trainings((108,)))
    fields = {
        "hash": cell.key,
        "epochs": 108,
        "adjacency": cell.adjacency,
        "operations": cell.operations,
        "metrics": base64.encodebytes(message(training)).decode(),
    }
    return list((fields | changes).values())


def metrics(*evaluations: tuple[float, ...], params: bytes = b"\x10\x01") -> str:
    rows = [struct.pack("<BBBdBdBdBdBd", 10, 45, 9, e[0], 17, e[1], 25, e[2], 33, e[3], 41, e[4]) for e in evaluations]
    return base64.b64encode(b"".join(rows) + params).decode()


GOOD = ((0.0, 0.0, 0.1, 0.1, 0.1), (54.0, 1.0, 0.5, 0.5, 0.5), (108.0, 2.0, 1.0, 0.75, 0.5))
NAN = float("nan")

HOSTILE: dict[str, Any] = {
    "expected JSON, got b'\\[1'": b"[1",
    "expected JSON, got b'\\\\xff'": b"\xff",
    "expected JSON, got b'\\[\\[": b"[" * 100_000,
    "expected a list of hash, epochs .*, got {}": b"{}",
    r"expected a list .*, got \['": row()[:4],
    "expected a list of hash, epochs \\(4, 12, 36, 108\\), .*, 200, ": row(epochs=200),
    "expected a list .*, 108.0, ": row(epochs=108.0),
    "expected a list .*, True, ": row(epochs=True),
    "expected a list .*, got \\[None, ": row(hash=None),
    "expected a hash of 32 hexadecimal digits, got 'abc'": row(hash="abc"),
    "expected a hash of 32 hexadecimal digits, got 'A": row(hash="A" * 32),
    "expected an upper triangular matrix of 0 and 1, .*, got '0110'": row(adjacency="0110"),
    "expected an upper triangular matrix .*, got '0200'": row(adjacency="0200"),
    "expected an upper triangular matrix .*, got '010'": row(adjacency="010"),
    "expected an upper triangular matrix .*, got ''": row(adjacency=""),
    "expected an upper triangular matrix .*, got '00000": row(adjacency="0" * 64),
    "expected input, 0 of .*, and output, got 'input,maxpool3x3,output'": row(
        adjacency="0100", operations="input,maxpool3x3,output"
    ),
    "expected input, 1 of .*, and output, got 'input,conv5x5,output'": row(
        adjacency="010001000", operations="input,conv5x5,output"
    ),
    "expected input, 0 of .*, and output, got 'output,input'": row(adjacency="0100", operations="output,input"),
    "expected metrics in base64, got '\\?\\?\\?'": row(metrics="???"),
    "expected a positive number of trainable parameters in the metrics, got None": row(metrics=""),
    "expected a positive number .*, got 0": row(metrics=metrics(*GOOD, params=b"\x10\x00")),
    "expected evaluations before, halfway and at the end, got 2": row(metrics=metrics(*GOOD[:2])),
    "expected evaluations before, halfway and at the end, got 4": row(metrics=metrics(*GOOD, GOOD[2])),
    "got the epochs 0, 108 and 54": row(metrics=metrics(GOOD[0], GOOD[2], GOOD[1])),
    "got the epochs 54, 0 and 108": row(metrics=metrics(GOOD[1], GOOD[0], GOOD[2])),
    "got the epochs 0, 90 and 108": row(metrics=metrics(GOOD[0], (90.0, *GOOD[1][1:]), GOOD[2])),
    "expected accuracies in \\[0, 1\\], got 1, 75 and 0.5": row(
        metrics=metrics(*GOOD[:2], (108.0, 2.0, 1.0, 75.0, 0.5))
    ),
    "expected accuracies in \\[0, 1\\], got nan, ": row(metrics=metrics(GOOD[0], (54.0, 1.0, NAN, 0.5, 0.5), GOOD[2])),
    "expected seconds of training, 0 or more, got -1": row(metrics=metrics(*GOOD[:2], (108.0, -1.0, 1.0, 0.5, 0.5))),
    "expected seconds of training, 0 or more, got inf": row(
        metrics=metrics(*GOOD[:2], (108.0, float("inf"), 1.0, 0.5, 0.5))
    ),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_what_is_no_training_is_refused_with_the_record(path: Path, message: str) -> None:
    given_row = HOSTILE[message]
    data = given_row if isinstance(given_row, bytes) else json.dumps(given_row).encode()
    before = whole()[0]
    path.write_bytes(before + frame(data))
    with pytest.raises(ValueError, match=rf"nasbench\.tfrecord, record 1 at byte {len(before)}: .*{message}"):
        read(path)


def test_a_training_too_many_is_refused(path: Path) -> None:
    path.write_bytes(b"".join((*whole()[:3], whole()[0])))
    with pytest.raises(ValueError, match=r"record 3 at byte \d+: expected 3 trainings of cell \w+ at 4 epochs, got an"):
        read(path)


def test_a_cell_too_many_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nasbench101, "CELLS", 1)
    path.write_bytes(b"".join(whole()))
    other = hashed_cells(2)[1].key
    with pytest.raises(ValueError, match=rf"record 6 at byte \d+: expected 1 cells, got another one, {other}"):
        read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@MANY
@given(place=st.integers(0, 4), value=JSON)
def test_any_field_of_a_row_is_read_or_refused(path: Path, place: int, value: Any) -> None:
    fields = row()
    fields[place] = value
    path.write_bytes(frame(json.dumps(fields).encode()))
    sentence = refusal(lambda: read(path))
    assert sentence is None or sentence.startswith(f"{path}, record 0 at byte 0: ")
    assert "\n" not in (sentence or "")


@MANY
@given(data=st.binary(max_size=300))
def test_any_data_is_read_or_refused(path: Path, data: bytes) -> None:
    path.write_bytes(frame(data))
    with pytest.raises(ValueError, match="record 0 at byte 0: "):
        read(path)


@MANY
@given(place=st.integers(0, 200), value=st.binary(max_size=3))
def test_any_message_is_parsed_or_refused(place: int, value: bytes) -> None:
    good = message(next(trainings((108,))))
    changed = good[:place] + value + good[place + len(value) :]
    sentence = refusal(lambda: parse(changed))
    assert sentence is None or "expected" in sentence
    if sentence is None:
        assert all(isinstance(number, float) for one in parse(changed).evaluations for number in one)


def test_a_cut_message_is_refused_at_every_byte() -> None:
    good = message(next(trainings((108,))))
    fields = {47, 94, 141}  # an evaluation ends here; the parameters, at the end, are still missing
    for length in range(len(good) - 9):
        with pytest.raises(ValueError, match="trainable parameters" if length in {0, *fields} else "expected"):
            parse(good[:length])


def test_the_wire_format_is_read_in_any_order_and_unknown_fields_are_skipped() -> None:
    doubles = {1: 54.0, 2: 3.5, 3: 0.25, 4: 0.5, 5: 0.75}
    fields = [struct.pack("<Bd", number << 3 | 1, value) for number, value in doubles.items()]
    extra = [b"\x32\x04path", b"\x38\x96\x01", b"\x45abcd"]  # checkpoint_path; a varint and a fixed32 of no meaning
    expected = Evaluation(*doubles.values())
    for order in ([*fields, *extra], [*extra, *reversed(fields)], [fields[0], *extra, *fields]):
        inner = b"".join(order)
        outer = b"\x10\xac\x02" + b"\x0a" + bytes([len(inner)]) + inner + b"\x19" + struct.pack("<d", 9.0)
        assert parse(outer) == ([expected], 300)


def test_negative_parameters_and_endless_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="trainable parameters in the metrics, got 18446744073709551615"):
        parse(b"\x10" + b"\xff" * 9 + b"\x01")
    with pytest.raises(ValueError, match="expected a whole number in the metrics, got none that ends by byte 11 of 12"):
        parse(b"\x10" + b"\xff" * 11)
    with pytest.raises(ValueError, match="got wire type 3 before byte 1"):
        parse(b"\x0b")


def test_without_the_library_the_sentence_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(whole()[0])
    monkeypatch.setitem(__import__("sys").modules, "google_crc32c", None)
    with pytest.raises(ValueError, match=r"needs google-crc32c: pip install 'nas-stability\[tfrecord\]'"):
        read(path)


def test_checksums_are_those_of_the_definition() -> None:
    """CRC-32C of "123456789" is e3069283 (RFC 3720); masked: rotated right by 15, plus a282ead8."""
    crc = 0xE3069283
    assert tfrecord._checksum()(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_longer_than_a_chunk_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 7, 12, 13, 400, 5000):
        monkeypatch.setattr(tfrecord, "CHUNK_BYTES", size)
        path.write_bytes(b"".join(whole()[:3]))
        seen: list[bytes] = []
        found = list(tfrecord.records(path, seen.append))
        assert [frame(one.data) for one in found] == list(whole()[:3])
        assert [one.offset for one in found] == starts()[:3]
        assert b"".join(seen) == path.read_bytes()
