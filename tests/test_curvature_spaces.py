"""Power iteration on every real space against the exact Hessian, in float64."""

import pytest
import torch
from tests import labs

from bench.metrics import curvature
from bench.spaces import SPACES
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
TIGHT = curvature.CurvatureSettings(tolerance=1e-8)


@pytest.mark.parametrize(
    "space", [pytest.param(name, marks=pytest.mark.slow if name in {"s2", "s3"} else ()) for name in SPACES]
)
def test_power_iteration_agrees_with_the_exact_hessian(space: str) -> None:
    lab = labs.make(space, seeds=(3, 8))
    searcher = METHODS["darts"].build(METHODS["darts"].settings(), lab)
    searcher.begin_epoch(0)
    for batches in lab.feed.epoch(searcher.policy, 0, labs.EPOCHS):
        searcher.step(batches)
    probes = curvature.Probes(lab.feed.probe(16), lab.feed.legacy_probe(0, labs.EPOCHS, size=8))
    found = curvature.measure(searcher, probes, None, lab.stream("curvature", 1), TIGHT, whole=True)
    size = sum(group.decisions * len(group.options) for group in lab.groups)
    rows = sum(group.decisions for group in lab.groups)
    for record in found.records:
        assert record["disagreement"] < 1e-6
        assert len(record["spectrum"]) == size - rows
        assert record["lambda_dominant"] == pytest.approx(max(record["spectrum"], key=abs), rel=1e-6)
        assert record["asymmetry"] < 1e-6
        assert not record["degenerate"]
    first, second = (record["lambda_dominant"] for record in found.records)
    assert first != second


@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_row_constants_are_a_null_space_of_the_exact_hessian(space: str) -> None:
    from searchers import _curvature

    lab = labs.make(space, seeds=(5,))
    searcher = METHODS["darts"].build(METHODS["darts"].settings(), lab)
    point = _curvature.hessian_operator(curvature.probe_loss(searcher, lab.feed.probe(16)), searcher.logits())
    basis = _curvature.null_basis(searcher.logits(), searcher.shift_invariant)
    for direction in basis:
        assert point.product(direction[None]).abs().max() < 1e-10
    free = torch.randn(1, basis.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert point.product(_curvature.project(free, basis)).abs().max() > 1e-6
