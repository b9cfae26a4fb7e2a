"""Supernets: equal to plain networks, independent in their replicas, and computing what is live."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_supernet_plain import (
    SPACES,
    close,
    discrete,
    discrete_network,
    groups_of,
    mixture,
    normal,
    one_hot,
    only,
    pictures,
    plain,
    random_active,
    random_genotype,
    rows_of,
    supernet,
)
from torch import Tensor

import bench.spaces
from bench import layers
from bench.mixture import columns
from bench.spaces.base import NetworkSize
from bench.spaces.nb201 import parse
from bench.supernet import common
from searchers._relax import cross_entropy, softmax
from searchers.base import Batch, Choices, ForwardInputs, Supernet, SupernetOptions

PARAMETERS = {"s1": 1_101_402, "s2": 1_101_402, "s3": 1_509_594, "nb201": 1_692_698}


@pytest.fixture(params=[0, common.SMALL], ids=["for those that use it", "for all"])
def computed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an option that some replicas use is computed for."""
    monkeypatch.setattr(common, "SMALL", request.param)


@pytest.fixture
def computed_where_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "SMALL", 0)


def built(name: str, **options) -> Supernet:
    space = bench.spaces.get(name)
    return space.supernet(space.published, 1, SupernetOptions(**options))


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes_have_the_published_weights(name: str):
    assert sum(p.numel() for _, p in built(name).named_parameters()) == PARAMETERS[name]


def test_maps_of_s1_are_those_of_the_authors_network():
    network, shapes = built("s1"), []
    layers.initialise(network, (torch.Generator().manual_seed(0),))
    for cell in network.cell:
        cell.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        out = network(torch.randn(1, 2, 3, 32, 32), softmax({g.name: torch.zeros(1, *g.shape) for g in network.groups}))
    assert shapes == [(2, 64, 32, 32)] * 3 + [(2, 128, 17, 17)] * 3 + [(2, 256, 9, 9)] * 3
    assert out.shape == (1, 2, 10)


@pytest.mark.parametrize("name", SPACES)
def test_it_is_a_supernet(name: str):
    network = supernet(name, 2, cells=2)
    assert isinstance(network, Supernet)
    assert (network.cells, network.replicas) == (6, 2)
    assert not list(network.buffers())


def requires_grad(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.clone().requires_grad_() for name, values in weights.items()}


def positive(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with which nothing is cut off by the head's ReLU."""
    return {name: values.abs() for name, values in weights.items()}


def projection(replicas: int, n: int = 3) -> Tensor:
    return normal(replicas, n, 10, seed=5)


def gradients(network, images: Tensor, choices: Choices, onto: Tensor):
    """Outputs, and the gradients of their projection; zeros where nothing was computed."""
    weights = requires_grad(choices.weights)
    out = network(images, Choices(weights, choices.active))
    tensors = {**dict(network.named_parameters()), **weights}
    found = torch.autograd.grad((out * onto).sum(), list(tensors.values()), allow_unused=True)
    return out.detach(), dict(zip(tensors, filled(found, list(tensors.values())), strict=True))


# Equality with networks written out


NB201_CELLS = [
    # node 1 dead: what reads it is dead too
    "|none~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    # node 2 unread: what feeds it is not needed
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|none~2|",
    # node 1 feeds only node 2, which nothing reads
    "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|none~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
]


def genotypes_of(name: str, cells: int, replicas: int, seed: int):
    source = np.random.default_rng(seed)
    groups = groups_of(name)
    drawn = [[random_genotype(groups, source) for _ in range(replicas)] for _ in range(cells)]
    if name == "nb201" and seed == 0:
        drawn[0][0], drawn[1][0], drawn[2][0] = map(parse, NB201_CELLS[:3])
        drawn[1][1] = parse(NB201_CELLS[3])
    return drawn


def loose(name: str, genotype) -> bool:
    space = bench.spaces.get(name)
    return space.describe(genotype).count(",") + 1 < len(genotype["op"]) + 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SPACES)
