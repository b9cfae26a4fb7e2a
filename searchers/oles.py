"""OLES: an operation whose gradients on the two halves stop agreeing trains its weights no further.

Source: Jiang, Ji, Zhu, Yuan, Huang (2023), Operation-Level Early Stopping for Robustifying Differentiable NAS,
https://arxiv.org/abs/2306.01431, equations 4-6 and algorithm 1.

One step, for every operation of every cell that has weights:
  1. α: as DARTS; the same backward pass gives ∂L_val/∂w. Its cosine with the training gradient of the step before, over
     the weights of the operation, is added up.
  2. after `window` such cosines an operation whose mean is below `threshold` is frozen for good; the sums start again.
  3. w: as DARTS, but the weights of frozen operations do not move and do not count in the clipped norm.
Discretise: the highest logits of each row. α keeps training everywhere.

Means are read from the device once a window, since they decide what moves. Sure: cosine, window 20, threshold .4, that
`none` is no option. Our reading: an operation without a gradient has cosine 0; windows do not overlap; the first step
has no training gradient before it and counts for none.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import ArchGradient, Bilevel, Recipe
from searchers._exclude import softmax_without
from searchers._matching import Matching
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Resources, StepBatches, SupernetOptions
from searchers.entry import Method


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        window: cosines that are averaged before each decision.
        threshold: mean cosine below which an operation is frozen.
        none: whether `none` is an option where the space has it.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    window: int = 20
    threshold: float = 0.4
    none: bool = False

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"expected a window of at least 1 step, got {self.window}")


def arch_gradient(matching: Matching, searcher: Bilevel, batches: StepBatches) -> ArchGradient:
    """Return ∂L_val/∂α; show ∂L_val/∂w to the matching."""
    leaves = searcher.leaves()
    weights = searcher.weights.leaf()
    losses = _relax.loss(searcher.supernet, batches.val[0], searcher.relax(leaves), weights)
    *found, by_weights = torch.autograd.grad(losses.sum(), [*leaves.values(), weights], materialize_grads=True)
    matching.see(by_weights)
    return ArchGradient(dict(zip(leaves, found, strict=True)), losses.detach())


def update(matching: Matching, searcher: Bilevel, batches: StepBatches) -> Float[Tensor, " replicas"]:
    """Move the weights that are not frozen; return the loss before."""
    choices = searcher.relax(searcher.logits())
    losses, gradient = _relax.by_weights(searcher.supernet, batches.train[0], choices, searcher.weights.leaf())
    matching.train, used = gradient, matching.used()
    free = None if used is None else matching.layout.spread(used)
    searcher.weights.step(gradient if free is None else gradient * free, searcher.lr, used)
    return losses


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    options = SupernetOptions()
    matching = Matching(resources.build(options), settings.window, settings.threshold)
    recipe = Recipe(
        relax=_relax.softmax if settings.none else softmax_without(resources.groups, "none"),
        excluded=() if settings.none else ("none",),
        arch_gradient=lambda searcher, batches: arch_gradient(matching, searcher, batches),
        weight_update=lambda searcher, batches: update(matching, searcher, batches),
        memory=matching,
        options=options,
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method("oles", Settings, build, "Jiang et al. (2023), OLES", passes_per_step=2.5)
