"""The pickle machine: the same content as the standard library's, and nothing but a clear sentence for the rest."""

import bz2
import io
import os
import pickle
import tracemalloc
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.pickles import ARRAYS, CONTAINERS, NUMBERS, Limits, machine, read, read_next
from bench.pickles.operations import OPERATIONS

KEYS = st.text(max_size=12) | st.integers(-(2**40), 2**40) | st.tuples(st.text(max_size=5), st.integers(0, 999))
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=300)
LEAVES |= st.binary(max_size=300) | st.sets(st.text(max_size=3), max_size=3)
CURVES = st.dictionaries(st.integers(0, 300), st.floats(allow_nan=False), max_size=20)
POINTS = st.dictionaries(st.sampled_from([f"x-valid@{epoch}" for epoch in range(300)]), st.floats(0, 1), max_size=30)
PLAIN = st.recursive(
    LEAVES | CURVES | POINTS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=5).map(lambda found: OrderedDict(reversed(found.items())))
    ),
    max_leaves=20,
)
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4, 5])


def loaded(raw: bytes, **changes: Any) -> Any:
    return read(io.BytesIO(raw), "a file", **({"builders": ARRAYS} | changes))


def plain(value: Any) -> Any:
    """Dictionaries for ordered ones."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def same(one: Any, other: Any) -> bool:
    """Equal in types too: true is not one, -0.0 not 0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        return all(map(same, one, other))
    return type(one) is type(other) and (one == other if isinstance(one, set) else repr(one) == repr(other))


@PROTOCOLS
@settings(deadline=None, max_examples=60)
@given(value=PLAIN)
def test_plain_data_reads_as_the_standard_library_reads_it(protocol: int, value: Any) -> None:
    assert same(loaded(pickle.dumps(value, protocol)), plain(value))


