"""Random search with weight sharing: what it samples, what a step does, when it ranks."""

import dataclasses
import itertools

import labs
import numpy as np
import pytest
import torch
from test_ranking import KnownLab, number
from torch.nn import functional

from searchers import _paths as paths
from searchers import random_ws
from searchers._optim import WeightSettings
from searchers._paths import Paths
from searchers._ranking import RankingSettings, as_choices, sample_cells
from searchers._touched import touched
from searchers.base import Choices, DataPolicy, SupernetOptions
from searchers.random_ws import Settings

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
FEW = RankingSettings(candidates=7, batches=2, finalists=3)


def reaches(op: np.ndarray) -> bool:
    """Whether a path of edges that are not `none` leads from node 0 to node 3 of a NAS-Bench-201 cell."""
    open_edges = {edge for edge, row in zip(EDGES, op, strict=True) if row.argmax() != 0}
    paths = ([(0, 3)], [(0, 1), (1, 3)], [(0, 2), (2, 3)], [(0, 1), (1, 2), (2, 3)])
    return any(set(path) <= open_edges for path in paths)


def searcher(space: str, seeds: tuple[int, ...] = (0, 1), **changes: object) -> Paths:
    lab = labs.make(space, seeds, channels=4)
    return random_ws.build(dataclasses.replace(Settings(ranking=FEW, batch_size=None), **changes), lab)


def test_defaults_are_those_of_nas_bench_1shot1() -> None:
    settings = Settings()
    assert settings.weights == WeightSettings(0.025, 0.001, 0.9, 3e-4, 0.25, nesterov=False)
    assert settings.batch_size == 64
    assert not settings.per_cell
    assert settings.ranking == RankingSettings(1000, 10, 5, every_epoch=True)
    policy = random_ws.policy(settings)
    assert (policy.split, policy.train_batches, policy.val_batches) == ("halves", 1, 0)
    assert policy.batch_size(0, 96) == 64
    assert random_ws.policy(Settings(batch_size=None)).batch_size(3, 96) == 96


@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_a_step_is_the_equation_through_the_sampled_cell(space: str) -> None:
    """One replica; the reference computes every option densely, and torch's SGD leaves alone what has no gradient."""
    mine = searcher(space, (2,), weights=WeightSettings(lr=0.2, lr_min=0.0, weight_decay=0.05, clip=0.25))
    lab = labs.make(space, (2,), channels=4)
    network = lab.build(SupernetOptions())
    weights = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    sgd = torch.optim.SGD(weights.values(), lr=0.2, momentum=0.9, weight_decay=0.05)
    clipped, idle = 0, set()
    mine.begin_epoch(0)
    for step, batches in enumerate(labs.steps(lab, DataPolicy(val_batches=0), 3)):
        hot = mine.uniform("cell", step, 1)
        dense = Choices({name: torch.as_tensor(values) for name, values in hot.items()})
        scores = torch.func.functional_call(network, weights, (batches.train[0].images, dense))
        loss = functional.cross_entropy(scores[0], batches.train[0].labels[0])
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, leaf), gradient in zip(weights.items(), gradients, strict=True):
            leaf.grad = gradient if unused_by_hand(space, name, hot) is False else None
            assert leaf.grad is not None or not gradient.any(), name
            idle |= {name} if leaf.grad is None else set()
        clipped += int(torch.nn.utils.clip_grad_norm_(weights.values(), 0.25) > 0.25)
        sgd.step()
        losses = mine.step(batches)
        assert losses.train.item() == pytest.approx(loss.item(), rel=1e-10)
        assert losses.val is None
        labs.close(labs.leaves(dict(mine.parameters)), labs.leaves(weights), 1e-10)
    assert clipped
    assert idle


