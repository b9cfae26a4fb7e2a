"""Λ-DARTS: Λ and its derivatives, its difference against autograd in a smooth network, and against DARTS."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import labs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.presets import PRESETS
from searchers import darts, lambda_darts
from searchers._bilevel import Bilevel, Recipe, weights_first
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import (
    Active,
    Batch,
    Choices,
    DataPolicy,
    Evaluation,
    ForwardInputs,
    Group,
    Horizon,
    StepBatches,
    Supernet,
    SupernetOptions,
)

GROUPS = (Group("op", 2, ("a", "b", "c")), Group("in_2", 1, ("x", "y"), "edge"))
CELLS, WIDTH, IMAGE = 3, 4, (3, 2, 2)


class Smooth(labs.Network):
    """Three cells of two mixtures of tanh layers; `idle` cells pass their input on, so that they have no gradient."""

    groups, cells = GROUPS, CELLS

    def __init__(self, streams: tuple[torch.Generator, ...], idle: frozenset[int]) -> None:
        super().__init__()
        self.replicas, self.idle = len(streams), idle
        shapes = {"stem": (12, WIDTH), "ops": (CELLS, 2, 3, WIDTH, WIDTH), "head": (WIDTH, labs.CLASSES)}
        for name, shape in shapes.items():
            drawn = [torch.randn(shape, generator=stream, dtype=torch.float64) * 0.7 for stream in streams]
            self.register_parameter(name, nn.Parameter(torch.stack(drawn)))

    def compute(self, images: Tensor, choices: Choices, inputs: ForwardInputs) -> Tensor:
        x = (images.flatten(2) @ self.stem).tanh()
        for cell in set(range(CELLS)) - self.idle:
            op, edge = (table[cell if len(table) > 1 else 0] for table in choices.weights.values())
            first = self.mix(x, op[:, 0], self.ops[:, cell, 0])
            joined = edge[:, 0, 0, None, None] * x + edge[:, 0, 1, None, None] * first
            x = self.mix(joined, op[:, 1], self.ops[:, cell, 1])
        return x @ self.head

    @staticmethod
    def mix(x: Tensor, weights: Tensor, kernels: Tensor) -> Tensor:
        return sum(weights[:, k, None, None] * (x @ kernels[:, k] * (k + 1)).tanh() for k in range(3))

    def address(self, name: str) -> None:
        return None

    def live(self, active: Active) -> Active:
        return active


@dataclass(frozen=True)
class SmoothLab:
    seeds: tuple[int, ...] = (1, 2)
    idle: frozenset[int] = frozenset()
    groups: tuple[Group, ...] = GROUPS
    horizon: Horizon = field(default_factory=lambda: Horizon(3))
    device: torch.device = labs.CPU
    dtype: torch.dtype = torch.float64
    curvature_replicas: int | None = None

    @property
    def replicas(self) -> int:
        return len(self.seeds)

    def build(self, options: SupernetOptions) -> Supernet:
        return Smooth(self.stream("weights", 0), self.idle)

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        raise NotImplementedError

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        raise NotImplementedError

    def probe(self) -> Batch:
        raise NotImplementedError

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        return tuple(labs.rng(1000 * len(name) + 100 * step + seed) for seed in self.seeds)


def mean_cosine(gradients: Tensor) -> Tensor:
    """Over pairs of cells that have a gradient, one pair after another."""
    found = []
    for cells in gradients:
        own = [g for g in cells if g.norm() > 0]
        pairs = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]
        zero = cells.sum() * 0
        found.append(sum((functional.cosine_similarity(a, b, 0, 0) for a, b in pairs), zero) / max(len(pairs), 1))
    return torch.stack(found)


def random_gradients() -> Tensor:
    drawn = torch.randn(4, 5, 7, generator=labs.rng(1), dtype=torch.float64)
    drawn[1, 2] = 0  # a cell without gradient
    drawn[2, 1:] = 0  # only one with
    drawn[3] = drawn[3, :1] * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None]  # all agree
    return drawn


def test_alignment_is_the_mean_cosine_of_pairs() -> None:
    gradients = random_gradients()
    found = lambda_darts.alignment(gradients)
    torch.testing.assert_close(found, mean_cosine(gradients))
    assert found[2] == 0
    assert found[3].item() == pytest.approx(1)


def test_its_derivative_is_that_of_autograd_and_zero_where_there_is_no_gradient() -> None:
    leaf = random_gradients().requires_grad_()
    (wanted,) = torch.autograd.grad(mean_cosine(leaf).sum(), leaf)
    found = lambda_darts.alignment_gradient(leaf.detach())
    assert found.isfinite().all()
    torch.testing.assert_close(found[[0, 3]], wanted[[0, 3]], rtol=1e-10, atol=1e-12)
    present = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(found[1, present], wanted[1, present], rtol=1e-10, atol=1e-12)
    assert (found[1, 2] == 0).all()
    assert (found[2] == 0).all()


def exact(searcher: Bilevel, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Λ and ∇_w Λ by double backward."""
    copies = [p.expand(CELLS, *p.shape[1:]).clone().requires_grad_() for p in softmaxes(searcher).values()]
    choices = Choices(dict(zip(searcher.logits(), copies, strict=True)))
    scores = searcher.supernet(batch.images, choices)
    loss = functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).sum()
    gradients = torch.autograd.grad(loss, copies, create_graph=True, materialize_grads=True)
    cells = torch.cat([g.flatten(2) for g in gradients], 2).transpose(0, 1)
    value = mean_cosine(cells)
    return value, list(torch.autograd.grad(value.sum(), list(searcher.parameters.values()), materialize_grads=True))


