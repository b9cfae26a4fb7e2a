"""Slices of the loss through the logits agree with its derivatives, and measuring them changes nothing."""

import dataclasses
from pathlib import Path

import labs
import pytest
import torch
from tests import benches

from bench.lab import Lab
from bench.metrics import curvature, landscape
from bench.metrics.landscape import LandscapeSettings
from searchers import _curvature
from searchers.base import Searcher
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
NEAR = LandscapeSettings(radius=2e-5, points=3, random=2)


def trained(space: str = "toy") -> tuple[Lab, Searcher]:
    lab = labs.make(space)
    searcher = labs.start(METHODS["darts"], lab)
    labs.drive(searcher, lab, 0, 1)
    return lab, searcher


def vectors(lab: Lab, searcher: Searcher) -> curvature.Measured:
    settings = dataclasses.replace(curvature.CurvatureSettings(), mode="lanczos", tolerance=1e-9)
    return curvature.measure(
        searcher, curvature.Probes(lab.feed.probe(8)), None, lab.stream("curvature", 0), settings, whole=False
    )


@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_the_second_derivative_along_the_eigenvector_is_the_eigenvalue(space: str) -> None:
    lab, searcher = trained(space)
    found = vectors(lab, searcher)
    noise = lab.stream("landscape", 0)
    for measured, slices in zip(
        found.records, landscape.measure(searcher, lab.feed.probe(8), found.vectors, noise, NEAR), strict=True
    ):
        low, middle, high = slices["loss"][0]
        assert (high - 2 * middle + low) / NEAR.radius**2 == pytest.approx(
            measured["lambda_dominant"], rel=1e-3, abs=1e-5
        )
        assert middle == pytest.approx(measured["loss"], rel=1e-12)
        assert len(slices["loss"]) == 3
        assert slices["t"] == [-NEAR.radius, 0.0, NEAR.radius]


def test_directions_are_unit_and_leave_the_null_space_out() -> None:
    lab, searcher = trained()
    logits = searcher.logits()
    basis = _curvature.null_basis(logits, searcher.shift_invariant)
    start = torch.ones(lab.replicas, basis.shape[1], dtype=torch.float64)
    start[:, 0] = 3
    found = landscape._directions(start, basis, lab.stream("landscape", 0), NEAR)
    assert found.shape == (lab.replicas, 3, basis.shape[1])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(lab.replicas, 3, dtype=torch.float64))
    assert (found @ basis.T).abs().max() < 1e-12
    assert not torch.allclose(found[0, 1], found[1, 1])


def test_measuring_changes_nothing() -> None:
    lab, searcher = trained()
    before = labs.leaves(searcher.state_dict())
    found = vectors(lab, searcher)
    one, two = (
        landscape.measure(searcher, lab.feed.probe(8), found.vectors, lab.stream("landscape", 0), NEAR) for _ in "ab"
    )
    assert one == two
    labs.same(labs.leaves(searcher.state_dict()), before)
    assert all(parameter.grad is None for _, parameter in searcher.supernet.named_parameters())


def test_a_replica_does_not_depend_on_what_it_is_stacked_with() -> None:
    found = []
    for seeds in ((0, 1), (1,)):
        lab = labs.make(seeds=seeds)
        searcher = labs.start(METHODS["darts"], lab)
        start = torch.ones_like(_curvature.pack(searcher.logits()))
        start[:, 0] = 2
        found.append(landscape.measure(searcher, lab.feed.probe(8), start, lab.stream("landscape", 0), NEAR))
    for stacked, alone in zip(found[0][1]["loss"], found[1][0]["loss"], strict=True):
        assert stacked == pytest.approx(alone, rel=1e-10)


def test_a_run_records_the_slices_after_its_last_epoch_and_changes_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benches.isolate(monkeypatch, tmp_path)
    plain = benches.searched(tmp_path / "a", "darts", "--epochs", "2")[1]
    sliced = benches.searched(tmp_path / "b", "darts", "--epochs", "2", "--landscape")[1]
    for one, other in zip(plain, sliced, strict=True):
        reasons = [record.pop("no_landscape") for record in other]
        found = [record.pop("landscape") for record in other]
        assert [value is not None for value in found] == [False, False, True, False]
        assert reasons[0] == reasons[1] == "measured after the last epoch"
        assert reasons[2] is None
        assert found[2]["loss"][0][len(found[2]["t"]) // 2] == pytest.approx(other[2]["curvature"]["loss"], rel=1e-5)
        assert {record.pop("no_landscape") for record in one} == {
            *("not asked for: --landscape", "not measured at stage 'final': see the last epoch")
        }
        assert all(record.pop("landscape") is None for record in one)
        assert one == other
    none = benches.searched(tmp_path / "c", "random_ws", "--epochs", "1", "--landscape")[1][0][1]
    assert none["no_landscape"] == none["no_curvature"]
