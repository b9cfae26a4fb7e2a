"""EnTranNAS with and without thresholds: steps written out, the limits of the two kinds of cells, what is derived."""

import dataclasses
from collections.abc import Callable

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from bench.supernet.nb201 import NONE
from searchers import _engine, darts, entrannas, entrannas_dst
from searchers._bilevel import Bilevel, first_order
from searchers._engine import EngineSettings
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Batch, Choices, Logits, StepBatches, SupernetOptions

WEIGHTS = WeightSettings(lr=0.2, lr_min=0.01, weight_decay=0.03, clip=0.4)
ARCH = ArchSettings(lr=0.05)
WARM = EngineSettings(tau_end=1.0)
NODES = {"nb201": [(0,), (1, 2), (3, 4, 5)], "s1": []}
KEEP = {"op": 1, "in_3": 2, "in_4": 2, "out": 2}
PRESSURE = 0.7
unchecked = pytest.mark.usefixtures("unchecked")
both = pytest.mark.parametrize("method", [entrannas, entrannas_dst])
spaces = pytest.mark.parametrize("space", ["nb201", "s1"])


def built(method, lab: Lab, *, spread: float = 0.0, **changes) -> Bilevel:
    """A searcher; its logits are drawn from N(0, spread²) if that is not zero."""
    if method is entrannas_dst:
        changes = {"pressure": PRESSURE, **changes}
    searcher = method.build(dataclasses.replace(method.Settings(WEIGHTS, ARCH), **changes), lab)
    if spread:
        drawn = {
            name: torch.stack([torch.randn(v.shape[1:], generator=s, dtype=v.dtype) for s in lab.stream(name, 77)])
            for name, v in searcher.logits().items()
        }
        searcher.assign({name: spread * value for name, value in drawn.items()})
    return searcher


# One step, written out. Weights of cells are rows of lists of rows; thresholds are numbers.


def mixing(searcher: Bilevel, alpha: Logits, tau: float, space: str, sparse: bool) -> dict[str, Tensor]:
    """The weights of the three cells, of which the second is the engine."""
    found = {}
    for name, value in alpha.items():
        if name == "threshold":
            continue
        p = torch.exp(value / tau) / torch.exp(value / tau).sum(-1, keepdim=True)
        parts = NODES[space] if name == "op" else [(0,)]
        if sparse and parts:
            inside = torch.stack([engine_rows(p[r], parts, levels(alpha, name)[r]) for r in range(len(p))])
            outside = (inside > 0).to(p)
        else:
            inside, outside = p, torch.zeros_like(p)
            for r, row in np.ndindex(p.shape[:2]):
                scores = value[r, row].detach().clone()
                if space == "nb201" and not sparse:
                    scores[NONE] = -torch.inf
                outside[r, row, scores.topk(KEEP[name]).indices] = 1.0
        found[name] = torch.stack([outside, inside, outside])
    if sparse:
        found["threshold"] = (1 / (1 + torch.exp(-alpha["threshold"])))[None]
    return found


def levels(alpha: Logits, name: str) -> Tensor:
    """One replica's thresholds of the nodes of a group, a row a replica."""
    t = 1 / (1 + torch.exp(-alpha["threshold"][:, :, 0]))
    return t if name == "op" else t[:, [{"in_3": 0, "in_4": 1, "out": 2}[name]]]


def engine_rows(p: Tensor, parts: list[tuple[int, ...]], t: Tensor) -> Tensor:
    rows: dict[int, Tensor] = {}
    for node, edges in enumerate(parts):
        top = torch.stack([p[e] for e in edges]).max()
        for e in edges:
            q = torch.stack([torch.clamp(value / top - t[node], min=0) for value in p[e]])
            rows[e] = q / q.sum() if q.sum() > 0 else q
    return torch.stack([rows[e] for e in range(len(p))])


