"""Fast supernets are plain ones (`plain_nets`) whatever they are built with and receive: maps, derivatives, addresses.

In float64; options are off at random, so that cells have holes and dead ends.
"""

from typing import Any

import labs
import numpy as np
import pytest
import torch
from plain_lab import PlainLab, PlainSupernet
from test_supernet_plain import close, mixture, normal, random_active
from torch import Tensor, nn

from bench.lab import Lab
from searchers._proxies import PROXIES, Name
from searchers.base import Choices, ForwardInputs, Group, Supernet, SupernetOptions

pytestmark = pytest.mark.usefixtures("unchecked")
CELLS, SEEDS = 3, (3, 5, 8)
BUILT = {
    "as it is": SupernetOptions(),
    "partial channels": SupernetOptions(partial_channels=2),
    "weighted edges": SupernetOptions(partial_channels=2, edge_weights=True),
    "auxiliary skip": SupernetOptions(auxiliary_skip=True, edge_weights=True),
    "shared features": SupernetOptions(shared_features=True, groups=(Group("extra", 2, ("t",), "edge"),)),
    "no normalisation": SupernetOptions(normalise=False),
}
built = pytest.mark.parametrize("options", [pytest.param(options, id=name) for name, options in BUILT.items()])
spaces = pytest.mark.parametrize("space", ["toy", "s1", "s2", "s3", "nb201"])


def pair(lab: Lab, options: SupernetOptions) -> tuple[Supernet, Supernet]:
    return lab.build(options), PlainLab(lab).build(options)


def some_active(groups: tuple[Group, ...], replicas: int, seed: int = 4) -> dict[str, np.ndarray]:
    """Half of the options, and in every row of operations one at least."""
    active = random_active(groups, CELLS, replicas, seed, chance=0.5)
    active["op"][..., -1] |= ~active["op"].any(-1)
    return active


def received(network: Supernet, images: int, auxiliary: float) -> ForwardInputs:
    replicas, rows = network.replicas, next(g.decisions for g in network.groups if g.name == "op")
    keep = 0.5 + normal(CELLS, replicas, images, rows, seed=20).abs()
    return ForwardInputs({"op": keep}, {"op": normal(CELLS, replicas, rows, seed=21)}, auxiliary)


def derivatives(network: Supernet, choices: Choices, inputs: ForwardInputs) -> dict[str, Tensor]:
    """Scores, and the derivatives of a sum of them by everything that has one."""
    assert isinstance(network, nn.Module)
    images = normal(network.replicas, 5, 3, labs.SIDE, labs.SIDE, seed=7).requires_grad_()
    weights = {name: value.clone().requires_grad_() for name, value in choices.weights.items()}
    shift = {name: value.clone().requires_grad_() for name, value in (inputs.shift or {}).items()}
    known = ForwardInputs(inputs.keep, shift or None, inputs.auxiliary)
    scores = network(images, Choices(weights, choices.active), known)
    leaves = {**dict(network.named_parameters()), **weights, "images": images, **{f"+{k}": v for k, v in shift.items()}}
    total = (scores * normal(*scores.shape, seed=9)).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {"scores": scores.detach()} | {n: torch.zeros_like(v) if g is None else g for (n, v), g in pairs}


@spaces
@built
@pytest.mark.parametrize("some", [False, True], ids=["all", "some"])
def test_both_are_one_function(space: str, options: SupernetOptions, some: bool) -> None:
    fast, plain = pair(labs.make(space, SEEDS), options)
    active = some_active(fast.groups, len(SEEDS)) if some else None
    choices = Choices(mixture(fast.groups, len(SEEDS), CELLS), active)
    for inputs in (ForwardInputs(), received(fast, 5, 0.3 if options.auxiliary_skip else 0.0)):
        wanted, found = derivatives(plain, choices, inputs), derivatives(fast, choices, inputs)
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            scale = max(1.0, value.abs().max().item())
            close(found[name] / scale, value / scale, 1e-11)
        assert found["op"].abs().max() > 1e-6


@spaces
@built
def test_what_a_parameter_belongs_to_and_what_is_live(space: str, options: SupernetOptions) -> None:
    fast = labs.make(space).space.supernet(labs.make(space).size, 30, options)
    plain = PlainSupernet(fast, options)
    names = [name for name, _ in fast.named_parameters()]
    assert [name for name, _ in plain.named_parameters()] == names
    assert [plain.address(name) for name in names] == [fast.address(name) for name in names]
    active = random_active(fast.groups, CELLS, 30, seed=4, chance=0.5)
    found, expected = fast.live(active), plain.live(active)
    for name in plain.read:
        assert np.array_equal(found[name], expected[name]), name
    assert 0 < found["op"].sum() < active["op"].sum()


def scores(name: Name, lab: Lab, choices: Choices) -> list[Any]:
    proxy = PROXIES[name]
    return [proxy.score(network, choices, labs.fake_batch(len(SEEDS))) for network in pair(lab, proxy.options)]


@pytest.mark.parametrize("space", ["toy", "s1", "nb201"])
@pytest.mark.parametrize("name", list(PROXIES))
@pytest.mark.parametrize("some", [False, True], ids=["all", "some"])
def test_a_proxy_scores_both_alike(name: Name, space: str, some: bool) -> None:
    """What it sees inside of a pass counts; images are those of the tests of searchers."""
    lab = labs.make(space, SEEDS)
    choices = Choices(mixture(lab.groups, len(SEEDS), CELLS), some_active(lab.groups, len(SEEDS)) if some else None)
    if name == "jacob_cov" and space != "nb201":
        pytest.skip("batch statistics cancel the sum of the scores that jacob_cov differentiates")
    fast, plain = scores(name, lab, choices)
    assert fast.isfinite().all()
    assert len(set(fast.tolist())) == len(SEEDS)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