def unused_by_hand(space: str, name: str, hot: dict[str, np.ndarray]) -> bool:
    """Whether a cell's parameter is not on the sampled cell's way from input to output."""
    parts = name.split(".")
    if parts[0] != "cell":
        return False
    if space == "nb201":
        picks = hot["op"][0, 0].argmax(-1)
        edge = int(parts[3])
        if picks[edge] != {"conv1x1": 2, "conv3x3": 3}[parts[2]]:
            return True
        source, target = EDGES[edge]
        passable = {e for e, pick in zip(EDGES, picks, strict=True) if pick}
        before = source == 0 or bool(_paths(0, source, passable))
        return not (before and (target == 3 or bool(_paths(target, 3, passable))))
    op, parent, out = hot["op"][0, 0], int(hot["in_2"][0, 0, 0].argmax()), hot["out"][0, 0, 0]
    used = {1: bool(out[1] or (out[2] and parent == 1)), 2: bool(out[2])}
    if parts[2] == "project_out":
        return not out[0]
    node = int(parts[3]) + 1
    if parts[2] == "project":
        return not (used[node] and (node == 1 or parent == 0))
    return not (used[node] and op[node - 1].argmax() == {"conv3x3": 1, "conv1x1": 2}[parts[2]])


def _paths(start: int, end: int, passable: set[tuple[int, int]]) -> list[tuple[int, ...]]:
    between = range(start + 1, end)
    middles = itertools.chain.from_iterable(itertools.combinations(between, k) for k in range(len(between) + 1))
    routes = [(start, *middle, end) for middle in middles]
    return [route for route in routes if set(itertools.pairwise(route)) <= passable]


@pytest.mark.parametrize("space", ["toy", "s1", "s2", "s3", "nb201"])
def test_no_gradient_reaches_what_was_not_selected(space: str) -> None:
    """By the dense network, in which an option that was not selected has weight zero."""
    mine = searcher(space, (0, 1, 2))
    batch = labs.fake_batch(3)
    hot = mine.uniform("cell", 3, 1)
    choices = as_choices(hot, batch.images)
    names, values = zip(*mine.supernet.named_parameters(), strict=True)
    for given in (choices, Choices(choices.weights)):
        loss = functional.cross_entropy(mine.supernet(batch.images, given).flatten(0, 1), batch.labels.flatten())
        gradients = torch.autograd.grad(loss, values, allow_unused=True)
        used = used_by(mine, choices)
        for column, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
            for replica in range(3):
                moved = gradient is not None and bool(gradient[replica].any())
                assert used[replica, column] or not moved, (name, replica)
                if name.endswith("conv.weight"):
                    assert moved or not used[replica, column], (name, replica)


def used_by(mine: Paths, choices: Choices) -> np.ndarray:
    return touched(mine.supernet, choices, [name for name, _ in mine.supernet.named_parameters()])


def test_every_sampled_cell_carries_a_signal_and_is_the_streams_first_that_does() -> None:
    mine = searcher("nb201", (0, 1, 2))
    redrawn = 0
    for step in range(150):
        op = mine.uniform("cell", step, 1)["op"][0]
        for replica, stream in enumerate(mine.resources.stream("cell", step)):
            draws = 1
            wanted = sample_cells(mine.supernet.groups, (stream,), 1)["op"][0, 0]
            while not reaches(wanted):
                wanted = sample_cells(mine.supernet.groups, (stream,), 1)["op"][0, 0]
                draws += 1
            np.testing.assert_array_equal(op[replica], wanted)
            redrawn += draws > 1
    assert redrawn > 3


def test_redrawing_one_replica_does_not_depend_on_the_stack() -> None:
    seeds = tuple(range(5))
    together, alone = searcher("nb201", seeds), [searcher("nb201", (seed,)) for seed in seeds]
    redrawn = 0
    for step in range(60):
        op = together.uniform("cell", step, 3)["op"]
        first = sample_cells(together.supernet.groups, together.resources.stream("cell", step), 3)["op"]
        redrawn += len({r for r in range(5) if (first[:, r] != op[:, r]).any()}) == 1
        for replica, one in enumerate(alone):
            np.testing.assert_array_equal(op[:, [replica]], one.uniform("cell", step, 3)["op"])
        assert all(reaches(cell) for cell in op.reshape(-1, 6, 5))
    assert redrawn > 3


