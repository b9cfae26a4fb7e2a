"""DA²S: discretisation-aware search, which pushes the mixing weights towards one option a row by their entropy.

Source: Tian, Liu, Xie, Jiao, Ye (2020), Discretization-aware Architecture Search, https://arxiv.org/abs/2007.03154; s,
w(e) and the settings are those of the authors' code for NAS-Bench-201.

P = softmax(s(α)) of each row, where y = 2α and s(α) = y³ where y < −1, y elsewhere.
One step, in epoch e of E and with e' = 50·e/E, on one batch of all training images:
  1. L = cross-entropy + w(e)·H(P), w(e) = ½·max(0, (e' − 15 − 1)/49), H the entropies of all rows, added up, nats.
  2. α: from epoch e' = 15 on, at every fifth batch: SGD(3e-3, momentum .9, weight decay 1e-3) on ∂L/∂α of that batch.
  3. w: clip ∂L/∂w to norm 5; SGD(.05 to .001, cosine). Both gradients are those of step 1.
Discretise: the highest logits of each row, which are the highest P, as s increases.

Sure: s, w(e), the optimiser and when it steps. Our reading: of five batches the first alone moves α, counted over the
whole search; rows that choose inputs count in H like the others, which pushes a row that keeps two towards one. H is a
sum over rows, so its force on a row does not depend on the size of the space. The authors' loader does not shuffle;
ours does. Not done: the variant for the DARTS space, two levels with weights of edges.
s is linear above y = −1, where a constant on a row changes nothing; below it does, so no row counts as shift-invariant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from searchers._descent import Moment
from searchers._optim import ArchSettings, ArchSGD, Touched, WeightSettings
from searchers._single import ALL, SEEN, Single, SingleRecipe
from searchers.base import Choices, DataPolicy, Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The authors' settings for NAS-Bench-201.

    Attributes:
        arch: rate and weight decay of SGD; the rest of it is Adam's and not used.
        arch_momentum: of α.
        arch_every: batches from one step of α to the next.
        warm_up: share of the epochs in which α stays; the entropy's weight rises after it.
        entropy: what the weight of the entropy would be if it rose through all 50 epochs; 0: none.
        stretch: false: s is the identity.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(lr=0.05))
    arch: ArchSettings = field(default_factory=lambda: ArchSettings(lr=3e-3))
    arch_momentum: float = 0.9
    arch_every: int = 5
    warm_up: float = 15 / 50
    entropy: float = 0.5
    stretch: bool = True
    batch_size: int | None = 256

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up <= 1 or self.arch_every < 1:
            raise ValueError(
                f"expected warm_up in [0, 1] and arch_every of at least 1, got {self.warm_up} and {self.arch_every}"
            )


def policy(settings: Settings) -> DataPolicy:
    """Train on all images, at the method's own batch size."""
    return replace(ALL, batch_size=lambda _epoch, base: settings.batch_size or base)


def build(settings: Settings, resources: Resources) -> Single:
    """Return the searcher."""
    s: Callable[[Tensor], Tensor] = stretched if settings.stretch else (lambda values: values)

    def relax(logits: Logits) -> Choices:
        return Choices({name: s(values).softmax(-1)[None] for name, values in logits.items()})

    def penalty(logits: Logits, moment: Moment) -> Float[Tensor, " replicas"]:
        log_p = {name: s(values).log_softmax(-1) for name, values in logits.items()}
        return entropy_weight(settings, moment.progress) * entropy(log_p)

    def moves(searcher: Single, _choices: Choices) -> Touched:
        if searcher.moment().progress >= settings.warm_up and searcher.steps % settings.arch_every == 0:
            return None
        flat = torch.cat([value.flatten(1) for value in searcher.logits().values()], 1)
        return torch.zeros_like(flat, dtype=torch.bool)

    recipe = SingleRecipe(
        relax=relax,
        penalties=(penalty,),
        optimiser=lambda logits, arch: ArchSGD(logits, arch, settings.arch_momentum),
        moves=moves,
        shift_invariant=() if settings.stretch else None,
        hessian_of=f"{SEEN}, through the softmax of " + ("s(logits)" if settings.stretch else "the logits"),
        policy=policy(settings),
    )
    return Single(recipe, settings.weights, settings.arch, resources)


def stretched(logits: Tensor) -> Tensor:
    """Return s(α): y = 2α, and y³ where y < −1."""
    y = 2 * logits
    return torch.where(y < -1, y**3, y)


def entropy(log_p: dict[str, Tensor]) -> Float[Tensor, " replicas"]:
    """Return the entropies of all rows, added up, in nats; rows that have become one-hot have a gradient of zero."""
    return torch.stack([-(value.exp() * value).sum((1, 2)) for value in log_p.values()]).sum(0)


def entropy_weight(settings: Settings, progress: float) -> float:
    """Return w(e), of 50 epochs whatever the budget."""
    return settings.entropy * max(0.0, (50 * (progress - settings.warm_up) - 1) / 49)


METHOD = Method(
    "da2s",
    Settings,
    build,
    "Tian et al. (2020), Discretization-aware search",
    passes_per_step=1.1,
    policy=policy,
    published=Published(50, "the authors' code on NAS-Bench-201"),
)
