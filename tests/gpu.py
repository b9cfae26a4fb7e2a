"""A GPU that is played on a CPU: tensors say that they lie on it, and must not be mixed with those of the host.

All numbers are computed by the CPU, with the layout of maps that a GPU gets. What is shown is where tensors lie: one
that was left on the host, numbers that are read without a copy, code that asks for the device. Kernels, streams and
memory are not shown.

Tensors are ordinary ones, marked by their memory, so that views, derivatives and writing in place go on as ever. Where
a tensor is made, sent, read or asked where it lies, torch's functions are replaced; below autograd every call is looked
at.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tape import Tapes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MADE = (
    *("tensor", "as_tensor", "zeros", "ones", "full", "empty", "arange", "eye", "linspace"),
    *("rand", "randn", "randint", "randperm"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
)
READ = ("numpy", "__array__")
aten = torch.ops.aten
ACROSS = (aten.copy_.default,)
"""Calls that may take tensors of two places."""
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
"""Calls whose indices may lie on the host, at the price of a copy."""
WAIT = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.is_nonzero.default)
"""Calls that the host waits for."""


def lies(tensor: Tensor) -> bool:
    """Whether a tensor lies on the GPU."""
    return getattr(tensor.untyped_storage(), "on_gpu", False) is True


def anywhere(tensor: Tensor) -> bool:
    """Whether autograd has made a tensor for a gradient that nothing gave: it lies where its variable does."""
    return getattr(tensor.untyped_storage(), "on_gpu", False) is None


def put(tensor: Tensor, on_gpu: bool | None = True) -> Tensor:
    tensor.untyped_storage().on_gpu = on_gpu  # type: ignore[attr-defined]
    return tensor


class Placed(TorchDispatchMode):
    """Refuses calls that mix places; what is computed of the GPU's tensors lies there."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        gpu = any(lies(value) for value in given) and func not in ACROSS
        if gpu:
            _check(func, given, [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Generator)])
        found = func(*args, **kwargs)
        for value in _tensors(found):
            if gpu:
                put(value)
            elif not given and torch._C._current_graph_task_id() != -1:
                put(value, None)
        return found


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _check(func: Any, given: Sequence[Tensor], generators: Sequence[torch.Generator]) -> None:
    looked_at = given[:1] if func in INDEXED else given
    left = [tuple(value.shape) for value in looked_at if value.ndim and not lies(value) and not anywhere(value)]
    if left:
        raise RuntimeError(f"Expected all tensors to be on the same device, got {left} on the host in {func}")
    if generators:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' in {func}")
    if Graphs.recording and (func in WAIT or (func in INDEXED and not all(map(_numbers, given)))):
        raise RuntimeError(f"operation not permitted when stream is capturing: {func}")


def _numbers(index: Tensor) -> bool:
    """Whether an index of a recorded call is one of numbers that lie on the GPU."""
    return lies(index) and index.dtype is not torch.bool


class Graphs(Tapes):
    """Records tapes, and refuses inside what a CUDA graph cannot hold: copies from the host, and waiting."""

    recording = False

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Graphs, "recording", True)
            return super().record(work)


class Send(torch.autograd.Function):
    """A copy to the other place; its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, on_gpu: bool) -> Tensor:
        if Graphs.recording:
            raise RuntimeError("operation not permitted when stream is capturing: a copy between host and GPU")
        ctx.on_gpu = on_gpu
        return put(tensor.clone(), on_gpu)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Send.apply(gradient, not ctx.on_gpu), None


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """Where `Tensor.to` is asked to put something."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return GPU if lies(value) else CPU
        if isinstance(value, torch.device | str):
            return torch.device(value)
    return None


def _sent(to: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def sent(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device = _device(args, kwargs)
        if device is None or device.type == "meta":
            return to(self, *args, **kwargs)
        args = tuple(CPU if isinstance(value, torch.device | str) else value for value in args)
        kwargs |= {"device": CPU} if "device" in kwargs else {}
        found = to(self, *args, **kwargs)
        there = device.type == "cuda"
        return found if there == lies(found) else Send.apply(found, there)

    return sent


def _made(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, **kwargs: Any) -> Tensor:
        device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if device is None or device.type == "meta":
            found = make(*args, **kwargs)
            return put(found, False) if anywhere(found) else found
        there = device.type == "cuda"
        if there and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        found = make(*args, **{**kwargs, "device": CPU})
        return put(found.detach().clone().requires_grad_(found.requires_grad), there)

    return made


def _read(read: Callable[..., Any]) -> Callable[..., Any]:
    def checked(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if lies(self):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        return read(self, *args, **kwargs)

    return checked


def _copied(copy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def copied(self: Tensor, memo: dict[int, Any]) -> Tensor:
        return put(copy(self, memo), lies(self))

    return copied


CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "get_device_name": lambda _device=None: "played",
    "get_device_capability": lambda _device=None: (9, 0),
    "synchronize": lambda _device=None: None,
    "reset_peak_memory_stats": lambda _device=None: None,
    "max_memory_allocated": lambda _device=None: 2**30,
    "max_memory_reserved": lambda _device=None: 2**30,
    "memory_reserved": lambda _device=None: 2**30,
    "mem_get_info": lambda _device=None: (2**36, 2**37),
    "empty_cache": lambda: None,
}


@contextmanager
def played() -> Iterator[torch.device]:
    """Have a GPU inside."""
    device = Tensor.device
    with pytest.MonkeyPatch.context() as patch, Placed():
        for name, function in CUDA.items():
            patch.setattr(torch.cuda, name, function)
        for name in MADE:
            patch.setattr(torch, name, _made(getattr(torch, name)))
        for name in READ:
            patch.setattr(Tensor, name, _read(getattr(Tensor, name)))
        patch.setattr(Tensor, "device", property(lambda self: GPU if lies(self) else device.__get__(self)))
        patch.setattr(Tensor, "is_cuda", property(lies))
        patch.setattr(Tensor, "to", _sent(Tensor.to))
        patch.setattr(Tensor, "cpu", lambda self: self.to(CPU))
        patch.setattr(Tensor, "cuda", lambda self: self.to(GPU))
        patch.setattr(Tensor, "__deepcopy__", _copied(Tensor.__deepcopy__))
        yield GPU
