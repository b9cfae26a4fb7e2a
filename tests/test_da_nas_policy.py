"""The search policy of DA-NAS: growing classes, rows that shrink, and DARTS where there is one stage."""

from collections.abc import Iterator
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch.nn import functional

from searchers import da_nas_policy, darts
from searchers._exclude import Alive
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Choices, StepBatches

unchecked = pytest.mark.usefixtures("unchecked")
FAST = ArchSettings(lr=0.3)
PLAIN = WeightSettings(lr=0.2, lr_min=0.01, momentum=0.0, weight_decay=0.0, clip=None)


@unchecked
def test_one_stage_is_darts_to_the_bit() -> None:
    found = []
    one = da_nas_policy.Settings(classes=(1.0,))
    for build, settings in ((darts.build, darts.Settings()), (da_nas_policy.build, one)):
        lab = labs.make()
        searcher = build(settings, lab)
        losses = labs.drive(searcher, lab, 0, 2)
        found.append(labs.outcome(searcher, losses))
    labs.same(*found)


def served(lab, policy, epoch: int) -> Iterator[StepBatches]:
    return lab.feed.epoch(policy, epoch, labs.EPOCHS)


@unchecked
@pytest.mark.parametrize(("space", "options"), [("toy", {"op": (3, 2), "out": (3, 3)}), ("nb201", {"op": (4, 3)})])
def test_stages_see_more_classes_and_leave_fewer_options(space: str, options: dict[str, tuple[int, int]]) -> None:
    lab = labs.make(space)
    searcher = da_nas_policy.build(da_nas_policy.Settings(arch=FAST), lab)
    alive = searcher.recipe.memory
    assert isinstance(alive, Alive)
    for epoch, classes in enumerate((2, 3, 4)):  # of four
        batches = list(served(lab, searcher.policy, epoch))
        for kind in ("train", "val"):
            assert {int(i) for each in batches for b in getattr(each, kind) for i in b.labels.flatten()} == set(
                range(classes)
            )
        before = {name: mask.copy() for name, mask in alive.masks.items()}
        logits = {name: value.clone() for name, value in searcher.logits().items()}
        labs.drive(searcher, lab, epoch, epoch + 1)
        for name, mask in before.items():  # what had left before the epoch stays as it was
            gone = torch.from_numpy(~mask)
            assert torch.equal(searcher.logits()[name][gone], logits[name][gone])
            assert (alive.masks[name] <= mask).all()
        if epoch == 2:
            assert all((alive.masks[name] == mask).all() for name, mask in before.items())
            break
        for name, counts in options.items():
            assert (alive.masks[name].sum(-1) == counts[epoch]).all()
            values = np.where(before[name], searcher.logits()[name].numpy(), -np.inf)
            lowest = np.where(alive.masks[name], values, np.inf).min(-1)
            assert (np.where(alive.masks[name], -np.inf, values).max(-1) <= lowest).all()
    selected = searcher.selected()
    assert selected is not None
    for name, mask in alive.masks.items():
        best = selected[name].argmax(-1, keepdim=True).numpy()
        assert np.take_along_axis(mask, best, -1).all()


@unchecked
def test_a_step_after_a_pruning_is_that_of_darts_on_what_is_left() -> None:
    lab = labs.make("nb201", (3, 4))
    settings = da_nas_policy.Settings(PLAIN, ArchSettings(lr=0.01, weight_decay=0.0))
    searcher = da_nas_policy.build(settings, lab)
    searcher.end_epoch(0)
    searcher.begin_epoch(1)
    batches = labs.fake_step(2, 3)
    logits = searcher.logits()["op"].clone().requires_grad_()
    mask = torch.zeros_like(logits).scatter(-1, logits.detach().argsort(-1)[..., 1:], 1.0)  # without the lowest

    def mixed(values: torch.Tensor) -> Choices:
        return Choices({"op": (values.exp() * mask / (values.exp() * mask).sum(-1, keepdim=True))[None]})

    def loss(batch, choices: Choices, weights) -> torch.Tensor:
        scores = torch.func.functional_call(searcher.supernet, weights, (batch.images, choices))
        return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).sum()

    weights = {name: value.detach().clone().requires_grad_() for name, value in searcher.parameters.items()}
    (by_logit,) = torch.autograd.grad(loss(batches.val[0], mixed(logits), weights), logits)
    moved = logits.detach() - 0.01 * mask * by_logit / (by_logit.abs() + 1e-8)
    found = torch.autograd.grad(loss(batches.train[0], mixed(moved), weights), list(weights.values()))
    searcher.step(batches)
    torch.testing.assert_close(searcher.logits()["op"], moved, rtol=1e-7, atol=1e-10)
    for (name, value), gradient in zip(weights.items(), found, strict=True):
        wanted = (value - (0.01 + 0.75 * 0.19) * gradient).detach()
        torch.testing.assert_close(searcher.parameters[name].detach(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 100])
def test_stages_are_as_long_as_each_other(epochs: int) -> None:
    policy = da_nas_policy.policy(da_nas_policy.Settings())
    shares = [policy.classes(epoch, epochs) for epoch in range(epochs)]
    assert shares == sorted(shares)
    counts = [shares.count(share) for share in (0.4, 0.7, 1.0)]
    assert epochs < 3 or max(counts) - min(counts) <= 1


@pytest.mark.parametrize("classes", [(), (0.5, 0.4, 1.0), (0.4, 0.9)])
def test_refusals(classes: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected shares of classes that grow to 1, got"):
        da_nas_policy.build(replace(da_nas_policy.Settings(), classes=classes), labs.make())
