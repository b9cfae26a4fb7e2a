"""Operations over the replicas axis, one at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_supernet_plain import normal, shuffled
from torch import nn

from bench import layers, ops
from bench.layout import first_part, innermost, side_by_side, split, with_bypass
from bench.mixture import columns
from bench.rng import torch_stream
from searchers.base import ForwardInputs

torch.set_num_threads(1)

FLOW = ops.flow_of(ForwardInputs(), 3)


def folded(replicas: int = 3, channels: int = 2, n: int = 4, side: int = 5, seed: int = 0) -> torch.Tensor:
    return normal(n, replicas * channels, side, side, seed=seed)


def test_fold_lays_replicas_out_as_groups_of_channels():
    images = normal(3, 4, 2, 5, 5, seed=0)
    x = ops.fold(images)
    assert x.shape == (4, 6, 5, 5)
    for replica in range(3):
        assert torch.equal(x[:, 2 * replica : 2 * replica + 2], images[replica])
    assert torch.equal(ops.unfold(x, 3), images.transpose(0, 1))


def test_pick_takes_the_channels_of_the_rows_in_their_order():
    x = folded()
    assert ops.pick(x, 3, None) is x
    assert torch.equal(ops.pick(x, 3, torch.tensor([0, 2])), torch.cat([x[:, :2], x[:, 4:]], 1))


def test_scale_and_mask_multiply_each_replica_by_its_own():
    x, weight, keep = folded(), normal(3, seed=1), normal(3, 4, seed=2)
    scaled, masked = ops.scale(x, weight), ops.mask(x, keep)
    for replica in range(3):
        part = slice(2 * replica, 2 * replica + 2)
        assert torch.equal(scaled[:, part], x[:, part] * weight[replica])
        for image in range(4):
            assert torch.equal(masked[image, part], x[image, part] * keep[replica, image])


def test_masking_one_image_of_one_replica_leaves_all_others():
    x, keep = folded(), torch.ones(3, 4, dtype=torch.float64)
    assert torch.equal(ops.mask(x, keep), x)
    keep[1, 2] = 0
    masked = ops.unfold(ops.mask(x, keep), 3)
    assert not masked[2, 1].any()
    untouched = torch.ones(4, 3, dtype=torch.bool)
    untouched[2, 1] = False
    assert torch.equal(masked[untouched], ops.unfold(x, 3)[untouched])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_bypass_is_the_loop_within_each_replica(parts: int, size: int, replicas: int, seed: int):
    channels = parts * size
    x, mixed = (normal(2, replicas * width, 1, 2, seed=seed) for width in (channels, size))
    whole = zip(mixed.split(size, 1), x.split(channels, 1), strict=True)
    expected = [shuffled(torch.cat([own, every[:, size:]], 1), parts) for own, every in whole]
    assert torch.equal(with_bypass(mixed, x, replicas, parts), torch.cat(expected, 1))
    firsts = [every[:, :size] for every in x.split(channels, 1)]
    assert torch.equal(first_part(x, replicas, parts), torch.cat(firsts, 1))


def test_pools_are_naive_pools():
    x = folded(side=4)
    largest, mean = ops.max_pool(x), ops.average_pool(x)
    for row in range(4):
        for column in range(4):
            window = x[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            assert torch.equal(largest[:, :, row, column], window.amax((2, 3)))
            torch.testing.assert_close(mean[:, :, row, column], window.mean((2, 3)), rtol=0, atol=1e-14)


def draw(module: nn.Module, seed: int = 0) -> nn.Module:
    module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + i))
    return module


@pytest.mark.parametrize("rows", [None, [1], [0, 2]])
@pytest.mark.parametrize(
    ("side", "stride", "bias", "affine"), [(3, 1, True, False), (3, 2, False, True), (1, 1, True, True)]
)
def test_conv_norm_of_some_replicas_is_that_of_each_alone(rows, side: int, stride: int, bias: bool, affine: bool):
    module = draw(layers.ConvNorm(layers.Conv(3, (5, 2, side), stride, bias), affine))
    x = folded()
    kept = [0, 1, 2] if rows is None else rows
    index = None if rows is None else torch.tensor(rows)
    out = ops.unfold(module(ops.pick(x, 3, index), FLOW, index), len(kept))
    for place, replica in enumerate(kept):
        plain = nn.Sequential(
            nn.Conv2d(2, 5, side, stride, side // 2, bias=bias),
            nn.BatchNorm2d(5, affine=affine, track_running_stats=False),
        ).double()
        for parameter, values in zip(plain.parameters(), module.parameters(), strict=True):
            parameter.data.copy_(values[replica])
        torch.testing.assert_close(out[:, place], plain(ops.unfold(x, 3)[:, replica]), rtol=1e-12, atol=1e-12)


def test_norm_keeps_no_state():
    module = draw(layers.ConvNorm(layers.Conv(3, (3, 2, 1))))
    assert not list(module.buffers())
    x = folded()
    first = module(x, FLOW)
    module(5 + x, FLOW)
    module.eval()
    assert torch.equal(module(x, FLOW), first)


def test_linear_and_pooled_are_each_replicas_own():
    module, x = draw(layers.Linear(3, 2, 7)), folded()
    out = module(ops.pooled(x, 3), FLOW)
    assert out.shape == (3, 4, 7)
    for replica in range(3):
        means = x[:, 2 * replica : 2 * replica + 2].flatten(2).mean(2)
        expected = means @ module.weight[replica].T + module.bias[replica]
        torch.testing.assert_close(out[replica], expected, rtol=1e-13, atol=1e-13)


def counted(calls: list, values: torch.Tensor, option: int) -> ops.Term:
    def term(rows):
        calls.append((option, None if rows is None else rows.tolist()))
        return ops.pick(values, 3, rows)

    return term


@pytest.mark.parametrize("replicas", [1, 2])
def test_maps_side_by_side_are_split_into_what_they_were(replicas: int):
    maps = [innermost(folded(replicas, channels, seed=seed)) for seed, channels in enumerate((2, 3, 4))]
    joined = side_by_side(maps, replicas)
    assert joined.is_contiguous(memory_format=torch.channels_last)
    expected = torch.cat([ops.unfold(x, replicas) for x in maps], 2).flatten(1, 2)
    assert torch.equal(joined, expected)
    for found, x in zip(split(joined, replicas, [2, 3, 4]), maps, strict=True):
        assert torch.equal(found, x)


def test_factors_of_several_decisions_are_theirs_in_turn():
    weights = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3))
    found = columns(weights, 6)
    assert len(found) == 12
    for i, factor in enumerate(found):
        assert factor.flatten().tolist() == weights[:, i // 4, i % 4].repeat_interleave(3).tolist()
    alone = columns(weights[:1], 6)
    assert [factor.shape for factor in alone] == [(1, 1, 1)] * 12
    assert [factor.item() for factor in alone] == weights[0].flatten().tolist()


def test_mix_computes_what_is_active_for_those_who_use_it():
    values = [folded(seed=i) for i in range(4)]
    weights = normal(3, 4, seed=5)
    active = np.array([[1, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=bool)
    calls: list = []
    out = ops.mix([counted(calls, v, i) for i, v in enumerate(values)], ops.Row(weights, active), FLOW)
    assert calls == [(0, None), (2, [1]), (3, [0, 2])]
    expected = torch.zeros_like(values[0])
    for replica in range(3):
        for option in range(4):
            part = slice(2 * replica, 2 * replica + 2)
            expected[:, part] += active[replica, option] * weights[replica, option] * values[option][:, part]
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)


def test_mix_of_nothing_is_none_and_without_active_all_is_computed():
    values, calls = folded(), []
    weights = torch.zeros(3, 2, dtype=torch.float64)
    terms = [counted(calls, values, 0), counted(calls, values, 1)]
    assert ops.mix(terms, ops.Row(weights, np.zeros((3, 2), dtype=bool)), FLOW) is None
    assert calls == []
    assert not ops.mix(terms, ops.Row(weights, None), FLOW).any()
    assert calls == [(0, None), (1, None)]


def several(replicas: int) -> nn.Module:
    convolutions = [layers.Conv(replicas, (4, 3, 3)), layers.Conv(replicas, (6, 4, 1), bias=True)]
    return nn.Sequential(*(layers.ConvNorm(c) for c in convolutions), layers.Linear(replicas, 6, 5))


def initialised(seeds: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Module:
    network = several(len(seeds)).to(dtype)
    layers.initialise(network, tuple(torch_stream(seed, "weights", 0) for seed in seeds))
    return network


def test_initial_weights_do_not_depend_on_the_stack():
    stacked = initialised((5, 1, 8))
    for replica, seed in enumerate((5, 1, 8)):
        alone = initialised((seed,))
        for together, single in zip(stacked.parameters(), alone.parameters(), strict=True):
            assert torch.equal(together[replica], single[0])
    assert not torch.equal(stacked[0].conv.weight[0], stacked[0].conv.weight[1])


def test_initial_weights_do_not_depend_on_the_precision():
    for single, double in zip(
        initialised((5, 1)).parameters(), initialised((5, 1), torch.float64).parameters(), strict=True
    ):
        assert torch.equal(single.double(), double)


def test_initial_weights_do_not_depend_on_the_default_type():
    expected = initialised((5,))
    torch.set_default_dtype(torch.float64)
    try:
        found = initialised((5,), torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)


def test_initial_weights_fill_the_interval_of_their_fan_in():
    network = initialised(tuple(range(12)))
    bounds = {0: 27**-0.5, 1: 4**-0.5}
    for layer, bound in bounds.items():
        assert bound * 0.97 < network[layer].conv.weight.abs().max() <= bound
        assert network[layer].conv.weight.mean().abs() < 0.1 * bound
        assert (network[layer].norm.weight == 1).all()
        assert (network[layer].norm.bias == 0).all()
    assert 0.9 * 4**-0.5 < network[1].conv.bias.abs().max() <= 4**-0.5
    for parameter in network[2].parameters():
        assert 0.9 * 6**-0.5 < parameter.abs().max() <= 6**-0.5


def test_initialising_leaves_the_global_generator():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    initialised((5, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (2, 2)])
@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (2, 3, 7, 9), (1, 2, 4, 5)])
def test_max_pool_equals_torchs_with_ties_and_both_derivatives(side, stride, shape):
    stream = torch.Generator().manual_seed(3)
    mine = torch.randint(-2, 3, shape, generator=stream).double().requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    ours = ops.max_pool(mine, side, stride)
    reference = torch.nn.functional.max_pool2d(theirs, side, stride, padding=1)
    assert torch.equal(ours, reference)
    down = torch.randn(ours.shape, generator=stream, dtype=torch.float64)
    seeds = torch.randn(shape, generator=stream, dtype=torch.float64)
    seconds = []
    for x, y in ((mine, ours), (theirs, reference)):
        (first,) = torch.autograd.grad((y**3 * down).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * seeds).sum(), x)
        seconds.append((first.detach(), second))
    assert torch.allclose(seconds[0][0], seconds[1][0])
    assert torch.allclose(seconds[0][1], seconds[1][1])
    assert seconds[0][1].abs().max() > 0.1