def test_one_hot_is_the_discrete_network(name: str, seed: int):
    network, images = supernet(name, 2, seed=seed), pictures(2)
    genotypes = genotypes_of(name, 3, 2, seed)
    out = network(images, discrete(network.groups, genotypes))
    for replica in range(2):
        parameters = only(dict(network.named_parameters()), replica)
        close(out[replica], discrete_network(name)(parameters, images[replica], [row[replica] for row in genotypes]))


@pytest.mark.parametrize("name", ["toy", "s1", "s2", "s3"])
def test_the_drawn_cells_have_loose_ends(name: str):
    drawn = [g for seed in range(4) for row in genotypes_of(name, 3, 2, seed) for g in row]
    assert any(loose(name, genotype) for genotype in drawn)
    assert not all(loose(name, genotype) for genotype in drawn)


@pytest.mark.parametrize("name", ["s1", "nb201"])
def test_one_hot_in_deeper_networks_is_the_discrete_network(name: str):
    network, images = supernet(name, cells=2), pictures(1, side=9)
    genotypes = genotypes_of(name, 6, 1, seed=11)
    out = network(images, discrete(network.groups, genotypes))
    parameters = only(dict(network.named_parameters()), 0)
    close(out[0], discrete_network(name)(parameters, images[0], [row[0] for row in genotypes]))


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("name", SPACES)
def test_mixture_and_its_gradients_are_the_plain_ones(name: str, parts: int):
    network, images = supernet(name, 2, parts=parts), pictures(2, side=6)
    onto = projection(2)
    weights = mixture(network.groups, 2, cells=3)
    out, found = gradients(network, images, Choices(weights), onto)
    for replica in range(2):
        mine = requires_grad({k: v[:, replica : replica + 1] for k, v in weights.items()})
        parameters = requires_grad(only(dict(network.named_parameters()), replica))
        expected = plain(name)(parameters, images[replica], rows_of(mine, 0, 3), parts)
        close(out[replica], expected.detach())
        (expected * onto[replica]).sum().backward()
        assert parameters["stem.conv.weight"].grad.abs().max() > 1e-3
        for key, tensor in {**parameters, **mine}.items():
            gradient = found[key][:, replica : replica + 1] if key in mine else found[key][replica]
            torch.testing.assert_close(
                gradient, tensor.grad, rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}"
            )


