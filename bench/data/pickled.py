"""Pickles of published datasets, read through an allow-list: numpy arrays and plain containers, nothing else."""

import io
import pickle
from typing import Any

import numpy as np


def unpickled(raw: bytes, place: str) -> Any:
    """Return what a pickle holds; texts written by Python 2 come as bytes.

    Args:
        raw: the whole file.
        place: its name, for messages.

    Raises:
        ValueError: the pickle is damaged, or asks for something that is not on the list; nothing of it was called.
    """
    try:
        return _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"expected only numpy arrays and plain containers in {place}, got: {error}") from error


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that Python 3 wrote as text for older readers."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return allowed[module, name]
