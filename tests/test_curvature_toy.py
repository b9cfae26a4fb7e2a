"""A toy network with batch statistics and a replicas axis, and a toy searcher, for the tests of curvature."""

from dataclasses import dataclass

import labs
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.metrics import curvature as metric
from searchers.base import Address, Batch, Choices, DataPolicy, ForwardInputs, Group, Logits, Searcher, Supernet

torch.set_num_threads(1)
TIGHT = metric.CurvatureSettings(tolerance=1e-8)
GROUPS = (Group("op", 2, ("a", "b", "c")), Group("in_3", 1, ("x", "y"), "edge"))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(replicas: int, seed: int = 0) -> tuple[torch.Generator, ...]:
    return tuple(rng(seed) for _ in range(replicas))


class ToyNet(labs.Network):
    """Two cells of mixed grouped convolutions with batch normalisation, a replica being a group of channels."""

    groups, cells = GROUPS, 2

    def __init__(self, seeds: tuple[int, ...]) -> None:
        super().__init__()
        self.replicas = len(seeds)
        shapes = {"ops": (2, 2, 3, 3, 3, 3, 3), "head": (3, 4)}  # ops: cell, decision, option, out, in, k, k
        for name, shape in shapes.items():
            drawn = [torch.randn(*shape, generator=rng(seed), dtype=torch.float64) for seed in seeds]
            self.register_parameter(name, nn.Parameter(torch.stack(drawn)))

    def compute(self, images: Tensor, choices: Choices, inputs: ForwardInputs) -> Tensor:
        op, edge = (choices.weights[name].expand(2, -1, -1, -1) for name in ("op", "in_3"))
        state = images
        for cell in range(self.cells):
            first = self.mix(state, op[cell, :, 0], self.ops[:, cell, 0])
            x, y = edge[cell, :, 0].unbind(1)
            mixed = x[:, None, None, None, None] * state + y[:, None, None, None, None] * first
            state = self.mix(mixed, op[cell, :, 1], self.ops[:, cell, 1])
        return state.mean((3, 4)) @ self.head

    def mix(self, state: Tensor, weights: Tensor, kernels: Tensor) -> Tensor:
        folded, total = state.transpose(0, 1).flatten(1, 2), torch.zeros_like(state)
        for option in range(weights.shape[1]):
            out = functional.conv2d(folded, kernels[:, option].flatten(0, 1), padding=1, groups=self.replicas)
            out = functional.batch_norm(out, None, None, training=True).tanh()
            out = out.unflatten(1, (self.replicas, -1)).transpose(0, 1)
            total = total + weights[:, option, None, None, None, None] * out
        return total

    def address(self, name: str) -> Address | None:
        return None

    def live(self, active):
        return active


def softmax(logits: Logits) -> Choices:
    return Choices({name: table.softmax(-1)[None] for name, table in logits.items()})


@dataclass
class ToySearcher:
    supernet: ToyNet
    table: Logits
    relax = staticmethod(softmax)
    policy = DataPolicy()
    hessian_of = "validation cross-entropy of the softmax mixture"
    no_curvature: str | None = None
    shift_invariant: tuple[str, ...] = ("op", "in_3")

    def logits(self) -> Logits:
        return self.table

    def diagnostics(self) -> dict[str, Tensor]:
        return {}

    def selected(self) -> Logits:
        return self.table

    def begin_epoch(self, epoch): ...
    def step(self, batches): ...
    def end_epoch(self, epoch): ...
    def finish(self): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...


def make(*seeds: int) -> ToySearcher:
    flat = torch.stack([torch.randn(8, generator=rng(100 + seed), dtype=torch.float64) for seed in seeds])
    table = {"op": flat[:, :6].reshape(-1, 2, 3), "in_3": flat[:, 6:].reshape(-1, 1, 2)}
    return ToySearcher(ToyNet(seeds), table)


def batch(replicas: int, n: int = 12, seed: int = 7) -> Batch:
    images = torch.randn(n, 3, 5, 5, generator=rng(seed), dtype=torch.float64)
    return Batch(images.expand(replicas, -1, -1, -1, -1), (torch.arange(n) % 4).expand(replicas, -1))


def measure(searcher: ToySearcher, settings: metric.CurvatureSettings = TIGHT, whole: bool = True) -> list[dict]:
    replicas = searcher.supernet.replicas
    probes = metric.Probes(batch(replicas), batch(replicas, 10, 8))
    return metric.measure(searcher, probes, None, noise(replicas), settings, whole).records


def test_toys_keep_the_contract() -> None:
    searcher = make(1, 2)
    assert isinstance(searcher, Searcher)
    assert isinstance(searcher.supernet, Supernet)
    assert searcher.supernet(batch(2).images, softmax(searcher.table)).shape == (2, 12, 4)
