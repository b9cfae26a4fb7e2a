"""The globals that plain data names, and the functions of ours that stand in for them."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bench.pickles.machine import Builder, Builders, check_keys


def check_order(state: Any) -> None:
    plain = type(state) is tuple and len(state) == 8 and state[0] == 3 and type(state[1]) in {str, bytes}
    if (
        not plain
        or state[1] not in {"<", ">", "|", b"<", b">", b"|"}
        or state[2:5] != (None, None, None)
        or state[5:] != (-1, -1, 0)
    ):
        raise ValueError("expected the byte order of a plain number type")


def check_array(state: Any) -> None:
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
    check_keys([key for key, _ in pairs])
    return dict(pairs)


def _set(arguments: tuple[Any, ...]) -> set[Any]:
    values = arguments[0] if arguments else []
    if type(values) is not list:
        raise ValueError("expected the list of a set")
    check_keys(values)
    return set(values)


def _latin(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if type(text) is not str or type(encoding) is not str or encoding not in {"latin1", "latin-1"}:
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


def _named(
    modules: Iterable[str], name: str, build: Callable[[tuple[Any, ...]], Any]
) -> dict[tuple[str, str], Builder]:
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
