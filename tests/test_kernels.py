"""Kernels for one derivative and for two give the same numbers; whoever differentiates twice asks for the second."""

import dataclasses
from typing import Any

import labs
import pytest
import torch
from tests import benches
from torch import Tensor

from bench import kernels, ops
from bench.metrics import curvature, native
from bench.ops import flow_of
from searchers import _curvature, _proxies
from searchers._relax import cross_entropy, loss, softmax
from searchers.base import Batch, ForwardInputs
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
SPACES = ("toy", "s1", "s3", "nb201")


class _Single(torch.autograd.Function):
    """The identity, which may be differentiated once."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        assert not torch.is_grad_enabled(), "differentiated twice"
        return gradient


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for one derivative that refuse a second."""
    plain = kernels.torch_batch_norm
    refusing = dataclasses.replace(kernels.ONCE, batch_norm=lambda x, *affine: plain(_Single.apply(x), *affine))
    monkeypatch.setattr(ops, "flow_of", lambda inputs, replicas, _once: flow_of(inputs, replicas, refusing))


def test_the_kernels_are_chosen_by_what_is_asked_for() -> None:
    assert flow_of(ForwardInputs(), 1).kernels is kernels.ONCE
    assert flow_of(ForwardInputs(twice=True), 1).kernels is kernels.TWICE


@pytest.mark.parametrize("name", SPACES)
def test_both_give_the_same_output_and_derivatives(name: str) -> None:
    lab = labs.make(name)
    network = METHODS["darts"].build(METHODS["darts"].settings(), lab).supernet
    images = torch.randn(2, 6, 3, 8, 8, generator=labs.rng(1), dtype=torch.float64)
    logits = {g.name: torch.randn(2, *g.shape, generator=labs.rng(2), dtype=torch.float64) for g in network.groups}
    batch = Batch(images, torch.arange(6).repeat(2, 1) % labs.CLASSES)
    outputs, derivatives = [], []
    for twice in (False, True):
        leaves = {name: value.clone().requires_grad_() for name, value in logits.items()}
        scores = network(images, softmax(leaves), ForwardInputs(twice=twice))
        of = [*leaves.values(), *(parameter for _, parameter in network.named_parameters())]
        first = torch.autograd.grad(cross_entropy(scores, batch).sum(), of, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), of, allow_unused=True)
        outputs.append(scores)
        derivatives.append([*first, *second])
    assert torch.equal(*outputs)
    for a, b in zip(*derivatives, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * (1 + b.abs().max().item()))


@pytest.mark.parametrize("name", benches.EVERY)
def test_no_step_and_no_measurement_differentiates_twice_what_is_fast_once(name: str, single: None) -> None:
    lab = labs.make("toy")
    searcher = labs.start(METHODS[name], lab)
    labs.drive(searcher, lab, 0, 2)
    searcher.finish()
    if searcher.no_curvature is None:
        probes = curvature.Probes(lab.feed.probe(8), None)
        noise = lab.stream("curvature", 0)
        curvature.measure(searcher, probes, None, noise, curvature.CurvatureSettings(), True)
        native.measure(searcher, lab.feed.probe(8), native.NativeSettings(draws=2))


def test_a_second_derivative_of_what_is_fast_once_is_seen(single: None) -> None:
    lab = labs.make("toy")
    searcher, probe = labs.start(METHODS["darts"], lab), lab.feed.probe(8)
    with pytest.raises(AssertionError, match="differentiated twice"):
        _curvature.hessian_operator(lambda logits: loss(searcher.supernet, probe, softmax(logits)), searcher.logits())


def test_the_proxy_with_a_hessian_asks_for_two(single: None) -> None:
    lab = labs.make("toy")
    searcher = labs.start(METHODS["darts"], lab)
    scores = _proxies.grasp(searcher.supernet, softmax(searcher.logits()), lab.feed.probe(8))
    assert scores.isfinite().all()
