"""Fair DARTS: every operation has a sigmoid of its own, pushed towards 0 or 1.

Source: Chu, Zhou, Zhang, Li (2020), Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search,
https://arxiv.org/abs/1911.12126, equations 3-6.

One step, with σ the logistic of an operation's logit and logits that start at 0:
  1. α: g = ∂/∂α (L_val(w, σ(α)) − weight·Σ (σ − ½)²/entries) on a validation batch; Adam(3e-3, betas .9 .999, weight
     decay 1e-3). α = 0 is a stationary point of the second term: the cross-entropy breaks the tie.
  2. w: ∂L_train(w, σ(α))/∂w on a training batch; clip to norm 5; SGD, cosine rate .005 to .001.
Discretise: the highest logits of each row, as in all methods here (the authors keep what exceeds .85).

Sure: relaxation, loss, weight 10, Adam, rates. The authors' batch is 128 and their mean runs over 196 entries (two
cells, 14 edges, 7 operations); batches here are the benchmark's. Our reading: the term is a sum over the entries
divided by 196 whatever the space, so that the force on an entry is the paper's; `entries=None` divides by the number
of entries, 6.5 times as strong on NAS-Bench-201. Choices of inputs stay softmax rows and are not pushed. `none`, which
the authors' space lacks, is not selected: its output is zero, so its logit stays at 0 and would win wherever all other
operations fall below ½.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._bilevel import Bilevel, Moment, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Group, Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        weight: of the term that pushes σ away from ½.
        entries: what the sum of that term is divided by; None: the number of entries.
        none: whether `none` may be selected where the space has it; the paper's space does not.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(lr=0.005))
    arch: ArchSettings = field(default_factory=lambda: ArchSettings(lr=3e-3, betas=(0.9, 0.999)))
    weight: float = 10.0
    entries: int | None = 196
    none: bool = False


def zero_one(settings: Settings, names: list[str]) -> Callable[[Logits, Moment], Float[Tensor, " replicas"]]:
    """Return −weight·Σ (σ − ½)²/entries over the named groups, for each replica."""

    def penalty(logits: Logits, _moment: Moment) -> Float[Tensor, " replicas"]:
        apart = torch.cat([(logits[name].sigmoid() - 0.5).square().flatten(1) for name in names], 1)
        return -settings.weight * apart.sum(1) / (settings.entries or apart.shape[1])

    return penalty


def recipe(settings: Settings, groups: tuple[Group, ...]) -> Recipe:
    """Return what makes the method on these groups."""
    names = [group.name for group in groups if group.kind == "op"]
    return Recipe(
        relax=_relax.sigmoid(names),
        penalties=(zero_one(settings, names),),
        init=_relax.zero_logits,
        excluded=() if settings.none else ("none",),
        shift_invariant=tuple(group.name for group in groups if group.kind == "edge"),
        hessian_of="validation cross-entropy through sigmoids of the operations and softmax rows of the inputs",
    )


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if settings.entries is not None and settings.entries < 1:
        raise ValueError(f"expected at least one entry or null, got entries={settings.entries}")
    return Bilevel(recipe(settings, resources.groups), settings.weights, settings.arch, resources)


METHOD = Method(
    "fair_darts",
    Settings,
    build,
    "Chu et al. (2020), Fair DARTS",
    passes_per_step=2.0,
    published=Published(50, "the authors' code, DARTS' space"),
    steady=True,
)
