"""GDAS: every forward pass samples one operation, and differentiates through a softmax.

Source: Dong and Yang (2019), Searching for a Robust Neural Architecture in Four GPU Hours,
https://arxiv.org/abs/1910.04465, equations 3-6; variants of Zela et al. (2020), NAS-Bench-1Shot1, and of Dong et al.
(2021), NATS-Bench.

A sample: G = −log(−log U), y = softmax((α + G)/τ); operations: the one at the largest α + G, with weight 1 and the
gradient of y; rows of inputs and outputs (NAS-Bench-1Shot1) mix with y itself.
One step, with τ falling linearly over the epochs:
  1. α: g = ∂L_val(w, sample)/∂α on a validation batch; clip to norm 5 (NAS-Bench-1Shot1); Adam.
  2. w: ∂L_train(w, another sample)/∂w on a training batch; clip; SGD. What was not sampled does not move.
Discretise: the highest logits of each row, without noise.
λ is the curvature of the loss through softmax(α), without noise or τ: GDAS' own loss is a random one, and its Hessian
that of a surrogate, L(one-hot + y(α) − y) at fixed noise; `--metrics native` records it beside λ. It
grows as 1/τ² while τ falls, whatever the landscape does.

What is sampled depends on the logits, so they are copied to the host once a forward pass.
Sure: both variants of the gradient. "selected_only": the other operations are not evaluated and α hears of them through
the sampled probability only. "constant_map": besides, every other operation counts as a map of ones, whose weight is
zero but has a gradient. Our reading: the architecture goes first on both benchmarks (NATS-Bench's code takes the
weights first); an operation that cannot reach the output is not computed, whatever its surrogate gradient.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from searchers._bilevel import ArchGradient, Bilevel, Recipe, by_logits, clipped
from searchers._gumbel import Noise, gumbel
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Choices, ForwardInputs, Logits, Native, Resources, StepBatches
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Defaults of NAS-Bench-1Shot1 (Zela et al. 2020).

    Attributes:
        gradient: what α hears of operations that were not sampled; see above.
        per_cell: true draws for every cell of the network; false: one draw for all.
        tau: temperature of the first epoch.
        tau_min: temperature at the end.
        tau_reached: true reaches `tau_min` in the last epoch; false would after it (1.09 in the last of 100).
        arch_clip: bound on the norm of the gradient by all logits; None does not clip.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    gradient: Literal["selected_only", "constant_map"] = "selected_only"
    per_cell: bool = True
    tau: float = 10.0
    tau_min: float = 1.0
    tau_reached: bool = False
    arch_clip: float | None = 5.0


ONE_SHOT = Settings()
"""Zela et al. (2020), NAS-Bench-1Shot1."""

NATS = Settings(gradient="constant_map", per_cell=False, tau_min=0.1, tau_reached=True, arch_clip=None)
"""Dong et al. (2021), NATS-Bench; its weights have their own settings, see `bench.presets`."""


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if not 0 < settings.tau_min <= settings.tau:
        raise ValueError(f"expected 0 < tau_min <= tau, got {settings.tau_min} and {settings.tau}")

    def sampled(searcher: Bilevel, name: str, logits: Logits, number: int) -> Choices:
        cells = searcher.supernet.cells if settings.per_cell else 1
        noise = gumbel(logits, resources.stream(f"gumbel/{name}", number), cells)
        ops = {group.name for group in searcher.supernet.groups if group.kind == "op"}
        return sample(logits, noise, temperature(settings, searcher.epoch, resources.horizon.epochs), ops)

    def drawn(searcher: Bilevel, name: str, logits: Logits, number: int) -> tuple[Choices, ForwardInputs]:
        choices = sampled(searcher, name, logits, number)
        return choices, ForwardInputs(shift=unsampled(choices) if settings.gradient == "constant_map" else None)

    def gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
        leaves = searcher.leaves()
        choices, inputs = drawn(searcher, "arch", leaves, searcher.steps)
        losses = searcher.loss_by_logits(batches.val[0], choices, inputs)
        return clipped(by_logits(losses, leaves), settings.arch_clip)

    recipe = Recipe(
        weight_choices=lambda searcher, logits, _batches: sampled(searcher, "weights", logits, searcher.steps),
        arch_gradient=gradient,
        hessian_of="validation cross-entropy through the softmax of the logits, without the noise it is trained with",
        native=Native(
            "validation cross-entropy of samples at the epoch's temperature, through the surrogate of their gradient",
            lambda logits, number: drawn(searcher, "native", logits, number),
        ),
    )
    searcher = Bilevel(recipe, settings.weights, settings.arch, resources)
    return searcher


def temperature(settings: Settings, epoch: int, epochs: int) -> float:
    """Return τ, linear in the epoch."""
    steps = max(epochs - 1, 1) if settings.tau_reached else epochs
    return settings.tau - (settings.tau - settings.tau_min) * epoch / steps


def sample(logits: Logits, noise: Noise, tau: float, hard: set[str]) -> Choices:
    """Return softmax((α + G)/τ), in the `hard` groups with a one at the largest in its place and its derivative."""
    weights, active = {}, {}
    for name, value in logits.items():
        soft = ((value + noise[name].to(value)) / tau).softmax(-1)
        scores = value.detach().to("cpu", torch.float64) + noise[name]
        one = F.one_hot(scores.argmax(-1), scores.shape[-1])
        active[name] = one.bool().numpy() if name in hard else torch.ones_like(one).bool().numpy()
        weights[name] = one.to(soft) + (soft - soft.detach()) if name in hard else soft
    return Choices(weights, active)


def unsampled(choices: Choices) -> dict[str, Tensor]:
    """Return the weights of what was not sampled, added up: zero, with the gradient of the probabilities."""
    assert choices.active is not None
    left = {name: torch.as_tensor(~active) for name, active in choices.active.items()}
    return {name: (value * left[name].to(value)).sum(-1) for name, value in choices.weights.items() if left[name].any()}


METHOD = Method(
    "gdas",
    Settings,
    build,
    "Dong and Yang (2019), GDAS",
    passes_per_step=1.5,
    published=Published(100, "NAS-Bench-1Shot1, whose settings are the defaults"),
)
