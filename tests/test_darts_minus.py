"""DARTS- and the auxiliary skip of the supernets."""

from dataclasses import replace

import labs
import numpy as np
import pytest
import test_supernet_plain as networks
import torch
from torch import Tensor
from torch.nn import functional

import bench.spaces
from bench.spaces.base import NetworkSize
from bench.speed import plain
from searchers import darts, darts_minus
from searchers._bilevel import Moment
from searchers._optim import ArchSettings
from searchers.base import Choices, ForwardInputs, Horizon, SupernetOptions

SETTINGS = darts_minus.Settings(arch=ArchSettings(lr=0.05))


def with_skip(name: str, parts: int = 1):
    """The network of `test_supernet_plain.supernet` with auxiliary skips, and the one without."""
    options, size = SupernetOptions(parts, auxiliary_skip=True), NetworkSize(4, 1)
    network = bench.spaces.get(name).supernet(size, 2, options).double()
    without = networks.supernet(name, 2, parts=parts)
    network.load_state_dict(without.state_dict())
    return network, without


def test_on_nb201_it_is_a_larger_weight_of_the_ordinary_skip() -> None:
    network, without = with_skip("nb201")
    weights, images = networks.mixture(network.groups, 2, cells=3), networks.pictures(2)
    out = network(images, Choices(weights), ForwardInputs(auxiliary=0.7))
    moved = {"op": weights["op"] + torch.tensor([0.0, 0.7, 0.0, 0.0, 0.0], dtype=torch.float64)}
    networks.close(out, without(images, Choices(moved)))
    assert (out - without(images, Choices(weights))).abs().max() > 1e-3


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["toy", "s2", "nb201"])
def test_it_adds_its_input_to_every_mixed_operation(name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = with_skip(name, parts)
    weights, images = networks.mixture(network.groups, 2, cells=3), networks.pictures(2)
    out = network(images, Choices(weights), ForwardInputs(auxiliary=0.3))
    bypassed = plain.bypassed
    monkeypatch.setattr(plain, "bypassed", lambda x, parts, mix: bypassed(x, parts, mix) + 0.3 * x)
    for replica in range(2):
        parameters = networks.only(dict(network.named_parameters()), replica)
        rows = networks.rows_of(weights, replica, 3)
        networks.close(out[replica], networks.plain(name)(parameters, images[replica], rows, parts))


@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_a_coefficient_of_zero_is_no_skip_to_the_bit(name: str) -> None:
    network, without = with_skip(name)
    weights, images = networks.mixture(network.groups, 2), networks.pictures(2)
    assert torch.equal(network(images, Choices(weights)), without(images, Choices(weights)))


@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_a_network_without_skips_refuses_a_coefficient(name: str) -> None:
    network = networks.supernet(name)
    with pytest.raises(ValueError, match=r"expected a network with auxiliary skips or a coefficient of 0, got 0.5"):
        network(networks.pictures(1), Choices(networks.mixture(network.groups, 1)), ForwardInputs(auxiliary=0.5))


def test_edges_without_operations_still_pass_the_signal() -> None:
    network, without = with_skip("nb201")
    active = np.zeros((1, 2, 6, 5), bool)
    active[:, :, 5, 3] = True  # node 2 to the output alone: only the skips feed node 2
    assert network.live({"op": active})["op"][:, :, 5, 3].all()
    assert not without.live({"op": active})["op"].any()
    weights, images = networks.mixture(network.groups, 2), networks.pictures(2)
    kept = {"op": weights["op"] * torch.from_numpy(active)}
    out = network(images, Choices(weights, {"op": active}), ForwardInputs(auxiliary=0.4))
    networks.close(out, network(images, Choices(kept), ForwardInputs(auxiliary=0.4)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_without_coefficient_it_is_darts_to_the_bit(space: str) -> None:
    found = []
    for build, settings in ((darts.build, darts.Settings()), (darts_minus.build, darts_minus.Settings(start=0.0))):
        lab = labs.make(space)
        searcher = build(settings, lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


def test_the_coefficient_falls_linearly_to_zero() -> None:
    lab = replace(labs.make(), horizon=Horizon(5))
    found = [darts_minus.coefficient(SETTINGS, Moment(epoch, 0, lab)) for epoch in range(5)]
    assert found == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert darts_minus.coefficient(SETTINGS, Moment(0, 0, replace(lab, horizon=Horizon(1)))) == 1.0


@pytest.mark.usefixtures("unchecked")
def test_a_step_is_the_equations() -> None:
    """A step of the second epoch of three, β = ½, where the skip is a part of the ordinary one; torch's optimisers."""
    lab = labs.make("nb201", (4,))
    searcher = darts_minus.build(SETTINGS, lab)
    searcher.begin_epoch(1)
    network = lab.build(SupernetOptions())
    alpha = {name: value.clone().requires_grad_() for name, value in searcher.logits().items()}
    adam = torch.optim.Adam(alpha.values(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    weights = dict(network.named_parameters())
    sgd = torch.optim.SGD(weights.values(), lr=0.001 + 0.75 * 0.024, momentum=0.9, weight_decay=3e-4)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        mixing = torch.softmax(alpha["op"], -1) + 0.5 * torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
        return functional.cross_entropy(network(images, Choices({"op": mixing[None]}))[0], labels[0])

    for batches in labs.steps(lab, searcher.policy, 2):
        value = loss(*batches.val[0])
        (alpha["op"].grad,) = torch.autograd.grad(value, [alpha["op"]])
        adam.step()
        train = loss(*batches.train[0])
        for weight, gradient in zip(weights.values(), torch.autograd.grad(train, list(weights.values())), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights.values(), 5.0)
        sgd.step()
        losses = searcher.step(batches)
        assert losses.train.item() == pytest.approx(train.item(), rel=1e-9)
        assert losses.val is not None
        assert losses.val.item() == pytest.approx(value.item(), rel=1e-9)
    labs.close(labs.leaves(searcher.logits()), labs.leaves(alpha), 1e-9)
    labs.close(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(weights), 1e-9)
