"""Search policy of BNAS, on full-precision operations: a bandit rates options, and the worst of each row leaves.

Source: Chen, Zhuo, Zhang, Zheng, Liu, Doermann, Ji (2020), Binarized Neural Architecture Search,
https://arxiv.org/abs/1911.10862, operation space reduction. The paper's networks are binary, and no benchmark table has
those: this is what is left without them, and says nothing about binary networks.

With m the mean accuracy of the cells that an option was part of, n their number, N that of all cells since the last
pruning, the bound of an option is m + c·√(2·ln N/n), infinite where n = 0.
One step:
  1. every row draws its k options from softmax(bound/T), without replacement; only they are computed, with weight 1.
  2. w: cross-entropy of a training batch through that cell; clip to norm 5; SGD. What was not drawn does not move.
  3. when the cell has trained for `every` steps, its accuracy on one un-augmented validation batch counts for all of
     its options. It is read from the device: it decides what the next cell is.
After an epoch in which a pruning is due, every row that has more options than it keeps loses the one of the lowest
bound, and counts start anew, since accuracy grows while the network trains. The last pruning follows the last epoch.
Discretise: what is left; before that, the highest means.
There are no logits, so λ does not exist.

Sure: single paths, a score of performance that lets options leave a row one at a time. Our reading: the form of the
bound, what is rated, that prunings are spread evenly, and the temperature: were the highest bounds always taken, rows
would go through their options in step, and one row's reward would be taken for another's. Not done: binary
convolutions, sampled channels.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from searchers._bandit import Bandit
from searchers._bilevel import weight_step
from searchers._optim import WeightSettings
from searchers._paths import PathRecipe, Paths, weights_only
from searchers._ranking import KHot, accuracies
from searchers.base import Batch, Logits, Resources
from searchers.entry import Method


@dataclass(frozen=True)
class Settings:
    """Our settings; the paper's are for binary networks.

    Attributes:
        exploration: c, in units of accuracy.
        temperature: T, in units of accuracy; 0 takes the highest bounds.
        every: steps a cell trains before it is rated.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    exploration: float = 0.1
    temperature: float = 0.1
    every: int = 5


def build(settings: Settings, resources: Resources) -> Paths:
    """Return the searcher."""
    if min(settings.exploration, settings.temperature) < 0 or settings.every < 1:
        raise ValueError(f"expected exploration and temperature of at least 0, every of at least 1, got {settings}")
    bandit = Bandit(resources.groups, resources.replicas, settings.exploration, settings.temperature)
    rounds = max(len(group.options) - group.keep for group in resources.groups)

    def cell(searcher: Paths) -> KHot:
        return bandit.cell(resources.stream("cell", searcher.steps // settings.every))

    def update(searcher: Paths, batch: Batch) -> Float[Tensor, " replicas"]:
        hot = cell(searcher)
        losses = weight_step(searcher.supernet, searcher.weights, batch, searcher.choices(hot), searcher.lr)
        turn, left = divmod(searcher.steps + 1, settings.every)
        if left == 0:
            bandit.see(hot, accuracies(searcher.supernet, resources, [hot], 1, turn - 1)[:, 0])
        return losses

    def end_epoch(searcher: Paths, epoch: int) -> Logits:
        bandit.prune_to((epoch + 1) * rounds // resources.horizon.epochs)
        like = next(iter(searcher.parameters.values()))
        return {name: torch.as_tensor(v, dtype=like.dtype, device=like.device) for name, v in bandit.scores().items()}

    recipe = PathRecipe(
        no_curvature="the policy rates options by accuracy and has no architecture logits",
        policy=weights_only(None),
        end_epoch=end_epoch,
        cell=cell,
        update=update,
        memory=bandit,
    )
    return Paths(recipe, settings.weights, resources)


METHOD = Method(
    "bnas_policy",
    Settings,
    build,
    "Search policy of Chen et al. (2020), BNAS, on full-precision operations",
    passes_per_step=0.6,
    policy=lambda _settings: weights_only(None),
)
