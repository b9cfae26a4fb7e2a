"""Leaving one option out of a search: it has no weight, and is never selected."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from searchers.base import Choices, Group, Logits


def columns(groups: Sequence[Group], option: str) -> dict[str, int]:
    """Return the column of the option in the groups that have it."""
    found = {group.name: group.index(option) for group in groups}
    return {name: column for name, column in found.items() if column is not None}


def masked(values: Float[Tensor, "... options"], column: int | None) -> Float[Tensor, "... options"]:
    """Return the values with −∞ in the column; None: as they are."""
    if column is None:
        return values
    left_out = torch.arange(values.shape[-1], device=values.device) == column
    return values.masked_fill(left_out, -torch.inf)


def softmax_without(groups: Sequence[Group], option: str) -> Callable[[Logits], Choices]:
    """Return a relaxation that mixes every row with the softmax over its other options."""
    left_out = columns(groups, option)

    def relax(logits: Logits) -> Choices:
        return Choices({name: masked(v, left_out.get(name)).softmax(-1)[None] for name, v in logits.items()})

    return relax


def select_without(groups: Sequence[Group], option: str) -> Callable[[Logits], Logits]:
    """Return a selection by the logits in which the option is below all others of its row."""
    left_out = columns(groups, option)

    def select(logits: Logits) -> Logits:
        scores = {name: values.clone() for name, values in logits.items()}
        for name, column in left_out.items():
            scores[name][..., column] = scores[name].amin(-1) - 1
        return scores

    return select
