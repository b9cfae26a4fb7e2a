"""iDARTS: Neumann series, exact hypergradients, and its limits in DARTS of both orders."""

from dataclasses import replace

import labs
import pytest
import torch
from test_darts_2nd import WEIGHTS, SmoothLab, cross_entropy, flat
from torch import Tensor

from searchers import idarts
from searchers._bilevel import Bilevel, Recipe, weights_first
from searchers._hypergradient import neumann, unrolled, weight_hessian
from searchers._optim import ArchSettings
from searchers.base import Batch, StepBatches

SETTINGS = idarts.Settings(replace(WEIGHTS, lr=0.1), ArchSettings(lr=0.05), inner=1)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=labs.rng(seed), dtype=torch.float64)


def smooth(lab: SmoothLab, settings: idarts.Settings) -> Bilevel:
    """A searcher whose logits are far from equal and whose momentum is not zero."""
    searcher = idarts.build(settings, lab)
    searcher.begin_epoch(1)
    for name, value in searcher._logits.items():
        value.copy_(torch.stack([draw(*value.shape[1:], seed=50 + seed + len(name)) for seed in lab.seeds]))
    for seed in range(3):
        searcher.step(lab.batches(seed))
    return searcher


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_a_rate_of_zero_is_first_order_with_the_weights_first_to_the_bit(space: str) -> None:
    found = []
    settings = idarts.Settings(inner=1, eta=0.0)
    for own in (False, True):
        lab = labs.make(space)
        plain = Bilevel(Recipe(order=weights_first), settings.weights, settings.arch, lab)
        searcher = idarts.build(settings, lab) if own else plain
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


def test_the_series_tends_to_the_inverse_on_a_quadratic() -> None:
    """L_train = ½(w − Bα)ᵀH(w − Bα), L_val = ½‖w − t‖²: the hypergradient at w = Bα is Bᵀ(w − t)."""
    root = draw(6, 6, seed=1)
    hessian = root @ root.T / 6 + 0.3 * torch.eye(6, dtype=torch.float64)
    matrix, target, alpha = draw(6, 3, seed=2), draw(6, seed=3), draw(3, seed=4)
    by_w = matrix @ alpha - target
    eta = 1.0 / float(torch.linalg.eigvalsh(hessian)[-1])
    errors = []
    for terms in (0, 2, 8, 60, 400):
        toward = neumann(lambda v: v @ hessian, by_w[None], eta, terms)[0]
        found = eta * (hessian @ matrix).T @ toward  # −η·∂²L_train/∂α∂w·v, and ∂L_val/∂α = 0
        wanted = matrix.T @ by_w
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.2
    assert errors[-1] < 1e-10


