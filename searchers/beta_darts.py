"""β-DARTS: weight decay on the softmax of the logits instead of the logits.

Source: Ye, Li, Li, Chen, Fan, Ouyang (2022), β-DARTS: Beta-Decay Regularization for Differentiable Architecture Search,
https://arxiv.org/abs/2203.01665, equations 9-13.

One step, at epoch e of E and λ = weight·e/E:
  1. α: g = ∂/∂α (L_val(w, softmax(α)) + λ·Σ_groups mean_rows logsumexp(α_row)) on a validation batch; Adam. The second
     term's gradient on one of R rows is λ/R·softmax(α_row): it pulls the leader hardest.
  2. w: as DARTS.
Discretise: the highest logits of each row.

Sure: loss, linear schedule from 0, weight 50 in 100 epochs. The authors' code keeps Adam's weight decay on α though the
paper argues that the new term replaces it; the other arm is `arch.weight_decay=0`. Our reading: where a space has
several groups, the mean is taken over the rows of each and the groups are added, so that the force on a row depends on
the number of rows of its own table only. `edges=False` regularises operations alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from searchers._bilevel import Bilevel, Moment, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Group, Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Settings of the authors on NAS-Bench-201.

    Attributes:
        weight: λ that the schedule goes towards; it starts at 0 and a search of E epochs ends at weight·(E−1)/E.
        edges: whether the choices of inputs are regularised, too.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    weight: float = 50.0
    edges: bool = True


def beta_decay(settings: Settings, groups: tuple[Group, ...]) -> Callable[[Logits, Moment], Float[Tensor, " replicas"]]:
    """Return the regulariser of these groups, in nats for each replica."""
    names = [group.name for group in groups if settings.edges or group.kind == "op"]

    def penalty(logits: Logits, moment: Moment) -> Float[Tensor, " replicas"]:
        means = [logits[name].logsumexp(-1).mean(-1) for name in names]
        return settings.weight * moment.progress * torch.stack(means).sum(0)

    return penalty


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    recipe = Recipe(penalties=(beta_decay(settings, resources.groups),))
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "beta_darts",
    Settings,
    build,
    "Ye et al. (2022), β-DARTS",
    passes_per_step=2.0,
    published=Published(100, "the authors' code on NAS-Bench-201"),
    steady=True,
)
