"""β-DARTS against its equations, and against DARTS where its term is absent."""

from dataclasses import replace

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import beta_darts, darts
from searchers._bilevel import Moment
from searchers._optim import ArchSettings
from searchers.base import Choices, Horizon

SETTINGS = beta_darts.Settings(arch=ArchSettings(lr=0.05))


def logits_of(space: str, replicas: int = 2) -> dict[str, Tensor]:
    stream = labs.rng(3)
    return {
        g.name: torch.randn(replicas, *g.shape, generator=stream, dtype=torch.float64).requires_grad_()
        for g in labs.make(space).groups
    }


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_without_weight_it_is_darts_to_the_bit(space: str) -> None:
    found = []
    for build, settings in ((darts.build, darts.Settings()), (beta_darts.build, beta_darts.Settings(weight=0.0))):
        lab = labs.make(space)
        searcher = build(settings, lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


@pytest.mark.usefixtures("unchecked")
def test_the_first_epoch_is_darts_and_the_second_is_not() -> None:
    found = []
    for module in (darts, beta_darts):
        lab = labs.make()
        searcher = module.build(module.Settings(), lab)
        labs.drive(searcher, lab, 0, 1)
        first = labs.outcome(searcher, [])
        labs.drive(searcher, lab, 1, 2)
        found.append((first, labs.outcome(searcher, [])))
    labs.same(found[0][0], found[1][0])
    gaps = [
        (found[0][1][name] - value).abs().max() for name, value in found[1][1].items() if name.startswith("/logits")
    ]
    assert min(gaps) > 1e-6


@pytest.mark.parametrize("space", ["s3", "nb201"])
def test_its_gradient_is_a_share_of_the_softmax(space: str) -> None:
    """λ/R·softmax on each of the R rows of a table, with λ = 50·e/E."""
    lab = labs.make(space)
    logits = logits_of(space)
    penalty = beta_darts.beta_decay(beta_darts.Settings(), lab.groups)
    value = penalty(logits, Moment(1, 7, lab))
    assert value.shape == (2,)
    gradients = torch.autograd.grad(value.sum(), list(logits.values()))
    for values, gradient in zip(logits.values(), gradients, strict=True):
        wanted = 50 / labs.EPOCHS / values.shape[1] * values.exp() / values.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(gradient, wanted.detach(), rtol=1e-12, atol=1e-14)


def test_a_constant_on_a_row_adds_its_share_to_the_loss_and_changes_no_mixture() -> None:
    lab = labs.make("s1")
    searcher = beta_darts.build(SETTINGS, lab)
    penalty = beta_darts.beta_decay(SETTINGS, lab.groups)
    logits = {name: values.detach() for name, values in logits_of("s1").items()}
    moved = {name: values.clone() for name, values in logits.items()}
    moved["op"][:, 2] += 0.6
    moment = replace(Moment(2, 0, lab))
    gain = penalty(moved, moment) - penalty(logits, moment)
    torch.testing.assert_close(gain, torch.full((2,), 50 * 2 / 3 * 0.6 / 4, dtype=torch.float64))
    for one, other in zip(*(searcher.relax(each).weights.values() for each in (logits, moved)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


def test_operations_alone() -> None:
    lab = labs.make("s2")
    logits = logits_of("s2")
    penalty = beta_darts.beta_decay(replace(SETTINGS, edges=False), lab.groups)
    wanted = 50 / 3 * torch.logsumexp(logits["op"], -1).mean(-1)
    torch.testing.assert_close(penalty(logits, Moment(1, 0, lab)), wanted)


def test_the_schedule_scales_with_the_budget() -> None:
    lab = labs.make()
    logits = {name: values.detach() for name, values in logits_of("toy").items()}
    penalty = beta_darts.beta_decay(SETTINGS, lab.groups)
    values = []
    for epoch, epochs in ((0, 100), (50, 100), (30, 60), (99, 100)):
        values.append(penalty(logits, Moment(epoch, 0, replace(lab, horizon=Horizon(epochs)))))
    assert (values[0] == 0).all()
    torch.testing.assert_close(values[1], values[2])
    torch.testing.assert_close(values[3], values[1] * 1.98)


@pytest.mark.usefixtures("unchecked")
def test_an_architecture_step_is_the_equations() -> None:
    """One step of the second epoch with torch's own Adam."""
    lab = labs.make("s1", (4,))
    searcher = beta_darts.build(SETTINGS, lab)
    searcher.begin_epoch(2)
    (batches,) = labs.steps(lab, searcher.policy, 1)
    alpha = {name: value.clone().requires_grad_() for name, value in searcher.logits().items()}
    mixing = Choices({name: torch.softmax(value, -1)[None] for name, value in alpha.items()})
    scores = searcher.supernet(batches.val[0].images, mixing)
    loss = functional.cross_entropy(scores[0], batches.val[0].labels[0])
    decay = sum(value.exp().sum(-1).log().mean() for value in alpha.values())
    adam = torch.optim.Adam(alpha.values(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    for leaf, gradient in zip(
        alpha.values(), torch.autograd.grad(loss + 50 * 2 / 3 * decay, alpha.values()), strict=True
    ):
        leaf.grad = gradient
    adam.step()
    losses = searcher.step(batches)
    assert losses.val is not None
    assert losses.val.item() == pytest.approx(loss.item(), rel=1e-12)
    labs.close(labs.leaves(searcher.logits()), labs.leaves(alpha), 1e-10)