def test_products_are_those_with_the_hessian_of_the_weights() -> None:
    lab = SmoothLab((1, 2))
    searcher, batch = smooth(lab, SETTINGS), lab.batches(8).train[0]
    vector = draw(2, searcher.fixed().shape[1], seed=5)
    found = weight_hessian(searcher, batch)(vector)
    alpha, here = searcher.logits(), searcher.fixed()
    sides = []
    for sign in (1e-5, -1e-5):
        moved = searcher.weights.layout.split(here + sign * vector)
        weights = {name: value.detach().requires_grad_() for name, value in moved.items()}
        total = cross_entropy(searcher, weights, alpha, batch).sum()
        gradients = torch.autograd.grad(total, list(weights.values()))
        sides.append(searcher.weights.layout.flatten(dict(zip(weights, gradients, strict=True))))
    torch.testing.assert_close(found, (sides[0] - sides[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_products_through_the_supernets(space: str) -> None:
    """Symmetric, and a replica's depends on nobody else; ReLU and max-pool have no curvature of their own."""
    lab = labs.make(space)
    searcher, batch = idarts.build(SETTINGS, lab), labs.fake_batch(2)
    product = weight_hessian(searcher, batch)
    one, other = (draw(2, searcher.weights.momentum.shape[1], seed=seed) for seed in (6, 7))
    torch.testing.assert_close((product(one) * other).sum(1), (one * product(other)).sum(1), rtol=1e-8, atol=1e-9)
    alone = product(torch.stack([one[0], torch.zeros_like(one[1])]))
    assert (alone[1] == 0).all()
    torch.testing.assert_close(alone[0], product(one)[0], rtol=1e-10, atol=1e-12)


def test_without_terms_it_is_second_order_darts_without_momentum() -> None:
    """With the validation loss at w − ξ·∂L_train/∂w, where second-order DARTS takes it."""
    lab = SmoothLab((1, 2, 3))
    searcher = smooth(lab, replace(SETTINGS, terms=0, weights=replace(WEIGHTS, weight_decay=0.0), radius=0.01))
    searcher.weights.momentum.zero_()
    batches = lab.batches(9)
    weights = {name: value.requires_grad_() for name, value in searcher.frozen().items()}
    total = cross_entropy(searcher, weights, searcher.logits(), batches.train[0]).sum()
    gradients = torch.autograd.grad(total, list(weights.values()))
    moved = {n: (w - 0.2 * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}
    ahead = searcher.weights.layout.flatten(moved)
    settings = replace(SETTINGS, terms=0, radius=0.01)
    found = idarts.hypergradient(searcher, batches.train[0], batches.val[0], 0.2, settings, ahead)
    wanted = unrolled(searcher, batches, 0.2, 0.01)
    torch.testing.assert_close(flat(found.gradient), flat(wanted.gradient), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.loss, wanted.loss)
    first = idarts.hypergradient(searcher, batches.train[0], batches.val[0], 0.0, settings)
    assert (flat(first.gradient) - flat(found.gradient)).abs().max() > 1e-3


def by_hand(searcher: Bilevel, weights: dict[str, Tensor], batches: StepBatches, eta: float) -> tuple[Tensor, Tensor]:
    """The gradient with two terms of one replica: dense Hessian and exact mixed derivative, and the validation loss."""
    layout, alpha = searcher.weights.layout, {n: v.clone().requires_grad_() for n, v in searcher.logits().items()}
    point = layout.flatten(weights).detach()[0]

    def train_loss(values: Tensor) -> Tensor:
        return cross_entropy(searcher, layout.split(values[None]), searcher.logits(), batches.train[-1])[0]

    hessian = torch.autograd.functional.hessian(train_loss, point)
    leaf = point.clone().requires_grad_()
    val = cross_entropy(searcher, layout.split(leaf[None]), alpha, batches.val[0])[0]
    *direct, v = torch.autograd.grad(val, [*alpha.values(), leaf])
    step = torch.eye(len(point), dtype=torch.float64) - eta * hessian
    toward = v + step @ v + step @ step @ v
    train = cross_entropy(searcher, layout.split(leaf[None]), alpha, batches.train[-1])[0]
    (by_w,) = torch.autograd.grad(train, leaf, create_graph=True)
    mixed = torch.autograd.grad(by_w @ toward, list(alpha.values()))
    return torch.cat([(d - eta * m).flatten() for d, m in zip(direct, mixed, strict=True)]), val


def test_a_step_is_the_equations() -> None:
    """Two inner steps, then the gradient with a dense Hessian, then Adam."""
    lab = SmoothLab((5,))
    arch = ArchSettings(lr=0.05, eps=1.0)  # so large that Adam's first step is not a sign
    searcher = idarts.build(replace(SETTINGS, arch=arch, inner=2, radius=1e-4), lab)
    searcher.begin_epoch(0)
    for name, value in searcher._logits.items():
        value.copy_(draw(*value.shape, seed=60 + len(name)))
    train = [labs.fake_batch(1, seed=seed, shape=(3, 2, 2)) for seed in (1, 2)]
    batches = StepBatches(tuple(train), (labs.fake_batch(1, seed=3, shape=(3, 2, 2)),))
    weights = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    buffers = {name: torch.zeros_like(value) for name, value in weights.items()}
    train_losses = []
    for batch in train:
        leaves = {name: value.requires_grad_() for name, value in weights.items()}
        loss = cross_entropy(searcher, leaves, searcher.logits(), batch).sum()
        train_losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        scale = min(1.0, 0.2 / (float(torch.cat([g.flatten() for g in gradients]).norm()) + 1e-6))
        for (name, value), gradient in zip(leaves.items(), gradients, strict=True):
            buffers[name] = 0.9 * buffers[name] + scale * gradient + 0.02 * value.detach()
            weights[name] = value.detach() - 0.1 * buffers[name]
    wanted, val = by_hand(searcher, weights, batches, 0.1)
    before = flat(searcher.logits())
    gradient = wanted + 1e-3 * before[0]
    losses = searcher.step(batches)
    labs.close(labs.leaves(dict(searcher.parameters)), labs.leaves(weights), 1e-10)
    assert losses.train.item() == pytest.approx(sum(train_losses) / 2, rel=1e-10)
    assert losses.val is not None
    assert losses.val.item() == pytest.approx(val.item(), rel=1e-9)
    moved = before[0] - 0.05 * gradient / (gradient.abs() + 1.0)  # Adam's first step
    torch.testing.assert_close(flat(searcher.logits())[0], moved, rtol=1e-7, atol=1e-9)
    found = idarts.hypergradient(searcher, train[-1], batches.val[0], 0.1, replace(SETTINGS, radius=1e-4))
    exact, _ = by_hand(searcher, weights, batches, 0.1)
    torch.testing.assert_close(flat(found.gradient)[0], exact, rtol=1e-6, atol=1e-7)


def test_the_gradient_leaves_weights_and_momentum_to_the_bit() -> None:
    lab = SmoothLab((1, 2))
    searcher = smooth(lab, SETTINGS)
    before = labs.leaves(searcher.state_dict())
    batches = lab.batches(3)
    idarts.hypergradient(searcher, batches.train[0], batches.val[0], 0.1, SETTINGS)
    labs.same(labs.leaves(searcher.state_dict()), before)
    assert all(value.grad is None for value in searcher.parameters.values())


def test_a_replica_without_gradient_gets_zeros_and_leaves_others_alone() -> None:
    lab = SmoothLab((1, 2), (1.0, 0.0))
    searcher, batches = idarts.build(SETTINGS, lab), lab.batches(0)
    found = flat(idarts.hypergradient(searcher, batches.train[0], batches.val[0], 0.1, SETTINGS).gradient)
    assert (found[1] == 0).all()
    alone = SmoothLab((1,), (1.0,))
    own = idarts.build(SETTINGS, alone)
    parts = [Batch(b.images[:1], b.labels[:1]) for b in (batches.train[0], batches.val[0])]
    torch.testing.assert_close(flat(idarts.hypergradient(own, *parts, 0.1, SETTINGS).gradient)[0], found[0])


def test_at_least_one_inner_step() -> None:
    with pytest.raises(ValueError, match="expected at least 1 inner step and 0 terms, got 0 and 2"):
        idarts.Settings(inner=0)
