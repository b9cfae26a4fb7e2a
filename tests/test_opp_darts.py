"""OPP-DARTS: which operation joins when, what is carried over, and its limit."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from searchers import darts, opp_darts
from searchers.base import Choices, Evaluation, Supernet

unchecked = pytest.mark.usefixtures("unchecked")
PLAIN = opp_darts.Settings(batch_size=None)
NONE, SKIP, CONV1X1, CONV3X3, POOL = range(5)


@dataclass(frozen=True)
class Scripted(Lab):
    """A lab whose evaluations have given losses: a function of replica and active operations."""

    script: Callable[[int, tuple[int, ...]], float] = lambda _replica, _active: 0.0

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        assert (split, batches) == ("train", None)
        shape = choices.weights["op"].shape[1:]
        masks = np.ones(shape, bool) if choices.active is None else choices.active["op"][0]
        assert (masks == masks[:, :1]).all()  # the same in all rows
        losses = [self.script(r, tuple(np.flatnonzero(mask[0]).tolist())) for r, mask in enumerate(masks)]
        return Evaluation(torch.zeros(len(losses)), torch.tensor(losses, dtype=torch.float64))


def scripted(space: str, epochs: int, script: Callable[[int, tuple[int, ...]], float]) -> Scripted:
    lab = replace(labs.make(space), horizon=labs.Horizon(epochs))
    return Scripted(**{name: getattr(lab, name) for name in lab.__dataclass_fields__}, script=script)


def joined(lab: Lab, settings: opp_darts.Settings, epochs: range) -> list[list[tuple[int, ...]]]:
    """The operations of each replica at the beginning of these epochs; a fresh searcher reads every state."""
    searcher, found = opp_darts.build(settings, lab), []
    for epoch in epochs:
        searcher.begin_epoch(epoch)
        masks = searcher.stage.recipe.memory.masks
        assert all(mask.all() for name, mask in masks.items() if name != "op")
        found.append([tuple(np.flatnonzero(mask[0]).tolist()) for mask in masks["op"]])
        state = labs.through_disk(searcher.state_dict())
        searcher = opp_darts.build(settings, lab)
        searcher.load_state_dict(state)
    return found


@unchecked
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_with_all_operations_from_the_start_it_is_darts(space: str) -> None:
    lab, found = labs.make(space), []
    for build, settings in ((darts.build, darts.Settings()), (opp_darts.build, replace(PLAIN, add_every=0.0))):
        searcher = build(settings, lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


@unchecked
def test_every_second_epoch_of_fifty_the_operation_of_the_largest_loss_joins() -> None:
    """Each replica for itself; skip last of all, whatever its loss; sets are nested."""
    order = ((POOL, CONV1X1, NONE, CONV3X3), (CONV3X3, NONE, POOL, CONV1X1))

    def loss(replica: int, active: tuple[int, ...]) -> float:
        return 100.0 * (SKIP in active) + sum(2.0 ** -order[replica].index(o) for o in active if o != SKIP)

    largest = joined(scripted("nb201", 50, loss), PLAIN, range(10))
    assert largest[::2] == largest[1::2]
    assert largest[::2] == [
        [(2,), (3,)],
        [(2, 4), (0, 3)],
        [(0, 2, 4), (0, 3, 4)],
        [(0, 2, 3, 4), (0, 2, 3, 4)],
        [(0, 1, 2, 3, 4)] * 2,
    ]
    smallest = joined(scripted("nb201", 100, loss), replace(PLAIN, choice="min"), range(0, 20, 4))
    assert smallest[:4] == [[(3,), (2,)], [(0, 3), (2, 4)], [(0, 2, 3), (0, 2, 4)], [(0, 2, 3, 4), (0, 2, 3, 4)]]
    one_shot = joined(scripted("s1", 50, lambda _r, active: float(sum(active))), PLAIN, range(0, 6, 2))
    assert one_shot == [[(2,)] * 2, [(1, 2)] * 2, [(0, 1, 2)] * 2]
    short = joined(scripted("nb201", 1, loss), PLAIN, range(1))
    assert short == [largest[0]]


@unchecked
def test_the_first_has_the_largest_loss_of_the_untrained_network() -> None:
    lab = labs.make("nb201", (2, 3, 4))
    network, losses = lab.build(opp_darts.build(PLAIN, lab).stage.recipe.options), []
    for option in (CONV1X1, CONV3X3):
        weights = torch.zeros(1, 3, 6, 5, dtype=torch.float64)
        weights[..., option] = 1.0
        total = torch.zeros(3, dtype=torch.float64)
        for batch in lab.feed.evaluation("train"):
            scores = network(batch.images, Choices({"op": weights}))
            total += functional.cross_entropy(scores.mT, batch.labels, reduction="none").sum(1).detach()
        losses.append(total)
    wanted = [[(CONV1X1,) if one > other else (CONV3X3,)][0] for one, other in zip(*losses, strict=True)]
    assert joined(lab, PLAIN, range(1)) == [wanted]


@unchecked
def test_what_is_carried_over_when_an_operation_joins() -> None:
    """Weights and all logits to the bit; optimisers and cosine anew; new logits as they were drawn."""
    lab = replace(labs.make("s2"), horizon=labs.Horizon(50))
    searcher = opp_darts.build(PLAIN, lab)
    drawn = {name: value.clone() for name, value in searcher.logits().items()}
    labs.drive(searcher, lab, 0, 2)
    old, masks = searcher.stage, searcher.stage.recipe.memory.masks
    before = labs.leaves({"logits": searcher.logits(), "weights": dict(searcher.supernet.named_parameters())})
    alive = torch.as_tensor(masks["op"].copy())
    assert alive.sum(-1).unique().tolist() == [1]
    assert torch.equal(searcher.logits()["op"][~alive], drawn["op"][~alive])
    assert (searcher.logits()["op"][alive] != drawn["op"][alive]).all()
    assert old.weights.momentum.abs().max() > 0
    searcher.begin_epoch(2)
    assert searcher.stage is not old
    assert searcher.stage.weights.momentum.abs().max() == searcher.stage.arch.count.max() == 0
    after = labs.leaves({"logits": searcher.logits(), "weights": dict(searcher.supernet.named_parameters())})
    labs.same(before, after)
    assert searcher.stage.lr == 0.025
    searcher.begin_epoch(3)
    assert searcher.stage.lr == pytest.approx(0.001 + 0.012 * (1 + math.cos(math.pi / 48)))
    assert (torch.as_tensor(masks["op"]) & alive).sum() == alive.sum()
    labs.drive(searcher, lab, 3, 4)
    grown = torch.as_tensor(masks["op"])
    assert (searcher.logits()["op"][grown] != before["/logits/op"][grown]).all()
    assert torch.equal(searcher.logits()["op"][~grown], drawn["op"][~grown])
    best = searcher.selected()["op"].argmax(-1, keepdim=True)
    assert grown.gather(-1, best).all()


def two_operations(lab: Lab) -> tuple[object, Tensor]:
    searcher = opp_darts.build(replace(PLAIN, add_every=1 / 3), lab)
    searcher.begin_epoch(1)
    alive = torch.as_tensor(searcher.stage.recipe.memory.masks["op"])
    assert alive.sum(-1).unique().tolist() == [2]
    return searcher, alive


@unchecked
def test_a_step_is_that_of_darts_over_what_has_joined() -> None:
    """Against zero weights for the others, which are computed here; first steps of Adam and SGD written out."""
    lab = labs.make("nb201")
    searcher, alive = two_operations(lab)
    logits = searcher.logits()["op"].clone().requires_grad_()
    parameters = dict(searcher.supernet.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    (batches,) = labs.steps(lab, searcher.policy, 1)

    def loss(values: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        exps = values.exp() * alive
        scores = searcher.supernet(batch[0], Choices({"op": (exps / exps.sum(-1, keepdim=True))[None]}))
        return functional.cross_entropy(scores.mT, batch[1], reduction="none").mean(1).sum()

    (gradient,) = torch.autograd.grad(loss(logits, batches.val[0]), logits)
    gradient = gradient + 1e-3 * logits.detach()
    wanted = logits.detach() - 3e-4 * torch.where(alive, gradient / (gradient.abs() + 1e-8), 0.0)
    found = torch.autograd.grad(loss(wanted, batches.train[0]), list(parameters.values()))
    norms = torch.cat([g.flatten(1) for g in found], 1).norm(dim=1)
    searcher.step(batches)
    torch.testing.assert_close(searcher.logits()["op"], wanted, rtol=1e-8, atol=1e-12)
    for (name, value), g in zip(parameters.items(), found, strict=True):
        address = searcher.supernet.address(name)
        for replica in range(2):
            target = before[name][replica]
            if address is None or alive[replica, address.decision, address.option]:
                scale = min(1.0, 5.0 / (norms[replica].item() + 1e-6))
                target = target - 0.025 * (scale * g[replica] + 3e-4 * target)
            torch.testing.assert_close(value[replica].detach(), target, rtol=1e-8, atol=1e-11)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected add_every, a share of the epochs, in \[0, 1\], got 2\.0"):
        replace(PLAIN, add_every=2.0)