@PROTOCOLS
def test_curves_read_the_same_when_keys_are_shared_and_a_chunk_ends_within(
    protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{images}@{epoch}" for images in ("x-valid", "ori-test") for epoch in range(250)]
    curves = [{name: place + i / 7 for i, name in enumerate(names)} for place in range(3)]
    value = [curves, {epoch: epoch / 3 for epoch in range(600)}, {"a": 1.0}, [curves[0], 2.0, curves[0], 3.0]]
    raw = pickle.dumps(value, protocol)
    for chunk in (1, 7, 100, 1 << 20):
        monkeypatch.setattr(machine, "CHUNK", chunk)
        monkeypatch.setattr(machine, "AHEAD", min(chunk, 50))
        assert same(loaded(raw), value)


@PROTOCOLS
def test_what_is_one_object_stays_one(protocol: int) -> None:
    shared: dict[str, Any] = {"x": 1}
    first, second, alone = loaded(pickle.dumps([shared, shared, {"x": 1}], protocol))
    assert first is second
    assert first is not alone


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["u1", "<f4", ">f8", "i8", "?"])
def test_arrays_and_numbers_of_numpy(protocol: int, kind: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(kind)
    raw = pickle.dumps({"data": array, "turned": array.T, "one": array[1, 2]}, protocol)
    found, expected = loaded(raw), pickle.loads(raw)
    for name in ("data", "turned"):
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
    assert found["one"] == array[1, 2].item()


def test_bytes_of_python_2_stay_bytes() -> None:
    """As in CIFAR-10's batches: {'labels': [3, 300]}, its memo counted from 1."""
    assert loaded(b"\x80\x02}q\x01U\x06labelsq\x02]q\x03(K\x03M,\x01es.") == {b"labels": [3, 300]}


@PROTOCOLS
def test_a_dictionary_that_was_taken_is_forgotten(protocol: int) -> None:
    seen = []

    def taken(found: dict[Any, Any]) -> bool:
        if "take" in found:
            seen.append(plain(found))
        return "take" in found

    value = {"list": {index: {"take": index, "curve": {0: 1.5, 1: 2.5}} for index in range(3)}, "after": "take"}
    assert loaded(pickle.dumps(value, protocol), finished=taken) == {"list": {0: {}, 1: {}, 2: {}}, "after": "take"}
    assert seen == list(value["list"].values())


def test_a_reference_to_what_was_forgotten_is_an_error() -> None:
    inner = {0: 1.5}
    raw = pickle.dumps([{"take": 1, "curve": inner}, inner], 4)
    with pytest.raises(ValueError, match="refers to memo entry 4, which is not there or was of something already tak"):
        loaded(raw, finished=lambda found: "take" in found)


def test_memory_does_not_grow_with_what_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak_bytes(count: int) -> int:
        curve = {f"x-valid@{epoch}": epoch / 7 for epoch in range(300)}
        raw = pickle.dumps([{"take": index, "curve": dict(curve)} for index in range(count)], 4)
        tracemalloc.start()
        loaded(raw, finished=lambda found: "take" in found)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    monkeypatch.setattr(machine, "CHUNK", 1 << 13)
    assert peak_bytes(60) < 1.5 * peak_bytes(15)


def test_several_pickles_in_a_file_are_read_one_after_the_other() -> None:
    file = io.BytesIO(pickle.dumps({"a": 1}) + pickle.dumps([2.5], 2) + b"rest")
    assert read_next(file, "a file", CONTAINERS) == {"a": 1}
    assert read_next(file, "a file", CONTAINERS) == [2.5]
    assert file.read() == b"rest"


class Shell:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch marker",)


DEEP = b")" + b"\x85" * 2_000
"""A tuple in a tuple in …: hashing a deeper one overflows the C stack, writing this out exceeds the recursion limit."""


HOSTILE = {
    r"names (posix|nt)\.system, which is not plain data": pickle.dumps(Shell(), 4),
    r"names \w+\.system": pickle.dumps(Shell(), 2),
    r"names builtins\.eval": b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    r"names numpy\.core\.multiarray\._reconstruct": pickle.dumps(np.zeros(3))
    .replace(b"numpy._core.multiarray\x94\x8c\x0c_reconstruct", b"numpy.core.multiarray\x94\x8c\x0c_reconstruct")
    .replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core"),
    "expected texts and numbers as keys, got a tuple": b"\x80\x02}" + DEEP + b"Ns.",
    "expected bytes as text in latin1": b"\x80\x02c_codecs\nencode\nX\x00\x00\x00\x00" + DEEP + b"\x86R.",
    "expected the byte order": b"\x80\x02cnumpy\ndtype\nC\x02f8\x85R(K\x03"
    + DEEP
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "expected a module and a name, got str and tuple": b"\x80\x04\x8c\x01a" + DEEP + b"\x93.",
    "opcode .* is not one of plain data": b"\x80\x02)\x81.",
    "holds tensors or other outside objects": b"\x80\x02NQ.",
    "ends at byte 11, expected more": b"\x80\x04\x8d\xff\xff\xff\x03\x00\x00\x00\x00",
    "expected at most 67,108,864": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "expected a new memo entry from": b"\x80\x02]q\x05q\x05.",
    "refers to memo entry 7": b"\x80\x02h\x07.",
    "a damaged pickle": b"\x80\x02s.",
    "expected one value at the end, got 2": b"\x80\x02NN.",
    "expected pairs for a dictionary": b"\x80\x02}(K\x01u.",
    "expected a list to extend, got a dict": b"\x80\x02}Na.",
    "expected a name and its arguments, got str, tuple": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "expected the file to end with its pickle": b"\x80\x02N.x",
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_pickles_are_one_sentence_and_run_nothing(message: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^a file.*{message}"):
        read(io.BytesIO(HOSTILE[message]), "a file", NUMBERS)
    assert not list(tmp_path.iterdir())


def test_a_huge_memo_index_costs_nothing() -> None:
    """The C unpickler would ask for 32 GB."""
    tracemalloc.start()
    assert loaded(b"\x80\x02]r\xff\xff\xff\xff.") == []
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((1, (2, 2), np.dtype("u1"), False, b"abc"), r"expected 4 bytes for an array of shape \(2, 2\), got 3"),
        ((1, (-1,), np.dtype("u1"), False, b""), "expected an array's shape in whole numbers"),
        ((1, (10**30, 0), np.dtype("u1"), False, b""), "a file.*"),
        ((1, (1,), None, False, b"a"), "expected an array's shape in whole numbers and its type"),
        ([1], "expected an array's version, shape"),
    ],
)
def test_an_array_is_what_its_bytes_are(state: object, message: str) -> None:
    empty = pickle.dumps(np.empty(0, np.uint8).__reduce__()[0], 4)[:-1]
    assert empty.startswith(b"\x80\x04")
    start = b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    with pytest.raises(ValueError, match=message):
        loaded(start + pickle.dumps(state, 2)[2:-1] + b"b.")


@pytest.mark.parametrize("kind", ["O", "V8", "U4", "S3", "M8[s]", "f8,f8", "(4,)f8", "f16"])
def test_only_plain_number_types(kind: str) -> None:
    raw = b"\x80\x02cnumpy\ndtype\nX" + len(kind).to_bytes(4, "little") + kind.encode() + b"\x85R."
    with pytest.raises(ValueError, match="expected a type of plain numbers"):
        loaded(raw)


def test_a_bomb_stops_at_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bz2.compress(b"\x80\x04" + b"N0" * (1 << 14) + b"C\xff" + b"x" * 255 * (1 << 14) + b"N.")
    assert len(bomb) < 1 << 10
    monkeypatch.setattr(machine, "CHUNK", 1 << 10)
    for limits, message in (
        (Limits(operations=9_000), "operations without an architecture; expected at most 67,108,864 and 9,000"),
        (Limits(nbytes=20_000), r"20,\d+ bytes and .* without an architecture; expected at most 20,000 and"),
    ):
        with bz2.open(io.BytesIO(bomb)) as unpacked, pytest.raises(ValueError, match=message):
            read(unpacked, "a bomb", NUMBERS, limits=limits)
    texts = pickle.dumps([f"{index:0100d}" for index in range(300)])
    with pytest.raises(ValueError, match="more than 20,000 bytes of distinct texts"):
        loaded(texts, limits=Limits(text_bytes=20_000))


RAW = pickle.dumps(
    OrderedDict({"12": {("cifar10", 777): {"acc": dict(enumerate([1.5] * 9)), "n": np.float64(2), "b": b"abc"}}}), 4
)


def test_every_truncation_is_an_error() -> None:
    for length in range(len(RAW)):
        with pytest.raises(ValueError, match=r"^a file"):
            loaded(RAW[:length])


def content_or_sentence(raw: bytes) -> str | None:
    """What is wrong with a pickle, in words; anything but ValueError is not caught."""
    try:
        loaded(raw)
    except ValueError as error:
        return str(error)
    return None


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, len(RAW) - 1), junk=st.binary(min_size=1, max_size=4))
def test_damage_is_content_or_a_sentence(place: int, junk: bytes) -> None:
    wrong = content_or_sentence(RAW[:place] + junk + RAW[place + len(junk) :])
    assert wrong is None or wrong.startswith("a file")


@settings(deadline=None, max_examples=300)
@given(opcodes=st.lists(st.sampled_from([bytes([code]) for code in OPERATIONS]) | st.binary(max_size=3)))
def test_any_program_is_content_or_a_sentence(opcodes: list[bytes]) -> None:
    wrong = content_or_sentence(b"\x80\x02" + b"".join(opcodes) + b".")
    assert wrong is None or wrong.startswith("a file")


def test_runs_memoized_out_of_order_are_read_one_by_one() -> None:
    pairs = [
        b"X\x01\0\0\0" + text + b"r" + entry.to_bytes(4, "little") + b"G?\xf0" + bytes(6)
        for text, entry in ((b"a", 5), (b"b", 9))
    ]
    assert loaded(b"\x80\x02](}(" + b"".join(pairs) + b"uj\x09\0\0\0e.") == [{"a": 1.0, "b": 1.0}, "b"]
