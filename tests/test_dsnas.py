"""DSNAS: the sampled gradient, the rows it fixes, and what is left when all are fixed."""

import itertools
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import dsnas
from searchers._bilevel import weight_step
from searchers._freeze import Frozen
from searchers._gumbel import gumbel, ranked
from searchers._optim import SGD, ArchSettings, WeightSettings
from searchers.base import Choices, Group, SupernetOptions

unchecked = pytest.mark.usefixtures("unchecked")
PLAIN = WeightSettings(lr=0.2, lr_min=0.01, momentum=0.0, weight_decay=0.0, clip=None)
NOW = dsnas.Settings(PLAIN, ArchSettings(lr=0.01, weight_decay=0.0), warm_up=0.0)


def plackett_luce(row: list[float], order: tuple[int, ...]) -> float:
    weights, p = np.exp(row), 1.0
    for place, option in enumerate(order):
        p *= weights[option] / weights[list(set(range(len(row))) - set(order[:place]))].sum()
    return float(p)


@pytest.mark.parametrize("keep", [1, 2])
def test_orders_are_drawn_with_their_probability(keep: int) -> None:
    """χ² over all ordered draws, 20,000 of them; thresholds of 0.1 % at 3 and 11 degrees of freedom."""
    row, draws = [0.5, -1.0, 1.5, 0.0], 20_000
    logits = {"op": torch.tensor([[row]], dtype=torch.float64)}
    order = ranked(logits, gumbel(logits, (labs.rng(3),), draws))["op"][:, 0, 0, :keep]
    found = 0.0
    for wanted in itertools.permutations(range(4), keep):
        count = (order == torch.tensor(wanted)).all(-1).sum().item()
        expected = draws * plackett_luce(row, wanted)
        found += (count - expected) ** 2 / expected
    assert found < {1: 16.27, 2: 31.26}[keep]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_gradient_is_unbiased_where_the_loss_is_linear(keep: int) -> None:
    """Exactly: the expectation over all orders, each a replica, against the derivative of the expected loss."""
    group = Group("op", 2, ("a", "b", "c", "d"), keep=keep)
    stream = labs.rng(4)
    row, costs = (torch.randn(2, 4, generator=stream, dtype=torch.float64) for _ in range(2))
    orders = torch.tensor(list(itertools.permutations(range(4))))
    leaf = row.expand(len(orders), 2, 4).clone().requires_grad_()
    choices = dsnas.sampled([group], {"op": leaf}, {"op": orders[None, :, None].expand(1, -1, 2, -1)})
    losses = (choices.weights["op"][0] * costs).sum((1, 2))
    (each,) = torch.autograd.grad(losses.sum(), leaf)
    for decision in range(2):
        p = torch.tensor([plackett_luce(row[decision].tolist(), tuple(o)) for o in orders.tolist()])
        estimate = (p[:, None] * each[:, decision]).sum(0)
        free = row[decision].clone().requires_grad_()
        expected = torch.zeros(())
        for order in orders.tolist():
            left, log_p = free[order], torch.zeros(())
            for place in range(4):
                log_p = log_p + left[place] - left[place:].exp().sum().log()
            expected = expected + log_p.exp() * costs[decision, order[:keep]].sum()
        (wanted,) = torch.autograd.grad(expected, free)
        torch.testing.assert_close(estimate, wanted)
        assert wanted.abs().max() > 0.02


def reference(searcher, lab, batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """∂L/∂Z and ∂L/∂w of the sampled cell by autograd, and from ∂L/∂Z the gradient of α row by row."""
    logits, orders = searcher.logits(), {}
    drawn = [
        {
            n: -torch.empty((1, *v.shape[1:]), dtype=torch.float64).exponential_(generator=s).log()
            for n, v in logits.items()
        }
        for s in lab.stream("path", 0)
    ]
    cell = {name: torch.zeros(1, *value.shape, dtype=torch.float64) for name, value in logits.items()}
    for group in lab.groups:
        noise = torch.stack([each[group.name][0] for each in drawn])
        orders[group.name] = (logits[group.name] + noise).argsort(-1, descending=True)[..., : group.keep]
        cell[group.name][0].scatter_(-1, orders[group.name], 1.0)
    active = {name: value.numpy() > 0 for name, value in cell.items()}
    free = {name: value.clone().requires_grad_() for name, value in cell.items()}
    weights = {name: value.detach().clone().requires_grad_() for name, value in searcher.parameters.items()}
    scores = torch.func.functional_call(searcher.supernet, weights, (batch.images, Choices(free, active)))
    loss = functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).sum()
    every = [*free.values(), *weights.values()]
    found = torch.autograd.grad(loss, every, allow_unused=True, materialize_grads=True)
    by_logit = {}
    for group, by_z in zip(lab.groups, found, strict=False):
        reward = (by_z[0] * cell[group.name][0]).sum(-1)
        value, gradient = logits[group.name], torch.zeros_like(logits[group.name])
        for r, d in np.ndindex(*reward.shape):
            left = list(range(value.shape[-1]))
            for option in orders[group.name][r, d].tolist():  # Z − p, over the options that are left
                gradient[r, d, left] -= reward[r, d] * value[r, d, left].softmax(0)
                gradient[r, d, option] += reward[r, d]
                left.remove(option)
        by_logit[group.name] = gradient
    return by_logit, dict(zip(weights, found[len(free) :], strict=True))


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_step_is_the_equations(space: str) -> None:
    lab = labs.make(space, (3, 4))
    searcher = dsnas.build(NOW, lab)
    searcher.begin_epoch(1)
    batches = labs.fake_step(2, 3)
    logits = {name: value.clone() for name, value in searcher.logits().items()}
    weights = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    by_logit, by_weight = reference(searcher, lab, batches.train[0])
    assert by_logit["op"].abs().max() > 1e-4
    searcher.step(batches)
    for name, gradient in by_logit.items():  # Adam's first step is the sign, but for eps
        moved = -0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(searcher.logits()[name] - logits[name], moved, rtol=1e-6, atol=1e-9)
    for name, gradient in by_weight.items():
        wanted = weights[name] - (0.01 + 0.75 * 0.19) * gradient
        torch.testing.assert_close(searcher.parameters[name].detach(), wanted, rtol=1e-8, atol=1e-10)


