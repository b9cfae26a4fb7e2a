"""Gumbel noise: the largest logits plus noise are a sample without replacement, a softmax of them its relaxation.

Source: Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax, https://arxiv.org/abs/1611.01144;
Xie and Ermon (2019), Reparameterizable Subset Sampling via Continuous Relaxations, https://arxiv.org/abs/1901.10517,
for rows that keep several options.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from searchers.base import Group, Logits

Noise = dict[str, Float[Tensor, "cells replicas decisions options"]]
Rows = Float[Tensor, "*rows options"]


def gumbel(logits: Logits, streams: Sequence[torch.Generator], cells: int) -> Noise:
    """Return Gumbel noise for every logit, float64 on the CPU; finite, so nothing is drawn again."""
    tiny = torch.finfo(torch.float64).tiny
    noise = {}
    for name, value in logits.items():
        shape = (cells, *value.shape[1:])
        drawn = [torch.empty(shape, dtype=torch.float64).exponential_(generator=stream) for stream in streams]
        noise[name] = -torch.stack(drawn, 1).clamp_min(tiny).log()
    return noise


def ranked(logits: Logits, noise: Noise) -> dict[str, Int[Tensor, "cells replicas decisions options"]]:
    """Return the options of every row in the order in which they are drawn without replacement, on the CPU."""
    scores = {name: value.detach().to("cpu", torch.float64) + noise[name] for name, value in logits.items()}
    return {name: value.argsort(dim=-1, descending=True, stable=True) for name, value in scores.items()}


def first(order: Int[Tensor, "*rows options"], keep: int) -> Bool[Tensor, "*rows options"]:
    """Return which options are among the first `keep`."""
    return torch.zeros(order.shape, dtype=torch.bool).scatter(-1, order[..., :keep], value=True)


def relaxed(groups: Sequence[Group], logits: Logits, noise: Noise, tau: float) -> dict[str, Tensor]:
    """Return the relaxed k-hot sample of every row: softmax((α + G)/τ) where one option is kept."""
    keep = {group.name: group.keep for group in groups}
    return {name: subset(value + noise[name].to(value), tau, keep[name]) for name, value in logits.items()}


def subset(scores: Rows, tau: float, keep: int) -> Rows:
    """Return Σᵢ pᵢ with pᵢ = softmax(sᵢ/τ) and sᵢ₊₁ = sᵢ + log(1 − pᵢ): a row that adds up to `keep`."""
    total = (scores / tau).softmax(-1)
    for _ in range(keep - 1):
        scores = scores + _log_rest(scores / tau)
        total = total + (scores / tau).softmax(-1)
    return total


def _log_rest(scores: Rows) -> Rows:
    """Return log(1 − softmax), exact where the softmax is almost 1."""
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    others = scores[..., None, :].masked_fill(own, -torch.inf)
    return others.logsumexp(-1) - scores.logsumexp(-1, keepdim=True)
