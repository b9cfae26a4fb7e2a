"""Kernels of several sizes that are applied as one: the same numbers and derivatives, in one call."""

import labs
import pytest
import torch
from torch import Tensor

from bench import layers, ops
from bench.kernels import ONCE, TWICE, Kernels
from searchers._relax import loss, softmax
from searchers.base import ForwardInputs
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("kernels", [ONCE, TWICE], ids=["once", "twice"])
@pytest.mark.parametrize("affine", [True, False])
def test_several_sizes_together_are_each_alone(replicas: int, kernels: Kernels, affine: bool) -> None:
    shapes = [(4, 3, 1), (2, 3, 3), (1, 3, 5)]
    every = [layers.ConvNorm(layers.Conv(replicas, s, bias=not affine), affine).double() for s in shapes]
    layers.initialise(torch.nn.ModuleList(every), [labs.rng(seed) for seed in range(replicas)])
    drawn = torch.randn(5, replicas * 3, 6, 6, generator=labs.rng(5), dtype=torch.float64)
    x, flow = drawn.contiguous(memory_format=torch.channels_last).requires_grad_(), ops.Flow(replicas, None, kernels)
    of = [x, *(parameter for module in every for parameter in module.parameters())]

    def outcome(parts: list[Tensor]) -> list[Tensor]:
        total = torch.stack([part.sin().sum() for part in parts]).sum()
        return [*parts, *torch.autograd.grad(total, of)]

    joined = outcome(layers.split(layers.together(every, x, flow), replicas, [4, 2, 1]))
    for a, b in zip(joined, outcome([module(x, flow) for module in every]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("space", "calls"), [("s1", 4), ("nb201", 3)])
def test_small_maps_of_one_seed_are_convolved_as_one(space: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many fewer calls a cell; not of several seeds, of large maps, or where an observer looks on."""

    def convolutions(seeds: tuple[int, ...], inputs: ForwardInputs = ForwardInputs()) -> int:
        lab, seen = labs.make(space, seeds), []
        searcher = labs.start(METHODS["darts"], lab)
        monkeypatch.setattr(layers, "convolve", lambda *given: (seen.append(1), convolve(*given))[1])
        loss(searcher.supernet, lab.feed.probe(8), softmax(searcher.logits()), inputs=inputs)
        monkeypatch.setattr(layers, "convolve", convolve)
        return len(seen)

    convolve = layers.convolve
    several, one = convolutions((0, 1)), convolutions((0,))
    assert several - one == 3 * calls
    assert convolutions((0,), ForwardInputs(observe=lambda _seen: None)) >= several
    monkeypatch.setattr(layers, "SMALL", 8)
    assert convolutions((0,)) == several