@unchecked
def test_a_row_is_fixed_when_its_best_options_are_clear_of_the_others() -> None:
    groups = (Group("op", 3, ("a", "b", "c")), Group("out", 2, ("x", "y", "z"), "edge", keep=2))
    frozen = Frozen(groups, 1)
    op = torch.tensor([[[0.65, 0.33, 0.02], [0.2, 0.6, 0.2], [0.02, 0.02, 0.96]]]).double().log()
    out = torch.tensor([[[0.44, 0.3, 0.26], [0.1, 0.48, 0.42]]]).double().log()  # the second two against the rest
    dsnas.fix(frozen, groups, {"op": op, "out": out}, 0.3)
    assert frozen.rows["op"].tolist() == [[True, True, True]]
    assert frozen.rows["out"].tolist() == [[False, True]]
    assert frozen.kept["op"][0].tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert frozen.kept["out"][0].tolist() == [[True, True, True], [False, True, True]]
    fresh = Frozen(groups, 1)
    dsnas.fix(fresh, groups, {"op": op, "out": out}, 0.5)
    assert (fresh.rows["op"].tolist(), fresh.rows["out"].tolist()) == ([[False, False, True]], [[False, True]])


@unchecked
def test_a_fixed_row_has_no_gradient_and_stays() -> None:
    lab = labs.make("s1")
    searcher = dsnas.build(NOW, lab)
    searcher.begin_epoch(0)
    searcher.step(labs.fake_step(2, 3))  # so that Adam would move them further
    searcher._logits["op"][0, 2] = torch.tensor([0.0, 0.0, 3.0])
    searcher._logits["out"][1, 0] = torch.tensor([4.0, 0.0, 4.0, 0.0, 0.0])
    before = {name: value.clone() for name, value in searcher.logits().items()}
    leaves = searcher.leaves()
    assert searcher.recipe.choices is not None
    choices = searcher.recipe.choices(searcher, leaves)
    total = sum((value * value).sum() for value in choices.weights.values())
    found = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    assert (found["op"][0, 2] == 0).all()
    assert (found["out"][1, 0] == 0).all()
    assert (found["op"][1] != 0).all()
    for batches in labs.steps(lab, searcher.policy, 3):
        searcher.step(batches)
    after = searcher.logits()
    assert torch.equal(after["op"][0, 2], before["op"][0, 2])
    assert torch.equal(after["out"][1, 0], before["out"][1, 0])
    assert not torch.equal(after["op"][0, :2], before["op"][0, :2])
    selected = searcher.selected()
    assert selected is not None
    assert selected["op"][0, 2].tolist() == [0.0, 0.0, 1.0]
    assert selected["out"][1, 0].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert torch.equal(selected["op"][1], after["op"][1])


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_with_all_rows_fixed_it_is_plain_training_of_one_path(space: str) -> None:
    lab = labs.make(space)
    settings = replace(NOW, weights=WeightSettings())
    searcher = dsnas.build(settings, lab)
    hot = {name: np.zeros((1, *value.shape), bool) for name, value in searcher.logits().items()}
    for group in lab.groups:
        for replica, row in np.ndindex(2, group.decisions):
            best = [(replica + row + i + 1) % len(group.options) for i in range(group.keep)]
            hot[group.name][0, replica, row, best] = True
            searcher._logits[group.name][replica, row, best] += 9.0
    start = {name: value.clone() for name, value in searcher.logits().items()}
    network = lab.build(SupernetOptions())
    optimiser = SGD(dict(network.named_parameters()), settings.weights)
    choices = Choices({name: torch.as_tensor(mask).double() for name, mask in hot.items()}, hot)
    searcher.begin_epoch(0)
    for batches in labs.steps(lab, searcher.policy, 3):
        plain = weight_step(network, optimiser, batches.train[0], choices, searcher.lr)
        assert torch.equal(searcher.step(batches).train, plain)
    labs.same(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(dict(network.named_parameters())))
    labs.same(labs.leaves(searcher.logits()), labs.leaves(start))


@unchecked
def test_in_the_warm_up_only_the_weights_move() -> None:
    lab = labs.make()
    searcher = dsnas.build(replace(NOW, warm_up=0.3), lab)
    start = labs.leaves(searcher.logits())
    labs.drive(searcher, lab, 0, 1)
    labs.same(labs.leaves(searcher.logits()), start)
    assert (searcher.arch.state_dict()["count"] == 0).all()
    labs.drive(searcher, lab, 1, 2)
    assert not torch.equal(searcher.logits()["op"], start["/op"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"expected a positive gap or null, got 0\.0"):
        dsnas.build(replace(NOW, gap=0.0), labs.make())
    with pytest.raises(ValueError, match=r"expected a warm_up in \[0, 1\], got 2\.0"):
        dsnas.build(replace(NOW, warm_up=2.0), labs.make())
