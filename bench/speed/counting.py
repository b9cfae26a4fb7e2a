"""Bytes and floating-point operations of what torch executes, counted call by call.

Bytes are those of the tensors a call reads and writes, each once, as if nothing stayed in a cache from one call to the
next; views cost nothing. Operations are counted where a multiplication of matrices or a convolution is: torch's
formulas for products; our own for convolutions, because torch's formula of a convolution's weight gradient takes a
grouped convolution for a full one. A multiplication and an addition are two operations.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
UNWRITTEN = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}
"""Allocations: nothing is written yet."""


@dataclass(frozen=True)
class Call:
    """One call of torch's library."""

    name: str
    bytes: int
    flops: int


def count(work: Callable[[], object]) -> list[Call]:
    """Return every call of some work, in order; derivatives included, compiled code not."""
    counter = _Counter()
    with counter:
        work()
    return counter.calls


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        moved = _bytes(func, (args, kwargs), out)
        if moved:
            self.calls.append(Call(func.name().removeprefix("aten::"), moved, _flops(func, args, out)))
        return out


def _bytes(func: Any, inputs: Any, out: Any) -> int:
    if func.overloadpacket in UNWRITTEN:
        return 0
    read, written = {_key(x): x for x in _tensors(inputs)}, list(_tensors(out))
    storages = {x.untyped_storage().data_ptr() for x in read.values()}
    if not func._schema.is_mutable:
        written = [x for x in written if x.untyped_storage().data_ptr() not in storages]
        if not written:
            return 0  # a view
    return sum(_extent(x) for x in (*read.values(), *written))


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _key(x: Tensor) -> Hashable:
    return x.untyped_storage().data_ptr(), x.storage_offset(), tuple(x.shape), x.stride()


def _extent(x: Tensor) -> int:
    """Return the bytes of the elements there are; an expanded axis has one."""
    sizes = [1 if stride == 0 else size for size, stride in zip(x.shape, x.stride(), strict=True)]
    return prod(sizes) * x.element_size()


def _flops(func: Any, args: tuple[Any, ...], out: Any) -> int:
    packet = func.overloadpacket
    if packet is aten.convolution:
        return _convolution(out.shape, args[1].shape)
    if packet is aten.convolution_backward:
        gradient, _, weight = args[:3]
        return sum(args[10][:2]) * _convolution(gradient.shape, weight.shape)
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, out_val=out))


def _convolution(out: torch.Size, weight: torch.Size) -> int:
    """Return the operations of a convolution, of its input's gradient, or of its weight's: they are the same number."""
    return 2 * out.numel() * weight[1:].numel()
