"""Batch norm, mixture and convolution by constants (derivatives by hand) against torch's own and differences."""

from collections.abc import Callable

import pytest
import torch
from test_supernet_plain import normal
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from bench.batch_norm import batch_norm
from bench.convolution import Geometry, convolution
from bench.layout import innermost
from bench.mixture import columns, mixture

torch.set_num_threads(1)


def leaf(*shape: int, seed: int) -> Tensor:
    return normal(*shape, seed=seed).requires_grad_(True)


def second_derivatives(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of a random functional of the gradient of a random functional of the output."""
    output = function(*inputs)
    first = torch.autograd.grad((output.sin() * normal(*output.shape, seed=8)).sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum((part.cos() * normal(*part.shape, seed=9)).sum() for part in first), inputs)


def mixed(weights: Tensor, *terms: Tensor) -> Tensor:
    return mixture(columns(weights, terms[0].shape[1]), terms)


def plain_mixture(weights: Tensor, *terms: Tensor) -> Tensor:
    replicas = len(weights)
    parts = [x.unflatten(1, (replicas, -1)) * weights[:, k, None, None, None] for k, x in enumerate(terms)]
    return sum(parts).flatten(1, 2)


def test_batch_norm_has_the_bits_of_torchs_forward_and_backward() -> None:
    x = innermost(normal(4, 3, 5, 5, seed=0)).requires_grad_(True)
    inputs = x, leaf(3, seed=1), leaf(3, seed=2)
    ours, torchs = batch_norm(*inputs), functional.batch_norm(inputs[0], None, None, *inputs[1:], training=True)
    assert torch.equal(ours, torchs)
    gradient = innermost(normal(4, 3, 5, 5, seed=3))
    pairs = zip(*(torch.autograd.grad(y, inputs, gradient) for y in (ours, torchs)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(batch_norm(inputs[0]), functional.batch_norm(inputs[0], None, None, training=True))


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_second_derivatives_of_batch_norm_are_torchs(spread: float) -> None:
    """At a spread of 1e-3 the variance is below ε, which a derivation that forgets ε gets wrong."""
    inputs = (spread * normal(4, 3, 2, 5, seed=0)).requires_grad_(True), leaf(3, seed=1), leaf(3, seed=2)
    ours = second_derivatives(batch_norm, *inputs)
    torchs = second_derivatives(lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True), *inputs)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())


def test_derivatives_of_batch_norm_agree_with_differences() -> None:
    inputs = leaf(3, 2, 4, 3, seed=0), leaf(2, seed=1), leaf(2, seed=2)
    assert gradcheck(batch_norm, inputs)
    assert gradgradcheck(batch_norm, inputs)
    assert gradgradcheck(batch_norm, inputs[:1])


@pytest.mark.parametrize("replicas", [1, 2])
def test_mixture_and_its_derivatives_are_those_of_the_plain_sum(replicas: int) -> None:
    inputs = leaf(replicas, 3, seed=0), *(leaf(4, 6, 3, 2, seed=seed) for seed in (1, 2, 3))
    torch.testing.assert_close(mixed(*inputs), plain_mixture(*inputs), rtol=1e-12, atol=1e-12)
    ours = second_derivatives(mixed, *inputs)
    for a, b in zip(ours, second_derivatives(plain_mixture, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("free", [(0,), (1, 3), (0, 2), (0, 1, 2, 3)])
def test_second_derivatives_of_a_mixture_with_constants_among_its_inputs(free: tuple[int, ...], replicas: int) -> None:
    inputs = [normal(replicas, 3, seed=0), *(normal(3, 4, 2, 2, seed=seed) for seed in (1, 2, 3))]

    def function(*moved: Tensor) -> Tensor:
        weights, *terms = [moved[free.index(i)] if i in free else fixed for i, fixed in enumerate(inputs)]
        return mixed(weights, *terms)

    leaves = tuple(inputs[i].clone().requires_grad_(True) for i in free)
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("function", [batch_norm, lambda x: mixed(x.mean((0, 2, 3))[:, None], x)])
def test_third_derivatives_raise(function: Callable[[Tensor], Tensor]) -> None:
    x = leaf(3, 2, 2, 2, seed=0)
    (first,) = torch.autograd.grad(function(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="as its pass was made for, got one more"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("geometry", [Geometry(1, 1, 3), Geometry(2, 1, 3), Geometry(2, 0, 1)])
def test_convolution_by_constants_and_its_derivatives_are_torchs(geometry: Geometry) -> None:
    side, groups = 2 * geometry.padding + 1, geometry.groups
    kernels, bias = normal(2 * groups, 2, side, side, seed=1), normal(2 * groups, seed=2)
    x = leaf(3, 2 * groups, 5, 4, seed=0)

    def ours(x: Tensor) -> Tensor:
        return convolution(x, kernels, bias, geometry)

    def torchs(x: Tensor) -> Tensor:
        return functional.conv2d(x, kernels, bias, geometry.stride, geometry.padding, groups=groups)

    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-12, atol=1e-12)
    (a,), (b,) = second_derivatives(ours, x), second_derivatives(torchs, x)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert gradcheck(ours, (x,))
    assert gradgradcheck(ours, (x,))


def test_kernels_that_are_trained_get_their_gradient_and_its_derivative() -> None:
    inputs = leaf(3, 4, 5, 4, seed=0), leaf(4, 2, 3, 3, seed=1), leaf(4, seed=2)

    def ours(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        return convolution(x, kernels, bias, Geometry(1, 1, 2))

    def torchs(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(x, kernels, bias, padding=1, groups=2)

    for a, b in zip(second_derivatives(ours, *inputs), second_derivatives(torchs, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