def test_cells_of_one_network_differ_only_if_asked() -> None:
    for per_cell in (False, True):
        mine = searcher("nb201", per_cell=per_cell)
        seen: list[Choices] = []
        assert isinstance(mine.supernet, torch.nn.Module)
        mine.supernet.register_forward_pre_hook(lambda _m, inputs, seen=seen: seen.append(inputs[1]))
        mine.begin_epoch(0)
        (batches,) = labs.steps(mine.resources, mine.policy, 1)
        mine.step(batches)
        op = seen[0].weights["op"]
        assert len(op) == (3 if per_cell else 1)
        rows = {tuple(cell.flatten().tolist()) for cell in op[:, 0]}
        assert len(rows) == len(op)
        wanted = mine.uniform("cell", 0, len(op))["op"]
        np.testing.assert_array_equal(op.numpy(), wanted)


def test_steps_draw_new_cells_and_replicas_their_own() -> None:
    mine = searcher("s2")
    drawn = [mine.uniform("cell", step, 1)["op"][0] for step in range(8)]
    assert len({op[0].tobytes() for op in drawn}) > 4
    assert any((op[0] != op[1]).any() for op in drawn)


def known(every_epoch: bool) -> tuple[Paths, KnownLab]:
    def accuracy(choices: Choices, _batches: range | None) -> list[float]:
        return [1 - abs(n - best) / 18 for n, best in zip(number(choices), (11, 4), strict=True)]

    lab = KnownLab(labs.make(), accuracy)
    settings = Settings(ranking=dataclasses.replace(FEW, every_epoch=every_epoch), batch_size=None)
    return random_ws.build(settings, lab), lab


@pytest.mark.parametrize("every_epoch", [False, True])
def test_ranks_after_each_epoch_or_the_last_one(every_epoch: bool) -> None:
    mine, lab = known(every_epoch)
    assert mine.selected() is None
    for epoch in range(labs.EPOCHS):
        ranks, last = every_epoch or epoch == labs.EPOCHS - 1, len(lab.asked)
        labs.drive(mine, lab.lab, epoch, epoch + 1)
        assert (mine.selected() is not None) == ranks
        assert len(lab.asked) - last == (7 + 3 if ranks else 0)
    mine.finish()
    assert lab.asked[-10:] == [*(range(2 * i, 2 * i + 2) for i in range(7)), None, None, None]


def test_selects_the_best_of_its_own_candidates_and_draws_others_in_the_next_epoch() -> None:
    mine, _ = known(every_epoch=True)
    drawn = []
    for epoch in range(2):
        mine.end_epoch(epoch)
        cells = [mine.uniform("candidate", 7 * epoch + i, 1) for i in range(7)]
        numbers = np.array([number(as_choices(cell, torch.zeros(1))) for cell in cells])
        selected = mine.selected()
        assert selected is not None
        chosen = number(Choices({name: values[None] for name, values in selected.items()}))
        for replica, best in enumerate((11, 4)):
            assert abs(chosen[replica] - best) == np.abs(numbers[:, replica] - best).min()
        drawn.append(numbers)
    assert (drawn[0] != drawn[1]).any()


def test_there_is_no_curvature_and_relaxing_says_why() -> None:
    mine = searcher("toy")
    assert mine.logits() == {}
    assert (mine.hessian_of, mine.shift_invariant) == (None, ())
    with pytest.raises(ValueError, match="no architecture logits"):
        mine.relax({})


def test_a_space_without_a_living_cell_ends_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = searcher("toy")
    monkeypatch.setattr(paths, "carries", lambda _network, hot: np.zeros(2, dtype=bool))
    with pytest.raises(RuntimeError, match="within 100 draws"):
        mine.uniform("cell", 0, 1)
