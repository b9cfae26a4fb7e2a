"""Shared features on NAS-Bench-201, against a network whose edges out of one node have equal weights."""

import numpy as np
import pytest
import torch
from test_supernet_plain import close, mixture, normal, pictures, random_active, supernet
from torch import Tensor, nn

import bench.spaces
from bench.spaces.base import NetworkSize
from bench.supernet import common
from bench.supernet.nb201 import EDGES
from searchers._touched import touched
from searchers.base import Address, Choices, ForwardInputs, Group, SupernetOptions

REPLICAS = 3


def networks() -> tuple[nn.Module, nn.Module]:
    """One that shares, and one that does not but has equal weights on the edges out of a node."""
    tied, space = supernet("nb201", REPLICAS), bench.spaces.get("nb201")
    shared = space.supernet(NetworkSize(4, 1), REPLICAS, SupernetOptions(shared_features=True)).double()
    with torch.no_grad():
        for name, value in shared.named_parameters():
            value.copy_(normal(*value.shape, seed=len(name)) * 0.3)
        for name, value in tied.named_parameters():
            value.copy_(shared.get_parameter(node_of(name)))
    return shared, tied


def node_of(name: str) -> str:
    """The parameter that stands for this one where edges share."""
    parts = name.split(".")
    if parts[0] == "cell":
        parts[3] = str(EDGES[int(parts[3])][0])
    return ".".join(parts)


def gradients(network: nn.Module, choices: Choices) -> tuple[Tensor, dict[str, Tensor]]:
    weights = {name: value.clone().requires_grad_() for name, value in choices.weights.items()}
    out = network(pictures(REPLICAS, side=6), Choices(weights, choices.active))
    wanted = {**dict(network.named_parameters()), **weights}
    found = torch.autograd.grad((out * normal(*out.shape, seed=3)).sum(), list(wanted.values()), allow_unused=True)
    pairs = zip(wanted.items(), found, strict=True)
    return out.detach(), {name: torch.zeros_like(v) if g is None else g for (name, v), g in pairs}


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("most", [0, common.SMALL])
def test_it_is_the_network_with_equal_weights(some: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "SMALL", most)
    shared, tied = networks()
    active = random_active(tied.groups, 3, REPLICAS, seed=2, chance=0.45) if some else None
    choices = Choices(mixture(tied.groups, REPLICAS, cells=3), active)
    found, mine = gradients(shared, choices)
    wanted, theirs = gradients(tied, choices)
    close(found, wanted)
    assert set(mine) < {node_of(name) for name in theirs} | set(theirs)
    for name, value in mine.items():
        close(value, sum(g for other, g in theirs.items() if node_of(other) == name))
    names = list(dict(shared.named_parameters()))
    used = dict(zip(names, touched(shared, choices, names).T, strict=True))
    for name, value in dict(shared.named_parameters()).items():
        moved = (mine[name].flatten(1) != 0).any(1).numpy()
        assert not (moved & ~used[name]).any(), name
        if name.endswith("conv.weight"):
            assert (moved == used[name]).all(), name
        assert value.shape[0] == REPLICAS


def test_every_operation_is_computed_once_a_node() -> None:
    shared, tied = networks()
    for network, expected in ((shared, 3), (tied, 6)):
        calls = []
        for cell in network.cell:
            for module in (*cell.conv1x1, *cell.conv3x3):
                module.register_forward_hook(lambda _module, _inputs, _out, calls=calls: calls.append(1))
        weights = mixture(network.groups, REPLICAS)
        choices = Choices(weights, {name: np.ones(w.shape, bool) for name, w in weights.items()})
        network(pictures(REPLICAS), choices, ForwardInputs(observe=lambda _map: None))  # nothing is computed as one
        assert len(calls) == 3 * 2 * expected


def test_a_parameter_belongs_to_all_edges_out_of_its_node() -> None:
    shared, _ = networks()
    assert shared.address("cell.1.conv3x3.0.conv.weight") == Address(1, "op", (0, 1, 3), 3)
    assert shared.address("cell.0.conv1x1.2.conv.bias") == Address(0, "op", (5,), 2)


@pytest.mark.parametrize("name", ["nb201", "s1"])
def test_further_groups_are_carried_and_not_read(name: str) -> None:
    plain, space = supernet(name, 2), bench.spaces.get(name)
    extra = Group("extra", 2, ("t",), "edge")
    carrying = space.supernet(NetworkSize(4, 1), 2, SupernetOptions(groups=(extra,))).double()
    carrying.load_state_dict(plain.state_dict())
    assert carrying.groups == (*plain.groups, extra)
    weights = mixture(plain.groups, 2)
    active = {group: np.ones(value.shape, bool) for group, value in weights.items()}
    for host in (None, active):
        known = None if host is None else {**host, "extra": np.ones((1, 2, 2, 1), bool)}
        out = carrying(pictures(2), Choices({**weights, "extra": normal(1, 2, 2, 1, seed=5)}, known))
        assert torch.equal(out, plain(pictures(2), Choices(weights, host)))
