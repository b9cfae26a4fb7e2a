"""Second-order DARTS: against first order, against finite differences, and against its equations written out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import labs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from searchers import darts, darts_2nd
from searchers._bilevel import Bilevel, first_order
from searchers._hypergradient import unrolled
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
    Logits,
    StepBatches,
    Supernet,
    SupernetOptions,
)

GROUPS = (Group("op", 2, ("a", "b", "c")), Group("in_2", 1, ("x", "y"), "edge"))
WIDTH, IMAGE = 5, (3, 2, 2)
WEIGHTS = WeightSettings(lr=0.3, lr_min=0.1, momentum=0.9, weight_decay=0.02, clip=0.2)


class SmoothNet(labs.Network):
    """Two mixtures of tanh layers; `scale` multiplies the scores of a replica, and so all its gradients."""

    groups, cells = GROUPS, 1

    def __init__(self, streams: tuple[torch.Generator, ...], scale: Tensor) -> None:
        super().__init__()
        self.replicas = len(streams)
        self.register_buffer("scale", scale)
        shapes = {"stem": (12, WIDTH), "ops": (2, 3, WIDTH, WIDTH), "head": (WIDTH, labs.CLASSES)}
        for name, shape in shapes.items():
            drawn = [torch.randn(shape, generator=stream, dtype=torch.float64) * 0.7 for stream in streams]
            self.register_parameter(name, nn.Parameter(torch.stack(drawn)))

    def compute(self, images: Tensor, choices: Choices, inputs: ForwardInputs) -> Tensor:
        op, edge = (choices.weights[name][0] for name in ("op", "in_2"))
        x = (images.flatten(2) @ self.stem).tanh()
        first = self.mix(x, op[:, 0], self.ops[:, 0])
        joined = edge[:, 0, 0, None, None] * x + edge[:, 0, 1, None, None] * first
        return self.scale[:, None, None] * (self.mix(joined, op[:, 1], self.ops[:, 1]) @ self.head)

    @staticmethod
    def mix(x: Tensor, weights: Tensor, kernels: Tensor) -> Tensor:
        return sum(weights[:, k, None, None] * (x @ kernels[:, k] * (k + 1)).tanh() for k in range(3))

    def address(self, name: str) -> None:
        return None

    def live(self, active: Active) -> Active:
        return active


@dataclass(frozen=True)
class SmoothLab:
    """Resources of smooth networks; `scale` is one factor a seed."""

    seeds: tuple[int, ...]
    scale: tuple[float, ...] = ()
    groups: tuple[Group, ...] = GROUPS
    horizon: Horizon = field(default_factory=lambda: Horizon(3))
    device: torch.device = labs.CPU
    dtype: torch.dtype = torch.float64
    curvature_replicas: int | None = None
    settings: darts_2nd.Settings = field(default_factory=lambda: darts_2nd.Settings(WEIGHTS, ArchSettings(lr=0.05)))

    @property
    def replicas(self) -> int:
        return len(self.seeds)

    def build(self, options: SupernetOptions) -> Supernet:
        scale = self.scale or (1.0,) * self.replicas
        return SmoothNet(self.stream("weights", 0), torch.tensor(scale, dtype=torch.float64)).to(self.dtype)

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        raise NotImplementedError

    def probe(self) -> Batch:
        raise NotImplementedError

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        raise NotImplementedError

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        return tuple(labs.rng(1000 * len(name) + 100 * step + seed) for seed in self.seeds)

    def searcher(self) -> Bilevel:
        """A second-order searcher whose logits are far from equal and whose momentum is not zero."""
        searcher = darts_2nd.build(self.settings, self)
        searcher.begin_epoch(1)
        for name, value in searcher._logits.items():
            drawn = [torch.randn(value.shape[1:], generator=s, dtype=torch.float64) for s in self.stream(name, 9)]
            value.copy_(torch.stack(drawn))
        for seed in range(3):
            searcher.step(self.batches(seed))
        return searcher

    def batches(self, seed: int) -> StepBatches:
        """Batches that depend on a replica's seed only."""
        parts = [labs.fake_step(1, 50 * seed + own, IMAGE) for own in self.seeds]
        joined = [
            Batch(*(torch.cat(p) for p in zip(*(part[kind][0] for part in parts), strict=True))) for kind in (0, 1)
        ]
        return StepBatches((joined[0],), (joined[1],))


def cross_entropy(searcher: Bilevel, weights: dict[str, Tensor], alpha: Logits, batch: Batch) -> Tensor:
    """Of each replica, without the package's helpers."""
    mixing = Choices({name: value.softmax(-1)[None] for name, value in alpha.items()})
    scores = torch.func.functional_call(searcher.supernet, weights, (batch.images, mixing))
    return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1)


def momentum(searcher: Bilevel) -> dict[str, Tensor]:
    return searcher.weights.layout.split(searcher.weights.momentum.clone())


