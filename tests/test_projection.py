"""Deciding rows by removal: additive scores written out, rows that keep several, orders and resume."""

import labs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.spaces import get
from searchers import _relax
from searchers._exclude import softmax_without
from searchers._freeze import Frozen
from searchers._projection import Projection, Scorer, survivors, without
from searchers.base import Choices, Logits, SupernetOptions

SEEDS = (4, 9, 2)


def logits_of(space: str, seed: int = 1) -> Logits:
    stream = labs.rng(seed)
    shapes = {group.name: (len(SEEDS), *group.shape) for group in get(space).groups}
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


def fresh(space: str) -> Projection:
    return Projection(get(space).groups, [labs.rng(seed) for seed in SEEDS])


def additive(values: Logits) -> Scorer:
    """Score a network whose output is the sum of its weighted options."""

    def score(choices: Choices) -> Tensor:
        assert choices.active is not None
        total = torch.zeros(1, dtype=torch.float64)
        for name, weights in choices.weights.items():
            computed = torch.as_tensor(choices.active[name])
            assert bool((weights[~computed] == 0).all())
            total = total + (weights * computed * values[name]).sum((0, 2, 3))
        return total

    return score


@pytest.mark.parametrize("space", ["nb201", "s1", "s3"])
def test_an_additive_network_keeps_the_largest_contributions(space: str) -> None:
    """Contributions are weights times values; what a row keeps several of is the largest, too."""
    mixed, values = _relax.softmax(logits_of(space)), logits_of(space, 2)
    projection = fresh(space)
    decided: list[list[tuple[str, int]]] = [[] for _ in SEEDS]
    for turn in range(projection.rows):
        before = projection.frozen.state_dict()
        projection.decide(mixed, additive(values))
        assert projection.made == turn + 1
        for replica, order in enumerate(projection.orders):
            decided[replica].append(order[turn])
            for group in projection.groups.values():
                for decision in range(group.decisions):
                    kept = projection.frozen.kept[group.name][replica, decision]
                    if (group.name, decision) not in decided[replica]:
                        assert kept.all()
                    elif (group.name, decision) != order[turn]:
                        np.testing.assert_array_equal(kept, before["kept"][group.name][replica, decision])
                    else:
                        share = mixed.weights[group.name][0, replica, decision] * values[group.name][replica, decision]
                        wanted = share.argsort(descending=True)[: group.keep].sort().values.tolist()
                        assert kept.nonzero()[0].tolist() == wanted
    assert all(sorted(rows) == sorted(projection.orders[0]) for rows in decided)
    assert len({tuple(order) for order in projection.orders}) == len(SEEDS)


def test_a_removal_changes_one_weight_and_nothing_else() -> None:
    mixed, projection = _relax.softmax(logits_of("s1")), fresh("s1")
    seen: list[Choices] = []

    def score(choices: Choices) -> Tensor:
        seen.append(choices)
        return torch.zeros(len(SEEDS))

    projection.decide(mixed, score)
    projection.decide(mixed, score)
    first = {replica: projection.orders[replica][0] for replica in range(len(SEEDS))}
    assert len(seen) >= 6
    for choices in seen:
        assert choices.active is not None
        for name, weights in choices.weights.items():
            torch.testing.assert_close(weights != 0, torch.as_tensor(choices.active[name]))
            for replica, (group, decision) in first.items():
                changed = weights[0, replica] != mixed.weights[name][0, replica]
                rows = set(changed.any(-1).nonzero().flatten().tolist())
                allowed = {d for g, d in projection.orders[replica][:2] if g == name}
                assert rows <= allowed, (group, decision)
    kept = survivors(np.arange(4), np.zeros(4), 1)
    assert kept.tolist() == [0]  # of equals the first stays
    assert survivors(np.arange(4), np.zeros(4), 2).tolist() == [0, 1, 2]
    assert survivors(np.array([1, 3, 4]), np.array([0.5, np.nan, 0.7]), 1).tolist() == [3]
    assert survivors(np.array([1, 3, 4]), np.array([0.5, np.nan, 0.7]), 2).tolist() == [1, 3]
    assert survivors(np.array([1, 3]), np.array([0.5, 0.1]), 2).tolist() == [1, 3]


def test_a_replica_decides_as_it_would_alone_and_goes_on_after_a_resume() -> None:
    mixed, values = _relax.softmax(logits_of("s2")), logits_of("s2", 2)
    together, again = fresh("s2"), fresh("s2")
    for turn in range(together.rows):
        together.decide(mixed, additive(values))
        if turn == 2:
            again.load_state_dict(labs.through_disk(together.state_dict()))
            assert again.made == 3
    for _ in range(3, again.rows):
        again.decide(mixed, additive(values))
    labs.same(labs.leaves(again.state_dict()), labs.leaves(together.state_dict()))
    for replica, seed in enumerate(SEEDS):
        alone = Projection(get("s2").groups, [labs.rng(seed)])
        for _ in range(alone.rows):
            weights = {name: value[:, [replica]] for name, value in mixed.weights.items()}
            own = {name: value[[replica]] for name, value in values.items()}
            alone.decide(Choices(weights), additive(own))
        for name, kept in alone.frozen.kept.items():
            np.testing.assert_array_equal(kept[0], together.frozen.kept[name][replica])


