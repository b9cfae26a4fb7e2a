"""GAEA: exponentiated gradient against its equation, and a step of both levels' methods."""

from dataclasses import replace

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import gaea_bilevel, gaea_erm
from searchers._exclude import select_without
from searchers._simplex import ExponentiatedGradient, Simplex, SimplexSettings
from searchers.base import Choices, StepBatches

BOTH = pytest.mark.parametrize("module", [gaea_bilevel, gaea_erm])


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=labs.rng(seed), dtype=torch.float64)


@pytest.mark.parametrize("left_out", [{}, {"op": 0}])
def test_it_is_descent_on_the_logits_with_gradients_by_theta(left_out: dict[str, int]) -> None:
    """Ten steps of θ ← θ·exp(−ηg)/norm on the probabilities themselves."""
    theta = draw(2, 6, 5, seed=1).softmax(-1)
    if left_out:
        theta[..., 0] = 0
        theta = theta / theta.sum(-1, keepdim=True)
    logits = {"op": theta.clamp_min(1e-5).log()}
    optimiser = ExponentiatedGradient(logits, left_out, 1e-5)
    for step in range(10):
        gradient = draw(2, 6, 5, seed=10 + step)
        theta = theta * (-0.3 * gradient).exp()
        theta = theta / theta.sum(-1, keepdim=True)
        optimiser.step({"op": gradient}, 0.3)
        found = logits["op"].exp()
        torch.testing.assert_close(found[..., len(left_out) :], theta[..., len(left_out) :], rtol=1e-12, atol=1e-14)
        if left_out:
            torch.testing.assert_close(found[..., 0], torch.full((2, 6), 1e-5, dtype=torch.float64))


def test_no_weight_falls_below_the_floor_and_it_can_come_back() -> None:
    logits = {"op": torch.zeros(1, 1, 3, dtype=torch.float64)}
    optimiser = ExponentiatedGradient(logits, {}, 1e-5)
    gradient = torch.tensor([[[0.0, 5.0, 50.0]]], dtype=torch.float64)
    for _ in range(40):
        optimiser.step({"op": gradient}, 1.0)
    torch.testing.assert_close(logits["op"][0, 0].exp(), torch.tensor([1.0, 1e-5, 1e-5], dtype=torch.float64))
    optimiser.step({"op": gradient[..., [2, 0, 1]]}, 0.25)
    assert logits["op"][0, 0, 1] > logits["op"][0, 0, 0] > logits["op"][0, 0, 2]


def test_what_may_not_move_stays() -> None:
    logits = {"op": draw(2, 2, 3, seed=1).log_softmax(-1), "out": draw(2, 1, 2, seed=2).log_softmax(-1)}
    before = {name: value.clone() for name, value in logits.items()}
    moves = torch.ones(2, 8, dtype=torch.bool)
    moves[1, 3:6] = False
    ones = {name: draw(*value.shape, seed=3) for name, value in logits.items()}
    ExponentiatedGradient(logits, {}, 1e-5).step(ones, 0.5, moves)
    assert torch.equal(logits["op"][1, 1], before["op"][1, 1])
    assert (logits["op"][1, 0] != before["op"][1, 0]).all()
    assert (logits["out"] != before["out"]).all()


@BOTH
def test_it_starts_uniform_without_none(module) -> None:
    searcher = module.build(module.Settings(), labs.make("nb201"))
    weights = searcher.relax(searcher.logits()).weights["op"]
    assert (weights[..., 0] == 0).all()
    torch.testing.assert_close(weights[..., 1:], torch.full_like(weights[..., 1:], 0.25))
    searcher = module.build(module.Settings(), labs.make("s1"))
    for name, values in searcher.relax(searcher.logits()).weights.items():
        torch.testing.assert_close(values, torch.full_like(values, 1 / values.shape[-1]), msg=name)