def softmaxes(searcher: Bilevel) -> dict[str, Tensor]:
    return {name: value.softmax(-1)[None] for name, value in searcher.logits().items()}


def searcher_of(lab: SmoothLab, settings: lambda_darts.Settings) -> Bilevel:
    searcher = lambda_darts.build(settings, lab)
    for name, value in searcher._logits.items():
        drawn = [torch.randn(value.shape[1:], generator=s, dtype=torch.float64) for s in lab.stream(name, 9)]
        value.copy_(torch.stack(drawn))
    return searcher


@pytest.mark.parametrize("idle", [frozenset(), frozenset({1})])
def test_the_difference_is_the_derivative_by_the_weights(idle: frozenset[int]) -> None:
    lab = SmoothLab(idle=idle)
    searcher, batch = searcher_of(lab, lambda_darts.Settings(radius=1e-5)), labs.fake_batch(2, shape=IMAGE)
    value, wanted = exact(searcher, batch)
    before = {name: parameter.detach().clone() for name, parameter in searcher.parameters.items()}
    plain, moved = [], []
    for weight, into in ((0.0, plain), (1.0, moved)):
        fresh = searcher_of(
            lab, lambda_darts.Settings(WeightSettings(lr=1.0, momentum=0.0, weight_decay=0.0, clip=None))
        )
        fresh.lr = 1.0
        lambda_darts.update(fresh, batch, weight, 1e-5)
        into.extend(before[name] - parameter.detach() for name, parameter in fresh.parameters.items())
    assert (value.abs() < 0.999).all()
    for step, gradient, derivative in zip(moved, plain, wanted, strict=True):
        torch.testing.assert_close(gradient - step, derivative, rtol=1e-6, atol=1e-8)
    assert max(derivative.abs().max() for derivative in wanted) > 1e-2


def test_one_cell_with_a_gradient_has_nobody_to_agree_with() -> None:
    lab, batch = SmoothLab(idle=frozenset({0, 2})), labs.fake_batch(2, shape=IMAGE)
    found = []
    for weight in (0.0, 5.0):
        searcher = searcher_of(lab, lambda_darts.Settings())
        lambda_darts.update(searcher, batch, weight, 1e-4)
        found.append(labs.leaves(searcher.state_dict()))
    labs.same(*found)


def test_its_step_raises_the_agreement() -> None:
    lab, batch = SmoothLab(), labs.fake_batch(2, shape=IMAGE)
    after = []
    for weight in (0.0, 0.5):
        weights = WeightSettings(lr=0.05, momentum=0.0, weight_decay=0.0, clip=None)
        searcher = searcher_of(lab, lambda_darts.Settings(weights))
        searcher.lr = 1e-4
        lambda_darts.update(searcher, batch, weight, 1e-5)
        after.append(exact(searcher, batch)[0].detach())
    assert (after[1] > after[0] + 1e-7).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_without_weight_it_is_darts_with_the_weights_first_to_the_bit(space: str) -> None:
    found = []
    for own in (False, True):
        lab = labs.make(space)
        settings = lambda_darts.Settings(weight=0.0)
        plain = Bilevel(Recipe(order=weights_first), settings.weights, settings.arch, lab)
        searcher = lambda_darts.build(settings, lab) if own else plain
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


