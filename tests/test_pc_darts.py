"""PC-DARTS: its network against its equations, and its limit cases."""

import dataclasses

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.layout import first_part, with_bypass
from bench.ops import flow_of
from bench.spaces.base import discretise
from bench.supernet import nb201, one_shot
from searchers import darts, pc_darts
from searchers._bilevel import Bilevel, Recipe
from searchers._relax import softmax
from searchers.base import Choices, ForwardInputs, SupernetOptions
from searchers.registry import METHODS

unchecked = pytest.mark.usefixtures("unchecked")
DEFAULTS = darts.Settings()


def weighted(channels: int, parts: int, seeds: tuple[int, ...] = (0, 1)) -> nb201.NB201Supernet:
    network = labs.make("nb201", seeds, channels=channels).build(SupernetOptions(parts, edge_weights=True))
    assert isinstance(network, nb201.NB201Supernet)
    return network


def some_logits(network: nb201.NB201Supernet, seed: int = 3) -> dict[str, Tensor]:
    stream = labs.rng(seed)
    shapes = {group.name: (network.replicas, *group.shape) for group in network.groups}
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


@unchecked
@pytest.mark.parametrize("space", ["toy", "s2", "nb201"])
def test_all_channels_are_darts_with_edge_normalisation_to_the_bit(space: str) -> None:
    def normalised(lab: labs.Lab) -> Bilevel:
        recipe = Recipe(options=SupernetOptions(edge_weights=True))
        return Bilevel(recipe, DEFAULTS.weights, DEFAULTS.arch, lab)

    found = []
    for make in (normalised, lambda lab: pc_darts.build(pc_darts.Settings(partial_channels=1), lab)):
        lab = labs.make(space)
        searcher = make(lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)))
    labs.same(*found)
    if space != "nb201":  # NAS-Bench-1Shot1 weighs edges anyway
        lab = labs.make(space)
        searcher = darts.build(DEFAULTS, lab)
        labs.same(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)), found[1])