class Reference:
    """A search with its state, the rules of the optimisers written for each replica."""

    def __init__(self, searcher: Bilevel, space: str, sparse: bool, tau: float, lr: float) -> None:
        self.searcher, self.space, self.sparse, self.tau, self.lr = searcher, space, sparse, tau, lr
        self.alpha = {name: value.clone() for name, value in searcher.logits().items()}
        self.w = {name: value.detach().clone() for name, value in searcher.parameters.items()}
        self.momentum = {name: torch.zeros_like(value) for name, value in self.w.items()}
        self.moments = {name: [torch.zeros_like(value), torch.zeros_like(value)] for name, value in self.alpha.items()}
        self.count = 0

    def loss(self, weights: dict[str, Tensor], alpha: Logits, batch: Batch) -> Tensor:
        mixed = Choices(mixing(self.searcher, alpha, self.tau, self.space, self.sparse))
        scores = torch.func.functional_call(self.searcher.supernet, weights, (batch.images, mixed))
        return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1)

    def step(self, batches: StepBatches) -> None:
        alpha = {name: value.clone().requires_grad_() for name, value in self.alpha.items()}
        loss = self.loss(self.w, alpha, batches.val[0]).sum()
        if self.sparse:
            t = 1 / (1 + torch.exp(-alpha["threshold"]))
            loss = loss - PRESSURE * t.log().mean((1, 2)).sum()
        found = torch.autograd.grad(loss, list(alpha.values()))
        self.count += 1
        for (name, value), g in zip(self.alpha.items(), found, strict=True):
            gradient, (mean, square) = g + 1e-3 * value, self.moments[name]
            mean, square = 0.5 * mean + 0.5 * gradient, 0.999 * square + 0.001 * gradient**2
            self.moments[name] = [mean, square]
            spread = (square / (1 - 0.999**self.count)).sqrt() + 1e-8
            self.alpha[name] = value - 0.05 * mean / (1 - 0.5**self.count) / spread
        self.weight_step(batches.train[0])

    def weight_step(self, batch: Batch) -> None:
        weights = {name: value.clone().requires_grad_() for name, value in self.w.items()}
        found = torch.autograd.grad(self.loss(weights, self.alpha, batch).sum(), list(weights.values()))
        gradients = dict(zip(weights, found, strict=True))
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        for name, w in self.w.items():
            tested = name.replace("bias", "weight") if name.endswith("conv.bias") else name
            like = (-1, *[1] * (w.dim() - 1))
            used = (gradients[tested].flatten(1) != 0).any(1).view(like)
            step = gradients[name] * (0.4 / (norm + 1e-6)).clamp(max=1).view(like) + 0.03 * w
            self.momentum[name] = torch.where(used, 0.9 * self.momentum[name] + step, self.momentum[name])
            self.w[name] = torch.where(used, w - self.lr * self.momentum[name], w)


@unchecked
@both
@spaces
def test_steps_are_the_equations(method, space: str) -> None:
    lab = labs.make(space)
    searcher = built(method, lab, spread=0.3)
    searcher.begin_epoch(1)
    lr = 0.01 + 0.75 * 0.19  # the second epoch of three
    wanted = Reference(searcher, space, method is entrannas_dst, 0.1**0.5, lr)
    start = searcher.logits()["op"].clone()
    for batches in labs.steps(lab, searcher.policy, 3):
        searcher.step(batches)
        wanted.step(batches)
        labs.close(labs.leaves(searcher.logits()), labs.leaves(wanted.alpha), 1e-9)
        labs.close(labs.leaves(searcher.parameters), labs.leaves(wanted.w), 1e-9)
    assert (searcher.logits()["op"] - start).abs().max() > 0.05


# Limits of the engine


@unchecked
@pytest.mark.parametrize("space", ["nb201", "s1", "toy"])
def test_with_every_cell_an_engine_it_is_darts_to_the_bit(space: str) -> None:
    found = []
    every = EngineSettings((0, 1, 2), tau_end=1.0)
    for make in (
        lambda lab: built(entrannas, lab, engine=every, share_features=False, derive_none=True),
        lambda lab: darts.build(darts.Settings(WEIGHTS, ARCH), lab),
    ):
        lab = labs.make(space)
        searcher = make(lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


@both
@spaces
def test_without_an_engine_the_architecture_has_no_gradient(method, space: str) -> None:
    lab = labs.make(space)
    searcher = built(method, lab, spread=0.3, engine=EngineSettings(()))
    found = first_order(searcher, labs.fake_step(2)).gradient
    assert all((value == 0).all() for value in found.values())
    other = first_order(built(method, lab, spread=0.3), labs.fake_step(2)).gradient
    assert (other["op"] != 0).any()


@pytest.mark.parametrize("derive_none", [False, True])
def test_once_the_logits_are_one_hot_an_engine_is_a_transit_cell(derive_none: bool) -> None:
    lab, outputs = labs.make("nb201"), []
    picks = torch.tensor([[3, 1, 2, 4, 0 if derive_none else 3, 2], [4, 3, 2, 1, 3, 0 if derive_none else 2]])
    hot = functional.one_hot(picks, 5).double()
    for cells in ((0, 1, 2), (), (1,)):
        searcher = built(entrannas, lab, engine=EngineSettings(cells, tau_end=1.0), derive_none=derive_none)
        choices = searcher.relax({"op": 2000 * hot})
        assert torch.equal(choices.weights["op"], hot.expand_as(choices.weights["op"]))
        outputs.append(searcher.supernet(labs.fake_batch(2).images, choices))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-12, atol=1e-12)


