"""Weights side by side: a pass computes with them what it computes with its own, to the bit, and so do derivatives."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from test_plain_supernet import BUILT, SEEDS, received, some_active
from test_supernet import choices_of, used_by
from test_supernet_plain import SPACES, mixture, normal, pictures, supernet
from torch import Tensor, nn

from bench import layers, weights
from bench.supernet import common
from searchers._optim import SGD, Layout, WeightSettings, weights_of
from searchers._touched import touched
from searchers.base import Choices, ForwardInputs, Observation, Supernet, SupernetOptions
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")


def flat_of(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten(1) for tensor in tensors], 1)


def found(network: Supernet, choices: Choices, inputs: ForwardInputs, apart: bool) -> list[Tensor]:
    """Scores, and derivatives of first and second order by choices and weights, which are one tensor or many."""
    images = pictures(network.replicas)
    tables = [table.clone().requires_grad_() for table in choices.weights.values()]
    of = Choices(dict(zip(choices.weights, tables, strict=True)), choices.active)
    named = [value for _, value in network.named_parameters()]
    leaf = weights_of(network).requires_grad_()
    own = named if apart else [leaf]
    scores = network(images, of, inputs if apart else replace(inputs, weights=leaf))
    total = (scores * normal(*scores.shape, seed=5)).square().sum()
    first = gradients(total, [*tables, *own], create_graph=inputs.twice)
    second = []
    if inputs.twice:
        by_tables, by_weights = first[: len(tables)], first[len(tables) :]
        along = sum((g * normal(*g.shape, seed=3)).sum() for g in by_tables)
        side = flat_of(by_weights) if apart else by_weights[0]
        second = gradients(along + (side * normal(*side.shape, seed=4)).sum(), [*tables, *own])
    split = len(tables)
    joined = [[*each[:split], flat_of(each[split:]) if apart else each[split]] for each in (first, second) if each]
    return [tensor.detach() for tensor in (scores, *(x for each in joined for x in each))]


def gradients(of: Tensor, leaves: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    parts = torch.autograd.grad(of, leaves, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(parts, leaves, strict=True)]


def the_same(network: Supernet, choices: Choices, inputs: ForwardInputs) -> None:
    for one, many in zip(found(network, choices, inputs, False), found(network, choices, inputs, True), strict=True):
        assert torch.equal(one, many)


@pytest.mark.parametrize("most", [0, common.SMALL], ids=["where used", "for all"])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", ["shared", "per cell", "active", "discrete"])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_a_pass_is_the_same(
    name: str, replicas: int, kind: str, twice: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "SMALL", most)
    the_same(supernet(name, replicas), choices_of(name, kind, replicas), ForwardInputs(twice=twice))


@pytest.mark.parametrize("size", [0, layers.SMALL], ids=["sizes apart", "sizes joined"])
@pytest.mark.parametrize("options", BUILT.values(), ids=BUILT)
@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_whatever_is_built_in(name: str, options: SupernetOptions, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SMALL", size)
    for seeds in ((0,), (0, 1)):
        network = labs.make(name, seeds).build(options)
        the_same(network, Choices(mixture(network.groups, len(seeds), cells=3)), ForwardInputs(twice=True))


@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_whatever_a_pass_receives(name: str) -> None:
    options = SupernetOptions(auxiliary_skip=True)
    network = labs.make(name, SEEDS).build(options)
    inputs = received(network, options)
    keep = {group: table[:, :, :3] for group, table in (inputs.keep or {}).items()}  # of three pictures
    tables = mixture(network.groups, len(SEEDS), cells=3)
    for active in (None, some_active(network.groups)):
        the_same(network, Choices(tables, active), replace(inputs, keep=keep))


@pytest.mark.parametrize("name", SPACES)
def test_an_observer_sees_the_same(name: str) -> None:
    network, choices = supernet(name, 2), choices_of(name, "active", 2)
    mine, theirs = list[Observation](), list[Observation]()
    for given, seen in ((None, mine), (weights_of(network), theirs)):
        network(pictures(2), choices, ForwardInputs(observe=seen.append, weights=given))
    assert len(mine) == len(theirs) > 0
    assert all(torch.equal(one.maps, other.maps) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("sizes_join", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_other_weights_of_some_replicas(name: str, sizes_join: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another network's second replica, computed alone: by the same network as three and as one."""
    monkeypatch.setattr(layers, "SMALL", layers.SMALL if sizes_join else 0)
    network, other, single = supernet(name, 3), supernet(name, 3, seed=1), supernet(name, 1)
    choices, given = choices_of(name, "shared", 1), weights_of(other)[1:2]
    for parameter, value in zip(single.parameters(), other.parameters(), strict=True):
        parameter.data.copy_(value[1:2])
    images = pictures(1)
    assert torch.equal(network(images, choices, ForwardInputs(weights=given)), single(images, choices))


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("options", BUILT.values(), ids=BUILT)
@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_a_pass_of_everything_joins_nothing_itself(
    name: str, options: SupernetOptions, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan has all that a pass asks for, as it asks for it; a second pass makes no plan."""
    network = labs.make(name, tuple(range(replicas))).build(options)
    choices = Choices(mixture(network.groups, replicas))
    assert isinstance(network, nn.Module)

    def scores() -> Tensor:
        found: Tensor = network(pictures(replicas), choices, ForwardInputs(weights=weights_of(network)))
        return found

    expected = scores()
    monkeypatch.setattr(weights, "_joined", lambda *_: pytest.fail("a pass joined operands itself"))
    assert torch.equal(scores(), expected)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("kind", ["shared", "active"])
@pytest.mark.parametrize("name", SPACES)
def test_a_copy_of_a_network_that_has_computed_computes_the_same(
    name: str, kind: str, copied: Callable[[Supernet], Supernet]
) -> None:
    network, choices = supernet(name, 2), choices_of(name, kind, 2)
    expected = found(network, choices, ForwardInputs(twice=True), False)
    other = copied(network)
    assert next(other.named_parameters())[1] is not next(network.named_parameters())[1]
    for one, many in zip(found(other, choices, ForwardInputs(twice=True), False), expected, strict=True):
        assert torch.equal(one, many)
    the_same(other, choices, ForwardInputs(twice=True))


def test_wrong_weights_are_refused() -> None:
    network, choices = supernet("s1", 2), choices_of("s1", "shared", 2)
    flat = weights_of(network)
    with pytest.raises(ValueError, match=rf"expected weights of shape \(replicas, {flat.shape[1]}\), got"):
        network(pictures(2), choices, ForwardInputs(weights=flat[:, 1:]))
    with pytest.raises(ValueError, match="expected weights of 2 replicas, as the images are, got 1"):
        network(pictures(2), choices, ForwardInputs(weights=flat[:1]))
    named = {name: value.detach() for name, value in network.named_parameters()}
    with pytest.raises(ValueError, match="as one tensor or by name, got both"):
        torch.func.functional_call(network, named, (pictures(2), choices, ForwardInputs(weights=flat)))


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_networks_are_built_with_their_weights_side_by_side(name: str, seeds: tuple[int, ...]) -> None:
    """The same numbers as before; what moves the one moves the other, and seeds have what they have alone."""
    lab = labs.make(name, seeds)
    network, drawn = lab.build(SupernetOptions()), lab.space.supernet(lab.size, len(seeds), SupernetOptions())
    assert isinstance(drawn, nn.Module)
    layers.initialise(drawn.to(lab.dtype), lab.stream("weights", 0))
    for (_, mine), (_, theirs) in zip(network.named_parameters(), drawn.named_parameters(), strict=True):
        assert torch.equal(mine, theirs)
    flat = weights_of(network)
    assert flat.untyped_storage().data_ptr() == next(network.parameters()).untyped_storage().data_ptr()
    flat.mul_(2)
    for (_, mine), (_, theirs) in zip(network.named_parameters(), drawn.named_parameters(), strict=True):
        assert torch.equal(mine, 2 * theirs)


def test_scattered_weights_are_moved_as_those_side_by_side() -> None:
    settings, gradient = WeightSettings(weight_decay=0.1, clip=0.5), normal(2, 9, seed=3)
    shapes = {"a": (2, 3), "b": (2, 2, 3)}
    flat = normal(2, 9, seed=1)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    apart = {name: part.clone() for name, part in Layout(zeros).split(flat).items()}
    one = {"a": flat[:, :3], "b": flat[:, 3:].unflatten(1, (2, 3))}
    optimisers = [SGD(parameters, settings) for parameters in (apart, one)]
    assert [optimiser.layout.memory is None for optimiser in optimisers] == [True, False]
    for _ in range(3):
        for optimiser in optimisers:
            optimiser.step(gradient, 0.3)
    assert all(torch.equal(apart[name], one[name]) for name in shapes)
    assert torch.equal(optimisers[0].leaf(), optimisers[1].leaf())


@pytest.mark.parametrize("wrong", ["order", "gap", "padded rows", "transposed", "other storage", "one row"])
def test_what_does_not_lie_side_by_side_is_copied(wrong: str) -> None:
    flat = torch.arange(24.0).view(2, 12)
    a, b = flat[:, :4].unflatten(1, (2, 2)), flat[:, 4:]
    parts = {
        "order": {"b": b, "a": a},
        "gap": {"a": a, "b": flat[:, 5:]},
        "padded rows": {"a": a, "b": flat[:, 4:8]},
        "transposed": {"a": a.mT, "b": b},
        "other storage": {"a": a, "b": b.clone()},
        "one row": {"a": a[:1], "b": b[:1, :4]},
    }[wrong]
    layout = Layout(parts)
    assert (layout.memory is None) == (wrong != "one row")  # of a single replica any row is side by side
    assert torch.equal(layout.current(parts), torch.cat([part.flatten(1) for part in parts.values()], 1))


def test_a_search_restored_has_its_weights_side_by_side() -> None:
    lab = labs.make("s1", (0, 1))
    searcher = labs.start(METHODS["darts"], lab)
    labs.drive(searcher, lab, 0, 1)
    again = labs.start(METHODS["darts"], lab)
    again.load_state_dict(labs.through_disk(searcher.state_dict()))
    assert again.weights.layout.memory is not None
    assert torch.equal(again.fixed(), searcher.fixed())
    assert again.fixed().data_ptr() == next(iter(again.parameters.values())).data_ptr()


def test_weights_that_are_moved_after_their_optimiser_was_made_are_refused() -> None:
    """Steps would move memory that no pass computes with by name."""
    network = labs.make("s1", (0,)).build(SupernetOptions())
    assert isinstance(network, nn.Module)
    optimiser = SGD(dict(network.named_parameters()), WeightSettings())
    network.float()
    for act in (optimiser.leaf, lambda: optimiser.step(weights_of(network).double(), 0.1)):
        with pytest.raises(RuntimeError, match="they were moved"):
            act()
    assert weights_of(network).dtype == torch.float32


@pytest.mark.parametrize("kind", ["active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_what_is_touched_is_what_a_live_option_of_its_cell_owns(name: str, kind: str) -> None:
    network, choices = supernet(name, 3), choices_of(name, kind, 3)
    assert choices.active is not None
    live, paths = network.live(choices.active), [path for path, _ in network.named_parameters()]
    found = touched(network, choices, paths)
    for path, used in zip(paths, found.T, strict=True):
        assert np.flatnonzero(used).tolist() == used_by(network, live, path), path
    assert 0 < found.sum() < found.size


def test_a_pass_of_some_replicas_follows_one_of_more() -> None:
    """What is remembered of three replicas is not used for two."""
    network, choices = supernet("s1", 3), choices_of("s1", "active", 3)
    assert choices.active is not None
    for replicas in (3, 2, 1):
        weights = {name: table[:, :replicas] for name, table in choices.weights.items()}
        active = {name: mask[:, :replicas] for name, mask in choices.active.items()}
        scores = [
            net(pictures(replicas), Choices(weights, active), ForwardInputs(weights=weights_of(net)[:replicas]))
            for net in (network, supernet("s1", 3))
        ]
        assert torch.equal(*scores)


def test_rows_are_picked_whatever_was_made() -> None:
    network, flat = supernet("s1", 3), weights_of(supernet("s1", 3))
    rows, given = torch.tensor([0, 2]), network.packing.whole(network, flat, sizes_join=False)
    for mine, all_of_them in zip(given.of((network.stem,), rows), given.of((network.stem,)), strict=True):
        if all_of_them is not None:
            assert torch.equal(mine, all_of_them.unflatten(0, (3, -1))[rows].flatten(0, 1))


def test_touched_goes_by_the_names_it_is_given() -> None:
    network, choices = supernet("s1", 2), choices_of("s1", "active", 2)
    names = [name for name, _ in network.named_parameters()]
    found = touched(network, choices, names)
    assert np.array_equal(touched(network, choices, names[::-2]), found[:, ::-2])
    assert np.array_equal(touched(network, choices, names), found)
