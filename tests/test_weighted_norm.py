"""Mixing weights as scales of normalisations: the same numbers and derivatives as a product afterwards."""

import labs
import pytest
import torch
from torch import Tensor

from bench import layers, ops
from bench.batch_norm import batch_norm, torch_batch_norm
from bench.kernels import ONCE, TWICE, Kernels
from bench.metrics.curvature import probe_loss
from searchers import _curvature
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
REPLICAS = 2


def modules(channels: int, count: int = 3) -> list[layers.ConvNorm]:
    shape = (channels, channels, 3)
    found = [layers.ConvNorm(layers.Conv(REPLICAS, shape, bias=True), affine=False).double() for _ in range(count)]
    layers.initialise(torch.nn.ModuleList(found), [labs.rng(seed) for seed in range(REPLICAS)])
    return found


def maps(channels: int) -> Tensor:
    drawn = torch.randn(5, REPLICAS * channels, 6, 6, generator=labs.rng(5), dtype=torch.float64)
    return drawn.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("kernels", [ONCE, TWICE], ids=["once", "twice"])
@pytest.mark.parametrize("normalise", [True, False])
def test_weights_in_the_scale_are_weights_afterwards(channels: int, kernels: Kernels, normalise: bool) -> None:
    every, x = modules(channels), maps(channels)
    flow = ops.Flow(REPLICAS, None, kernels)
    for module in every:
        module.norm.normalise = normalise
    table = torch.rand(REPLICAS, 3, 5, generator=labs.rng(6), dtype=torch.float64).requires_grad_()
    weights = table[:, :, 3]  # of one channel a view whose numbers do not lie side by side
    scale = weights[:, :, None].expand(-1, -1, channels).flatten()
    found = layers.apart(every, layers.scaled_together(every, x, scale, flow), REPLICAS)
    unweighted = layers.apart(every, layers.together(every, x, flow), REPLICAS)
    expected = [ops.scale(part, weights[:, i]) for i, part in enumerate(unweighted)]
    of = [x, table, *(parameter for module in every for parameter in module.parameters())]
    outcomes = []
    for parts in (found, expected):
        total = sum(((part * torch.arange(1.0, 7.0, dtype=torch.float64)).sin() for part in parts[1:]), parts[0].sin())
        first = torch.autograd.grad(total.sum(), of, create_graph=kernels is TWICE, allow_unused=True)
        second = []
        if kernels is TWICE:
            mixed = sum((g.square().sum() for g in first if g is not None), torch.zeros((), dtype=torch.float64))
            second = list(torch.autograd.grad(mixed, of, allow_unused=True))
        outcomes.append([total, *first, *second])
    for a, b in zip(*outcomes, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * (1 + b.abs().max().item()))


@pytest.mark.parametrize("norm", [batch_norm, torch_batch_norm])
def test_numbers_that_do_not_lie_side_by_side_scale_as_others_do(norm: object) -> None:
    """torch 2.13's derivative misreads a strided scale where channels are innermost."""
    assert callable(norm)
    x, strided = maps(1), torch.rand(2, 5, generator=labs.rng(7), dtype=torch.float64)[:, 3]
    weight = torch.randn(x.shape, generator=labs.rng(8), dtype=torch.float64)
    (one,), (two,) = (
        torch.autograd.grad((norm(x, scale) * weight).sum(), x) for scale in (strided, strided.contiguous())
    )
    assert torch.equal(one, two)


def test_a_product_keeps_two_thirds_of_what_products_of_maps_kept() -> None:
    """Of 12 convolutions a cell neither weighted maps nor a gradient of each are kept: 73 maps, where it was 112."""
    lab = labs.make("nb201", channels=4)
    searcher = labs.start(METHODS["darts"], lab)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    probe = lab.feed.probe(8)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        point = _curvature.hessian_operator(probe_loss(searcher, probe), searcher.logits())
    first_map = lab.replicas * 4 * 8 * 8 * 8 * 8  # replicas, channels, images, pixels, bytes
    assert 0 < sum(kept.values()) < 85 * first_map
    del point