# What transit cells are


def test_a_transit_cell_is_what_would_be_discretised() -> None:
    searcher = built(entrannas, labs.make("s1"), spread=1.0)
    choices, logits = searcher.relax(searcher.logits()), searcher.logits()
    assert choices.active is not None
    for name, value in logits.items():
        for cell, replica, row in np.ndindex(3, 2, value.shape[1]):
            kept = sorted(value[replica, row].topk(KEEP[name]).indices.tolist())
            weights, active = choices.weights[name][cell, replica, row], choices.active[name][cell, replica, row]
            if cell == 1:
                assert active.all()
                assert torch.equal(weights, value[replica, row].softmax(-1))
            else:
                assert np.flatnonzero(active).tolist() == kept
                assert weights.tolist() == [float(option in kept) for option in range(len(active))]


@pytest.mark.parametrize("derive_none", [False, True])
def test_none_is_derived_only_where_that_is_asked(derive_none: bool) -> None:
    searcher = built(entrannas, labs.make("nb201"), spread=1.0, derive_none=derive_none)
    logits = searcher.logits()
    logits["op"][:, :, NONE] = 9.0
    searcher.assign(logits)
    choices, selected = searcher.relax(searcher.logits()), searcher.selected()
    assert choices.active is not None
    assert selected is not None
    assert choices.active["op"][[0, 2]][..., NONE].all() == derive_none
    best = selected["op"].argmax(-1)
    assert (best == NONE).all() == derive_none
    assert (choices.weights["op"][0].argmax(-1) == best).all()
    rest = selected["op"][..., 1:]
    assert torch.equal(rest, logits["op"][..., 1:])


def test_ties_go_to_the_lowest_index() -> None:
    searcher = built(entrannas, labs.make("s1"))
    hot = _engine.k_hot(searcher.supernet.groups, {n: torch.zeros_like(v) for n, v in searcher.logits().items()})
    for name, mask in hot.items():
        assert (mask == (np.arange(mask.shape[-1]) < KEEP[name])).all()


@unchecked
def test_temperature_falls_exponentially_and_survives_a_checkpoint() -> None:
    lab = labs.make("nb201")
    searcher = built(entrannas, lab, spread=1.0)
    found = []
    for epoch in range(labs.EPOCHS):
        searcher.begin_epoch(epoch)
        found.append(_engine.temperature(EngineSettings(), searcher.moment()))
    assert found == [pytest.approx(1.0), pytest.approx(0.1**0.5), pytest.approx(0.1)]
    logits = searcher.logits()
    again = built(entrannas, lab)
    again.load_state_dict(labs.through_disk(searcher.state_dict()))
    assert torch.equal(again.relax(logits).weights["op"], searcher.relax(logits).weights["op"])
    torch.testing.assert_close(again.relax(logits).weights["op"][1], (logits["op"] * 10).softmax(-1))


@both
def test_impossible_engines_are_refused(method) -> None:
    with pytest.raises(ValueError, match=r"expected engine cells from -3 to 2, got \(3,\)"):
        built(method, labs.make(), engine=EngineSettings((3,)))
    with pytest.raises(ValueError, match=r"expected positive temperatures, got 1\.0 and 0\.0"):
        built(method, labs.make(), engine=EngineSettings(tau_end=0.0))


def test_the_engine_is_the_last_cell_of_the_second_stage() -> None:
    assert np.flatnonzero(_engine.places(EngineSettings(), 15)).tolist() == [9]
    assert np.flatnonzero(_engine.places(EngineSettings((0, -1)), 15)).tolist() == [0, 14]


# Thresholds


def with_thresholds(searcher: Bilevel, level: float) -> Logits:
    logits = searcher.logits()
    return {**logits, "threshold": torch.full_like(logits["threshold"], level)}


