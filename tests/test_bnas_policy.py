"""The search policy of BNAS: bounds, cells, pruning, and a step against the same cell trained alone."""

import itertools
import math
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch

from bench.spaces import get
from bench.spaces.base import discretise
from searchers import bnas_policy
from searchers._bandit import Bandit
from searchers._bilevel import weight_step
from searchers._optim import SGD
from searchers._ranking import as_choices, sample_cells
from searchers.base import SupernetOptions

unchecked = pytest.mark.usefixtures("unchecked")


def bandit_of(space: str, exploration: float = 0.1, cells: int = 12) -> tuple[Bandit, list]:
    """A bandit that has seen random cells with random accuracies, and what it has seen."""
    groups, stream, seen = get(space).groups, labs.rng(7), []
    bandit = Bandit(groups, 2, exploration, 0.0)
    for _ in range(cells):
        hot, accuracy = sample_cells(groups, (stream, stream)), torch.rand(2, generator=stream).double().numpy()
        bandit.see(hot, accuracy)
        seen.append((hot, accuracy))
    return bandit, seen


def bound(seen: list, place: tuple[str, int, int, int], exploration: float) -> float:
    name, replica, row, option = place
    rewards = [accuracy[replica] for hot, accuracy in seen if hot[name][0, replica, row, option]]
    if not rewards:
        return math.inf
    return sum(rewards) / len(rewards) + exploration * math.sqrt(2 * math.log(len(seen)) / len(rewards))


@unchecked
@pytest.mark.parametrize("space", ["s2", "nb201"])
def test_cells_take_the_highest_bounds_and_the_lowest_leave(space: str) -> None:
    bandit, seen = bandit_of(space)
    groups = get(space).groups
    cell = bandit.cell((labs.rng(1), labs.rng(2)))
    found = {g.name: bandit.bounds(g.name) for g in groups}
    bandit.prune_to(1)
    for group in groups:
        for replica, row in np.ndindex(2, group.decisions):
            own = [bound(seen, (group.name, replica, row, i), 0.1) for i in range(len(group.options))]
            np.testing.assert_allclose(found[group.name][replica, row], own)
            taken = cell[group.name][0, replica, row] > 0
            assert taken.sum() == group.keep
            assert min(np.array(own)[taken]) >= max(np.array(own)[~taken])
            gone = np.flatnonzero(~bandit.alive.masks[group.name][replica, row])
            assert gone.tolist() == ([int(np.argmin(own))] if len(own) > group.keep else [])
    assert all((count == 0).all() for count in bandit.count.values())
    assert bandit.trials == 0