def unrolled_loss(searcher: Bilevel, batches: StepBatches, alpha: Logits, xi: float) -> Tensor:
    """L_val(w − ξ(μ·m + ∇L_train(w, α) + λ·w), α) of each replica."""
    weights = {name: value.detach().requires_grad_() for name, value in searcher.parameters.items()}
    losses = cross_entropy(searcher, weights, alpha, batches.train[0])
    gradients = dict(zip(weights, torch.autograd.grad(losses.sum(), list(weights.values())), strict=True))
    buffers = momentum(searcher)
    moved = {
        name: value.detach()
        - xi * (WEIGHTS.momentum * buffers[name] + gradients[name] + WEIGHTS.weight_decay * value.detach())
        for name, value in weights.items()
    }
    return cross_entropy(searcher, moved, alpha, batches.val[0]).detach()


def finite_differences(searcher: Bilevel, batches: StepBatches, xi: float, width: float = 1e-4) -> dict[str, Tensor]:
    """Central differences by every logit; losses of replicas are independent, so all are moved at once."""
    found = {}
    for name, value in searcher.logits().items():
        found[name] = torch.zeros_like(value)
        for row in range(value.shape[1]):
            for column in range(value.shape[2]):
                sides = []
                for sign in (width, -width):
                    alpha = {n: v.clone() for n, v in searcher.logits().items()}
                    alpha[name][:, row, column] += sign
                    sides.append(unrolled_loss(searcher, batches, alpha, xi))
                found[name][:, row, column] = (sides[0] - sides[1]) / (2 * width)
    return found


def flat(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten(1) for value in parts.values()], 1)


@pytest.mark.parametrize("xi", [0.1, 1.0])
def test_gradient_is_that_of_the_unrolled_loss_for_every_replica(xi: float) -> None:
    lab = SmoothLab((1, 2, 3))
    searcher = lab.searcher()
    with torch.no_grad():
        searcher.parameters["head"][1] *= 1e-3
        searcher.parameters["head"][2] *= 4.0
    assert (searcher.weights.momentum.norm(dim=1) > 1e-3).all()
    batches = lab.batches(7)
    wanted = flat(finite_differences(searcher, batches, xi))
    found = unrolled(searcher, batches, xi, 1e-3)
    error = (flat(found.gradient) - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert (error < 1e-4).all(), error
    torch.testing.assert_close(found.loss, unrolled_loss(searcher, batches, searcher.logits(), xi), rtol=1e-12, atol=0)
    first = flat(first_order(searcher, batches).gradient)
    assert ((first - wanted).norm(dim=1) > 1e-2 * wanted.norm(dim=1)).all()
    default = flat(unrolled(searcher, batches, xi, 0.01).gradient)
    assert ((default - wanted).norm(dim=1) < 2e-3 * wanted.norm(dim=1)).all()
    # The second-order term itself, which the direct one could hide: direct − ξ·implicit.
    gradients = dict(zip(searcher.parameters, gradients_of(searcher, batches), strict=True))
    ahead = searcher.weights.layout.split(searcher.weights.lookahead(gradients, xi))
    leaves = searcher.leaves()
    direct = torch.autograd.grad(cross_entropy(searcher, ahead, leaves, batches.val[0]).sum(), list(leaves.values()))
    own = flat(dict(zip(leaves, direct, strict=True)))
    error = (flat(found.gradient) - wanted).norm(dim=1) / (own - wanted).norm(dim=1)
    assert (error < 1e-3).all(), error


def gradients_of(searcher: Bilevel, batches: StepBatches) -> tuple[Tensor, ...]:
    weights = {name: value.detach().requires_grad_() for name, value in searcher.parameters.items()}
    losses = cross_entropy(searcher, weights, searcher.logits(), batches.train[0])
    return torch.autograd.grad(losses.sum(), list(weights.values()))


@pytest.mark.usefixtures("unchecked")
def test_no_look_ahead_is_exactly_first_order() -> None:
    found = []
    for make in (
        lambda lab: darts.build(darts.Settings(WEIGHTS), lab),
        lambda lab: darts_2nd.build(darts_2nd.Settings(WEIGHTS, xi=0.0), lab),
    ):
        lab = labs.make("s2")
        searcher = make(lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)))
    labs.same(*found)


