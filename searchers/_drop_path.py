"""Dropping the output of mixed operations for single images.

Source: Larsson, Maire, Shakhnarovich (2017), FractalNet: Ultra-Deep Neural Networks without Residuals,
https://arxiv.org/abs/1605.07648, section 3.1; its place in a search is Zela et al.'s (2020), `rdarts_dp`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from searchers._hosted import Streams, hosted
from searchers.base import ForwardInputs, Group, Supernet


def drop_path(network: Supernet, streams: Streams, p: float, like: Float[Tensor, "_r n c h w"]) -> ForwardInputs:
    """Return inputs of a forward pass in which every mixed operation drops with probability p for each image."""
    if p == 0:
        return ForwardInputs()
    blocks = [group for group in network.groups if group.kind == "op"]
    return ForwardInputs(keep=masks(blocks, network.cells, streams, p, like))


def masks(
    groups: Sequence[Group], cells: int, streams: Streams, p: float, like: Float[Tensor, "_r n c h w"]
) -> dict[str, Float[Tensor, "cells replicas n decisions"]]:
    """Return 0 with probability p and 1/(1 − p) otherwise, for every cell, image and decision."""
    shapes = [(cells, like.shape[1], group.decisions) for group in groups]

    def draw() -> list[Tensor]:
        generators = streams()
        drawn = [torch.stack([torch.rand(shape, generator=one) for one in generators], 1) for shape in shapes]
        return [values >= p for values in drawn]

    dtype = torch.promote_types(like.dtype, torch.float32)
    kept = hosted(draw, like.device)
    return {group.name: mask.to(dtype) / (1 - p) for group, mask in zip(groups, kept, strict=True)}
