"""Single-DARTS: weights and architecture descend together, and operations do not compete.

Source: Hou, Jin, Chen (2021), Single-DARTS: Towards Stable Architecture Search, https://arxiv.org/abs/2108.08128,
sections 3.2 (single-level optimisation) and 3.3 (non-competitive activation).

One step, on one batch of all training images:
  1. L = cross-entropy of the batch with mixing weights σ(α) on operations and softmax(α) on edges.
  2. α: Adam on ∂L/∂α. w: clip ∂L/∂w to norm 5; SGD. Both gradients are those of step 1.
Discretise: the highest logits of each row, which are the highest σ(α).

The two ingredients are settings, so that they can be told apart: `level` and `activation` span the 2×2 ablation, in
which (bi, softmax) is DARTS and (bi, sigmoid) is Fair DARTS without its zero-one loss, but for rates, logits at the
start and the selection of `none`.

Sure: one batch, one loss, both updates at once, σ instead of softmax. Our reading: the learning rates, which the paper
calls part of the recipe and we could not recover, are those of DARTS; edges keep softmax, as rows that choose inputs
are not operations. Five weights of σ(0) = ½ sum to 2.5, so sums grow with depth more than under softmax. `none` of
NAS-Bench-201 outputs zero and competes with nothing, so it has no gradient: its logit decays to 0, and it is selected
where all other operations of an edge have fallen below ½.
"""

from dataclasses import dataclass, field
from typing import Literal

from searchers import _relax
from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._single import ALL, SEEN, Single, SingleRecipe
from searchers.base import DataPolicy, Group, Resources
from searchers.entry import Method

Activation = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class Settings:
    """The paper's method with the optimisers of DARTS.

    Attributes:
        level: "single": one loss for both, on all images; "bi": α on the validation half, w on the training half.
        activation: of operations.
        edge_activation: of the rows that choose inputs.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    level: Literal["single", "bi"] = "single"
    activation: Activation = "sigmoid"
    edge_activation: Activation = "softmax"


def policy(settings: Settings) -> DataPolicy:
    """Train on all images at one level, on halves at two."""
    return ALL if settings.level == "single" else DataPolicy()


def build(settings: Settings, resources: Resources) -> Single | Bilevel:
    """Return the searcher."""
    independent = {g.name for g in resources.groups if _activation(settings, g) == "sigmoid"}
    relax = _relax.sigmoid(independent)
    mixed = tuple(group.name for group in resources.groups if group.name not in independent)
    through = f"through the {settings.activation} relaxation"
    if settings.level == "single":
        single = SingleRecipe(relax, shift_invariant=mixed, hessian_of=f"{SEEN}, {through}")
        return Single(single, settings.weights, settings.arch, resources)
    recipe = Recipe(relax, shift_invariant=mixed, hessian_of=f"validation cross-entropy {through}")
    return Bilevel(recipe, settings.weights, settings.arch, resources)


def _activation(settings: Settings, group: Group) -> Activation:
    return settings.activation if group.kind == "op" else settings.edge_activation


METHOD = Method(
    "single_darts", Settings, build, "Hou et al. (2021), Single-DARTS", passes_per_step=1.1, policy=policy, steady=True
)