@spaces
def test_without_thresholds_the_engine_mixes_with_the_softmax(space: str) -> None:
    searcher = built(entrannas_dst, labs.make(space), spread=1.0)
    choices = searcher.relax(logits := with_thresholds(searcher, -60.0))
    assert choices.active is None or choices.active["op"][1].all()
    for name in logits:
        if name != "threshold":
            torch.testing.assert_close(choices.weights[name][1], logits[name].softmax(-1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("level", [60.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_high_thresholds_leave_one_option_a_node(level: float, dtype: torch.dtype) -> None:
    searcher = built(entrannas_dst, labs.make("nb201", dtype=dtype), spread=1.0)
    logits = with_thresholds(searcher, level)
    choices = searcher.relax(logits)
    p = logits["op"].softmax(-1)
    for replica in range(2):
        for edges in NODES["nb201"]:
            inside = choices.weights["op"][1, replica, list(edges)]
            assert (inside > 0).sum() == 1
            assert inside.max() == 1
            assert inside.argmax() == p[replica, list(edges)].argmax()
    assert choices.active is not None
    assert (choices.active["op"] == (choices.weights["op"] > 0).numpy()).all()
    searcher.assign(logits)
    selected = searcher.selected()
    assert selected is not None
    absent = ~(choices.weights["op"][1] > 0).any(-1)
    assert absent.sum() == 6
    assert (selected["op"].argmax(-1)[absent] == NONE).all()
    assert torch.equal(selected["op"][~absent], logits["op"][~absent])


def test_transit_cells_run_all_that_survives_with_weight_one() -> None:
    searcher = built(entrannas_dst, labs.make("nb201"), spread=2.0)
    choices = searcher.relax(searcher.logits())
    weights = choices.weights["op"]
    assert choices.active is not None
    assert torch.equal(weights[0], (weights[1] > 0).double())
    assert torch.equal(weights[0], weights[2])
    assert (choices.active["op"] == (weights > 0).numpy()).all()
    kept = weights[0].sum(-1)
    assert kept.min() == 0
    assert kept.max() > 1
    assert ((weights[1].sum(-1) - 1).abs() < 1e-12)[kept > 0].all()


def test_what_does_not_survive_stays_where_it_is() -> None:
    lab = labs.make("nb201")
    searcher = built(entrannas_dst, lab, spread=1.0)
    before = labs.leaves(searcher.parameters)
    searcher.begin_epoch(0)
    (batches,) = labs.steps(lab, searcher.policy, 1)
    searcher.step(batches)
    choices = searcher.relax(searcher.logits())
    assert choices.active is not None
    live = searcher.supernet.live(choices.active)["op"]
    idle = 0
    for name, value in searcher.parameters.items():
        address = searcher.supernet.address(name)
        for replica in range(2 if address else 0):
            if not live[address.cell, replica, list(address.decision), address.option].any():
                idle += 1
                assert torch.equal(value[replica], before[f"/{name}"][replica])
    assert idle > 10


def test_the_loss_of_thresholds_is_minus_their_mean_logarithm() -> None:
    searcher = built(entrannas_dst, labs.make("s1"), spread=1.0)
    (penalty,) = searcher.recipe.penalties
    leaves = searcher.leaves()
    t = leaves["threshold"].detach().sigmoid()
    assert t.shape == (2, 3, 1)
    value = penalty(leaves, searcher.moment())
    torch.testing.assert_close(value.detach(), -PRESSURE * t.log().mean((1, 2)))
    (gradient,) = torch.autograd.grad(value.sum(), leaves["threshold"])
    torch.testing.assert_close(gradient, -PRESSURE / 3 * (1 - t))


@spaces
def test_a_search_starts_with_equal_thresholds_and_the_logits_of_darts(space: str) -> None:
    lab = labs.make(space)
    logits = built(entrannas_dst, lab, threshold=-1.0).logits()
    assert (logits.pop("threshold") == -1).all()
    labs.same(labs.leaves(logits), labs.leaves(darts.build(darts.Settings(), lab).logits()))


def test_both_share_features_unless_told_otherwise() -> None:
    lab = labs.make("nb201")
    names: Callable[[bool], set[str]] = lambda share: set(built(entrannas, lab, share_features=share).parameters)  # noqa: E731
    assert names(False) == set(dict(lab.build(SupernetOptions()).named_parameters()))
    assert {name for name in names(True) if ".conv3x3." in name} < names(False)
    assert not any("conv3x3.3." in name for name in names(True))
