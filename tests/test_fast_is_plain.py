"""Every method on the fast supernet is that method on a plain one, seed by seed and call by call (`plain_nets`).

In float64, relative to one plus the largest entry of each tensor, `TOLERANCE` bounds all gaps: losses of every step,
weights, logits, what is selected, diagnostics, and the loss, gradient and one Hessian-vector product of the relaxation,
before the first step and after the end. The searchers and their optimisers are the same code on both sides, and so
are the draws: decisions are discrete, and with these seeds rounding flips none of them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import labs
import pytest
import torch
from _pytest.mark import ParameterSet
from plain_lab import PlainLab, PlainSupernet
from torch import Tensor

from bench.lab import Lab
from bench.metrics import curvature
from searchers import _curvature, _perturbation
from searchers.base import Resources, Searcher
from searchers.registry import METHODS, find

pytestmark = pytest.mark.usefixtures("unchecked")
TOLERANCE = 1e-9
NB201 = ("pc_darts", "entrannas", "darts_minus", "gdas")
"""What NAS-Bench-201's network is built otherwise for, and one that samples and shifts."""

CHANGED: dict[str, dict[str, Any]] = {
    "gdas": {"gradient": "constant_map", "per_cell": False},
    "random_ws": {"per_cell": True},
    "snas": {"per_cell": True},
    "setn": {"per_cell": False},
    "pc_darts": {"edge_weights": False},
    "entrannas": {"share_features": False},
}
"""Settings other than the defaults that change what a network is built with or receives."""


def settings_of(name: str) -> Any:
    """Quick settings of a method, or of a search and the selection behind it."""
    method, first = find(name), METHODS[name.partition("+")[0]]
    assert method is not None
    return labs.quick(method) if name in METHODS else method.settings(labs.quick(first), SELECT)


SELECT = _perturbation.Settings(share=0.5, batches=1)


def curved(searcher: Searcher, lab: Lab, when: str) -> dict[str, Tensor]:
    """Loss, gradient and one product on the probe, where λ is defined."""
    if searcher.no_curvature is not None:
        return {}
    logits = searcher.logits()
    point = _curvature.hessian_operator(curvature.probe_loss(searcher, lab.feed.probe(8)), logits)
    vector = torch.randn(_curvature.pack(logits).shape, generator=labs.rng(3), dtype=torch.float64)
    seen = {"loss": point.loss, "gradient": point.gradient, "product": point.product(vector)}
    return {f"/{when}/{name}": value for name, value in seen.items()}


def searched(name: str, settings: Any, lab: Lab, resources: Resources) -> dict[str, Any]:
    """All that can be seen of a whole search, through all stages of a method: three epochs of three steps."""
    method = find(name)
    assert method is not None
    searcher = method.build(settings, resources)
    assert isinstance(searcher.supernet, PlainSupernet) == isinstance(resources, PlainLab)
    first = curved(searcher, lab, "first")
    losses = labs.drive(searcher, lab, 0, labs.EPOCHS)
    searcher.finish()
    last = curved(searcher, lab, "last") | labs.leaves(dict(searcher.diagnostics()), "/diagnostics")
    return labs.outcome(searcher, losses) | first | last


def check(name: str, space: str, settings: Any, cells: int = 1) -> None:
    lab = labs.make(space)
    lab = dataclasses.replace(lab, size=dataclasses.replace(lab.size, cells=cells))
    fast, plain = (searched(name, settings, lab, resources) for resources in (lab, PlainLab(lab)))
    labs.close(plain, fast, TOLERANCE)


def cases() -> Iterator[ParameterSet]:
    for name in METHODS:
        for space in ("toy", "s1", "nb201"):
            short = space == "toy" or (space == "nb201" and name in NB201)
            yield pytest.param(name, space, id=f"{name}-{space}", marks=[] if short else [pytest.mark.slow])
    for name in ("darts", "random_ws", "pc_darts", "rdarts_dp"):
        yield from (pytest.param(name, space, id=f"{name}-{space}", marks=pytest.mark.slow) for space in ("s2", "s3"))
    for name in ("pc_darts+perturbation", "darts_minus+perturbation"):
        for space in ("s1", "nb201"):
            yield pytest.param(name, space, id=f"{name}-{space}", marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "space"), list(cases()))
def test_a_search_on_the_fast_network_is_that_on_the_plain_one(name: str, space: str) -> None:
    check(name, space, settings_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("space", ["toy", "nb201"])
@pytest.mark.parametrize("name", list(CHANGED))
def test_so_it_is_with_other_settings(name: str, space: str) -> None:
    check(name, space, dataclasses.replace(settings_of(name), **CHANGED[name]))


@pytest.mark.slow
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_so_it_is_in_networks_that_grow(space: str) -> None:
    check("pdarts", space, settings_of("pdarts"), cells=2)