def test_partial_channels_have_a_kth_of_the_width():
    for name in ("s1", "nb201"):
        for parts in (1, 2, 4):
            network = supernet(name, channels=8, parts=parts)
            for cell, width in enumerate((8, 16, 32)):
                assert network.cell[cell].conv3x3[1].conv.weight.shape[1:3] == (width // parts,) * 2
                assert network.cell[cell].conv1x1[1].conv.weight.shape[1:3] == (width // parts,) * 2


def test_all_channels_is_the_default():
    assert SupernetOptions(partial_channels=1) == SupernetOptions()


# The replicas axis


def alone(name: str, network, replica: int, **options):
    """A supernet of one replica with the weights of one of another's."""
    return with_weights_of(network, replica, supernet(name, 1, **options))


def with_weights_of(network, replica: int, single):
    with torch.no_grad():
        for to, source in zip(single.parameters(), network.parameters(), strict=True):
            to.copy_(source[replica : replica + 1])
    return single


def choices_of(name: str, kind: str, replicas: int) -> Choices:
    groups = groups_of(name)
    if kind == "discrete":
        return discrete(groups, genotypes_of(name, 3, replicas, seed=6))
    weights = mixture(groups, replicas, cells=1 if kind == "shared" else 3)
    return Choices(weights, random_active(groups, 3, replicas, seed=2) if kind == "active" else None)


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("kind", ["shared", "per cell", "active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_stacked_replicas_are_those_alone(name: str, kind: str):
    network, images, choices, onto = supernet(name, 3), pictures(3), choices_of(name, kind, 3), projection(3)
    out, found = gradients(network, images, choices, onto)
    for r in range(3):
        active = None if choices.active is None else {k: v[:, r : r + 1] for k, v in choices.active.items()}
        mine = Choices({k: v[:, r : r + 1] for k, v in choices.weights.items()}, active)
        single_out, single = gradients(alone(name, network, r), images[r : r + 1], mine, onto[r : r + 1])
        close(out[r], single_out[0], 1e-12)
        for key, values in single.items():
            stacked = found[key][:, r : r + 1] if key in choices.weights else found[key][r : r + 1]
            torch.testing.assert_close(stacked, values, rtol=1e-9, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", SPACES)
def test_inactive_is_weight_zero_without_the_work(name: str, parts: int):
    """With at least one operation a decision: a node without any is not the input of its followers."""
    network, images = supernet(name, 3, parts=parts), pictures(3)
    weights = mixture(network.groups, 3, cells=3)
    for seed in range(3):
        active = random_active(network.groups, 3, 3, seed)
        active["op"][..., 1] |= ~active["op"].any(-1)
        zeroed = {k: v * torch.tensor(active[k]) for k, v in weights.items()}
        close(network(images, Choices(weights, active)), network(images, Choices(zeroed)))


@pytest.mark.parametrize("parts", [1, 2])
def test_the_bypass_feeds_a_node_whose_edges_are_none(parts: int):
    """Partial channels carry three quarters of a map past any operation, `none` included."""
    network, images = supernet("nb201", parts=parts), pictures(1)
    hot = one_hot(network.groups, [[parse(NB201_CELLS[0])]])
    weights = {k: torch.tensor(v) for k, v in hot.items()}
    out = network(images, Choices(weights, {k: v == 1 for k, v in hot.items()}))
    expected = plain("nb201")(only(dict(network.named_parameters()), 0), images[0], rows_of(weights, 0, 3), parts)
    if parts > 1:
        close(out[0], expected)
    else:
        close(
            out[0],
            discrete_network("nb201")(
                only(dict(network.named_parameters()), 0), images[0], [parse(NB201_CELLS[0])] * 3
            ),
        )


@pytest.mark.parametrize("name", SPACES)
def test_all_active_is_none_active(name: str):
    network, images, onto = supernet(name, 3), pictures(3), projection(3)
    weights = mixture(network.groups, 3)
    everything = {k: np.ones(v.shape, dtype=bool) for k, v in weights.items()}
    out, found = gradients(network, images, Choices(weights), onto)
    other_out, other = gradients(network, images, Choices(weights, everything), onto)
    close(out, other_out, 1e-13)
    for key, values in found.items():
        torch.testing.assert_close(values, other[key], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["toy", "s1", "nb201"])
def test_a_weight_of_zero_has_a_gradient(name: str):
    network = supernet(name, 2)
    for group in network.groups:
        for option in range(len(group.options)):
            weights = positive(mixture(network.groups, 2))
            weights[group.name][..., option] = 0.0
            _, found = gradients(network, pictures(2), Choices(weights), projection(2))
            gradient = found[group.name][..., option]
            if group.options[option] == "none":
                assert not gradient.any()
            else:
                assert (gradient.abs() > 1e-9).all(), (group.name, option)


@pytest.mark.parametrize("name", SPACES)
def test_cells_that_choose_the_same_share_and_others_differ(name: str):
    network, images, onto = supernet(name, 2), pictures(2), projection(2)
    shared = positive(mixture(network.groups, 2))
    repeated = {k: v.expand(3, -1, -1, -1).clone() for k, v in shared.items()}
    out, found = gradients(network, images, Choices(shared), onto)
    again, per_cell = gradients(network, images, Choices(repeated), onto)
    assert torch.equal(out, again)
    for key in shared:
        torch.testing.assert_close(per_cell[key].sum(0, keepdim=True), found[key], rtol=1e-9, atol=1e-10)
    for index, key in enumerate([*shared, "op", "out"]):
        other = {k: v.clone() for k, v in repeated.items()}
        if key in other:
            other[key][index % 3, 1, -1, -1] += 1.0
            different = network(images, Choices(other))
            assert (different[1] - out[1]).abs().max() > 1e-6
            assert torch.equal(different[0], out[0])


# What is computed


def called(network, images: Tensor, choices: Choices) -> dict[str, list[int]]:
    """The replicas every convolution was computed for, by itself or as one with others."""
    paths = {module: path for path, module in network.named_modules() if isinstance(module, layers.Conv)}
    calls: dict[str, list[int]] = {}
    joined = layers._convolved

    def remember(module: layers.Conv, rows: Tensor | None) -> None:
        assert paths[module] not in calls
        calls[paths[module]] = list(range(len(module.weight))) if rows is None else rows.tolist()

    def together(modules, x, flow, rows=None):
        for module in modules:
            remember(module.conv, rows)
        return joined(modules, x, flow, rows)

    def hook(module, args):
        remember(module, args[2] if len(args) > 2 else None)

    handles = [module.register_forward_pre_hook(hook) for module in paths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_convolved", together)
        network(images, choices)
    for handle in handles:
        handle.remove()
    return calls


def products(network, choices: Choices, onto: Tensor, inputs: ForwardInputs) -> list[Tensor]:
    """Outputs, gradients, and a product with the Hessian; zeros where nothing was computed."""
    weights = requires_grad(choices.weights)
    out = network(pictures(len(onto)), Choices(weights, choices.active), inputs)
    tensors = [*weights.values(), *network.parameters()]
    first = filled(
        torch.autograd.grad((out * onto).square().sum(), tensors, create_graph=True, allow_unused=True), tensors
    )
    along = sum((g * normal(*g.shape, seed=7)).sum() for g in first)
    second = filled(torch.autograd.grad(along, tensors, allow_unused=True), tensors)
    return [tensor.detach() for tensor in (out, *first, *second)]


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, like, strict=True)]


def used_by(network, live, path: str) -> list[int]:
    """The replicas that use a parameter, by its address."""
    address = network.address(path)
    if address is None:
        return list(range(network.replicas))
    decision = live[address.group][address.cell if len(live[address.group]) > 1 else 0][:, address.decision]
    used = decision.any(-1) if address.option is None else decision[:, address.option]
    return np.flatnonzero(used).tolist()


@pytest.mark.usefixtures("computed_where_used")
@pytest.mark.parametrize("kind", ["active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_convolutions_are_computed_for_who_uses_them(name: str, kind: str):
    network, choices = supernet(name, 3), choices_of(name, kind, 3)
    calls = called(network, pictures(3), choices)
    live = network.live(choices.active)
    convolutions = [path for path, module in network.named_modules() if isinstance(module, layers.Conv)]
    left_out = 0
    for path in convolutions:
        assert calls.get(path, []) == used_by(network, live, f"{path}.weight"), path
        left_out += path not in calls
    assert left_out
    everything = called(network, pictures(3), Choices(choices.weights))
    assert everything == {key: [0, 1, 2] for key in everything}
    assert set(everything) == set(convolutions)


@pytest.mark.parametrize("kind", ["active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_small_convolutions_that_some_use_are_computed_for_all(name: str, kind: str):
    network, choices = supernet(name, 3), choices_of(name, kind, 3)
    live = network.live(choices.active)
    convolutions = [path for path, module in network.named_modules() if isinstance(module, layers.Conv)]
    used = [path for path in convolutions if used_by(network, live, f"{path}.weight")]
    assert 0 < len(used) < len(convolutions)
    assert called(network, pictures(3), choices) == {key: [0, 1, 2] for key in used}


@pytest.mark.parametrize("name", SPACES)
def test_the_size_of_the_maps_decides_for_whom_an_option_is_computed(name: str, monkeypatch: pytest.MonkeyPatch):
    network, choices, images = supernet(name, 3), choices_of(name, "active", 3), pictures(3)
    numbers = network.stem.conv.weight.shape[:2].numel() * images[0, :, 0].numel()
    found = []
    for most in (numbers, numbers - 1):
        monkeypatch.setattr(common, "SMALL", most)
        found.append(called(network, images, choices))
    assert all(rows == [0, 1, 2] for rows in found[0].values())
    assert any(rows != [0, 1, 2] for rows in found[1].values())


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("name", ["toy", "s1", "nb201"])
@pytest.mark.parametrize(("parts", "auxiliary"), [(1, 0.0), (2, 0.0), (1, 0.7)])
def test_a_decision_without_options_is_that_of_the_replica_alone(name: str, parts: int, auxiliary: float):
    """What bypasses a mixed operation bypasses it there too, and reaches the node that the replica alone has."""
    options, inputs = SupernetOptions(parts, auxiliary_skip=auxiliary > 0), ForwardInputs(auxiliary=auxiliary)
    network, images, weights = built_as(name, 2, options), pictures(2), mixture(groups_of(name), 2)
    active = {key: np.ones(value.shape, bool) for key, value in weights.items()}
    for decision in range(active["op"].shape[2]):
        some = {**active, "op": active["op"].copy()}
        some["op"][:, 0, decision] = False
        out = network(images, Choices(weights, some), inputs)
        for r in range(2):
            single = with_weights_of(network, r, built_as(name, 1, options))
            mine = Choices(
                {k: v[:, r : r + 1] for k, v in weights.items()}, {k: v[:, r : r + 1] for k, v in some.items()}
            )
            close(out[r], single(images[r : r + 1], mine, inputs)[0], 1e-10)


def built_as(name: str, replicas: int, options: SupernetOptions) -> Supernet:
    network = bench.spaces.get(name).supernet(NetworkSize(4, 1), replicas, options).double()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=index))
    return network


@pytest.mark.parametrize("name", ["toy", "s1", "nb201"])
def test_what_no_replica_uses_stays_out_though_all_else_is_computed(name: str):
    network, weights = supernet(name, 2), mixture(groups_of(name), 2)
    for group in network.groups:
        for option in range(len(group.options)):
            active = {key: np.ones(value.shape, bool) for key, value in weights.items()}
            active[group.name][:, :, 0, option] = False
            zeroed = {key: value * torch.tensor(active[key]) for key, value in weights.items()}
            expected = network(pictures(2), Choices(zeroed))
            close(network(pictures(2), Choices(weights, active)), expected)


@pytest.mark.parametrize("name", SPACES)
def test_what_all_replicas_use_is_computed_as_one(name: str):
    """As many convolutions as where nothing is left out: none for an option alone."""
    network, weights = supernet(name, 3), mixture(groups_of(name), 3)
    active = {key: np.ones(value.shape, bool) for key, value in weights.items()}
    for group in network.groups:
        if "none" in group.options:
            active[group.name][..., group.options.index("none")] = False
    some = {key: value.copy() for key, value in active.items()}
    some["op"][:, 0, :, -1] = False  # used by others
    counted = [convolutions(network, Choices(weights, mask)) for mask in (None, active, some)]
    assert counted[1] == counted[2] == counted[0]
    active["op"][:, :, 0, 2] = False  # a 1×1 convolution that nobody uses; on nb201 one of three computed as one
    assert convolutions(network, Choices(weights, active)) == counted[0] - (0 if name == "nb201" else 3)


def convolutions(network, choices: Choices) -> int:
    """How many convolutions a pass takes."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        convolve = layers.convolve
        patch.setattr(layers, "convolve", lambda *args: calls.append(1) or convolve(*args))
        network(pictures(len(choices.weights["op"][0])), choices)
    return len(calls)


@pytest.mark.parametrize("name", SPACES)
def test_an_observer_sees_maps_of_replicas_that_use_them(name: str):
    network, choices, seen = supernet(name, 3), choices_of(name, "active", 3), []
    network(pictures(3), choices, ForwardInputs(observe=seen.append))
    assert any(map.rows is not None and len(map.rows) < 3 for map in seen)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", ["active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_computed_for_all_is_computed_where_used(name: str, kind: str, twice: bool, monkeypatch: pytest.MonkeyPatch):
    """Products with the Hessian in weights and parameters too."""
    network, choices, onto = supernet(name, 3), choices_of(name, kind, 3), projection(3)
    found = []
    for most in (0, common.SMALL):
        monkeypatch.setattr(common, "SMALL", most)
        found.append(products(network, choices, onto, ForwardInputs(twice=twice)))
    for mine, theirs in zip(*found, strict=True):
        close(mine, theirs, 1e-8)


@pytest.mark.usefixtures("computed_where_used")
@pytest.mark.parametrize("kind", ["active", "discrete"])
@pytest.mark.parametrize("name", SPACES)
def test_unused_weights_are_not_read_and_their_gradient_is_zero(name: str, kind: str):
    network, images, choices, onto = supernet(name, 3), pictures(3), choices_of(name, kind, 3), projection(3)
    out, clean = gradients(network, images, choices, onto)
    live = network.live(choices.active)
    partly = 0
    with torch.no_grad():
        for path, parameter in network.named_parameters():
            used = used_by(network, live, path)
            unused = [r for r in range(3) if r not in used]
            parameter[unused] = torch.nan
            partly += 0 < len(used) < 3
    assert partly
    poisoned_out, poisoned = gradients(network, images, choices, onto)
    assert torch.equal(poisoned_out, out)
    for path, _ in network.named_parameters():
        unused = [r for r in range(3) if r not in used_by(network, live, path)]
        assert not poisoned[path][unused].any()
    for key, values in poisoned.items():
        assert torch.equal(values, clean[key]), key


def moved(network, images: Tensor, weights: dict[str, Tensor]) -> dict[str, list[bool]]:
    """By parameter and replica: whether the output depends on it when everything is computed."""
    _, found = gradients(network, images, Choices(weights), projection(len(images), images.shape[1]))
    result = {}
    for path, _ in network.named_parameters():
        size = found[path].flatten(1).abs().amax(1)
        assert ((size < 1e-9) | (size > 1e-7)).all(), (path, size)
        result[path] = (size > 1e-7).tolist()
    return result


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SPACES)
def test_a_parameter_moves_the_output_exactly_where_its_address_is_live(name: str, seed: int):
    """The oracle computes everything at weights of zero and one, so it uses neither `live` nor `active`."""
    network, replicas = supernet(name, 4, channels=6, seed=seed), 4
    choices = discrete(network.groups, genotypes_of(name, 3, replicas, seed + 20))
    if name == "nb201":  # where nothing reaches the end, the oracle measures rounding
        keep = np.array([[[network_alive(row)] for row in cell] for cell in choices.active["op"]])
        for cell, replica in np.argwhere(~keep[..., 0]):
            choices.weights["op"][cell, replica] = torch.tensor([0.0, 1, 0, 0, 0])
            choices.active["op"][cell, replica] = choices.weights["op"][cell, replica].numpy() == 1
    live = network.live(choices.active)
    for path, found in moved(network, pictures(replicas, 4), choices.weights).items():
        if name == "nb201" and path.startswith("cell.") and path.endswith("conv.bias"):
            assert not any(found)  # normalisation without a shift takes it away
            assert network.address(path) == network.address(path.replace("bias", "weight"))
        else:
            assert np.flatnonzero(found).tolist() == used_by(network, live, path), path


def network_alive(row: np.ndarray) -> bool:
    """Whether a chain of operations other than none leads through a cell; edges as in the authors' order."""
    a, b, c, d, e, f = row.argmax(-1) > 0
    return bool(d or (a and e) or (b and f) or (a and c and f))


@pytest.mark.usefixtures("computed_where_used")
@pytest.mark.parametrize("name", ["toy", "s1", "nb201"])
def test_poison_at_a_live_address_reaches_the_output(name: str):
    """Every replica has a parameter of its own spoilt, eight at once."""
    network, images = supernet(name, 8, channels=2), pictures(8, 2, 6)
    choices = choices_of(name, "discrete", 8)
    live = network.live(choices.active)
    parameters = list(network.named_parameters())
    clean = [parameter.clone() for _, parameter in parameters]
    for start in range(0, len(parameters), 8):
        chunk = parameters[start : start + 8]
        with torch.no_grad():
            for replica, (_, parameter) in enumerate(chunk):
                parameter[replica] = torch.nan
            finite = network(images, choices).isfinite().all(-1).all(-1).tolist()
            for (_, parameter), before in zip(chunk, clean[start : start + 8], strict=True):
                parameter.copy_(before)
        for replica, (path, _) in enumerate(chunk):
            assert finite[replica] == (replica not in used_by(network, live, path)), path
        assert all(finite[len(chunk) :])


@pytest.mark.parametrize("name", SPACES)
def test_addresses_are_options_with_parameters(name: str):
    network = supernet(name, 2, cells=2)
    groups, seen = {g.name: g for g in network.groups}, set()
    for path, _ in network.named_parameters():
        address = network.address(path)
        assert (address is None) == (not path.startswith("cell."))
        if address is not None:
            group = groups[address.group]
            assert path.startswith(f"cell.{address.cell}.")
            assert address.decision < group.decisions
            if group.kind == "op" and address.option is not None:
                assert group.parametric[address.option]
                seen.add((address.cell, address.decision, address.option))
    parametric = np.flatnonzero(groups["op"].parametric)
    assert seen == {(c, d, o) for c in range(6) for d in range(groups["op"].decisions) for o in parametric}


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACES))
@settings(max_examples=40, deadline=None)
def test_live_is_a_subset_and_pruning_twice_is_pruning_once(seed: int, name: str):
    network = TINY[name]
    active = random_active(network.groups, 3, 2, seed, chance=0.5)
    before = {k: v.copy() for k, v in active.items()}
    live = network.live(active)
    again = network.live(live)
    for key, values in live.items():
        assert (active[key] == before[key]).all()
        assert not (values & ~active[key]).any()
        assert (again[key] == values).all()


TINY = {name: supernet(name, 2, channels=2) for name in SPACES}


# Factors on the mixed output


def ones_keep(network, n: int, cells: int = 3) -> Tensor:
    decisions = next(g.decisions for g in network.groups if g.name == "op")
    return torch.ones(cells, network.replicas, n, decisions, dtype=torch.float64)


@pytest.mark.parametrize("name", SPACES)
def test_keeping_all_is_no_keep(name: str):
    network, images, weights = supernet(name, 2), pictures(2), mixture(groups_of(name), 2)
    out = network(images, Choices(weights))
    for cells in (1, 3):
        keep = ForwardInputs({"op": ones_keep(network, 3, cells)})
        assert torch.equal(network(images, Choices(weights), keep), out)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", SPACES)
def test_keeping_all_images_alike_is_scaling_the_row(name: str, parts: int):
    network, images = supernet(name, 3, parts=parts), pictures(3)
    weights = mixture(network.groups, 3)
    factors = normal(3, 3, weights["op"].shape[2], seed=8).abs() + 0.1
    factors[1, 2, -1] = 0.0
    keep = ones_keep(network, 3) * factors[:, :, None]
    scaled = {**weights, "op": weights["op"] * factors[..., None]}
    scaled = {k: v.expand(3, -1, -1, -1) for k, v in scaled.items()}
    close(network(images, Choices(weights), ForwardInputs({"op": keep})), network(images, Choices(scaled)))


@pytest.mark.parametrize("name", SPACES)
def test_dropping_an_image_of_a_replica_is_felt_by_that_alone(name: str):
    """Where no normalisation follows: the last decision of the last cell, read by the output alone."""
    network, images, weights = supernet(name, 3), pictures(3, side=9), mixture(groups_of(name), 3)
    outputs: list[Tensor] = []
    network.cell[-1].register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
    keep = ones_keep(network, 3)
    reference = network(images, Choices(weights))
    keep[-1, 1, 2, -1] = 0.0
    dropped = network(images, Choices(weights), ForwardInputs({"op": keep}))
    changed = (outputs[0] - outputs[1]).unflatten(1, (3, -1)).abs().amax((2, 3, 4)) > 0
    assert changed.nonzero().tolist() == [[2, 1]]
    assert torch.equal(dropped[[0, 2]], reference[[0, 2]])
    assert not torch.equal(dropped[1], reference[1])


@pytest.mark.parametrize("name", ["s2", "nb201"])
def test_per_image_factors_differ_from_their_mean(name: str):
    network, images, weights = supernet(name, 2), pictures(2), mixture(groups_of(name), 2)
    keep = ones_keep(network, 3)
    keep[0, 0, 0, 0], keep[0, 0, 1, 0] = 0.0, 2.0
    out, reference = network(images, Choices(weights), ForwardInputs({"op": keep})), network(images, Choices(weights))
    assert torch.equal(out[1], reference[1])
    assert (out[0] - reference[0]).abs().min() > 1e-9


# Second derivatives, other weights, errors


@pytest.mark.parametrize("name", ["toy", "nb201"])
def test_second_derivatives_are_those_of_finite_differences(name: str):
    network, images = supernet(name, 2, channels=2), pictures(2, 4, 6)
    batch = Batch(images, torch.tensor([[1, 0, 3, 2], [5, 5, 1, 9]]))
    groups = network.groups
    point = {g.name: 0.3 * normal(2, *g.shape, seed=40 + i) for i, g in enumerate(groups)}
    direction = {g.name: normal(2, *g.shape, seed=50 + i) for i, g in enumerate(groups)}

    def gradient(at: dict[str, Tensor], graph: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            cross_entropy(network(images, softmax(at)), batch).sum(), list(at.values()), create_graph=graph
        )

    inner = requires_grad(point)
    slope = sum((g * direction[k]).sum() for k, g in zip(inner, gradient(inner, graph=True), strict=True))
    products = torch.autograd.grad(slope, list(inner.values()))
    step = 1e-6
    ahead, behind = (
        gradient(requires_grad({k: v + sign * step * direction[k] for k, v in point.items()})) for sign in (1, -1)
    )
    for product, a, b in zip(products, ahead, behind, strict=True):
        assert product.abs().max() > 1e-4
        torch.testing.assert_close(product, (a - b) / (2 * step), rtol=1e-5, atol=1e-7)


def test_other_weights_go_in_from_outside():
    network, other, images = supernet("s1", 2), supernet("s1", 2, seed=1), pictures(2)
    choices = Choices(mixture(network.groups, 2))
    swapped = torch.func.functional_call(network, dict(other.named_parameters()), (images, choices))
    assert torch.equal(swapped, other(images, choices))


def test_missing_groups_are_named():
    weights = mixture(groups_of("s1"), 2)
    del weights["in_4"]
    with pytest.raises(ValueError, match=r"expected weights for group 'in_4', got groups \['in_3', 'op', 'out'\]"):
        TINY["s1"](pictures(2), Choices(weights))


@pytest.mark.parametrize("name", ["s1", "nb201"])
@pytest.mark.parametrize(
    "slices", [(slice(2),), (slice(None), slice(1)), (..., slice(1), slice(None)), (..., slice(2))]
)
def test_wrong_shapes_are_named(name: str, slices):
    weights = mixture(groups_of(name), 2, cells=3)
    weights["op"] = weights["op"][slices]
    shape = tuple(weights["op"].shape)
    with pytest.raises(ValueError, match=r"expected weights of shape \(1 or 3, \*\(2, .*\)\) for 'op', got ") as error:
        TINY[name](pictures(2), Choices(weights))
    assert str(error.value).endswith(f"got {shape}")


@pytest.mark.parametrize(("name", "key"), [("s1", "out"), ("nb201", "op")])
def test_active_options_of_another_shape_are_refused(name: str, key: str, unchecked):
    """Of one replica only they would silently leave the others out."""
    weights = mixture(groups_of(name), 2)
    active = {k: np.ones(v.shape, dtype=bool) for k, v in weights.items()}
    for wrong in (active[key][:, :1], active[key][..., :2], np.repeat(active[key], 2, 0)):
        with pytest.raises(ValueError, match=f"expected active options of shape .* for '{key}', got "):
            TINY[name](pictures(2), Choices(weights, {**active, key: wrong}))
    del active[key]
    with pytest.raises(ValueError, match=f"expected active options for group '{key}'"):
        TINY[name](pictures(2), Choices(weights, active))


@pytest.mark.parametrize(("replicas", "shared", "times"), [(1, True, 1), (1, False, 3), (2, True, 3), (2, False, 3)])
def test_factors_are_made_once_for_cells_that_share_them(
    replicas: int, shared: bool, times: int, monkeypatch: pytest.MonkeyPatch
):
    """Those of several replicas are repeated for every channel, of which each of the three cells has its own number."""
    made: list[int] = []

    def counting(weights: Tensor, channels: int) -> Sequence[Tensor]:
        made.append(channels)
        return columns(weights, channels)

    monkeypatch.setattr(common, "columns", counting)
    network = supernet("nb201", replicas)
    network(pictures(replicas), Choices(mixture(network.groups, replicas, cells=1 if shared else 3)))
    assert len(made) == times
