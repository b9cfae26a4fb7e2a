"""Zero-Cost-PT: what it removes, what it keeps, what it never touches."""

from dataclasses import replace
from itertools import islice

import labs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench import setup, variants
from bench.request import parse
from bench.spaces import get
from bench.speed.__main__ import main as speed
from searchers import _projection, zero_cost_pt
from searchers._proxies import PROXIES, Proxy
from searchers._ranking import as_choices
from searchers.base import Batch, Choices, DataPolicy, Supernet
from searchers.registry import METHODS
from searchers.zero_cost_pt import ORDERS, Settings, ZeroCostPT

pytestmark = pytest.mark.usefixtures("unchecked")
QUICK = Settings(proposals=1, validation=0, batch_size=None)


def picks(searcher: ZeroCostPT) -> dict[str, np.ndarray]:
    selected = searcher.selected()
    assert selected is not None
    return {name: value.numpy() for name, value in selected.items()}


def alone(searcher: ZeroCostPT, rows: list[np.ndarray], replica: int, batch: Batch) -> float:
    """The score of one replica of nb201 whose edges mix these options: 1 where one is left, else 1/5 each."""
    weights = np.stack([row / (1 if row.sum() == 1 else 5) for row in rows])
    active = np.stack(rows) > 0
    both = np.stack([np.stack([w, w]) for w in weights], 1)[None]
    choices = Choices({"op": torch.from_numpy(both)}, {"op": np.stack([active, active])[None]})
    return float(searcher.proxy.score(searcher.supernet, choices, batch)[replica])


@pytest.mark.parametrize(("order", "edges"), [("reverse", range(5, -1, -1)), ("random", None)])
def test_every_edge_keeps_the_operation_without_which_the_score_is_lowest(order: str, edges: range | None) -> None:
    lab = labs.make("nb201")
    searcher = ZeroCostPT(replace(QUICK, order=order, proxy="grad_norm"), lab)  # type: ignore[arg-type]
    searcher.finish()
    served = [
        step.train[0] for epoch in (0, 1) for step in lab.feed.epoch(DataPolicy(val_batches=0), epoch, labs.EPOCHS)
    ]
    for replica in range(2):
        drawn = torch.randperm(6, generator=lab.stream("proposal", 0)[replica]).tolist()
        rows = [np.ones(5) for _ in range(6)]
        for turn, edge in enumerate(drawn if edges is None else edges):
            scores = []
            for option in range(5):
                rest = [row.copy() for row in rows]
                rest[edge][option] = 0
                scores.append(alone(searcher, rest, replica, served[turn]))
            rows[edge] = np.eye(5)[int(np.argmin(scores))]
        np.testing.assert_array_equal(picks(searcher)["op"][replica], np.stack(rows))


def test_one_proposal_without_validation_is_perturbation_with_a_proxy() -> None:
    """And it moves nothing: weights, global random numbers, and another search of the same seed are as they were."""
    lab = labs.make("s1")
    searcher = ZeroCostPT(QUICK, lab)
    before, state = labs.leaves(dict(searcher.supernet.named_parameters())), torch.get_rng_state()
    searcher.finish()
    labs.same(labs.leaves(dict(searcher.supernet.named_parameters())), before)
    assert torch.equal(torch.get_rng_state(), state)
    projection = _projection.Projection(lab.groups, lab.stream("proposal", 0), order=_projection.operations_first)
    even = Choices({g.name: torch.full((1, 2, *g.shape), 1 / len(g.options)).double() for g in lab.groups})
    batches = searcher._batches()
    for _ in range(projection.rows):
        batch = next(batches)
        projection.decide(even, lambda choices, b=batch: PROXIES["naswot"].score(searcher.supernet, choices, b))
    for name, hot in picks(searcher).items():
        np.testing.assert_array_equal(hot, projection.frozen.kept[name])
    again = ZeroCostPT(QUICK, lab)
    again.finish()
    labs.same(labs.outcome(again, []), labs.outcome(searcher, []))


