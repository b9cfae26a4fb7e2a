"""SGAS: what it decides, when, and what a decided row is."""

import math
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.spaces import get
from bench.spaces.base import discretise, k_hot
from searchers import darts, sgas
from searchers._decisions import Decisions, Schedule, scaled
from searchers._freeze import Frozen
from searchers._optim import ArchSettings
from searchers.base import Batch, Choices

ALL = pytest.mark.parametrize("settings", [sgas.Settings(), sgas.StableSettings()], ids=["1", "2"])
FAST = ArchSettings(lr=0.3)


def random_logits(space: str, replicas: int = 2, seed: int = 3) -> dict[str, Tensor]:
    stream = labs.rng(seed)
    shapes = {group.name: (replicas, *group.shape) for group in get(space).groups}
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.usefixtures("unchecked")
@ALL
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_without_decisions_it_is_darts_to_the_bit(settings, space: str) -> None:
    found = []
    for build, own in ((darts.build, darts.Settings()), (sgas.build, replace(settings, schedule=Schedule(rows=0)))):
        lab = labs.make(space)
        searcher = build(own, lab)
        losses = labs.drive(searcher, lab, 0, 2)
        seen = labs.outcome(searcher, losses)
        found.append({name: value for name, value in seen.items() if not name.startswith("/selected")})
    labs.same(*found)


