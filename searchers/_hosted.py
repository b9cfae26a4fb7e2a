"""What steps take from the host: draws, and what it has decided.

A step may be recorded and played again without its Python (`Steady`). What it draws is then drawn anew before it is
played, into the same tensors; what it was told by the host, which options are left out for instance, lies on the device
already and is the same one every time.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[], Sequence[Tensor]]
"""Draws of the host for the step that is next: the same whenever it is called before that step has been taken."""
Streams = Callable[[], Sequence[torch.Generator]]
"""One generator a replica, those of the step that is next."""
Lend = Callable[[Draw, torch.device], list[Tensor]]

_LENDER: ContextVar[Lend | None] = ContextVar("_LENDER", default=None)


def hosted(draw: Draw, device: torch.device) -> list[Tensor]:
    """Return what is drawn on the host, on a device; it must not be written to."""
    lend = _LENDER.get()
    return _sent(draw, device) if lend is None else lend(draw, device)


def _sent(draw: Draw, device: torch.device) -> list[Tensor]:
    return [drawn.to(device, non_blocking=True) for drawn in draw()]


def constant(values: Any, device: torch.device) -> Tensor:
    """Return numbers or booleans of the host on a device; equal ones are the same tensor, which is never written to."""
    array = np.ascontiguousarray(values)
    return _constant(array.tobytes(), array.dtype.str, array.shape, device)


@functools.lru_cache(maxsize=4096)
def _constant(content: bytes, dtype: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype).reshape(shape).copy()).to(device)


class Draws:
    """The draws of a step, in the order in which it asks for them."""

    def __init__(self) -> None:
        self._noted: list[tuple[Draw, list[Tensor]]] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Remember what is drawn inside, and how."""
        self._noted.clear()

        def lend(draw: Draw, device: torch.device) -> list[Tensor]:
            found = _sent(draw, device)
            self._noted.append((draw, found))
            return found

        with _lending(lend):
            yield

    @contextmanager
    def given(self) -> Iterator[None]:
        """Draw nothing inside, but give what was noted.

        Raises:
            RuntimeError: something else is asked for than was noted.
        """
        left = [found for _, found in self._noted]

        def lend(_draw: Draw, _device: torch.device) -> list[Tensor]:
            if not left:
                raise RuntimeError(f"expected a step of {len(self._noted)} draws, as the one before, got more")
            return left.pop(0)

        with _lending(lend):
            yield
        if left:
            raise RuntimeError(f"expected a step of {len(self._noted)} draws, as the one before, got {len(left)} fewer")

    def renew(self) -> None:
        """Draw for the step that is next, into the tensors that were noted."""
        for draw, found in self._noted:
            for old, new in zip(found, draw(), strict=True):
                old.copy_(new, non_blocking=True)


@contextmanager
def _lending(lend: Lend) -> Iterator[None]:
    token = _LENDER.set(lend)
    try:
        yield
    finally:
        _LENDER.reset(token)
