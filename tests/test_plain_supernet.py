"""Fast supernets are plain ones (`plain_nets`) whatever they are built with and receive: maps, derivatives, addresses.

In float64; options are off at random, so that cells have holes and dead ends. No parameter has a special value: where
nothing goes into a normalisation, a bias of zero would leave the side of the next ReLU to rounding.
"""

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
CELLS, SEEDS, TOLERANCE = 3, (3, 5, 8), 1e-10
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
    networks = lab.build(options), PlainLab(lab).build(options)
    for network in networks:
        for number, (name, value) in enumerate(network.named_parameters()):
            offset = 1.0 if name.endswith("norm.weight") else 0.0
            value.data.copy_(offset + 0.4 * normal(*value.shape, seed=100 + number))
    return networks


def some_active(groups: tuple[Group, ...], seed: int = 4) -> dict[str, np.ndarray]:
    """Half of the options, and in every row one at least."""
    active = random_active(groups, CELLS, len(SEEDS), seed, chance=0.5)
    for rows in active.values():
        rows[..., -1] |= ~rows.any(-1)
    return active


def received(network: Supernet, options: SupernetOptions) -> ForwardInputs:
    """Everything a pass may receive together: who shifts has no weighted edges."""
    rows = next(group.decisions for group in network.groups if group.name == "op")
    keep = 0.5 + normal(CELLS, len(SEEDS), 5, rows, seed=20).abs()
    shift = None if options.edge_weights else {"op": normal(CELLS, len(SEEDS), rows, seed=21)}
    return ForwardInputs({"op": keep}, shift, 0.3 if options.auxiliary_skip else 0.0)


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
    choices = Choices(mixture(fast.groups, len(SEEDS), CELLS), some_active(fast.groups) if some else None)
    for inputs in (ForwardInputs(), received(fast, options)):
        wanted, found = derivatives(plain, choices, inputs), derivatives(fast, choices, inputs)
        assert wanted.keys() == found.keys()
        largest = max(value.abs().max() for value in wanted.values())
        for name, value in wanted.items():
            close(found[name] / largest, value / largest, TOLERANCE)
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


@pytest.mark.parametrize("space", ["toy", "s1", "nb201"])
@pytest.mark.parametrize("name", list(PROXIES))
@pytest.mark.parametrize("some", [False, True], ids=["all", "some"])
def test_a_proxy_scores_both_alike(name: Name, space: str, some: bool) -> None:
    """What it sees inside of a pass counts."""
    if name == "jacob_cov" and space != "nb201":
        pytest.skip("batch statistics cancel the sum of the scores that jacob_cov differentiates")
    lab, proxy, batch = labs.make(space, SEEDS), PROXIES[name], labs.fake_batch(len(SEEDS))
    choices = Choices(mixture(lab.groups, len(SEEDS), CELLS), some_active(lab.groups) if some else None)
    fast, plain = (proxy.score(network, choices, batch) for network in pair(lab, proxy.options))
    assert fast.isfinite().all()
    assert len(set(fast.tolist())) > 1  # a cell may have no way through it
    torch.testing.assert_close(fast, plain, rtol=TOLERANCE, atol=TOLERANCE)
