"""Single path one-shot: the weights of random search with weight sharing, a cell found by evolution."""

import dataclasses

import labs
import numpy as np
import pytest
from test_ranking import KnownLab, number

from searchers import random_ws, spos
from searchers._paths import Paths
from searchers._ranking import KHot, RankingSettings
from searchers.base import Choices, Resources
from searchers.spos import Evolution, Settings, best, children

SMALL = Evolution(population=6, generations=4, parents=3)


def searcher(lab: Resources, **changes: object) -> Paths:
    return spos.build(Settings(evolution=dataclasses.replace(SMALL, **changes), batch_size=None), lab)


def rising(choices: Choices, _batches: range | None) -> list[float]:
    """Cell n has accuracy n/20 in the first replica, and 1 − n/20 in the second."""
    return [abs(replica - n / 20) for replica, n in enumerate(number(choices))]


def test_the_paper_s_sizes_are_the_defaults() -> None:
    assert Settings().evolution == Evolution(50, 20, 10, 0.1, None)


@pytest.mark.usefixtures("unchecked")
def test_weights_are_those_of_random_search_with_weight_sharing_to_the_bit() -> None:
    found = []
    for build in (
        lambda lab: spos.build(Settings(evolution=SMALL, batch_size=None), lab),
        lambda lab: random_ws.build(random_ws.Settings(ranking=RankingSettings(2, 1, 1), batch_size=None), lab),
    ):
        lab = labs.make("nb201")
        mine = build(lab)
        losses = labs.drive(mine, lab, 0, 1)
        found.append(labs.leaves({"losses": losses, **mine.parameters}))
    labs.same(*found)


@pytest.mark.parametrize("batches", [None, 2])
def test_every_generation_scores_a_whole_population_on_the_validation_half(batches: int | None) -> None:
    lab = KnownLab(labs.make(), rising)  # it refuses any other split
    mine = searcher(lab, batches=batches)
    before = labs.leaves(dict(mine.parameters))
    for epoch in range(labs.EPOCHS):
        assert mine.selected() is None
        mine.end_epoch(epoch)
        assert len(lab.asked) == (24 if epoch == labs.EPOCHS - 1 else 0)
    each = [None] * 6 if batches is None else [range(2 * i, 2 * i + 2) for i in range(6)]
    assert lab.asked == 4 * each
    labs.same(labs.leaves(dict(mine.parameters)), before)


def test_the_best_cell_ever_seen_is_selected_for_every_replica() -> None:
    seen: list[list[float]] = []

    def noted(choices: Choices, batches: range | None) -> list[float]:
        seen.append(rising(choices, batches))
        return seen[-1]

    lab = KnownLab(labs.make(seeds=(5, 6)), noted)
    mine = searcher(lab, population=4, generations=8, mutation=0.5)
    mine.end_epoch(labs.EPOCHS - 1)
    chosen = Choices({name: value[None] for name, value in mine.selected().items()})
    assert rising(chosen, None) == np.max(seen, axis=0).tolist()
    assert (np.max(seen, 0) > np.max(seen[:4], 0)).any()  # evolution went further than its first population


def cell(*numbers: int) -> KHot:
    """One cell of a replica each: the number is the first operation."""
    hot = {"op": np.zeros((1, len(numbers), 1, 3))}
    hot["op"][0, np.arange(len(numbers)), 0, list(numbers)] = 1
    return hot


def test_parents_are_the_best_distinct_cells() -> None:
    cells = [cell(0, 1), cell(1, 1), cell(0, 2), cell(2, 0)]
    kept, fitness = best(cells, np.array([[0.9, 0.5, 0.9, 0.6], [0.1, 0.2, 0.3, 0.3]]), 3)
    assert [row["op"][0, :, 0].argmax(-1).tolist() for row in kept] == [[0, 2], [2, 0], [1, 1]]
    np.testing.assert_array_equal(fitness, [[0.9, 0.6, 0.5], [0.3, 0.3, 0.2]])
    repeated, _ = best(cells, np.array([[0.9, 0.5, 0.9, 0.6], [0.1, 0.2, 0.3, 0.3]]), 4)
    assert [row["op"][0, :, 0].argmax(-1).tolist() for row in repeated][3] == [0, 2]


def rows(hot: KHot, replica: int) -> list[tuple[float, ...]]:
    return [tuple(row) for values in hot.values() for row in values[0, replica]]


def test_half_of_the_children_cross_two_parents_and_half_mutate_one() -> None:
    mine = searcher(labs.make("s3"))
    parents = [mine.uniform("parents", i) for i in range(3)]
    settings = dataclasses.replace(SMALL, population=200)
    made = children(mine, parents, settings, 0)
    assert len(made) == 200
    from_one, changed, total = 0, 0, 0
    for replica in range(2):
        family = [rows(parent, replica) for parent in parents]
        for child in (rows(hot, replica) for hot in made[:100]):
            pairs = [(a, b) for a in family for b in family]
            assert any(all(row in both for row, *both in zip(child, a, b, strict=True)) for a, b in pairs)
            from_one += child in family
        for child in (rows(hot, replica) for hot in made[100:]):
            changed += min(sum(x != y for x, y in zip(child, parent, strict=True)) for parent in family)
            total += len(child)
    assert 0 < from_one < 120  # a third have one parent twice
    assert 0.03 < changed / total < 0.1  # one in ten is drawn anew, and may be what it was
    for hot in made:
        for group in mine.supernet.groups:
            assert (hot[group.name].sum(-1) == group.keep).all()
    again = children(mine, parents, settings, 0)
    np.testing.assert_array_equal(made[7]["op"], again[7]["op"])
    still = children(mine, parents, dataclasses.replace(settings, mutation=0.0), 0)
    assert all(rows(hot, 0) in [rows(parent, 0) for parent in parents] for hot in still[100:])


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mutation=1\.5"):
        Evolution(mutation=1.5)
