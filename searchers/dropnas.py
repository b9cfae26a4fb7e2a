"""DropNAS: operations drop out in groups, so that none starves another.

Source: Hong, Li, Zhang, Tang, Wang, Li, Yu (2020), DropNAS: Grouped Operation Dropout for Differentiable Architecture
Search, https://arxiv.org/abs/2201.11679, sections 3.2 (grouped dropout) and 3.3 (α-adjust, partial decay).

One step, on one batch of all training images, the same mask for all cells:
  1. every operation of a row drops with the probability p of its group, with weights or without; a group that would
     lose all is drawn again. Kept ones mix with exp(α)/Σ_kept exp(α), the others are not computed.
  2. w and α: both gradients of the cross-entropy; clip to norm 3; SGD; Adam. What dropped out does not move.
  3. decay of what was kept: with "double_step" both optimisers step again, on the gradients 2·λ_w·w and 2·λ_α·α of the
     second loss λ_w‖w‖² + λ_α‖α‖², clipped in the same way; with "fused" decay is the usual part of step 2.
  4. α-adjust: in rows where an operation dropped, every kept α gets log(ρ/(1−ρ)·Σ_dropped exp(α)/Σ_kept exp(α)), with ρ
     the softmax mass of the kept ones before the step, so that they have it again.
Discretise: the highest logits of each row.

Sure: grouping, redraws, renormalisation, adjustment, and that the published code steps twice. Our reading: the rate.
The paper gives r = 3e-5 with p = r^(1/|g|) in a group g, .074 for its own groups of four; groups of two would hardly
drop (.0055), so `drop="prob"` keeps p = .074 and `drop="rate"` keeps r. An operation alone in its group never drops,
nor do rows that choose inputs. Dropped α stay where they are, as the paper intends; in the published code Adam's
momentum moves them (`hold_dropped=False`). "Kept" stands for the code's test of gradients for zero. `none`, which the
published decoding leaves out, may be selected on NAS-Bench-201, where it is an operation like others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from searchers import _grouped_dropout as dropout
from searchers._optim import ArchSettings, Touched, WeightSettings
from searchers._single import ALL, SEEN, Single, SingleRecipe
from searchers._touched import touched
from searchers.base import Choices, DataPolicy, Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The paper's settings, in its own space.

    Attributes:
        drop: which of `probability` and `rate` holds.
        probability: with which an operation drops, in groups of any size.
        rate: r, of which an operation drops with probability r^(1/|g|) in a group of |g|.
        decay: "double_step" decays in a step of its own, "fused" within the step of the gradients.
        hold_dropped: false lets Adam's momentum move the logits of dropped operations.
        batch_size: None uses the benchmark's.
    """

    weights: WeightSettings = field(default_factory=lambda: WeightSettings(lr=0.0375, lr_min=0.0015, clip=3.0))
    arch: ArchSettings = field(default_factory=ArchSettings)
    drop: Literal["prob", "rate"] = "prob"
    probability: float = 0.074
    rate: float = 3e-5
    decay: Literal["double_step", "fused"] = "double_step"
    hold_dropped: bool = True
    batch_size: int | None = 96


def policy(settings: Settings) -> DataPolicy:
    """Train on all images, at the method's own batch size."""
    return replace(ALL, batch_size=lambda _epoch, base: settings.batch_size or base)


def build(settings: Settings, resources: Resources) -> Single:
    """Return the searcher."""
    drops = dropout.classes(resources.groups, drop_probability(settings))

    def choices(searcher: Single, leaves: Logits) -> Choices:
        streams = resources.stream("drop", searcher.steps)
        return dropout.mixture(leaves, dropout.draw(resources.groups, drops, streams))

    def moves(searcher: Single, chosen: Choices) -> Touched:
        return dropout.kept_entries(searcher.logits(), chosen) if settings.hold_dropped else None

    def after(searcher: Single, before: Logits, chosen: Choices) -> None:
        if not fused:
            decay(searcher, chosen, settings)
        searcher.assign(dropout.adjusted(before, searcher.logits(), chosen))

    through = "through the softmax relaxation, nothing dropped"
    recipe = SingleRecipe(
        choices=choices, moves=moves, after=after, hessian_of=f"{SEEN}, {through}", policy=policy(settings)
    )
    fused = settings.decay == "fused"
    weights = settings.weights if fused else replace(settings.weights, weight_decay=0.0)
    arch = settings.arch if fused else replace(settings.arch, weight_decay=0.0)
    return Single(recipe, weights, arch, resources)


def drop_probability(settings: Settings) -> Callable[[int], float]:
    """Return the probability with which an operation drops out, by the size of its group.

    Raises:
        ValueError: a probability is not one, or would drop everything.
    """
    for name in ("probability", "rate"):
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise ValueError(f"expected {name} in [0, 1), got {value}")
    if settings.drop == "rate":
        return lambda size: settings.rate ** (1 / size)
    return lambda _size: settings.probability


def decay(searcher: Single, chosen: Choices, settings: Settings) -> None:
    """Step both optimisers on the gradient of λ_w‖w‖² + λ_α‖α‖² over what was kept."""
    used = touched(searcher.supernet, chosen, list(searcher.parameters))
    flat, mask = searcher.fixed(), searcher.weights.layout.spread(used)
    kept_weights = flat if mask is None else torch.where(mask, flat, 0.0)
    searcher.weights.step(2 * settings.weights.weight_decay * kept_weights, searcher.lr, used)
    logits = searcher.logits()
    kept = dropout.kept_options(logits, chosen)
    gradient = {name: 2 * settings.arch.weight_decay * value * kept[name] for name, value in logits.items()}
    entries = dropout.kept_entries(logits, chosen) if settings.hold_dropped else None
    searcher.arch.step(gradient, searcher.arch_lr, entries)


METHOD = Method(
    "dropnas",
    Settings,
    build,
    "Hong et al. (2020), DropNAS",
    passes_per_step=1.3,
    policy=policy,
    published=Published(76, "the authors' code, DARTS' space"),
)