@pytest.mark.usefixtures("unchecked")
def test_a_step_is_the_equations() -> None:
    """The last of three epochs, where λ is the whole weight, on nb201: the difference is written out."""
    lab = labs.make("nb201", (4,))
    searcher = lambda_darts.build(lambda_darts.Settings(arch=ArchSettings(lr=0.05), weight=0.3, radius=1e-3), lab)
    searcher.begin_epoch(2)
    (batches,) = labs.steps(lab, searcher.policy, 1)
    network = lab.build(SupernetOptions())
    weights = dict(network.named_parameters())
    sgd = torch.optim.SGD(weights.values(), lr=0.001 + 0.25 * 0.024, momentum=0.9, weight_decay=3e-4)
    alpha = {name: value.clone() for name, value in searcher.logits().items()}
    p = torch.softmax(alpha["op"], -1)

    def loss(mixing: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(network(batch.images, Choices({"op": mixing}))[0], batch.labels[0])

    copies = torch.stack([p] * 3).requires_grad_()
    train = loss(copies, batches.train[0])
    g, *by_weights = torch.autograd.grad(train, [copies, *weights.values()])
    leaf = g.detach().flatten(1).requires_grad_()
    u = leaf / leaf.norm(dim=1, keepdim=True)
    agreement = (u[0] @ u[1] + u[0] @ u[2] + u[1] @ u[2]) / 3
    (v,) = torch.autograd.grad(agreement, leaf)
    epsilon = 1e-3 / v.norm()
    sides = []
    for sign in (1, -1):
        moved = copies.detach() + sign * epsilon * v.reshape(copies.shape)
        sides.append(torch.autograd.grad(loss(moved, batches.train[0]), list(weights.values())))
    for parameter, gradient, plus, minus in zip(weights.values(), by_weights, *sides, strict=True):
        parameter.grad = gradient - 0.3 * (plus - minus) / (2 * epsilon)
    torch.nn.utils.clip_grad_norm_(weights.values(), 5.0)
    sgd.step()
    leaf = alpha["op"].requires_grad_()
    value = loss(torch.softmax(leaf, -1)[None], batches.val[0])
    (leaf.grad,) = torch.autograd.grad(value, leaf)
    torch.optim.Adam([leaf], lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3).step()

    losses = searcher.step(batches)
    assert losses.train.item() == pytest.approx(train.item(), rel=1e-10)
    assert losses.val is not None
    assert losses.val.item() == pytest.approx(value.item(), rel=1e-8)
    labs.close(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(weights), 1e-8)
    labs.close(labs.leaves(searcher.logits()), labs.leaves(alpha), 1e-6)


def test_the_weight_rises_from_zero_in_the_first_epoch() -> None:
    lab, batch = (
        SmoothLab(),
        StepBatches((labs.fake_batch(2, shape=IMAGE),), (labs.fake_batch(2, seed=1, shape=IMAGE),)),
    )
    found = []
    for epoch, weight in ((0, 9.0), (0, 0.0), (1, 9.0), (2, 4.5)):
        searcher = searcher_of(lab, replace(lambda_darts.Settings(), weight=weight))
        searcher.begin_epoch(epoch)
        searcher.lr = 0.02
        searcher.step(batch)
        found.append(labs.leaves(dict(searcher.parameters)))
    labs.same(found[0], found[1])
    labs.close(found[2], found[3], 1e-12)
    assert (found[1]["/ops"] - found[2]["/ops"]).abs().max() > 1e-4


def test_the_radius_is_positive() -> None:
    with pytest.raises(ValueError, match=r"expected a radius above 0, got 0.0"):
        lambda_darts.build(lambda_darts.Settings(radius=0.0), SmoothLab())


@pytest.mark.parametrize("benchmark", PRESETS)
def test_presets_keep_the_published_weight_and_the_share_of_darts_rate(benchmark: str) -> None:
    """.25 on NAS-Bench-201 as in the authors' script; α at a third of DARTS' rate wherever all rates are scaled."""
    plain = darts.Settings().arch.lr / lambda_darts.Settings().arch.lr
    for space, weight in (("s1", 0.125), ("nb201", 0.25)):
        changes = PRESETS[benchmark](space).settings
        own = changes.get("lambda_darts", {})
        assert own.get("weight", lambda_darts.Settings().weight) == weight
        shared = changes["*"].get("arch.lr") if "*" in changes else None
        if shared is not None:
            assert shared / own["arch.lr"] == pytest.approx(plain, rel=0.2)
