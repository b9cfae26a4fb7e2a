"""Scores of an untrained network under some choices, each from one batch: higher is better.

Sources: Mellor, Turner, Storkey, Crowley (2021), Neural Architecture Search without Training,
https://arxiv.org/abs/2006.04647 (naswot; jacob_cov is its first version); Abdelfattah, Mehrotra, Dudziak, Lane (2021),
Zero-Cost Proxies for Lightweight NAS, https://arxiv.org/abs/2101.08134, section 3 (the others). With w the kernels and
matrices, g = ∂L/∂w of the mean cross-entropy, a a convolution's output:

    naswot     log|det K|, K = Σ x·xᵀ + (1−x)·(1−x)ᵀ over the binary codes x of the inputs of all ReLUs
    jacob_cov  −Σ [log(v+k) + 1/(v+k)], k = 1e-5, v the eigenvalues of the correlations of ∂Σlogits/∂image
    grad_norm  Σ ‖g‖, a norm a tensor        snip     Σ |g·w|        grasp  −Σ w·(H·g), H the Hessian of L by w
    fisher     ½ Σ mean (Σ a·∂L/∂a)²: the inner sum over pixels, the mean over images, the outer sum over channels
    synflow    Σ w·∂R/∂w, R the sum of the logits with |w| for w, one image of ones, no normalisation, float64

Every replica's score is its own. What is left out is not computed: it has no gradient and no codes, so only weights of
options in use count. Batch statistics are used throughout. Our reading: which tensors count (kernels and matrices: no
biases, no normalisation); an image whose gradient is constant has no correlation, not even with itself. The networks of
NAS-Bench-1Shot1 end in normalise, average, linear: with batch statistics the sum of the logits over a batch is the same
whatever the images, jacob_cov does not exist there, and it says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _relax
from searchers._optim import Layout, weights_of
from searchers.base import Batch, Choices, ForwardInputs, Observation, Supernet, SupernetOptions

K = 1e-5

Name = Literal["naswot", "jacob_cov", "grad_norm", "snip", "grasp", "fisher", "synflow"]
Score = Float[Tensor, " replicas"]


@dataclass(frozen=True)
class Proxy:
    """A score and what it needs.

    Attributes:
        score: in float64.
        options: what its network must be built with.
        reads_data: false where only the shape of the images counts, so that one batch is as good as many.
    """

    score: Callable[[Supernet, Choices, Batch], Score]
    options: SupernetOptions = SupernetOptions()
    reads_data: bool = True


def naswot(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return the log-determinant of how often the ReLUs see two images alike; −∞ where two images are never told apart.

    The entries are whole numbers and exact, so only the determinant is rounded.
    """
    replicas, n = batch.labels.shape
    alike = torch.zeros(replicas, n, n, dtype=torch.float64, device=batch.images.device)

    def see(seen: Observation) -> None:
        if seen.kind == "relu":
            _add(alike, seen, _agreement(seen.maps))

    with torch.no_grad():
        network(batch.images, choices, ForwardInputs(observe=see))
    return torch.linalg.slogdet(alike).logabsdet


def _agreement(maps: Float[Tensor, "rows n c h w"]) -> Float[Tensor, "rows n n"]:
    """Return the number of equal signs of every two images: x·xᵀ + (1−x)·(1−x)ᵀ in one product."""
    codes = (maps > 0).flatten(2)
    ones = codes.sum(2, dtype=torch.float64)
    counting = torch.promote_types(maps.dtype, torch.float32)
    both = (codes.to(counting) @ codes.mT.to(counting)).double()
    return 2 * both - ones[:, :, None] - ones[:, None] + codes.shape[2]


def _add(total: Tensor, seen: Observation, values: Tensor) -> None:
    if seen.rows is None:
        total += values
    else:
        total.index_add_(0, seen.rows, values)