@pytest.mark.usefixtures("unchecked")
@ALL
@pytest.mark.parametrize("space", ["toy", "s2", "nb201"])
def test_in_the_end_every_row_is_decided_and_the_network_is_the_cell(settings, space: str) -> None:
    lab = labs.make(space)
    searcher = sgas.build(replace(settings, arch=FAST), lab)
    labs.drive(searcher, lab, 0, labs.EPOCHS)
    rows = sum(group.decisions for group in lab.groups)
    decisions = searcher.recipe.memory
    assert isinstance(decisions, Decisions)
    assert decisions.made == rows
    assert all(mask.all() for mask in decisions.frozen.rows.values())
    leaves = searcher.leaves()
    choices = searcher.relax(leaves)
    selected = searcher.selected()
    assert selected is not None
    total = sum((value * random_logits(space)[name]).sum() for name, value in choices.weights.items())
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(total, list(leaves.values())))
    for replica in range(2):
        cell = k_hot(lab.groups, discretise(lab.groups, {n: v[replica].numpy() for n, v in selected.items()}))
        for name, hot in cell.items():
            assert choices.active is not None
            np.testing.assert_array_equal(choices.weights[name][0, replica].detach().numpy(), hot)
            np.testing.assert_array_equal(choices.active[name][0, replica], hot > 0)
            assert name != "op" or space != "nb201" or not hot[:, 0].any()
    batch = labs.fake_batch(2)
    with torch.no_grad():
        whole = searcher.supernet(batch.images, Choices(choices.weights))
        torch.testing.assert_close(searcher.supernet(batch.images, choices), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_a_decided_row_stays_and_the_others_move() -> None:
    lab = labs.make("s2")
    searcher = sgas.build(sgas.Settings(arch=FAST), lab)
    labs.drive(searcher, lab, 0, 1)
    decisions = searcher.recipe.memory
    assert isinstance(decisions, Decisions)
    assert 0 < decisions.made < len(decisions.rows)
    before = {name: value.clone() for name, value in searcher.logits().items()}
    moments = searcher.arch.state_dict()["count"].clone()
    searcher.begin_epoch(1)
    for batches in labs.steps(lab, searcher.policy, 2):
        searcher.step(batches)
    free = decisions.frozen.moves(before["op"])
    assert free is not None
    assert (searcher.arch.state_dict()["count"] == moments + 2 * free).all()
    for name, rows in decisions.frozen.rows.items():
        moved = (searcher.logits()[name] != before[name]).all(-1).numpy()
        np.testing.assert_array_equal(moved, ~rows)
        np.testing.assert_array_equal((searcher.logits()[name] == before[name]).all(-1).numpy(), rows)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_step_with_decided_rows_is_the_equations(space: str) -> None:
    """One replica; the reference computes every option, those of decided rows with weight 1 or 0."""
    lab = labs.make(space, (5,))
    searcher = sgas.build(sgas.Settings(), lab)
    decisions = searcher.recipe.memory
    assert isinstance(decisions, Decisions)
    fixed = {0: 1, 3: 2}  # decision: the option that is left
    for decision, option in fixed.items():
        decisions.frozen.decide(0, "op", decision, [option])
    (batches,) = labs.steps(lab, searcher.policy, 1)
    alpha = {name: value[0].clone().requires_grad_() for name, value in searcher.logits().items()}
    weights = {name: value.detach().clone().requires_grad_() for name, value in searcher.parameters.items()}

    def loss(batch: Batch) -> Tensor:
        mixing = {name: value.exp() / value.exp().sum(-1, keepdim=True) for name, value in alpha.items()}
        for decision, option in fixed.items():
            rows = list(mixing["op"])
            rows[decision] = torch.eye(len(rows[0]), dtype=torch.float64)[option]
            mixing["op"] = torch.stack(rows)
        choices = Choices({name: value[None, None] for name, value in mixing.items()})
        scores = torch.func.functional_call(searcher.supernet, weights, (batch.images, choices))
        return torch.nn.functional.cross_entropy(scores[0], batch.labels[0])

    start = {name: value.detach().clone() for name, value in weights.items()}
    adam = torch.optim.Adam(alpha.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    before = {name: value.detach().clone() for name, value in alpha.items()}
    loss(batches.val[0]).backward()
    adam.step()
    with torch.no_grad():
        for decision in fixed:
            alpha["op"][decision] = before["op"][decision]  # no decay either
    gradients = torch.autograd.grad(loss(batches.train[0]), list(weights.values()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    searcher.step(batches)
    for name, value in searcher.logits().items():
        torch.testing.assert_close(value[0], alpha[name].detach(), rtol=1e-9, atol=1e-12)
    left = 0
    for (name, old), gradient in zip(start.items(), gradients, strict=True):
        address = searcher.supernet.address(name)
        gone = (
            address is not None and address.group == "op" and address.option is not None
            and fixed.get(address.decision, address.option) != address.option
        )  # fmt: skip
        left += gone
        wanted = old if gone else old - 0.025 * (gradient * min(1.0, 5 / norm) + 3e-4 * old)
        torch.testing.assert_close(searcher.parameters[name].detach(), wanted, rtol=1e-9, atol=1e-12)
    assert left > 0


@pytest.mark.parametrize(("space", "epochs"), [("nb201", 40), ("s1", 45), ("s3", 60)])
def test_the_published_budget_has_the_published_epochs(space: str, epochs: int) -> None:
    rows = sum(group.decisions for group in get(space).groups)
    assert epochs == 9 + 5 * (rows - 1) + 6
    due = [Schedule().due(epoch, epochs, rows) for epoch in range(epochs)]
    assert [epoch for epoch in range(1, epochs) if due[epoch] > due[epoch - 1]] == [9 + 5 * d for d in range(rows)]
    assert due[-1] == rows


@pytest.mark.parametrize("epochs", [1, 2, 7, 100, 333])
def test_every_budget_decides_every_row(epochs: int) -> None:
    due = [Schedule().due(epoch, epochs, 6) for epoch in range(epochs)]
    assert due == sorted(due)
    assert due[-1] == 6
    assert epochs < 40 or due[epochs // 5] == 0
    assert [Schedule(rows=0).due(epoch, epochs, 6) for epoch in range(epochs)] == [0] * epochs
    assert Schedule(rows=2).due(epochs - 1, epochs, 6) == 2


def by_hand(logits: dict[str, Tensor], past: list[dict[str, Tensor]], replica: int) -> list[float]:
    """The score of every row of nb201 in plain Python."""

    def softmax(values: list[float]) -> list[float]:
        total = sum(math.exp(v) for v in values)
        return [math.exp(v) / total for v in values]

    def shares(table: dict[str, Tensor]) -> list[list[float]]:
        rows = [softmax(row)[1:] for row in table["op"][replica].tolist()]
        return [[p / sum(row) for p in row] for row in rows]

    def unit(values: list[float]) -> list[float]:
        return [(v - min(values)) / (max(values) - min(values)) for v in values]

    importance = [sum(softmax(row)[1:]) for row in logits["op"][replica].tolist()]
    mine = shares(logits)
    certainty = [1 + sum(p * math.log(p) for p in row) / math.log(4) for row in mine]
    score = [a * b for a, b in zip(unit(importance), unit(certainty), strict=True)]
    if past:
        theirs = [shares(table) for table in past]
        overlap = [
            sum(sum(min(p, q) for p, q in zip(row, old[i], strict=True)) for old in theirs) / len(theirs)
            for i, row in enumerate(mine)
        ]
        score = [a * b for a, b in zip(score, unit(overlap), strict=True)]
    return score


class Fixed:
    """A searcher whose logits are given."""

    def __init__(self, logits: dict[str, Tensor], lab) -> None:
        self.resources, self.fixed = lab, logits

    def logits(self) -> dict[str, Tensor]:
        return self.fixed


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("history", [0, 2])
def test_the_row_of_the_highest_score_keeps_its_best_operation(history: int) -> None:
    """Several epochs of given logits against scores written out; only the last `history` epochs count."""
    lab, groups = replace(labs.make("nb201"), horizon=labs.Horizon(4)), get("nb201").groups
    decisions = Decisions(groups, 2, Schedule(first=2, every=1, tail=1, rows=2), history)
    tables = [random_logits("nb201", seed=seed) for seed in range(4)]
    decided: list[list[int]] = [[], []]
    for epoch, table in enumerate(tables):
        decisions.end_epoch(Fixed(table, lab), epoch)
        for replica in range(2):
            now = decisions.frozen.rows["op"][replica].nonzero()[0].tolist()
            if epoch < 2:
                assert now == []
                continue
            past = tables[max(0, epoch - history) : epoch] if history else []
            score = by_hand(table, past, replica)
            best = max((row for row in range(6) if row not in decided[replica]), key=lambda row: score[row])
            assert sorted([*decided[replica], best]) == now
            decided[replica].append(best)
            kept = decisions.frozen.kept["op"][replica, best]
            assert kept.sum() == 1
            assert kept.argmax() == 1 + table["op"][replica, best, 1:].argmax()


@pytest.mark.usefixtures("unchecked")
def test_rows_of_inputs_keep_as_many_as_the_cell_needs() -> None:
    lab = labs.make("s1")
    decisions = Decisions(lab.groups, 2, Schedule(), 0)
    logits = random_logits("s1")
    decisions.end_epoch(Fixed(logits, lab), labs.EPOCHS - 1)
    for group in lab.groups:
        best = logits[group.name].argsort(-1, descending=True)[..., : group.keep].sort(-1).values
        kept = decisions.frozen.kept[group.name]
        assert (kept.sum(-1) == group.keep).all()
        np.testing.assert_array_equal(kept.nonzero()[-1].reshape(best.shape), best.numpy())


def test_an_indicator_that_is_the_same_for_all_counts_one() -> None:
    """Without `none` the importance of every row is 1, but for rounding, so that certainty alone decides."""
    assert (scaled(np.full((2, 5), 1.0)) == 1).all()
    np.testing.assert_allclose(scaled(np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]])), [[0, 0.25, 1], [1, 1, 1]])
    decisions = Decisions(get("s2").groups, 20, Schedule(), 0)
    logits = random_logits("s2", 20)
    importance, shares = decisions._read(logits)
    np.testing.assert_allclose(importance, 1, rtol=1e-14)
    score = decisions.scores(importance, shares)
    entropy = [torch.special.entr(v.softmax(-1)).sum(-1) / math.log(v.shape[-1]) for v in logits.values()]
    np.testing.assert_allclose(score, scaled(1 - torch.cat(entropy, 1).numpy()), atol=1e-9)
    assert (score.max(1) == 1).all()


def test_weights_of_decided_rows() -> None:
    groups, logits = get("s1").groups, random_logits("s1")
    frozen = Frozen(groups, 2)
    assert frozen.relax(logits).active is None
    assert frozen.moves(logits["op"]) is None
    frozen.decide(1, "op", 2, [1])
    frozen.decide(0, "out", 0, [0, 3])
    choices = frozen.relax(logits)
    assert choices.active is not None
    for name, value in logits.items():
        wanted, active = value.softmax(-1), np.ones(value.shape, bool)
        if name == "op":
            wanted[1, 2], active[1, 2] = torch.tensor([0.0, 1.0, 0.0]), [False, True, False]
        if name == "out":
            wanted[0, 0], active[0, 0] = torch.tensor([1.0, 0, 0, 1, 0]), [True, False, False, True, False]
        assert torch.equal(choices.weights[name][0], wanted)
        np.testing.assert_array_equal(choices.active[name][0], active)
    with pytest.raises(ValueError, match="expected options for an undecided row, got"):
        frozen.decide(1, "op", 2, [0])
    again = Frozen(groups, 2)
    again.load_state_dict(labs.through_disk(frozen.state_dict()))
    labs.same(labs.leaves(again.state_dict()), labs.leaves(frozen.state_dict()))


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="expected first and rows of at least 0, every and tail of at least 1"):
        Schedule(every=0)