@unchecked
def test_options_are_drawn_by_the_softmax_of_their_bounds_and_by_the_stream_of_a_replica() -> None:
    """χ² with 4 degrees of freedom, threshold of 0.1 %; before anything is known all are as likely."""
    bandit = Bandit(get("nb201").groups, 2, 0.1, 0.1)
    fresh = np.stack([bandit.cell((labs.rng(seed), labs.rng(50)))["op"][0] for seed in range(500)])
    assert (fresh[:, 1] == fresh[0, 1]).all()
    assert ((fresh[:, 0].sum(0) - 100) ** 2 / 100).sum(-1).max() < 18.47
    bandit.see({"op": np.ones((1, 2, 6, 5))}, np.zeros(2))
    bandit.mean["op"][:] = values = np.array([0.3, 0.5, 0.25, 0.4, 0.0])
    counts = sum(bandit.cell((labs.rng(seed), labs.rng(50)))["op"][0, 0] for seed in range(500))
    expected = 500 * np.exp(values / 0.1) / np.exp(values / 0.1).sum()
    assert ((counts - expected) ** 2 / expected).sum(-1).max() < 18.47


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_options_of_clear_value_are_left_in_the_end_and_masks_are_nested(space: str) -> None:
    """Accuracy falls with every option that is not the best of its row; bounds find the best ones."""
    groups = get(space).groups
    bandit, best = Bandit(groups, 2, 0.1, 0.1), {g.name: np.zeros((2, *g.shape)) for g in groups}
    for group in groups:
        for replica, row in np.ndindex(2, group.decisions):
            best[group.name][replica, row, [(replica + row + i) % len(group.options) for i in range(group.keep)]] = 1
    rounds = max(len(group.options) - group.keep for group in groups)
    masks = [{n: m.copy() for n, m in bandit.alive.masks.items()}]
    for step, turn in itertools.product(range(rounds), range(60)):
        hot = bandit.cell((labs.rng(1000 * step + turn), labs.rng(1000 * step + turn + 500)))
        assert all((taken[0] <= masks[-1][name]).all() for name, taken in hot.items())
        hits = sum((hot[name][0] * best[name]).sum((1, 2)) for name in best)
        bandit.see(hot, hits / sum(g.keep * g.decisions for g in groups))
        if turn == 59:
            bandit.prune_to(step + 1)
            masks.append({n: m.copy() for n, m in bandit.alive.masks.items()})
            assert all((masks[-1][n] <= masks[-2][n]).all() for n in best)
    for group in groups:
        assert (masks[-1][group.name].sum(-1) == group.keep).all()
        assert (masks[-1][group.name] == best[group.name]).mean() > 0.85
    for replica in range(2):
        cell = discretise(groups, {name: table[replica] for name, table in bandit.scores().items()})
        for group in groups:
            left = [tuple(np.flatnonzero(row).tolist()) for row in masks[-1][group.name][replica]]
            assert cell[group.name] == tuple(left)


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_step_trains_the_cell_and_its_accuracy_counts_for_its_options(space: str) -> None:
    lab = labs.make(space)
    settings = replace(bnas_policy.Settings(), every=2)
    searcher = bnas_policy.build(settings, lab)
    bandit = searcher.recipe.memory
    assert isinstance(bandit, Bandit)
    network = lab.build(SupernetOptions())
    optimiser = SGD(dict(network.named_parameters()), settings.weights)
    searcher.begin_epoch(0)
    wanted = {name: np.zeros(count.shape) for name, count in bandit.count.items()}
    for step, batches in enumerate(labs.steps(lab, searcher.policy, 4)):
        hot = bandit.cell(lab.stream("cell", step // 2))
        choices = as_choices(hot, next(iter(searcher.parameters.values())))
        plain = weight_step(network, optimiser, batches.train[0], choices, searcher.lr)
        assert torch.equal(searcher.step(batches).train, plain)
        assert bandit.trials == (step + 1) // 2
        if step % 2:
            accuracy = lab.evaluate(network, choices, "val", range(step // 2, step // 2 + 1)).accuracy.numpy()
            for name, (taken,) in hot.items():
                before = wanted[name].copy()
                wanted[name] += taken * (accuracy[:, None, None] - before) / np.maximum(bandit.count[name], 1)
                np.testing.assert_allclose(bandit.mean[name], wanted[name])
    labs.same(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(dict(network.named_parameters())))


@unchecked
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_prunings_are_spread_over_the_epochs_and_the_last_leaves_a_cell(space: str) -> None:
    lab = labs.make(space)
    searcher = bnas_policy.build(bnas_policy.Settings(every=1), lab)
    bandit, rounds = searcher.recipe.memory, {"toy": 2, "nb201": 4}[space]
    assert isinstance(bandit, Bandit)
    for epoch in range(labs.EPOCHS):
        labs.drive(searcher, lab, epoch, epoch + 1)
        assert bandit.made == (epoch + 1) * rounds // labs.EPOCHS
    for group in lab.groups:
        assert (bandit.alive.masks[group.name].sum(-1) == group.keep).all()
    again = Bandit(lab.groups, 2, 0.1, 0.1)
    again.load_state_dict(labs.through_disk(bandit.state_dict()))
    labs.same(labs.leaves(again.state_dict()), labs.leaves(bandit.state_dict()))


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match="expected exploration and temperature of at least 0, every of at least 1, got"
    ):
        bnas_policy.build(bnas_policy.Settings(every=0), labs.make())