def jacob_cov(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return how little the gradients of different images are correlated.

    Raises:
        ValueError: batch statistics cancel the sum of the logits, so that its gradient is rounding and nothing else.
    """
    images = batch.images.detach().requires_grad_()
    logits = network(images, choices)
    rows, others = (_by_image(value, images) for value in (logits.sum(), logits[:, ::2].sum()))
    if (rows.norm(dim=(1, 2)) < torch.finfo(images.dtype).eps ** 0.5 * others.norm(dim=(1, 2))).any():
        raise ValueError(
            "expected a network whose summed logits depend on its images for the proxy jacob_cov, got one that "
            "normalises its last maps and only averages them: choose another proxy"
        )
    centred = rows - rows.mean(2, keepdim=True)
    unit = torch.nn.functional.normalize(centred, dim=2, eps=torch.finfo(torch.float64).tiny)
    spectrum = torch.linalg.eigvalsh(unit @ unit.mT)
    return -((spectrum + K).log() + 1 / (spectrum + K)).sum(1)


def _by_image(value: Tensor, images: Tensor) -> Float[Tensor, "replicas n pixels"]:
    found = torch.autograd.grad(value, [images], retain_graph=True, allow_unused=True)[0]
    return (torch.zeros_like(images) if found is None else found).flatten(2).double()


def grad_norm(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return the sum of the norms of every tensor's gradient."""
    losses = _relax.loss(network, batch, choices)
    found = _derivatives(losses, _counted(network))
    return _total([g.double().flatten(1).norm(dim=1) for _, g in found], losses)


def snip(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return how much the loss changes to first order where weights are removed, without signs."""
    losses = _relax.loss(network, batch, choices)
    found = _derivatives(losses, _counted(network))
    return _total([(w.detach() * g).double().abs().flatten(1).sum(1) for w, g in found], losses)


def grasp(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return how much the gradient's norm changes to first order where weights are removed."""
    losses = _relax.loss(network, batch, choices, inputs=ForwardInputs(twice=True))
    first = _derivatives(losses, _counted(network), again=True)
    slope = sum((g.detach() * g).sum() for _, g in first)
    second = _derivatives(slope, [w for w, _ in first]) if isinstance(slope, Tensor) else []
    return _total([-(w.detach() * h).double().flatten(1).sum(1) for w, h in second], losses)


def fisher(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return the Fisher information of the convolutions' channels."""
    seen: list[Observation] = []
    inputs = ForwardInputs(observe=lambda each: seen.append(each) if each.kind == "convolution" else None)
    losses = _relax.loss(network, batch, choices, inputs=inputs)
    found = torch.autograd.grad(losses.sum(), [each.maps for each in seen], allow_unused=True)
    total = torch.zeros_like(losses, dtype=torch.float64)
    for each, gradient in zip(seen, found, strict=True):
        if gradient is not None:
            channels = (each.maps.detach() * gradient).double().sum((3, 4))
            _add(total, each, channels.square().mean(1).sum(1) / 2)
    return total


def synflow(network: Supernet, choices: Choices, batch: Batch) -> Score:
    """Return the strength of all paths through the network, whatever the data."""
    weights = weights_of(network).double().abs().requires_grad_()
    mixed = Choices({name: value.double() for name, value in choices.weights.items()}, choices.active)
    image = torch.ones_like(batch.images[:, :1], dtype=torch.float64)
    strength = network(image, mixed, ForwardInputs(weights=weights)).sum((1, 2))
    ((_, gradient),) = _derivatives(strength, [weights])
    by_name = Layout(dict(network.named_parameters())).split(weights.detach() * gradient)
    return _total([value.flatten(1).sum(1) for value in by_name.values() if _counts(value)], strength)


def _counts(value: Tensor) -> bool:
    """Tell kernels and matrices from biases and normalisation, which are vectors a replica."""
    return value.dim() > 2


def _counted(network: Supernet) -> list[Tensor]:
    return [value for _, value in network.named_parameters() if _counts(value)]


def _derivatives(of: Tensor, weights: list[Tensor], again: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Return weights with their gradients, without those that nothing depends on."""
    found = torch.autograd.grad(of.sum(), weights, create_graph=again, allow_unused=True)
    return [(w, g) for w, g in zip(weights, found, strict=True) if g is not None]


def _total(parts: list[Tensor], like: Tensor) -> Score:
    return sum(parts, start=torch.zeros_like(like.detach(), dtype=torch.float64))


PROXIES: dict[Name, Proxy] = {
    "naswot": Proxy(naswot),
    "jacob_cov": Proxy(jacob_cov),
    "grad_norm": Proxy(grad_norm),
    "snip": Proxy(snip),
    "grasp": Proxy(grasp),
    "fisher": Proxy(fisher),
    "synflow": Proxy(synflow, SupernetOptions(normalise=False), reads_data=False),
}


def scorer(proxy: Proxy, network: Supernet, batch: Batch) -> Callable[[Choices], Score]:
    """Return the score of choices on one batch: what a selection by removal asks for."""
    return lambda choices: proxy.score(network, choices, batch)