def test_rows_of_every_cell_and_what_was_left_out_before() -> None:
    """Decided rows lie over weights of every cell; an option that was not computed stays out of what is open."""
    groups, frozen = get("nb201").groups, Frozen(get("nb201").groups, 2)
    weights = torch.rand((3, 2, 6, 5), generator=labs.rng(1), dtype=torch.float64)
    active = np.ones((3, 2, 6, 5), bool)
    active[1, :, :, 4] = False
    frozen.decide(1, groups[0].name, 2, [3])
    over = frozen.over(Choices({"op": weights}, {"op": active}))
    assert over.active is not None
    wanted, computed = weights.clone(), active.copy()
    wanted[:, 1, 2], computed[:, 1, 2] = torch.eye(5, dtype=torch.float64)[3], np.eye(5, dtype=bool)[3]
    assert torch.equal(over.weights["op"], wanted)
    np.testing.assert_array_equal(over.active["op"], computed)
    rest = {"op": np.ones((2, 6, 5), bool)}
    rest["op"][0, 1, 2] = False
    removed = without(over, rest)
    assert removed.active is not None
    wanted[:, 0, 1, 2], computed[:, 0, 1, 2] = 0.0, False
    assert torch.equal(removed.weights["op"], wanted)
    np.testing.assert_array_equal(removed.active["op"], computed)


@pytest.mark.parametrize("space", ["nb201", "s1"])
def test_removing_what_is_not_computed_changes_no_prediction(space: str) -> None:
    """And removal is the weight 0: leaving the option out gives what computing it with the weight 0 gives."""
    lab = labs.make(space)
    network, batch = lab.build(SupernetOptions()), labs.fake_batch(2)
    frozen, mixed = Frozen(lab.groups, 2), _relax.softmax({n: v[:2] for n, v in logits_of(space).items()})
    for replica in range(2):
        frozen.decide(replica, "op", 1, [1 + replica])
    over = frozen.over(mixed)
    rest = {group.name: np.ones((2, *group.shape), bool) for group in lab.groups}
    rest["op"][0, 1, 2] = rest["op"][1, 1, 1] = False
    with torch.no_grad():
        assert torch.equal(network(batch.images, without(over, rest)), network(batch.images, over))
        rest["op"][:, 0, 1] = False
        removed = without(mixed, rest)
        whole = network(batch.images, Choices(removed.weights))
        torch.testing.assert_close(network(batch.images, removed), whole, rtol=1e-10, atol=1e-12)


def test_options_left_out_by_the_search_are_not_asked_about() -> None:
    """The one whose removal hurts most is sought among those that are computed, if they are enough."""
    mixed, projection = _relax.softmax(logits_of("nb201")), fresh("nb201")
    asked: list[Choices] = []
    active = np.ones((2, len(SEEDS), 6, 5), bool)
    active[:, 0, :, [0, 1, 4]] = False
    active[0, 1] = False  # another cell computes them
    active[:, 2] = False
    weights = {"op": mixed.weights["op"].expand(2, -1, -1, -1)}

    def score(choices: Choices) -> Tensor:
        asked.append(choices)
        return torch.full((len(SEEDS),), float(len(asked)))  # the first removal hurts most

    projection.decide(Choices(weights, {"op": active}), score)
    kept = [projection.frozen.kept["op"][r, order[0][1]].nonzero()[0] for r, order in enumerate(projection.orders)]
    assert [options.tolist() for options in kept] == [[2], [0], [0]]
    assert len(asked) == 5


def test_an_option_without_weight_is_not_asked_about() -> None:
    """A relaxation without `none` gives it a weight of exactly zero; its removal would change nothing."""
    groups, projection = get("nb201").groups, fresh("nb201")
    scores = iter([9.0, 8.0, 7.0, 6.0, 1.0])  # the fifth, were it asked for, would be the lowest

    def score(_choices: Choices) -> Tensor:
        return torch.full((len(SEEDS),), next(scores))

    projection.decide(softmax_without(groups, "none")(logits_of("nb201")), score)
    for replica, order in enumerate(projection.orders):
        assert projection.frozen.kept["op"][replica, order[0][1]].tolist() == [False] * 4 + [True]
    assert next(scores) == 1.0


def test_an_excluded_option_is_not_asked_about_unless_nothing_else_is_left() -> None:
    groups = get("nb201").groups
    projection = Projection(groups, [labs.rng(seed) for seed in SEEDS], excluded=("none",))
    active = np.ones((1, len(SEEDS), 6, 5), bool)
    active[:, 1] = np.arange(5) == 0  # the search has left nothing but `none` to the second replica
    asked: list[np.ndarray] = []

    def score(choices: Choices) -> Tensor:
        assert choices.active is not None
        asked.append(choices.active["op"][0].copy())
        return torch.as_tensor(choices.active["op"][0, ..., 0].sum(-1))  # the removal of `none` hurts most

    projection.decide(Choices(_relax.softmax(logits_of("nb201")).weights, {"op": active}), score)
    kept = [projection.frozen.kept["op"][r, order[0][1]].nonzero()[0] for r, order in enumerate(projection.orders)]
    assert [options.tolist() for options in kept] == [[1], [0], [1]]
    assert len(asked) == 4
