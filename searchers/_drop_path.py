"""Dropping the output of mixed operations for single images.

Source: Larsson, Maire, Shakhnarovich (2017), FractalNet: Ultra-Deep Neural Networks without Residuals,
https://arxiv.org/abs/1605.07648, section 3.1; its place in a search is Zela et al.'s (2020), `rdarts_dp`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from searchers.base import ForwardInputs, Group, Supernet


def drop_path(
    network: Supernet, streams: Sequence[torch.Generator], p: float, like: Float[Tensor, "_r n c h w"]
) -> ForwardInputs:
    """Return inputs of a forward pass in which every mixed operation drops with probability p for each image."""
    if p == 0:
        return ForwardInputs()
    blocks = [group for group in network.groups if group.kind == "op"]
    return ForwardInputs(keep=masks(blocks, network.cells, streams, p, like))


def masks(
    groups: Sequence[Group], cells: int, streams: Sequence[torch.Generator], p: float, like: Float[Tensor, "_r n c h w"]
) -> dict[str, Float[Tensor, "cells replicas n decisions"]]:
    """Return 0 with probability p and 1/(1 − p) otherwise, for every cell, image and decision."""
    keep = {}
    for group in groups:
        shape = (cells, like.shape[1], group.decisions)
        drawn = torch.stack([torch.rand(shape, generator=stream) for stream in streams], 1)
        kept = (drawn >= p).to(like.device, torch.promote_types(like.dtype, torch.float32))
        keep[group.name] = kept / (1 - p)
    return keep
