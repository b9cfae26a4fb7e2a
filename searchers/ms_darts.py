"""MS-DARTS: the weights are trained under mixing weights moved by a few mean-shift rounds.

Source: Hsieh, Chang, Chen, Santra, Chou, Huang (2021), MS-DARTS: Mean-Shift Based Differentiable Architecture Search,
https://arxiv.org/abs/2108.09996, equations 5, 6, 9-11.

One step, with A = softmax(α) and ε = ε_max/10 + 0.9·ε_max·e/E in epoch e of E:
  1. α: as DARTS, first order, at softmax(α).
  2. mean shift, T rounds from the centre c = A, weights fixed: N samples A_p = c + U(−ε, ε); B_p = project(A_p);
     ℓ_p = L_train(w, B_p) on the batch of step 3; ω = softmax(ℓ) over p; for each group m
     κ_pm = exp(−½(‖c_m − B_pm‖₂/h)²) and c_m ← Σ_p ω_p κ_pm A_pm / Σ_p ω_p κ_pm, the mean of the *unprojected* samples.
  3. w: ∂L_train(w, c)/∂w; clip to norm 5; SGD. c may lie off the simplex. α is as before.
Discretise: the highest logits of each row.

Sure: the default is what the authors' code does. The paper leaves much open; `PAPER` is our reading of its text.
docs/ms_darts.md compares the two. Losses are probed without gradients, with batch statistics (their code: eval mode).
At these defaults the kernel hardly weighs: see `_perturb.effective_samples` and the control arms `ms_null`,
`sdarts_rs_matched`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _perturb
from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._perturb import Mixture, Ramp, Region, require
from searchers.base import Batch, DataPolicy, Resources, StepBatches
from searchers.entry import Method, Published

OMEGA_RULES = {
    "softmax": lambda losses: losses,
    "linear": lambda losses: losses.clamp_min(torch.finfo(losses.dtype).tiny).log(),
}


@dataclass(frozen=True)
class Settings:
    """The settings of the authors' code.

    Attributes:
        radius: ε of the samples; to scale it, set both ends.
        bandwidth: h of the Gaussian kernel.
        samples: N, drawn around the centre in a round.
        rounds: T; 0 is DARTS.
        region: "box": every entry within ε; "ball": an l2 ball of radius ε for each group; "joint_ball": one for all.
        joint: true measures the kernel's distance over all groups as one vector, false for each group.
        omega_data: "train": losses on the batch of the weight step; "val": on a second validation batch of the step.
        omega_rule: "softmax": ω = softmax(ℓ); "linear": ω = ℓ/Σℓ.
        projected: true projects the last centre onto the simplex's rows.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    radius: Ramp = field(default_factory=lambda: Ramp(0.025, 0.25))
    bandwidth: float = 1.0
    samples: int = 3
    rounds: int = 2
    region: Region = "box"
    joint: bool = False
    omega_data: Literal["train", "val"] = "train"
    omega_rule: Literal["softmax", "linear"] = "softmax"
    projected: bool = False

    def __post_init__(self) -> None:
        require(self.bandwidth >= 1e-30, "a bandwidth of at least 1e-30", self.bandwidth)
        _perturb.require_counts(self.samples, self.rounds, self.region)
        require(self.omega_data in {"train", "val"}, "omega_data train or val", self.omega_data)
        require(self.omega_rule in OMEGA_RULES, f"omega_rule out of {sorted(OMEGA_RULES)}", self.omega_rule)


PAPER = Settings(region="joint_ball", joint=True, omega_data="val", omega_rule="linear", projected=True)
"""The paper's text as we read it: one vector, a radius, validation losses, weights in proportion to them."""


def policy(settings: Settings) -> DataPolicy:
    """Ask for one more validation batch where ω is measured on validation data."""
    return DataPolicy(val_batches=2 if settings.omega_data == "val" else 1)


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    gauge = _perturb.Gauge()

    def shifted(searcher: Bilevel, clean: Mixture, batches: StepBatches) -> Mixture:
        batch = batches.val[1] if settings.omega_data == "val" else batches.train[0]
        return shift(searcher, clean, batch, settings, gauge)

    recipe = Recipe(
        weight_choices=_perturb.weight_choices(shifted),
        end_epoch=gauge.end_epoch,
        diagnostics=gauge.read,
        memory=gauge,
        policy=policy(settings),
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


def shift(
    searcher: Bilevel, clean: Mixture, batch: Batch, settings: Settings, gauge: _perturb.Gauge | None = None
) -> Mixture:
    """Return the centre after all rounds; the gauge sees the kernels."""

    def log_weights(centre: Mixture, samples: Sequence[Mixture]) -> dict[str, Float[Tensor, "samples replicas"]]:
        feasible = [_perturb.project(sample) for sample in samples]
        losses = torch.stack([_perturb.probe(searcher, sample, batch) for sample in feasible])
        kernel = _perturb.log_kernel(centre, feasible, settings.bandwidth, settings.joint)
        if gauge is not None:
            gauge.add(kernel)
        return {name: OMEGA_RULES[settings.omega_rule](losses) + value for name, value in kernel.items()}

    sampling = _perturb.Sampling(settings.radius, settings.region, settings.samples, settings.rounds)
    sample = _perturb.sampler(searcher, clean, sampling)
    centre = _perturb.mean_shift(clean, settings.rounds, sample, log_weights)
    return _perturb.project(centre) if settings.projected else centre


METHOD = Method(
    "ms_darts",
    Settings,
    build,
    "Hsieh et al. (2021), MS-DARTS, as their code",
    passes_per_step=4.2,
    policy=policy,
    published=Published(100, "the paper on NAS-Bench-1Shot1; its code has 80"),
    steady=True,
)