@BOTH
def test_none_is_never_selected(module) -> None:
    lab = labs.make("nb201")
    searcher = module.build(replace(module.Settings(), simplex=SimplexSettings(lr=50.0)), lab)
    labs.drive(searcher, lab, 0, 1)
    selected = searcher.selected()
    assert selected is not None
    assert (selected["op"].argmax(-1) != 0).all()
    assert (selected["op"][..., 0] == selected["op"].amin(-1)).all()


def test_an_option_left_out_is_below_the_others_of_its_row() -> None:
    lab = labs.make("nb201")
    logits = {"op": draw(2, 6, 5, seed=4)}
    scores = select_without(lab.groups, "none")(logits)["op"]
    assert torch.equal(scores[..., 1:], logits["op"][..., 1:])
    assert (scores[..., 0] < scores[..., 1:].amin(-1)).all()
    assert select_without(lab.groups, "no such")(logits)["op"].equal(logits["op"])


def test_derivatives_are_those_by_theta() -> None:
    lab = labs.make("s1")
    simplex = Simplex(lab.groups, SimplexSettings())
    leaves = {g.name: draw(2, *g.shape, seed=5).log_softmax(-1).requires_grad_() for g in lab.groups}
    weights = simplex.by_theta(leaves).weights
    for name, leaf in leaves.items():
        torch.testing.assert_close(weights[name][0].detach(), leaf.detach().exp())
    total = sum((value**2).sum() for value in weights.values())
    for leaf, gradient in zip(leaves.values(), torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(gradient, 2 * leaf.detach().exp())


@pytest.mark.usefixtures("unchecked")
@BOTH
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_steps_are_the_equations(module, space: str) -> None:
    """Three steps of one replica on the probabilities themselves, with torch's SGD."""
    lab = labs.make(space, (4,))
    searcher = module.build(replace(module.Settings(), simplex=SimplexSettings(lr=2.0)), lab)
    searcher.begin_epoch(0)
    network = lab.build(searcher.recipe.options)
    first = 1 if space == "nb201" else 0  # `none` has no probability
    theta = {}
    for group in lab.groups:
        values = torch.full((1, 1, *group.shape), 1 / (len(group.options) - first), dtype=torch.float64)
        values[..., :first] = 0
        theta[group.name] = values
    weights = dict(network.named_parameters())
    sgd = torch.optim.SGD(weights.values(), lr=0.025, momentum=0.9, weight_decay=3e-4)

    def loss(images: Tensor, labels: Tensor, mixing: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(network(images, Choices(mixing))[0], labels[0])

    def gradients(batch) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        mixing = {name: value.clone().requires_grad_() for name, value in theta.items()}
        value = loss(*batch, mixing)
        found = torch.autograd.grad(value, [*mixing.values(), *weights.values()])
        return value, dict(zip(mixing, found, strict=False)), list(found[len(mixing) :])

    def descend(by_theta: dict[str, Tensor]) -> None:
        for name, gradient in by_theta.items():
            moved = theta[name] * (-2.0 * gradient).exp()
            theta[name] = moved / moved.sum(-1, keepdim=True)

    for batches in labs.steps(lab, searcher.policy, 3):
        losses = searcher.step(batches)
        single = StepBatches(batches.train, batches.train) if module is gaea_erm else batches
        value, by_theta, by_weights = gradients(single.val[0])
        if module is gaea_bilevel:
            descend(by_theta)
            assert losses.val is not None
            assert losses.val.item() == pytest.approx(value.item(), rel=1e-9)
            value, _, by_weights = gradients(batches.train[0])
        else:
            descend(by_theta)
        assert losses.train.item() == pytest.approx(value.item(), rel=1e-9)
        for weight, gradient in zip(weights.values(), by_weights, strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights.values(), 5.0)
        sgd.step()
    labs.close(labs.leaves(dict(searcher.relax(searcher.logits()).weights)), labs.leaves(theta), 1e-9)
    labs.close(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(weights), 1e-9)


def test_the_floor_is_a_small_probability() -> None:
    with pytest.raises(ValueError, match=r"expected a floor in \(0, 0.1\), got 0.5"):
        SimplexSettings(floor=0.5)
