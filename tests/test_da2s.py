"""DA²S: one step against its equations, its schedule, and its limits."""

import math
from dataclasses import replace

import labs
import pytest
import torch
from torch import Tensor

from searchers import da2s
from searchers._descent import Moment
from searchers._optim import ArchSettings, ArchSGD, WeightSettings
from searchers._single import Single, SingleRecipe
from searchers.base import Choices

unchecked = pytest.mark.usefixtures("unchecked")
EVER = da2s.Settings(warm_up=0.0, arch_every=1, batch_size=None)


def test_s_is_twice_the_logit_and_its_cube_below_minus_one() -> None:
    values = torch.tensor([-2.0, -0.75, -0.5, -0.25, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    found = da2s.stretched(values)
    torch.testing.assert_close(found.tolist(), [-64.0, -3.375, -1.0, -0.5, 0.0, 6.0])
    (slope,) = torch.autograd.grad(found.sum(), values)
    torch.testing.assert_close(slope.tolist(), [96.0, 13.5, 2.0, 2.0, 2.0, 2.0])
    assert (found.diff() > 0).all()


@pytest.mark.parametrize("epochs", [50, 100])
def test_the_published_schedule(epochs: int) -> None:
    """w(e) = ½·max(0, (e − 15 − 1)/49) over 50 epochs, and at twice the epochs for a budget twice as long."""
    for epoch in range(50):
        wanted = 0.5 * max(0.0, (epoch - 16) / 49)
        found = da2s.entropy_weight(da2s.Settings(), epoch * (epochs // 50) / epochs)
        assert found == pytest.approx(wanted, abs=1e-12)
    assert wanted == pytest.approx(0.34, abs=0.01)


@unchecked
def test_the_logits_move_late_and_at_every_fifth_batch() -> None:
    lab = replace(labs.make(), horizon=labs.Horizon(10))
    searcher = da2s.build(da2s.Settings(batch_size=None), lab)
    moved = []
    for epoch in range(5):
        searcher.begin_epoch(epoch)
        for batches in lab.feed.epoch(searcher.policy, epoch, 10):
            before = {name: value.clone() for name, value in searcher.logits().items()}
            searcher.step(batches)
            moved.append({not torch.equal(value, before[name]) for name, value in searcher.logits().items()})
    assert len(moved) == 5 * 6  # all 48 images in batches of 8
    assert moved == [{step >= 18 and step % 5 == 0} for step in range(30)]


def by_hand(searcher: Single, images: Tensor, labels: Tensor, weight: float) -> tuple[dict, dict]:
    """Gradients by the logits and the weights of the cross-entropy plus the entropy, of the sum over replicas."""
    alpha = {name: value.clone().requires_grad_() for name, value in searcher.logits().items()}
    mixed, total = {}, torch.zeros((), dtype=torch.float64)
    for name, value in alpha.items():
        y = 2 * value
        s = torch.where(y < -1, y * y * y, y)
        p = s.exp() / s.exp().sum(-1, keepdim=True)
        mixed[name] = p[None]
        total = total - weight * (p * p.log()).sum()
    scores = searcher.supernet(images, Choices(mixed))
    picked = scores.log_softmax(-1).gather(-1, labels[..., None])
    total = total - picked.mean((1, 2)).sum()
    leaves = [*alpha.values(), *searcher.parameters.values()]
    found = torch.autograd.grad(total, leaves, materialize_grads=True, allow_unused=True)
    return dict(zip(alpha, found, strict=False)), dict(zip(searcher.parameters, found[len(alpha) :], strict=True))


@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_two_steps_are_the_equations(space: str) -> None:
    lab = labs.make(space, (3, 8))
    arch, weights = ArchSettings(lr=0.4, weight_decay=0.01), WeightSettings(lr=0.05, clip=None)
    searcher = da2s.build(replace(EVER, arch=arch, weights=weights), lab)
    stream = labs.rng(4)  # some logits below −1/2
    searcher.assign({n: 0.6 * torch.randn(v.shape, generator=stream).double() for n, v in searcher.logits().items()})
    searcher.begin_epoch(2)
    weight, lr = 0.5 * (2 * 50 / 3 - 1) / 49, 0.001 + 0.5 * 0.049 * (1 + math.cos(math.pi * 2 / 3))
    momentum = {name: torch.zeros_like(value) for name, value in searcher.logits().items()}
    buffers = {name: torch.zeros_like(value) for name, value in searcher.parameters.items()}
    for batches in labs.steps(lab, searcher.policy, 2):
        logits = {name: value.clone() for name, value in searcher.logits().items()}
        old = {name: value.detach().clone() for name, value in searcher.parameters.items()}
        by_logits, by_weights = by_hand(searcher, *batches.train[0], weight)
        assert searcher.step(batches).val is None
        for name, value in searcher.logits().items():
            momentum[name] = 0.9 * momentum[name] + by_logits[name] + 0.01 * logits[name]
            torch.testing.assert_close(value, logits[name] - 0.4 * momentum[name], rtol=1e-9, atol=1e-12)
        for name, value in searcher.parameters.items():
            buffers[name] = 0.9 * buffers[name] + by_weights[name] + 3e-4 * old[name]
            torch.testing.assert_close(value.detach(), old[name] - lr * buffers[name], rtol=1e-9, atol=1e-12)


@unchecked
def test_without_entropy_and_stretch_it_is_darts_at_one_level() -> None:
    """To the bit, with the same optimisers."""
    lab, found = labs.make(), []
    settings = replace(EVER, entropy=0.0, stretch=False)
    recipe = SingleRecipe(optimiser=lambda logits, arch: ArchSGD(logits, arch, settings.arch_momentum))
    for searcher in (da2s.build(settings, lab), Single(recipe, settings.weights, settings.arch, lab)):
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)
    for change in ({"entropy": 0.5}, {"stretch": True}):
        other = da2s.build(replace(settings, **change), lab)
        labs.drive(other, lab, 0, 2)
        assert any(not torch.equal(v, found[0][f"/logits/{n}"]) for n, v in other.logits().items())


def test_the_entropy_s_gradient_vanishes_where_a_row_is_uniform_or_one_hot() -> None:
    lab = labs.make("s2")
    (penalty,) = da2s.build(EVER, lab).recipe.penalties
    late, shapes = Moment(2, 0, lab), {group.name: (2, *group.shape) for group in lab.groups}
    weight = 0.5 * (50 * 2 / 3 - 1) / 49
    for fill, wanted in ((0.3, sum(rows * math.log(options) for _, rows, options in shapes.values())), (-9.0, 0.0)):
        leaves = {n: torch.full(shape, fill, dtype=torch.float64) for n, shape in shapes.items()}
        for value in leaves.values():
            value[..., 1] = 0.3
            value.requires_grad_()
        found = penalty(leaves, late)
        torch.testing.assert_close(found.tolist(), [weight * wanted] * 2, rtol=1e-9, atol=1e-12)
        for gradient in torch.autograd.grad(found.sum(), list(leaves.values())):
            assert gradient.abs().max() < 1e-12


def test_the_entropy_falls_where_nothing_else_acts() -> None:
    lab = labs.make("nb201")
    searcher = da2s.build(replace(EVER, arch=ArchSettings(lr=0.1, weight_decay=0.0), arch_momentum=0.0), lab)
    stream, heights = labs.rng(2), []
    searcher.assign({n: torch.randn(v.shape, generator=stream).double() for n, v in searcher.logits().items()})
    searcher.epoch = 2
    for _ in range(40):
        p = searcher.relax(searcher.logits()).weights["op"]
        heights.append(torch.special.entr(p).sum((0, 2, 3)))
        zero = {name: torch.zeros_like(value) for name, value in searcher.logits().items()}
        searcher.arch.step(searcher.penalised(zero), searcher.arch_lr)
    assert (torch.stack(heights).diff(dim=0) < 0).all()


def test_impossible_settings_are_refused() -> None:
    for changes in ({"warm_up": 1.5}, {"arch_every": 0}):
        with pytest.raises(ValueError, match=r"expected warm_up in \[0, 1\] and arch_every of at least 1, got"):
            da2s.Settings(**changes)
