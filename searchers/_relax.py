"""From logits to mixing weights, and the losses of both levels."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from searchers.base import Batch, Choices, Flat, ForwardInputs, Group, Logits, Supernet


def softmax(logits: Logits) -> Choices:
    """Mix with the row-wise softmax, shared by all cells (Liu et al. 2019, DARTS, eq. 2)."""
    return Choices({name: values.softmax(-1)[None] for name, values in logits.items()})


def sigmoid(groups: Collection[str]) -> Callable[[Logits], Choices]:
    """Return a relaxation that weighs each option of these groups by σ(logit), and mixes other groups with softmax.

    Options of a row do not compete (Chu et al. 2020, Fair DARTS, eq. 3; Hou et al. 2021, Single-DARTS).
    """

    def relax(logits: Logits) -> Choices:
        return Choices({n: (v.sigmoid() if n in groups else v.softmax(-1))[None] for n, v in logits.items()})

    return relax


def normal_logits(
    groups: Sequence[Group], streams: Sequence[torch.Generator], like: Float[Tensor, "..."], scale: float = 1e-3
) -> Logits:
    """Return logits drawn from N(0, scale²), one stream a replica, in the type and place of `like`."""
    drawn = [[torch.randn(group.shape, generator=stream) for group in groups] for stream in streams]
    stacked = [torch.stack(values) * scale for values in zip(*drawn, strict=True)]
    return {g.name: v.to(like.device, like.dtype) for g, v in zip(groups, stacked, strict=True)}


def normal_about(mean: float, scale: float) -> Callable[[Sequence[Group], Sequence[torch.Generator], Tensor], Logits]:
    """Return what draws logits from N(mean, scale²)."""

    def init(groups: Sequence[Group], streams: Sequence[torch.Generator], like: Tensor) -> Logits:
        return {name: value + mean for name, value in normal_logits(groups, streams, like, scale).items()}

    return init


def zero_logits(groups: Sequence[Group], streams: Sequence[torch.Generator], like: Float[Tensor, "..."]) -> Logits:
    """Return logits of zero, in the type and place of `like`."""
    return {group.name: like.detach().new_zeros(len(streams), *group.shape) for group in groups}


def cross_entropy(predictions: Float[Tensor, "replicas n classes"], batch: Batch) -> Float[Tensor, " replicas"]:
    """Return the mean cross-entropy of each replica in nats."""
    flat = F.cross_entropy(predictions.flatten(0, 1), batch.labels.flatten(), reduction="none")
    return flat.unflatten(0, batch.labels.shape).mean(1)


def loss(
    network: Supernet,
    batch: Batch,
    choices: Choices,
    weights: Flat | None = None,
    inputs: ForwardInputs = ForwardInputs(),
) -> Float[Tensor, " replicas"]:
    """Return the loss of each replica, with these weights in place of the network's own if given."""
    inputs = inputs if weights is None else replace(inputs, weights=weights)
    return cross_entropy(network(batch.images, choices, inputs), batch)


def by_weights(
    network: Supernet, batch: Batch, choices: Choices, weights: Flat, inputs: ForwardInputs = ForwardInputs()
) -> tuple[Float[Tensor, " replicas"], Flat]:
    """Return the loss of each replica and its gradient by weights that ask for one."""
    losses = loss(network, batch, choices, weights, inputs)
    (gradient,) = torch.autograd.grad(losses.sum(), [weights])
    return losses.detach(), gradient
