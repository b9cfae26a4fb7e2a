"""DrNAS: mixing weights are drawn from a Dirichlet distribution whose concentration is learnt.

Source: Chen, Wang, Cheng, Tang, Hsieh (2021), DrNAS: Dirichlet Neural Architecture Search,
https://arxiv.org/abs/2006.10355, equations 2-6.

One step, with concentration c = ELU(α) + 1 of every row and P ~ Dirichlet(c), drawn once for all cells of a pass:
  1. α: g = ∂L_val(w, P)/∂α on a validation batch, through the sample (implicit differentiation of its gammas); Adam.
     Its weight decay pulls c towards 1; other arm: kl=1e-3, arch.weight_decay=0, KL(Dirichlet(c) ‖ Dirichlet(1)).
  2. w: ∂L_train(w, P')/∂w on a training batch with a fresh sample P'; clip to norm 5; SGD.
Discretise: the highest logits of each row, which have the highest mean.

λ is defined on the mean c/Σc, which is deterministic, not on the loss of a sample. Samples are drawn on the CPU in
float64, so the concentrations are read from the device. Sure: distribution, both arms, that NAS-Bench-201's figures
come from the search without stages. Our reading: one sample for all cells, the mean of the divergence over the rows of
a table, tables added. Not done: the stages with partial channels and pruned options, which serve DARTS' own space.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from searchers._bilevel import ArchGradient, Bilevel, Moment, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Choices, Logits, Resources, StepBatches
from searchers.entry import Method, Published

Rows = Float[Tensor, "replicas decisions options"]


@dataclass(frozen=True)
class Settings:
    """The settings of NAS-Bench-201's search without stages.

    Attributes:
        kl: weight of the divergence from the uniform Dirichlet distribution.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    kl: float = 0.0


def concentration(logits: Rows) -> Rows:
    """Return ELU(α) + 1."""
    return functional.elu(logits) + 1


def mean(logits: Logits) -> Choices:
    """Mix with the mean of the Dirichlet distribution, c/Σc."""
    rows = {name: concentration(values) for name, values in logits.items()}
    return Choices({name: (c / c.sum(-1, keepdim=True))[None] for name, c in rows.items()})


def sample(logits: Logits, streams: tuple[torch.Generator, ...]) -> Choices:
    """Mix with a sample of each replica's own stream, differentiable by the logits."""
    weights = {}
    for name, values in logits.items():
        host = concentration(values.to("cpu", torch.float64))
        gammas = torch.stack([torch._standard_gamma(row, stream) for row, stream in zip(host, streams, strict=True)])
        weights[name] = (gammas / gammas.sum(-1, keepdim=True)).to(values)[None]
    return Choices(weights)


def divergence(c: Rows) -> Float[Tensor, "replicas decisions"]:
    """Return KL(Dirichlet(c) ‖ Dirichlet(1)) of every row in nats."""
    total = c.sum(-1)
    mass = torch.lgamma(total) - torch.lgamma(c).sum(-1) - torch.lgamma(torch.ones_like(c).sum(-1))
    return mass + ((c - 1) * (torch.digamma(c) - torch.digamma(total)[..., None])).sum(-1)


def arch_gradient(searcher: Bilevel, batches: StepBatches) -> ArchGradient:
    """Return the gradient of the validation loss of a sample."""
    leaves = searcher.leaves()
    choices = sample(leaves, searcher.resources.stream("dirichlet/val", searcher.steps))
    losses = searcher.loss_by_logits(batches.val[0], choices)
    gradient = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return ArchGradient(dict(zip(leaves, gradient, strict=True)), losses.detach())


def weight_choices(searcher: Bilevel, logits: Logits, _batches: StepBatches) -> Choices:
    """Return a fresh sample."""
    return sample(logits, searcher.resources.stream("dirichlet/train", searcher.steps))


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""

    def kl(logits: Logits, _moment: Moment) -> Float[Tensor, " replicas"]:
        return settings.kl * torch.stack([divergence(concentration(v)).mean(-1) for v in logits.values()]).sum(0)

    recipe = Recipe(
        relax=mean,
        weight_choices=weight_choices,
        arch_gradient=arch_gradient,
        penalties=(kl,) if settings.kl else (),
        shift_invariant=(),
        hessian_of="validation cross-entropy at the mean of the Dirichlet distribution",
    )
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "drnas",
    Settings,
    build,
    "Chen et al. (2021), DrNAS",
    passes_per_step=2.0,
    published=Published(100, "the authors' code on NAS-Bench-201, without stages"),
)
