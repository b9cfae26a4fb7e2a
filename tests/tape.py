"""What a CUDA graph does, on a CPU: the calls of torch's library below autograd are recorded, and played again.

Playing runs no Python of the function that was recorded. Every call reads the memory that it read then, and what it
computes is put where it was put then; so whatever a step keeps elsewhere, reads from the host or decides there comes
out as it was while it was recorded, as on a GPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[tuple[int, Tensor]]]
"""A function, its arguments, and those of its outputs that have memory of their own, by their place."""


class Tape(TorchDispatchMode):
    """Records the calls inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(value, torch.Generator) for value in tree_leaves((args, kwargs))):
            raise RuntimeError(f"expected draws by hosted(), got {func} in a step that is recorded")
        if func is torch.ops.aten.lift_fresh.default:
            raise RuntimeError(
                "expected numbers of the host by constant(), got a tensor that a recorded step makes of them"
            )
        found = func(*args, **kwargs)
        given = {storage(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        outputs = [(place, value) for place, value in enumerate(tree_leaves(found)) if isinstance(value, Tensor)]
        self.calls.append((func, args, kwargs, [pair for pair in outputs if storage(pair[1]) not in given]))
        return found

    def play(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, outputs in self.calls:
                found = tree_leaves(func(*args, **kwargs))
                for place, value in outputs:
                    value.detach().copy_(found[place])


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Tapes:
    """Records tapes: a `bench.replay.Recorder`."""

    def __init__(self) -> None:
        self.played = 0

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        tape = Tape()
        with tape:
            found = work()

        def play() -> None:
            self.played += 1
            tape.play()

        return found, play
