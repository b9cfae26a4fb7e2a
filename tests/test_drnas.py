"""DrNAS: its samples and their derivatives, its divergence, and a step against its equations."""

from dataclasses import replace

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import drnas
from searchers._optim import ArchSettings
from searchers.base import Choices

SETTINGS = drnas.Settings(arch=ArchSettings(lr=0.05))


def rows(values: list[float], count: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).expand(1, count, len(values)).clone()


def test_logits_of_zero_are_the_uniform_distribution_over_the_simplex() -> None:
    logits = {"op": torch.zeros(2, 6, 5, dtype=torch.float64)}
    assert (drnas.concentration(logits["op"]) == 1).all()
    assert (drnas.mean(logits).weights["op"] == 0.2).all()
    drawn = drnas.sample({"op": rows([0.0] * 5, 20_000)}, (labs.rng(0),)).weights["op"][0, 0]
    assert (drawn.sum(-1) - 1).abs().max() < 1e-14
    assert (drawn.mean(0) - 0.2).abs().max() < 5e-3
    assert (drawn.var(0) - 0.2 * 0.8 / 6).abs().max() < 2e-3  # flat on the simplex of five


def test_samples_have_the_mean_and_spread_of_their_concentration() -> None:
    values = [1.5, 0.2, -1.0]
    c = torch.tensor([2.5, 1.2, 2.718281828459045**-1])
    drawn = drnas.sample({"op": rows(values, 40_000)}, (labs.rng(1),)).weights["op"][0, 0]
    share = c / c.sum()
    assert (drawn.mean(0) - share).abs().max() < 5e-3
    assert (drawn.var(0) - share * (1 - share) / (1 + c.sum())).abs().max() < 2e-3
    torch.testing.assert_close(drnas.mean({"op": rows(values, 1)}).weights["op"][0, 0, 0].float(), share)


def test_the_derivative_of_a_sample_is_that_of_the_expectation() -> None:
    """E[a·P + b·P²] has a closed form, and the mean over samples of its derivative must be the derivative of it."""
    values, count = [0.8, -0.4, 0.1], 60_000
    a, b = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, -2.0, 0.5], [0.3, 1.0, -1.5]))
    leaf = rows(values, count).requires_grad_()
    drawn = drnas.sample({"op": leaf}, (labs.rng(2),)).weights["op"][0]
    (found,) = torch.autograd.grad((drawn * a + drawn.square() * b).sum() / count, leaf)
    alpha = torch.tensor(values, dtype=torch.float64).requires_grad_()
    c = torch.where(alpha > 0, alpha + 1, alpha.exp())
    total = c.sum()
    moments = a * c / total + b * c * (c + 1) / (total * (total + 1))
    (wanted,) = torch.autograd.grad(moments.sum(), alpha)
    assert (found.sum((0, 1)) - wanted).abs().max() < 0.01
    assert wanted.abs().min() > 0.02


def test_tiny_concentrations_stay_finite() -> None:
    leaf = rows([-8.0, -9.0, -7.0], 200).requires_grad_()
    drawn = drnas.sample({"op": leaf}, (labs.rng(2),)).weights["op"]
    (found,) = torch.autograd.grad((drawn * torch.tensor([1.0, 2.0, 3.0])).sum(), leaf)
    assert drawn.isfinite().all()
    assert found.isfinite().all()


@pytest.mark.parametrize("options", [2, 5])
def test_the_divergence_is_torchs(options: int) -> None:
    c = torch.rand(2, 3, options, generator=labs.rng(4), dtype=torch.float64) * 3 + 0.1
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Dirichlet(c), torch.distributions.Dirichlet(torch.ones_like(c))
    )
    torch.testing.assert_close(drnas.divergence(c), wanted)
    assert drnas.divergence(torch.ones(1, 1, 4)).abs().max() < 1e-6


def gammas(alpha: Tensor, stream: torch.Generator) -> Tensor:
    drawn = torch._standard_gamma(functional.elu(alpha[0]) + 1, stream)
    return (drawn / drawn.sum(-1, keepdim=True))[None, None]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_a_step_is_the_equations(kl: float) -> None:
    """The second step of one replica, with torch's own optimisers."""
    lab = labs.make("s1", (4,))
    searcher = drnas.build(replace(SETTINGS, kl=kl), lab)
    searcher.begin_epoch(0)
    network = lab.build(searcher.recipe.options)
    alpha = {name: value.clone().requires_grad_() for name, value in searcher.logits().items()}
    adam = torch.optim.Adam(alpha.values(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    weights = dict(network.named_parameters())
    sgd = torch.optim.SGD(weights.values(), lr=0.025, momentum=0.9, weight_decay=3e-4)
    for step, batches in enumerate(labs.steps(lab, searcher.policy, 2)):
        (stream,) = lab.stream("dirichlet/val", step)
        mixing = Choices({name: gammas(value, stream) for name, value in alpha.items()})
        value = functional.cross_entropy(network(batches.val[0].images, mixing)[0], batches.val[0].labels[0])
        total = value
        for logits in alpha.values():
            dirichlet = torch.distributions.Dirichlet(functional.elu(logits[0]) + 1)
            flat = torch.distributions.Dirichlet(torch.ones_like(logits[0]))
            total = total + kl * torch.distributions.kl_divergence(dirichlet, flat).mean()
        for leaf, gradient in zip(alpha.values(), torch.autograd.grad(total, list(alpha.values())), strict=True):
            leaf.grad = gradient
        adam.step()
        (stream,) = lab.stream("dirichlet/train", step)
        mixing = Choices({name: gammas(value.detach(), stream) for name, value in alpha.items()})
        train = functional.cross_entropy(network(batches.train[0].images, mixing)[0], batches.train[0].labels[0])
        for weight, gradient in zip(weights.values(), torch.autograd.grad(train, list(weights.values())), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights.values(), 5.0)
        sgd.step()
        losses = searcher.step(batches)
        assert losses.train.item() == pytest.approx(train.item(), rel=1e-9)
        assert losses.val is not None
        assert losses.val.item() == pytest.approx(value.item(), rel=1e-9)
    labs.close(labs.leaves(searcher.logits()), labs.leaves(alpha), 1e-9)
    labs.close(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(weights), 1e-9)


def test_a_replica_draws_the_same_whatever_it_is_stacked_with() -> None:
    values = torch.randn(3, 4, 3, generator=labs.rng(5), dtype=torch.float64)
    stacked = drnas.sample({"op": values}, tuple(labs.rng(seed) for seed in (7, 8, 9))).weights["op"]
    alone = drnas.sample({"op": values[1:2]}, (labs.rng(8),)).weights["op"]
    assert torch.equal(stacked[:, 1:2], alone)
    assert not torch.equal(stacked[:, 0], stacked[:, 1])