def test_bypassed_channels_are_shuffled_with_those_that_were_mixed_within_a_replica() -> None:
    x = torch.arange(2 * 24, dtype=torch.float64).reshape(2, 24, 1, 1)  # 2 replicas of 12 channels
    for parts in (1, 2, 3, 4, 6, 12):
        out = with_bypass(first_part(x, 2, parts), x, 2, parts)
        shuffled = x.reshape(2, 2, parts, 12 // parts, 1, 1).transpose(2, 3).reshape(x.shape)
        assert torch.equal(out, shuffled)
    assert with_bypass(first_part(x, 2, 4), x, 2, 4)[0, :12, 0, 0].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_bypassed_channels_arrive_as_they_were_and_only_a_part_is_mixed() -> None:
    x, other = (torch.randn(2, 16, 3, 3, generator=labs.rng(seed), dtype=torch.float64) for seed in (1, 2))
    mixed = first_part(other, 2, 4)  # K = 4 of 8 channels, 2 replicas
    parts = with_bypass(mixed, x, 2, 4).unflatten(1, (2, 2, 4))  # replicas, channels of a part, parts
    assert torch.equal(parts[:, :, :, 1:].transpose(2, 3), x.unflatten(1, (2, 4, 2))[:, :, 1:])
    assert torch.equal(parts[:, :, :, 0], other.unflatten(1, (2, 8))[:, :, :2])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_cell_of_nb201_is_its_equation(parts: int) -> None:
    """Node = Σ softmax(β)·o(x): skips, pooling and no operation, in one cell, for one replica."""
    network = weighted(4, parts, (0,))
    logits = some_logits(network)
    for edge, option in enumerate((1, 4, 1, 0, 1, 4)):  # skip, pool, skip, none, skip, pool
        logits["op"][0, edge] = torch.tensor([0.0 if k == option else -torch.inf for k in range(5)])
    beta = {name: value[0, 0].exp() / value[0, 0].exp().sum() for name, value in logits.items() if name != "op"}
    x = torch.randn(3, 4, 5, 5, generator=labs.rng(4), dtype=torch.float64)

    def edge(kind: str, value: Tensor) -> Tensor:
        part, rest = value[:, : 4 // parts], value[:, 4 // parts :]
        average = functional.avg_pool2d(part, 3, 1, 1, count_include_pad=False)
        done = {"skip": part, "pool": average, "none": part * 0}[kind]
        joined = torch.cat([done, rest], 1)
        return joined.reshape(3, parts, 4 // parts, 5, 5).transpose(1, 2).reshape(3, 4, 5, 5)

    one = beta["in_1"][0] * edge("skip", x)
    two = beta["in_2"][0] * edge("pool", x) + beta["in_2"][1] * edge("skip", one)
    three = sum(
        weight * edge(kind, node)
        for weight, kind, node in zip(beta["in_3"], ("none", "skip", "pool"), (x, one, two), strict=True)
    )
    found = network.cell[0](x, 1, nb201.CellChoices(softmax(logits), ForwardInputs(), flow_of(ForwardInputs(), 1), 0))
    torch.testing.assert_close(found, three, rtol=1e-12, atol=1e-12)


def test_a_block_of_nas_bench_1shot1_is_its_equation() -> None:
    """Σ softmax(α)·o on the first half of the channels, the rest bypassed, both shuffled; one replica, batch norm."""
    network = labs.make("s1", (0,), channels=4).build(SupernetOptions(2))
    assert isinstance(network, one_shot.OneShotSupernet)
    logits = {group.name: torch.randn(1, *group.shape, generator=labs.rng(2)).double() for group in network.groups}
    cell, node = network.cell[0], 2
    z = torch.randn(3, 4, 5, 5, generator=labs.rng(4), dtype=torch.float64)
    part, share = z[:, :2], logits["op"][0, node - 1].exp() / logits["op"][0, node - 1].exp().sum()

    def normalised(module: torch.nn.Module, padding: int) -> Tensor:
        found = dict(module.named_parameters())
        (kernel,) = (value[0] for value in found.values() if value.dim() == 5)
        y = functional.conv2d(part, kernel, padding=padding)
        mean, spread = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        return ((y - mean) / (spread + 1e-5).sqrt()).relu()  # scale 1 and shift 0 at the start

    options = (
        functional.max_pool2d(part, 3, 1, 1),
        normalised(cell.conv3x3[node - 1], 1),
        normalised(cell.conv1x1[node - 1], 0),
    )
    mixed = sum(weight * option for weight, option in zip(share, options, strict=True))
    joined = torch.cat([mixed, z[:, 2:]], 1)
    wanted = joined[:, [0, 2, 1, 3]]
    found = cell._operation(
        node, z, 1, one_shot.CellChoices(softmax(logits), ForwardInputs(), flow_of(ForwardInputs(), 1), 0)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@unchecked
@pytest.mark.parametrize("space", ["s2", "nb201"])
def test_gradients_of_edge_rows_sum_to_zero(space: str) -> None:
    lab = labs.make(space, channels=4)
    searcher = pc_darts.build(pc_darts.Settings(partial_channels=2), lab)
    leaves = {name: value + torch.arange(value.shape[-1]) for name, value in searcher.leaves().items()}
    loss = searcher.supernet(labs.fake_batch(2).images, softmax(leaves)).square().sum()
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        assert gradient.sum(-1).abs().max() < 1e-10 * (1 + gradient.abs().max()), name
        assert (gradient.abs().max() > 1e-6) == (name != "in_1")  # a row of one option has nothing to choose


def test_groups_of_nb201_and_the_cell_does_not_read_them() -> None:
    lab = labs.make("nb201", channels=4)
    searcher = pc_darts.build(pc_darts.Settings(), lab)
    shapes = {name: tuple(value.shape) for name, value in searcher.logits().items()}
    assert shapes == {"op": (2, 6, 5), "in_1": (2, 1, 1), "in_2": (2, 1, 2), "in_3": (2, 1, 3)}
    scores = {name: value[0].numpy() for name, value in searcher.logits().items()}
    assert [group.name for group in lab.groups] == ["op"]
    found = discretise(lab.groups, scores)
    assert found == discretise(lab.groups, {name: -v if name != "op" else v for name, v in scores.items()})


@unchecked
def test_inactive_edges_are_left_out() -> None:
    """Zero weights and inactive edges give one value; what only they reach is not live."""
    network = weighted(2, 1)
    logits = some_logits(network)
    weights = {name: value.clone() for name, value in softmax(logits).weights.items()}
    active = {name: np.ones(value.shape, bool) for name, value in weights.items()}
    weights["in_3"][0, 0, 0, 1], active["in_3"][0, 0, 0, 1] = 0.0, False  # replica 0: node 3 does not read node 1
    weights["in_2"][0, 0, 0, 1], active["in_2"][0, 0, 0, 1] = 0.0, False  # nor does node 2
    images = labs.fake_batch(2).images
    torch.testing.assert_close(network(images, Choices(weights)), network(images, Choices(weights, active)))
    live = network.live(active)
    assert live["op"].any(-1)[0].tolist() == [[False, True, False, True, False, True], [True] * 6]
    assert [live[f"in_{node}"][0, 0, 0].tolist() for node in (1, 2, 3)] == [[False], [True, False], [True, False, True]]


@unchecked
def test_the_warm_up_moves_weights_only() -> None:
    lab = labs.make(channels=4)
    searcher = pc_darts.build(pc_darts.Settings(warm_up=2 / 3), lab)
    start = labs.leaves(searcher.logits())
    for loss in labs.drive(searcher, lab, 0, 2):
        assert loss.val is None
    labs.same(labs.leaves(searcher.logits()), start)
    assert float(searcher.arch.count.sum()) == 0
    (loss, *_) = labs.drive(searcher, lab, 2, 3)
    assert loss.val is not None
    assert all((value != start[f"/{name}"]).all() for name, value in searcher.logits().items())


def test_lambda_is_said_to_be_of_this_network() -> None:
    lab = labs.make(channels=4)
    assert "1/2 of the channels" in pc_darts.build(pc_darts.Settings(partial_channels=2), lab).hessian_of
    assert pc_darts.build(pc_darts.Settings(partial_channels=1), lab).hessian_of == Recipe().hessian_of


def test_presets_are_the_papers() -> None:
    defaults, original = METHODS["pc_darts"].settings(), pc_darts.ORIGINAL
    assert defaults == pc_darts.ONE_SHOT
    assert (defaults.weights, defaults.arch, defaults.warm_up) == (DEFAULTS.weights, DEFAULTS.arch, 0.0)
    assert (defaults.partial_channels, original.partial_channels) == (4, 4)
    assert (original.weights.lr, original.weights.lr_min, original.weights.weight_decay) == (0.1, 0.0, 3e-4)
    assert (original.arch.lr, original.arch.weight_decay, original.arch.betas) == (6e-4, 1e-3, (0.5, 0.999))
    assert (original.warm_up, original.batch_size) == (0.3, 256)
    assert METHODS["pc_darts"].policy(original).batch_size(7, 96) == 256
    assert METHODS["pc_darts"].policy(defaults).batch_size(7, 96) == 96


@pytest.mark.parametrize("parts", [0, 3, 4])
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_channels_that_do_not_divide_are_refused(space: str, parts: int) -> None:
    settings = dataclasses.replace(pc_darts.ONE_SHOT, partial_channels=parts)
    with pytest.raises(ValueError, match=f"expected partial_channels to divide the 2 channels of a cell, got {parts}"):
        pc_darts.build(settings, labs.make(space))


def test_a_warm_up_is_a_share() -> None:
    with pytest.raises(ValueError, match="expected a warm_up in"):
        pc_darts.build(dataclasses.replace(pc_darts.ONE_SHOT, warm_up=15.0), labs.make(channels=4))
