"""Search policy of DA-NAS, on full-precision operations: rows are pruned while the set of classes grows.

Source: Dai, Chen, Liu, Chen, Yuan (2020), DA-NAS: Data Adapted Pruning for Efficient Neural Architecture Search,
https://arxiv.org/abs/2003.12563, progressive shrinking. The paper searches ImageNet block by block, from the low ones
up; cells of these spaces share their choices, so that blocks do not exist, and no benchmark table is of its space: this
is what is left.

The search has stages of equal length. In each, batches of both halves hold images of a share of the classes only, .4,
.7 and all of them; one step is DARTS', over the options that are left:
  1. α: g = ∂L_val(w, softmax over what is left)/∂α on a validation batch; Adam.
  2. w: ∂L_train/∂w on a training batch; clip to norm 5; SGD. What has left is not computed and does not move.
After stage s of S, but for the last, a row of K options that keeps k is left with its K − ⌊(K − k)·s/S⌋ highest logits.
Discretise: the highest logits of each row.

Logits are read from the device where a stage ends, since they decide what is computed. Sure: a search that prunes on
few classes first and on all at last. Our reading: shares, three stages, linear pruning by the logits, one step of
DARTS. Not done: the classes that come first are those of the lowest numbers, not the easiest; the order of blocks.
Records (accuracies, λ) are of all classes, of which the first stages have seen some.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from searchers._bilevel import Bilevel, Recipe
from searchers._exclude import Alive
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import DataPolicy, Group, Logits, Resources
from searchers.entry import Method


@dataclass(frozen=True)
class Settings:
    """Stages of our choice, with the optimisers of DARTS.

    Attributes:
        classes: the share of the classes that each stage sees.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    classes: tuple[float, ...] = (0.4, 0.7, 1.0)


def policy(settings: Settings) -> DataPolicy:
    """Serve the classes of the stage."""
    stages = settings.classes
    return DataPolicy(classes=lambda epoch, epochs: stages[min(ended(epoch, epochs, len(stages)), len(stages) - 1)])


def ended(epochs_passed: int, epochs: int, stages: int) -> int:
    """Return how many stages have ended after so many epochs."""
    return epochs_passed * stages // epochs


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if not settings.classes or list(settings.classes) != sorted(settings.classes) or settings.classes[-1] != 1:
        raise ValueError(f"expected shares of classes that grow to 1, got {settings.classes}")
    alive, stages = Alive(resources.groups, resources.replicas), len(settings.classes)

    def end_epoch(searcher: Bilevel, epoch: int) -> None:
        before, now = (ended(passed, resources.horizon.epochs, stages) for passed in (epoch, epoch + 1))
        if before < now < stages:
            prune(alive, resources.groups, searcher.logits(), (now, stages))

    recipe = Recipe(
        relax=alive.relax,
        arch_moves=lambda searcher: alive.moves(next(iter(searcher.logits().values()))),
        end_epoch=end_epoch,
        memory=alive,
        select=alive.select,
        hessian_of="validation cross-entropy of all classes through the softmax relaxation of what is left",
        policy=policy(settings),
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


def prune(alive: Alive, groups: Sequence[Group], logits: Logits, stage: tuple[int, int]) -> None:
    """Leave the highest logits of every row, after stage s of S."""
    for group in groups:
        values = np.where(alive.masks[group.name], logits[group.name].double().cpu().numpy(), -np.inf)
        order = np.argsort(-values, axis=-1, kind="stable")
        count = len(group.options) - (len(group.options) - group.keep) * stage[0] // stage[1]
        for replica, row in np.ndindex(*order.shape[:2]):
            alive.keep(replica, group.name, row, order[replica, row, :count].tolist())


METHOD = Method(
    "da_nas_policy",
    Settings,
    build,
    "Search policy of Dai et al. (2020), DA-NAS, on full-precision operations",
    passes_per_step=2.0,
    policy=policy,
    steady=True,
)
