"""Maps with their channels outermost, as on a GPU, are those with their channels innermost, as on a CPU."""

from collections.abc import Callable

import pytest
import torch
from test_supernet import choices_of, products, projection
from test_supernet_plain import SPACES, close, normal, supernet
from torch import Tensor

from bench import convolution, layout, ops
from bench.supernet import common
from searchers.base import ForwardInputs

pytestmark = pytest.mark.usefixtures("unchecked")


def outermost(patch: pytest.MonkeyPatch) -> None:
    for module in (layout, convolution):
        patch.setattr(module, "channels_innermost", lambda _device: False)


def both(find: Callable[[], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Return what is found with either layout."""
    innermost = find()
    with pytest.MonkeyPatch.context() as patch:
        outermost(patch)
        return innermost, find()


def same(find: Callable[[], list[Tensor]]) -> None:
    for inner, outer in zip(*both(find), strict=True):
        close(inner, outer, 1e-8)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", ["shared", "per cell", "active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_networks_and_their_derivatives(name: str, kind: str, twice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and a product with the Hessian; options are computed for replicas that use them."""
    monkeypatch.setattr(common, "SMALL", 0)
    network, choices, onto = supernet(name, 3), choices_of(name, kind, 3), projection(3)
    same(lambda: products(network, choices, onto, ForwardInputs(twice=twice)))


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_partial_channels(name: str, replicas: int) -> None:
    network, choices = supernet(name, replicas, parts=2), choices_of(name, "shared", replicas)
    same(lambda: products(network, choices, projection(replicas), ForwardInputs(twice=True)))


def test_maps_lie_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    images = normal(3, 2, 4, 5, 5, seed=1)
    inner = layout.innermost(layout.fold(images))
    assert inner.is_contiguous(memory_format=torch.channels_last)
    outermost(monkeypatch)
    outer = layout.innermost(layout.fold(images))
    assert outer.is_contiguous()
    assert torch.equal(inner, outer)
    assert torch.equal(ops.unfold(outer, 3).transpose(0, 1), images)
