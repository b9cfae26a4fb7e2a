"""DARTS+: when it stops, what it returns then, and that it is DARTS otherwise."""

from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.spaces import get
from bench.spaces.base import discretise
from searchers import darts, darts_plus
from searchers.darts_plus import Settings, Watch

unchecked = pytest.mark.usefixtures("unchecked")
SKIP, CONV1X1, CONV3X3 = 1, 2, 3


class Fixed:
    """A searcher whose logits are given."""

    def __init__(self, logits: dict[str, Tensor]) -> None:
        self.fixed = logits

    def logits(self) -> dict[str, Tensor]:
        return self.fixed


def tables(space: str, epochs: int, seed: int = 1) -> list[dict[str, Tensor]]:
    stream = labs.rng(seed)
    shapes = {group.name: (2, *group.shape) for group in get(space).groups}
    return [
        {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(epochs)
    ]


def watched(space: str, settings: Settings, epochs: list[dict[str, Tensor]]) -> Watch:
    watch = Watch(get(space).groups, settings, 2)
    for epoch, logits in enumerate(epochs):
        watch.end_epoch(Fixed(logits), epoch)
        if epoch == 1:  # as a resumed search
            state = labs.through_disk(watch.state_dict())
            watch = Watch(get(space).groups, settings, 2)
            watch.load_state_dict(state)
    return watch


@unchecked
def test_the_first_criterion_counts_the_skips_of_the_decoded_cell() -> None:
    """Replica 0 gets its second skip after epoch 2, replica 1 never has two."""
    groups, epochs = get("nb201").groups, tables("nb201", 4)
    for epoch, logits in enumerate(epochs):
        op = logits["op"]
        op[:, :, SKIP] = op.amin(-1) - 1
        op[0, 4, SKIP] = op.amax() + 1
        op[:, 1, SKIP] += 100.0 * (epoch >= 2)
    watch = watched("nb201", Settings(patience=None), epochs)
    assert watch.stopped == [2, None]
    counts = [
        [str(discretise(groups, {"op": logits["op"][r].numpy()})["op"]).count(f"({SKIP},)") for logits in epochs]
        for r in range(2)
    ]
    assert counts == [[1, 1, 2, 2], [0, 0, 1, 1]]
    selected = watch.select(epochs[3])["op"]
    assert torch.equal(selected[0], epochs[2]["op"][0])
    assert torch.equal(selected[1], epochs[3]["op"][1])
    assert watched("nb201", Settings(skips=3, patience=None), epochs).stopped == [None, None]


@unchecked
def test_the_second_criterion_wants_the_order_of_operations_with_weights_to_stay() -> None:
    """Replica 1 swaps two convolutions of one edge after epoch 2; other columns never matter."""
    epochs = tables("nb201", 6)
    for epoch, logits in enumerate(epochs):
        op = logits["op"]
        op[:, :, CONV3X3] = op[:, :, CONV1X1] + 0.1 * (torch.arange(6) - 2.5)
        op[1, 5, CONV3X3] -= 1.0 * (epoch >= 2)
    assert watched("nb201", Settings(skips=None, patience=3), epochs).stopped == [3, 5]
    assert watched("nb201", Settings(skips=None, patience=4), epochs).stopped == [4, None]
    assert watched("nb201", Settings(skips=None, patience=6), epochs).stopped == [None, None]


@unchecked
def test_a_space_without_skips_has_the_second_criterion_only() -> None:
    same = tables("s1", 1) * 4
    assert watched("s1", Settings(skips=1, patience=None), same).stopped == [None, None]
    assert watched("s1", Settings(patience=2), same).stopped == [2, 2]
    moving = [
        {name: v if name == "op" else v + (0.0 if e % 2 else torch.arange(v.shape[-1])) for name, v in t.items()}
        for e, t in enumerate(same)
    ]
    assert watched("s1", Settings(patience=2), moving).stopped == [2, 2]  # rows of inputs do not count
    moving[1]["op"] = moving[1]["op"].flip(-1)
    assert watched("s1", Settings(patience=2), moving).stopped == [None, None]


@unchecked
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_it_is_darts_but_for_what_is_selected(space: str) -> None:
    """To the bit; without criteria the selection is the same too, and a stop moves nothing of another replica."""
    lab, found, picked = labs.make(space), [], []
    for method, settings in (
        (darts, darts.Settings()),
        (darts_plus, Settings(skips=None, patience=None)),
        (darts_plus, Settings(skips=None, patience=1)),
    ):
        searcher = method.build(settings, lab)
        after = []
        for epoch in range(labs.EPOCHS):
            labs.drive(searcher, lab, epoch, epoch + 1)
            after.append({name: value.clone() for name, value in searcher.logits().items()})
        seen = labs.outcome(searcher, [])
        found.append({name: value for name, value in seen.items() if not name.startswith("/selected")})
        picked.append(searcher.selected())
    labs.same(found[0], found[1])
    labs.same(found[0], found[2])
    labs.same(picked[0], picked[1])
    watch = searcher.recipe.memory
    assert isinstance(watch, Watch)
    assert any(epoch == 1 for epoch in watch.stopped)
    for replica, epoch in enumerate(watch.stopped):
        for name, value in picked[2].items():
            assert torch.equal(value[replica], after[2 if epoch is None else epoch][name][replica])
    before = list(watch.stopped)
    labs.drive(searcher, lab, 0, 1)
    for replica, epoch in enumerate(before):  # once stopped, for good
        if epoch is not None:
            assert all(torch.equal(v[replica], picked[2][n][replica]) for n, v in searcher.selected().items())


def test_settings() -> None:
    assert (Settings().skips, Settings().patience) == (2, 10)
    for changes in ({"skips": 0}, {"patience": 0}):
        with pytest.raises(ValueError, match="expected skips and patience of at least 1 or None, got"):
            replace(Settings(), **changes)
    order = darts_plus.learnable_order(get("s1").groups, tables("s1", 1)[0])
    assert order.shape == (2, 8)
    assert set(np.unique(order)) == {0, 1}
