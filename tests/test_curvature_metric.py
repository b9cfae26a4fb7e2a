"""What every curvature field of a record means: against the Hessians of autograd, and its invariances."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_curvature_toy import TIGHT, ToySearcher, batch, make, measure, noise, softmax
from torch import Tensor, nn
from torch.nn import functional

from bench.metrics import curvature as metric
from searchers import _curvature
from searchers.base import Batch, Choices


def full_hessian(searcher: ToySearcher, probe: Batch) -> Tensor:
    """Of one replica, by torch.autograd.functional, through the network's own (not detached) weights."""
    logits = searcher.logits()

    def loss(vector: Tensor) -> Tensor:
        scores = searcher.supernet(probe.images, searcher.relax(_curvature.unpack(vector[None], logits)))
        return functional.cross_entropy(scores[0], probe.labels[0])

    return torch.autograd.functional.hessian(loss, _curvature.pack(logits)[0])


def test_every_field_against_the_hessian_of_autograd() -> None:
    searcher = make(1)
    (record,) = measure(searcher)
    values = torch.linalg.eigvalsh(full_hessian(searcher, batch(1)))
    kept = np.delete(values.numpy(), values.abs().argsort()[:3].numpy())
    np.testing.assert_allclose(record["spectrum"], kept, rtol=1e-6, atol=1e-12)
    assert record["lambda_max"] == pytest.approx(kept.max(), rel=1e-9)
    assert record["lambda_min"] == pytest.approx(kept.min(), rel=1e-9)
    assert record["trace"] == pytest.approx(kept.sum(), rel=1e-9)
    assert record["lambda_dominant"] == pytest.approx(kept[np.abs(kept).argmax()], rel=1e-6)
    assert record["disagreement"] < 1e-6
    assert record["residual"] <= 1e-8
    assert record["asymmetry"] < 1e-12
    scores = searcher.supernet(batch(1).images, softmax(searcher.table))
    assert record["loss"] == pytest.approx(functional.cross_entropy(scores[0], batch(1).labels[0]).item())
    assert record["gradient_norm"] > 0
    assert (record["degenerate"], record["not_finite"]) == (False, False)
    assert record["hessian_of"] == "validation cross-entropy of the softmax mixture"


def test_legacy_is_the_algebraic_maximum_on_its_own_batch_plus_exactly_the_weight_decay() -> None:
    searcher = make(1)
    top = torch.linalg.eigvalsh(full_hessian(searcher, batch(1, 10, 8)))[-1].item()
    for decay in (0.0, 1e-3, 0.5):
        (record,) = measure(searcher, replace(TIGHT, legacy_weight_decay=decay))
        assert record["lambda_legacy"] == pytest.approx(top + decay, rel=1e-12)
    assert metric.legacy(searcher, None, 0.0) == [None]


@pytest.mark.parametrize("mode", ["shared", "per cell", "free"])
def test_simplex_is_the_tangent_hessian_in_the_mixing_weights(mode: str) -> None:
    searcher, cells = make(1), 2 if mode == "per cell" else 1
    searcher.shift_invariant = ("op",) if mode == "free" else ("op", "in_3")
    searcher.relax = lambda logits: Choices(
        {
            name: torch.stack([(table * (1 + cell)).softmax(-1) for cell in range(cells)])
            for name, table in logits.items()
        }
    )
    weights = {name: table.detach() for name, table in searcher.relax(searcher.table).weights.items()}
    flat = torch.cat([table.flatten() for table in weights.values()])

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([table.numel() for table in weights.values()])
        tables = {name: part.reshape(weights[name].shape) for name, part in zip(weights, parts, strict=True)}
        return functional.cross_entropy(searcher.supernet(batch(1).images, Choices(tables))[0], batch(1).labels[0])

    rows = [torch.full((k, k), 1 / k).double() for k in [3] * 2 * cells + ([] if mode == "free" else [2] * cells)]
    means = torch.block_diag(*rows, *([torch.zeros(2, 2).double()] if mode == "free" else []))
    tangent = torch.eye(len(flat), dtype=torch.float64) - means
    values = torch.linalg.eigvalsh(tangent @ torch.autograd.functional.hessian(loss, flat) @ tangent)
    (found,) = metric.simplex(searcher, batch(1), noise(1), 1e-8)
    assert found == pytest.approx(values[values.abs().argmax()].item(), rel=1e-6)


def test_adding_a_constant_to_a_row_leaves_every_value_unchanged() -> None:
    searcher = make(1, 2)
    before = measure(searcher)
    searcher.table["op"] = searcher.table["op"] + torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    for old, new in zip(before, measure(searcher), strict=True):
        for name in ("lambda_dominant", "trace", "lambda_simplex", "lambda_legacy", "loss"):
            assert new[name] == pytest.approx(old[name], rel=1e-6), name


def test_scaling_the_loss_scales_the_eigenvalue() -> None:
    searcher = make(1)
    loss = metric.probe_loss(searcher, batch(1))
    values = []
    for factor in (1.0, 3.5):
        point = _curvature.hessian_operator(lambda logits, c=factor: c * loss(logits), searcher.table)
        begin = metric.start_vectors(None, noise(1), 8, 0.1)
        basis = _curvature.null_basis(searcher.table, searcher.shift_invariant)
        values.append(_curvature.dominant(point.product, begin, basis, 1e-8).value.item())
    assert values[1] == pytest.approx(3.5 * values[0], rel=1e-9)


def test_permuting_options_leaves_the_eigenvalues() -> None:
    searcher, order = make(1), [2, 0, 1]
    (before,) = measure(searcher)
    searcher.supernet.ops = nn.Parameter(searcher.supernet.ops.detach()[:, :, :, order])
    searcher.table["op"] = searcher.table["op"][:, :, order]
    (after,) = measure(searcher)
    np.testing.assert_allclose(after["spectrum"], before["spectrum"], rtol=1e-9, atol=1e-14)
    assert after["lambda_dominant"] == pytest.approx(before["lambda_dominant"], rel=1e-6)
