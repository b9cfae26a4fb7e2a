"""Fair DARTS against its equations, and against DARTS with softmax and without its term."""

from dataclasses import replace

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import darts, fair_darts
from searchers._bilevel import Bilevel, Moment, Recipe
from searchers.base import Choices

SETTINGS = fair_darts.Settings()


def logits_of(space: str, replicas: int = 2) -> dict[str, Tensor]:
    groups, stream = labs.make(space).groups, labs.rng(3)
    return {g.name: torch.randn(replicas, *g.shape, generator=stream, dtype=torch.float64) for g in groups}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_without_term_and_with_softmax_it_is_darts_of_the_same_optimiser(space: str) -> None:
    found = []
    for fair in (False, True):
        lab = labs.make(space)
        plain = Recipe()
        own = fair_darts.recipe(replace(SETTINGS, weight=0.0, none=True), lab.groups)
        softmax = replace(own, relax=plain.relax, init=plain.init, shift_invariant=None)
        if fair:
            searcher = Bilevel(softmax, SETTINGS.weights, SETTINGS.arch, lab)
        else:
            searcher = darts.build(darts.Settings(SETTINGS.weights, SETTINGS.arch), lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


def test_at_zero_the_term_has_no_gradient_and_it_pulls_to_the_ends() -> None:
    lab = labs.make("nb201")
    penalty = fair_darts.zero_one(SETTINGS, ["op"])

    def force(value: float) -> Tensor:
        logits = {"op": torch.full((2, 6, 5), value, dtype=torch.float64).requires_grad_()}
        return torch.autograd.grad(penalty(logits, Moment(0, 0, lab)).sum(), logits["op"])[0]

    assert (force(0.0) == 0).all()
    assert (force(0.4) < 0).all()  # a descent step raises what is above ½
    assert (force(-0.4) > 0).all()
    values = [penalty({"op": torch.full((1, 6, 5), v, dtype=torch.float64)}, Moment(0, 0, lab)) for v in (0, 1, 3, 40)]
    assert values == sorted(values, reverse=True)
    assert values[-1].item() == pytest.approx(-10 * 30 / 4 / 196, rel=1e-12)  # σ is 0 or 1: the least there is


@pytest.mark.parametrize("space", ["s3", "nb201"])
@pytest.mark.parametrize("entries", [196, None])
def test_the_force_on_an_entry_does_not_depend_on_the_space(space: str, entries: int | None) -> None:
    lab, logits = labs.make(space), logits_of(space)
    leaf = logits["op"].requires_grad_()
    penalty = fair_darts.zero_one(replace(SETTINGS, entries=entries), ["op"])
    (gradient,) = torch.autograd.grad(penalty(logits, Moment(0, 0, lab)).sum(), leaf)
    s = 1 / (1 + (-leaf.detach()).exp())
    wanted = -2 * 10 * (s - 0.5) * s * (1 - s) / (entries or leaf[0].numel())
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-15)


def test_an_option_is_weighed_whatever_the_others_of_its_row() -> None:
    lab = labs.make("s2")
    searcher = fair_darts.build(SETTINGS, lab)
    assert all((value == 0).all() for value in searcher.logits().values())
    logits = logits_of("s2")
    before = searcher.relax(logits).weights
    logits["op"][:, 1, 2] += 1.0
    after = searcher.relax(logits).weights
    torch.testing.assert_close(after["op"][0, :, 1, 2], 1 / (1 + (-logits["op"][:, 1, 2]).exp()))
    moved = {n: (after[n] != before[n]).nonzero().tolist() for n in after}
    assert moved.pop("op") == [[0, 0, 1, 2], [0, 1, 1, 2]]
    assert not any(moved.values())
    for name, values in after.items():
        assert name == "op" or (values.sum(-1) - 1).abs().max() < 1e-14
    assert set(searcher.shift_invariant) == {group.name for group in lab.groups if group.kind == "edge"}


@pytest.mark.usefixtures("unchecked")
def test_a_step_is_the_equations() -> None:
    """The second step of one replica, with torch's own optimisers."""
    lab = labs.make("s1", (4,))
    searcher = fair_darts.build(SETTINGS, lab)
    searcher.begin_epoch(0)
    network = lab.build(searcher.recipe.options)
    alpha = {name: value.clone().requires_grad_() for name, value in searcher.logits().items()}
    adam = torch.optim.Adam(alpha.values(), lr=3e-3, betas=(0.9, 0.999), weight_decay=1e-3)
    weights = dict(network.named_parameters())
    sgd = torch.optim.SGD(weights.values(), lr=0.005, momentum=0.9, weight_decay=3e-4)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        mixing = {n: torch.sigmoid(v) if n == "op" else torch.softmax(v, -1) for n, v in alpha.items()}
        scores = network(images, Choices({n: v[None] for n, v in mixing.items()}))
        return functional.cross_entropy(scores[0], labels[0])

    for batches in labs.steps(lab, searcher.policy, 2):
        away = (torch.sigmoid(alpha["op"]) - 0.5).square().sum() / 196
        value = loss(*batches.val[0])
        gradients = torch.autograd.grad(value - 10 * away, list(alpha.values()))
        for leaf, gradient in zip(alpha.values(), gradients, strict=True):
            leaf.grad = gradient
        adam.step()
        sgd.zero_grad()
        train = loss(*batches.train[0])
        for weight, gradient in zip(weights.values(), torch.autograd.grad(train, list(weights.values())), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights.values(), 5.0)
        sgd.step()
        losses = searcher.step(batches)
        assert losses.train.item() == pytest.approx(train.item(), rel=1e-10)
        assert losses.val is not None
        assert losses.val.item() == pytest.approx(value.item(), rel=1e-10)
    labs.close(labs.leaves(searcher.logits()), labs.leaves(alpha), 1e-10)
    labs.close(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(weights), 1e-10)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("none", [False, True])
def test_none_has_no_gradient_and_is_not_selected_unless_asked(none: bool) -> None:
    lab = labs.make("nb201")
    searcher = fair_darts.build(replace(SETTINGS, none=none), lab)
    labs.drive(searcher, lab, 0, 1)
    logits, selected = searcher.logits()["op"], searcher.selected()
    assert selected is not None
    assert (logits[..., 0] == 0).all()
    assert (logits[..., 1:] != 0).all()
    assert (selected["op"][..., 0] < selected["op"][..., 1:].amin(-1)).all() != none
    assert torch.equal(selected["op"][..., 1:], logits[..., 1:])


def test_entries_must_be_positive() -> None:
    with pytest.raises(ValueError, match="expected at least one entry or null, got entries=0"):
        fair_darts.build(replace(SETTINGS, entries=0), labs.make())