def test_validation_keeps_each_replicas_best_proposal() -> None:
    """Every batch counts the same; no number is the worst; the first of equals stays."""
    lab = labs.make("toy")
    searcher = ZeroCostPT(QUICK, lab)
    like = torch.zeros(1, dtype=torch.float64)
    cells = [as_choices({g.name: np.full((1, 2, *g.shape), float(i)) for g in lab.groups}, like) for i in range(4)]
    table = torch.tensor([[[1.0, 5.0], [2.0, torch.nan]], [[2.0, 1.0], [3.0, 1.0]], [[4.0, 0.0], [1.0, 1.0]]])
    seen: list[Batch] = []

    def known(_network: Supernet, choices: Choices, batch: Batch) -> Tensor:
        seen.append(batch)
        number = int(choices.weights["op"][0, 0, 0, 0])
        return table[min(number, 2), (len(seen) - 1) // len(cells)].double()

    searcher.proxy = Proxy(known)
    batches = list(islice(searcher._batches(), 2))
    assert searcher.validate(cells, iter(batches)) == [1, 1]
    assert [batch is batches[i // 4] for i, batch in enumerate(seen)] == [True] * 8
    assert searcher.validate(cells, iter([])) == [0, 0]


def test_more_proposals_keep_a_better_score() -> None:
    """The best of several proposals by the validation's own batches; the first is what one proposal alone finds."""
    lab = labs.make("toy")
    searcher = ZeroCostPT(replace(QUICK, order="random", proposals=3, validation=2), lab)
    batches = searcher._batches()
    cells = [searcher.propose(number, batches) for number in range(3)]
    scored = list(islice(batches, 2))
    total = sum(
        torch.stack([PROXIES["naswot"].score(searcher.supernet, cell, batch) for cell in cells]) for batch in scored
    )
    searcher.finish()
    for replica, best in enumerate(total.argmax(0).tolist()):
        for name, hot in picks(searcher).items():
            np.testing.assert_array_equal(hot[replica], cells[best].weights[name][0, replica].numpy())
    single = ZeroCostPT(replace(QUICK, order="random"), lab)
    single.finish()
    np.testing.assert_array_equal(picks(single)["op"], cells[0].weights["op"][0].numpy())
    assert len({tuple(cell.weights["op"].flatten().tolist()) for cell in cells}) > 1


@pytest.mark.parametrize("proxy", [name for name in PROXIES if name != "naswot"])
def test_every_proxy_selects_a_cell(proxy: str) -> None:
    lab = labs.make("nb201", dtype=torch.float32)
    searcher = ZeroCostPT(replace(QUICK, proxy=proxy), lab)  # type: ignore[arg-type]
    searcher.finish()
    assert (picks(searcher)["op"].sum(-1) == 1).all()


def test_orders() -> None:
    groups, stream = get("s2").groups, labs.rng(3)
    rows = [(group.name, decision) for group in groups for decision in range(group.decisions)]
    assert ORDERS["sequential"](groups, stream) == rows
    assert ORDERS["reverse"](groups, stream) == rows[::-1]
    assert sorted(ORDERS["random"](groups, stream)) == sorted(rows)
    first = [ORDERS["operations_first"](groups, labs.rng(seed)) for seed in range(5)]
    assert len({tuple(order) for order in first}) > 1
    assert all([name for name, _ in order] == ["op"] * 4 + [name for name, _ in rows[4:]] for order in first)
    nb201 = get("nb201").groups
    assert ORDERS["operations_first"](nb201, labs.rng(1)) == ORDERS["random"](nb201, labs.rng(1))


def test_a_run_has_no_epochs_whatever_is_asked_for() -> None:
    request = parse(["--space", "toy", "--methods", "zero_cost_pt,darts", "--epochs", "7", "--benchmark", "embedded"])
    bench = setup.prepare(request)
    assert [variants.specs(bench, METHODS[name])[0].epochs for name in ("zero_cost_pt", "darts")] == [0, 7]
    assert speed(["--space", "toy", "--methods", "zero_cost_pt", "--benchmark", "embedded"]) == 2


def test_what_it_reads_is_what_a_search_is_served() -> None:
    lab = labs.make()
    assert lab.feed.steps_per_epoch(zero_cost_pt.policy(QUICK), 0) == 0
    reads = DataPolicy(val_batches=0, batch_size=lambda _epoch, _base: 5)
    wanted, found = lab.feed.epoch(reads, 1, labs.EPOCHS), lab.served(reads, 1)
    labs.same(labs.leaves(list(found)), labs.leaves(list(wanted)))
    assert next(ZeroCostPT(replace(QUICK, batch_size=5), lab)._batches()).labels.shape == (2, 5)


def test_impossible_settings_and_calls_are_refused() -> None:
    for changes in ({"proposals": 0}, {"validation": -1}):
        with pytest.raises(ValueError, match="expected at least 1 proposal"):
            Settings(**changes)
    lab = labs.make()
    searcher = ZeroCostPT(QUICK, lab)
    with pytest.raises(ValueError, match="expected no steps"):
        searcher.step(labs.fake_step(2))
    with pytest.raises(ValueError, match="expected no call"):
        searcher.relax({})
