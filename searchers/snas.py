"""SNAS: every step mixes with a relaxed sample of the architecture, which sharpens until it is one.

Source: Xie, Zheng, Liu, Lin (2019), SNAS: Stochastic Neural Architecture Search, https://arxiv.org/abs/1812.09926,
sections 2.2 (relaxation and gradient) and 2.4 (resource constraint).

A sample: G = −log(−log U), Z = softmax((α + G)/τ); τ falls linearly over the epochs, from 1 to .03.
One step, on one batch of all images:
  1. L = cross-entropy of the batch with mixing weights Z, mixed operations dropped with p = .3·e/(E − 1) in epoch e.
  2. α: Adam on ∂L/∂α + η·∂C(Z)/∂α, with C(Z) = Σ cost·Z of the same sample. w: clip ∂L/∂w; SGD. Both gradients are
     taken before either update.
Discretise: the highest logits of each row, without noise.
λ is the curvature of the loss through softmax(α), without noise or τ: SNAS' own loss is a random one.

Sure: relaxation, temperatures, one level, logits that start at N(1, .01²), drop-path .3; the paper searches 150 epochs.
Our reading: one sample for all cells; drop-path rises as that of R-DARTS; the rates are DARTS'. A row that keeps k > 1
options has the relaxed k-hot sample of Xie and Ermon (2019), which adds up to k, so that at low temperatures every
sample is a discrete cell. The cost of an option is its share of all weights that belong to options; η = 0, so it is
off, as its size is not comparable between spaces.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._descent import Moment
from searchers._drop_path import drop_path
from searchers._gumbel import gumbel, relaxed
from searchers._hosted import Streams, hosted
from searchers._optim import ArchSettings, WeightSettings
from searchers._single import ALL, SEEN, Single, SingleRecipe
from searchers.base import Choices, ForwardInputs, Logits, Native, Resources, StepBatches, Supernet
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """The paper's settings, with the optimisers of DARTS.

    Attributes:
        tau: temperature of the first epoch.
        tau_min: temperature of the last epoch.
        mean: of the logits at the start.
        spread: standard deviation of the logits at the start.
        drop: probability in the last epoch with which a mixed operation is dropped for an image.
        resource: η, of the share of the weights that the sample uses.
        per_cell: true samples for every cell of the network; false: one sample for all.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    tau: float = 1.0
    tau_min: float = 0.03
    mean: float = 1.0
    spread: float = 0.01
    drop: float = 0.3
    resource: float = 0.0
    per_cell: bool = False


def build(settings: Settings, resources: Resources) -> Single:
    """Return the searcher."""
    _check(settings)
    last = max(resources.horizon.epochs - 1, 1)

    def drawn(logits: Logits, streams: Streams) -> dict[str, Tensor]:
        cells = searcher.supernet.cells if settings.per_cell else 1
        tau = settings.tau + (settings.tau_min - settings.tau) * searcher.epoch / last
        like = searcher.logits()
        noise = hosted(lambda: list(gumbel(like, streams(), cells).values()), resources.device)
        return relaxed(searcher.supernet.groups, logits, dict(zip(like, noise, strict=True)), tau)

    def sampled(logits: Logits) -> dict[str, Tensor]:
        """Return the sample of a step: the same whenever it is asked for."""
        return drawn(logits, searcher.streams("gumbel"))

    def inputs(searcher: Single, batches: StepBatches) -> ForwardInputs:
        p = settings.drop * searcher.epoch / last
        return drop_path(searcher.supernet, searcher.streams("drop_path"), p, batches.train[0].images)

    def cost(leaves: Logits, _moment: Moment) -> Float[Tensor, " replicas"]:
        return settings.resource * resource(sampled(leaves), shares)

    recipe = SingleRecipe(
        choices=lambda _searcher, leaves: Choices(sampled(leaves)),
        inputs=inputs,
        penalties=(cost,) if settings.resource else (),
        init=_relax.normal_about(settings.mean, settings.spread),
        hessian_of=f"{SEEN}, through the softmax of the logits, without the noise it is trained with",
        native=Native(
            f"{SEEN}, of relaxed samples at the epoch's temperature, without drop-path",
            lambda logits, number: (
                Choices(drawn(logits, lambda: resources.stream("gumbel/native", number))),
                ForwardInputs(),
            ),
        ),
    )
    searcher = Single(recipe, settings.weights, settings.arch, resources)
    shares = weight_shares(searcher.supernet)
    return searcher


def _check(settings: Settings) -> None:
    if not 0 < settings.tau_min <= settings.tau:
        raise ValueError(f"expected 0 < tau_min <= tau, got {settings.tau_min} and {settings.tau}")
    if not 0 <= settings.drop < 1:
        raise ValueError(f"expected a drop probability in [0, 1), got {settings.drop}")


def weight_shares(network: Supernet) -> dict[str, Float[Tensor, "cells 1 decisions options"]]:
    """Return the share of every option in the weights that belong to options; what any option needs is left out."""
    found = {group.name: np.zeros((network.cells, *group.shape)) for group in network.groups}
    for name, parameter in network.named_parameters():
        address = network.address(name)
        if address is not None and address.option is not None:
            found[address.group][address.cell, np.atleast_1d(address.decision), address.option] += parameter[0].numel()
    total = sum(table.sum() for table in found.values())
    like = next(network.named_parameters())[1]
    return {name: torch.as_tensor(v / total, device=like.device).to(like.dtype)[:, None] for name, v in found.items()}


def resource(sample: dict[str, Tensor], shares: dict[str, Tensor]) -> Float[Tensor, " replicas"]:
    """Return the share of the weights that the sample uses, summed over the cells."""
    used = [(value * shares[name]).sum((0, 2, 3)) for name, value in sample.items()]
    return torch.stack(used).sum(0)


METHOD = Method(
    "snas",
    Settings,
    build,
    "Xie et al. (2019), SNAS",
    passes_per_step=1.2,
    policy=lambda _settings: ALL,
    published=Published(150, "the paper, DARTS' space"),
    steady=True,
)
