"""An end to differentiation, for derivatives written by hand.

`torch.autograd.function.once_differentiable` lets `torch.autograd.grad` skip its error, since nothing leads from it to
the leaves: a third derivative would come out wrong, silently.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def last_derivatives(results: Sequence[Tensor | None], of: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return results that were computed from `of` without a graph; differentiating them further raises."""
    if not torch.is_grad_enabled():
        return tuple(results)
    found: tuple[Tensor | None, ...] = _End.apply(len(results), *results, *of)
    return found


class _End(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[:count]

    @staticmethod
    def backward(_ctx: Any, *_: Tensor | None) -> None:
        raise RuntimeError(
            "expected as many derivatives of the supernet's operations as its pass was made for, got one more"
        )
