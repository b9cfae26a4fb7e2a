"""DSNAS: weights and architecture learn from the same forward pass through one sampled cell.

Source: Hu, Xie, Zheng, Liu, Shi, Liu, Lin (2020), DSNAS: Direct Neural Architecture Search without Parameter
Retraining, https://arxiv.org/abs/2002.09128, sections 3.2 (gradient) and 3.4 (early fixing).

One step, on one batch of all images, with p = softmax(α) of a row:
  1. a row in which the best p exceeds the next by .3 keeps its best option for good; its α stays.
  2. every other row samples Z from p; only what is sampled is computed, with weight 1.
  3. L = cross-entropy of the batch. α: Adam on r·∂log p(Z)/∂α = r·(Z − p), with the row's r = Σₖ ∂L/∂Zₖ over what was
     sampled, not in the warm-up. w: clip ∂L/∂w to norm 5; SGD. What was not sampled does not move.
Discretise: what was fixed; other rows by their highest logits.
λ is the curvature of the loss through softmax(α) of the rows that are not fixed, without sampling.

What is sampled and fixed depends on the logits, so they are copied to the host once a step.
Sure: gradient, Adam(1e-3, betas .5 .999, no weight decay), logits that start at N(1, .01²), gap .3. The gradient is
that of E[L] where L is linear in Z, a first-order estimate elsewhere. Our reading: the warm-up of 15 epochs is taken of
240; rows are looked at before every step. A row that keeps k > 1 samples without replacement, p is then the probability
of the draws in their order (Plackett-Luce), and it is fixed when the k-th p exceeds the next by .3/k. Not done: the
authors' optional normalisation of r over rows, entropy term and ratio of probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from searchers import _relax
from searchers._freeze import Frozen
from searchers._gumbel import first, gumbel, ranked
from searchers._optim import ArchSettings, Touched, WeightSettings
from searchers._single import ALL, SEEN, Single, SingleRecipe
from searchers.base import Choices, Group, Logits, Resources
from searchers.entry import Method

Orders = dict[str, Int[Tensor, "cells replicas decisions options"]]


@dataclass(frozen=True)
class Settings:
    """The paper's settings, with DARTS' for the weights.

    Attributes:
        gap: between the probabilities of the best option and the next, at which a row is fixed; None fixes none.
        warm_up: share of the epochs in which only the weights move.
        mean: of the logits at the start.
        spread: standard deviation of the logits at the start.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=lambda: ArchSettings(lr=1e-3, weight_decay=0.0))
    gap: float | None = 0.3
    warm_up: float = 15 / 240
    mean: float = 1.0
    spread: float = 0.01


def build(settings: Settings, resources: Resources) -> Single:
    """Return the searcher."""
    if settings.gap is not None and settings.gap <= 0:
        raise ValueError(f"expected a positive gap or null, got {settings.gap}")
    if not 0 <= settings.warm_up <= 1:
        raise ValueError(f"expected a warm_up in [0, 1], got {settings.warm_up}")
    groups, frozen = resources.groups, Frozen(resources.groups, resources.replicas)

    def choices(searcher: Single, leaves: Logits) -> Choices:
        host = {name: value.detach().to("cpu", torch.float64) for name, value in leaves.items()}
        if settings.gap is not None:
            fix(frozen, groups, host, settings.gap)
        noise = gumbel(leaves, resources.stream("path", searcher.steps), 1)
        return frozen.over(sampled(groups, leaves, ranked(host, noise)))

    def moves(searcher: Single, _choices: Choices) -> Touched:
        like = torch.cat([value.flatten(1) for value in searcher.logits().values()], 1)
        warming = searcher.moment().progress < settings.warm_up
        return torch.zeros_like(like, dtype=torch.bool) if warming else frozen.moves(like)

    recipe = SingleRecipe(
        relax=frozen.relax,
        choices=choices,
        moves=moves,
        init=_relax.normal_about(settings.mean, settings.spread),
        memory=frozen,
        select=frozen.scores(dict),
        hessian_of=f"{SEEN}, through the softmax of the rows that are not fixed, without sampling",
    )
    return Single(recipe, settings.weights, settings.arch, resources)


def fix(frozen: Frozen, groups: Sequence[Group], logits: Logits, gap: float) -> None:
    """Decide the open rows whose kept options have probabilities clear of the others'; logits are on the host."""
    for group in groups:
        p = logits[group.name].softmax(-1).numpy()
        order = np.argsort(-p, axis=-1, kind="stable")
        lead = np.take_along_axis(p, order, -1)
        rest = lead[..., group.keep] if group.keep < len(group.options) else 0.0
        clear = (lead[..., group.keep - 1] - rest >= gap / group.keep) & ~frozen.rows[group.name]
        for replica, decision in np.argwhere(clear).tolist():
            frozen.decide(replica, group.name, decision, order[replica, decision, : group.keep].tolist())


def sampled(groups: Sequence[Group], logits: Logits, orders: Orders) -> Choices:
    """Return the first options of every order with weight 1, whose derivative by α is that of log p(Z)."""
    weights, active = {}, {}
    for group in groups:
        value, order = logits[group.name], orders[group.name]
        log_p = log_probability(value, order.to(value.device), group.keep)[..., None]
        hot = first(order, group.keep)
        weights[group.name] = hot.to(value) * (1 + (log_p - log_p.detach()))
        active[group.name] = hot.numpy()
    return Choices(weights, active)


def log_probability(
    logits: Float[Tensor, "replicas decisions options"],
    order: Int[Tensor, "cells replicas decisions options"],
    keep: int,
) -> Float[Tensor, "cells replicas decisions"]:
    """Return the log-probability of drawing the first `keep` options in this order without replacement."""
    drawn = logits.expand(order.shape).gather(-1, order)
    return torch.stack([drawn[..., i] - drawn[..., i:].logsumexp(-1) for i in range(keep)]).sum(0)


METHOD = Method("dsnas", Settings, build, "Hu et al. (2020), DSNAS", passes_per_step=0.6, policy=lambda _settings: ALL)
