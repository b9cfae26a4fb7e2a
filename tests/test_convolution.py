"""A small 1×1 convolution of one replica, computed as a product, against torch's convolution; which are computed so."""

from collections.abc import Callable

import pytest
import torch
from test_supernet_plain import normal
from torch import Tensor
from torch.nn import functional

from bench import convolution
from bench.convolution import SMALL, Geometry
from bench.layout import innermost

torch.set_num_threads(1)

ONE = Geometry(stride=1, padding=0, groups=1)
BOTH = [convolution.torch_convolution, convolution.convolution]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Return the shapes of the maps that are multiplied, as they come."""
    seen: list[torch.Size] = []
    plain = convolution._product

    def recorded(x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(x.shape)
        return plain(x, kernels, bias)

    monkeypatch.setattr(convolution, "_product", recorded)
    return seen


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor], order: int) -> list[Tensor]:
    """Return the output, and the gradients of a functional of it, of one of those gradients, and so on."""
    found = [function(*inputs)]
    latest = found
    for each in range(order):
        total = sum((part.sin() * normal(*part.shape, seed=each)).sum() for part in latest)
        latest = list(torch.autograd.grad(total, inputs, create_graph=True))
        found += latest
    return found


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("ours", BOTH)
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (2, 4, 1, 1), (1, 1, 3, 2)])
def test_a_product_and_three_derivatives_are_those_of_the_convolution(
    shape: tuple[int, ...], ours: Callable[..., Tensor], with_bias: bool, trained: bool, products: list[torch.Size]
) -> None:
    constants = [normal(3, shape[1], 1, 1, seed=1), *([normal(3, seed=2)] if with_bias else [])]
    inputs = [normal(*shape, seed=0), *(constants if trained else [])]
    inputs = [part.requires_grad_(True) for part in inputs]

    def by(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, *rest: function(x, *(rest or constants), *([] if with_bias else [None]))

    found = derivatives(by(lambda *given: ours(*given, ONE)), inputs, 3)
    expected = derivatives(by(functional.conv2d), inputs, 3)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + b.abs().max().item()))
    by_hand = ours is convolution.convolution and not trained
    assert torch.Size(shape) in products
    assert (torch.Size([shape[0], 3, *shape[2:]]) in products) == by_hand, "the transposed one is a product as well"


@pytest.mark.parametrize("ours", BOTH)
def test_a_product_leaves_channels_innermost(ours: Callable[..., Tensor]) -> None:
    x = normal(3, 4, 5, 2, seed=0).requires_grad_(True)
    y = ours(x, normal(6, 4, 1, 1, seed=1), None, ONE)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.stride() == innermost(y).stride()
    torch.testing.assert_close(gradient, 2 * functional.conv_transpose2d(y, normal(6, 4, 1, 1, seed=1)))


@pytest.mark.parametrize("ours", BOTH)
def test_a_product_of_half_precision_is_the_convolution_to_its_rounding(ours: Callable[..., Tensor]) -> None:
    x, kernels, bias = normal(3, 8, 5, 2, seed=0), normal(6, 8, 1, 1, seed=1), normal(6, seed=2)
    found = ours(x.bfloat16(), kernels.bfloat16(), bias.bfloat16(), ONE)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.double(), functional.conv2d(x, kernels, bias), rtol=0.03, atol=0.05)


@pytest.mark.parametrize(
    ("name", "shape", "side", "geometry"),
    [
        ("larger", (SMALL // 64 + 1, 1, 8, 8), 1, ONE),
        ("of two replicas", (2, 4, 5, 5), 1, Geometry(1, 0, 2)),
        ("of stride 2", (2, 4, 5, 5), 1, Geometry(2, 0, 1)),
        ("padded", (2, 4, 5, 5), 1, Geometry(1, 1, 1)),
        ("of 3×3 pixels", (2, 4, 5, 5), 3, Geometry(1, 0, 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("ours", BOTH)
def test_every_other_convolution_is_torchs(
    ours: Callable[..., Tensor],
    name: str,
    shape: tuple[int, ...],
    side: int,
    geometry: Geometry,
    products: list[torch.Size],
) -> None:
    x, kernels = normal(*shape, seed=0).requires_grad_(True), normal(2, shape[1] // geometry.groups, side, side, seed=1)

    def torchs(x: Tensor) -> Tensor:
        return functional.conv2d(x, kernels, None, geometry.stride, geometry.padding, groups=geometry.groups)

    found = derivatives(lambda x: ours(x, kernels, None, geometry), [x], 2)
    for a, b in zip(found, derivatives(torchs, [x], 2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + b.abs().max().item()))
    assert not products, name


def test_the_largest_product_and_the_smallest_convolution(products: list[torch.Size]) -> None:
    for images in (SMALL // 16, SMALL // 16 + 1):
        convolution.torch_convolution(normal(images, 4, 2, 2, seed=0), normal(1, 4, 1, 1, seed=1), None, ONE)
    assert products == [(SMALL // 16, 4, 2, 2)]


@pytest.mark.parametrize("ours", BOTH)
def test_another_device_computes_convolutions(ours: Callable[..., Tensor], products: list[torch.Size]) -> None:
    x = torch.empty(2, 4, 5, 5, device="meta", requires_grad=True)
    y = ours(x, torch.empty(3, 4, 1, 1, device="meta"), None, ONE)
    y.sum().backward()
    assert y.shape == (2, 3, 5, 5)
    assert not products
