"""SDARTS-ADV: the weights are trained under the worst mixing weights nearby.

Source: Chen and Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization,
https://arxiv.org/abs/2002.05283, the adversarial form of SmoothDARTS: w(A) = argmin_w max_{‖δ‖∞ ≤ ε} L_train(w, A + δ).

One step, with A = softmax(α) and ε = 0.03 + (0.3 − 0.03)·e/E in epoch e of E:
  1. α: as DARTS, first order, at A.
  2. attack, on the training batch of step 3, weights fixed: P = project(A + U(−ε, ε)); seven times
     P ← project(box(P + (2ε/7)·sign ∂L_train(w, P)/∂P)), where box keeps every entry within ε of A.
     A replica whose loss at P is below that at A keeps A.
  3. w: ∂L_train(w, P)/∂w; clip to norm 5; SGD. α is as before.
Discretise: the highest logits of each row.

Sure: the rule, ε and its ramp, seven steps. Our reading: the projection of `sdarts_rs`, which may leave the box; a
stride of 2ε over the number of steps where that is not seven; batch statistics in the attack (the published code
attacks in eval mode, whose running statistics are those of the last batch). The fallback is chosen by an element-wise
comparison, the device is not read.
"""

from dataclasses import dataclass, field

import torch

from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._perturb import Mixture, Ramp, add, noise, probe, project, require, weight_choices
from searchers.base import Batch, Choices, Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The paper's settings.

    Attributes:
        radius: ε, the largest change of a mixing weight.
        attack_steps: gradient steps of an attack.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    radius: Ramp = field(default_factory=Ramp)
    attack_steps: int = 7

    def __post_init__(self) -> None:
        require(self.attack_steps >= 1, "at least 1 attack step", self.attack_steps)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def worst(searcher: Bilevel, clean: Mixture, batches: StepBatches) -> Mixture:
        radius = settings.radius.at(searcher.moment().progress)
        return attack(searcher, clean, batches.train[0], radius, settings.attack_steps)

    return Bilevel(Recipe(weight_choices=weight_choices(worst)), settings.weights, settings.arch, resources)


def attack(searcher: Bilevel, clean: Mixture, batch: Batch, radius: float, steps: int) -> Mixture:
    """Return mixing weights near `clean` whose loss is at least as high, for every replica."""
    point = project(add(clean, noise(searcher, clean, radius)[0]))
    for _ in range(steps):
        point = project(ascend(point, gradient(searcher, point, batch), clean, (radius, 2 * radius / steps)))
    fell = (probe(searcher, point, batch) < probe(searcher, clean, batch))[None, :, None, None]
    return {name: torch.where(fell, clean[name], value) for name, value in point.items()}


def ascend(point: Mixture, slope: Mixture, clean: Mixture, lengths: tuple[float, float]) -> Mixture:
    """Return the point after a step along the signs of the slope, kept in the box around `clean`.

    `lengths` are the box's radius and the step's.
    """
    radius, stride = lengths
    moved = {name: value + stride * slope[name].sign() for name, value in point.items()}
    return {name: moved[name].clamp(value - radius, value + radius) for name, value in clean.items()}


def gradient(searcher: Bilevel, point: Mixture, batch: Batch) -> Mixture:
    """Return ∂L(w, P)/∂P of every replica, the weights being fixed."""
    leaves = {name: value.detach().requires_grad_() for name, value in point.items()}
    losses = searcher.loss_by_logits(batch, Choices(leaves))
    return dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))


METHOD = Method(
    "sdarts_adv",
    Settings,
    build,
    "Chen and Hsieh (2020), SmoothDARTS, adversarial attack",
    passes_per_step=9.3,
    published=Published(100, "the authors' code on NAS-Bench-1Shot1 and NAS-Bench-201"),
    steady=True,
)