def test_a_step_is_the_equations() -> None:
    """One replica, with the finite difference written out for it, then the weight step at the new logits."""
    lab = SmoothLab((5,))
    searcher = lab.searcher()
    batches, xi = lab.batches(8), 0.1 + 0.5 * (0.3 - 0.1) * (1 + 0.5)  # the cosine's second epoch of three
    assert searcher.lr == pytest.approx(xi, rel=1e-12)
    weights = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    logits = {name: value.clone() for name, value in searcher.logits().items()}
    mean, square, count = searcher.arch.mean, searcher.arch.square, searcher.arch.count
    buffers, train = momentum(searcher), gradients_of(searcher, batches)
    ahead = {
        name: (value - xi * (0.9 * buffers[name] + gradient + 0.02 * value)).requires_grad_()
        for (name, value), gradient in zip(weights.items(), train, strict=True)
    }
    alpha = {name: value.clone().requires_grad_() for name, value in logits.items()}
    val = cross_entropy(searcher, ahead, alpha, batches.val[0])
    gradients = torch.autograd.grad(val.sum(), [*alpha.values(), *ahead.values()])
    direct, toward = gradients[:2], dict(zip(weights, gradients[2:], strict=True))
    radius = 0.01 / torch.cat([value.flatten() for value in toward.values()]).norm()
    sides = []
    for sign in (1, -1):
        moved = {name: value + sign * radius * toward[name] for name, value in weights.items()}
        loss = cross_entropy(searcher, moved, alpha, batches.train[0])
        sides.append(torch.autograd.grad(loss.sum(), list(alpha.values())))
    total = [d - xi * (p - m) / (2 * radius) for d, p, m in zip(direct, *sides, strict=True)]
    gradient = torch.cat([value.flatten(1) for value in total], 1) + 1e-3 * flat(logits)
    mean, square = 0.5 * mean + 0.5 * gradient, 0.999 * square + 0.001 * gradient**2
    step = mean / (1 - 0.5 ** (count + 1)) / ((square / (1 - 0.999 ** (count + 1))).sqrt() + 1e-8)
    wanted = flat(logits) - 0.05 * step

    losses = searcher.step(batches)
    torch.testing.assert_close(flat(searcher.logits()), wanted, rtol=1e-9, atol=1e-11)
    assert losses.val is not None
    assert losses.val.item() == pytest.approx(val.item(), rel=1e-12)
    before = cross_entropy(searcher, weights, searcher.logits(), batches.train[0])
    assert losses.train.item() == pytest.approx(before.item(), rel=1e-12)
    start = {name: value.requires_grad_() for name, value in weights.items()}
    step_loss = cross_entropy(searcher, start, searcher.logits(), batches.train[0]).sum()
    found = torch.autograd.grad(step_loss, list(start.values()))
    norm = torch.cat([value.flatten() for value in found]).norm()
    assert norm > 0.2
    for (name, value), gradient in zip(start.items(), found, strict=True):
        direction = gradient * 0.2 / (norm + 1e-6) + 0.02 * value
        target = value - xi * (0.9 * buffers[name] + direction)
        torch.testing.assert_close(
            searcher.parameters[name], target.detach(), rtol=1e-9, atol=1e-11, check_device=False
        )


def test_the_gradient_leaves_weights_and_momentum_to_the_bit() -> None:
    lab = SmoothLab((1, 2))
    searcher = lab.searcher()
    before = labs.leaves(searcher.state_dict())
    unrolled(searcher, lab.batches(3), 0.4, 0.01)
    labs.same(labs.leaves(searcher.state_dict()), before)
    assert all(value.grad is None for value in searcher.parameters.values())


def search(lab: SmoothLab) -> dict[str, object]:
    searcher = lab.searcher()
    losses = [searcher.step(lab.batches(seed)) for seed in (4, 5)]
    gradient = unrolled(searcher, lab.batches(6), 0.4, 0.01)
    return labs.outcome(searcher, losses) | labs.leaves(gradient.gradient, "/gradient")


def test_stacked_is_alone_where_gradients_differ_a_million_times() -> None:
    seeds, scale = (1, 2, 3), (1.0, 1e-6, 3.0)
    stacked = search(SmoothLab(seeds, scale))
    for replica in range(3):
        alone = search(SmoothLab(seeds[replica : replica + 1], scale[replica : replica + 1]))
        mine = labs.replicas(stacked, [replica])
        for name, value in alone.items():  # relative to its own size: a gradient of 1e-6 must be right too
            torch.testing.assert_close(mine[name], value, rtol=1e-7, atol=1e-9 * float(value.abs().max()), msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_replica_without_gradient_gets_zeros_and_leaves_others_alone(dtype: torch.dtype) -> None:
    lab = SmoothLab((1, 2), (1.0, 0.0), dtype=dtype)
    searcher = darts_2nd.build(lab.settings, lab)
    step = lab.batches(0)
    batches = StepBatches(*(tuple(Batch(b.images.to(dtype), b.labels) for b in kind) for kind in step))
    found = flat(unrolled(searcher, batches, 0.4, 0.01).gradient)
    assert found.dtype == dtype
    assert (found[1] == 0).all()
    assert found[0].isfinite().all()
    assert (found[0] != 0).all()
    losses = searcher.step(batches)
    assert all(value.isfinite().all() for value in labs.outcome(searcher, [losses]).values())
