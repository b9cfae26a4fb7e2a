"""P-DARTS: its stages, one step against its equations, what drops out, what is selected, and its limit."""

import math
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.lab import Lab
from searchers import _skips, pdarts
from searchers._bilevel import Bilevel, Recipe
from searchers._optim import ArchSettings, WeightSettings
from searchers._progressive import Progressive
from searchers.base import Choices, Logits, SupernetOptions

unchecked = pytest.mark.usefixtures("unchecked")
SKIP = 1


def at(space: str, epochs: int, cells: int = 1) -> Lab:
    lab = labs.make(space)
    return replace(lab, horizon=labs.Horizon(epochs), size=replace(lab.size, cells=cells))


def random_logits(like: Logits, seed: int) -> Logits:
    stream = labs.rng(seed)
    return {name: torch.randn(v.shape, generator=stream, dtype=v.dtype) for name, v in like.items()}


@unchecked
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_one_stage_that_keeps_all_and_drops_nothing_is_darts_with_a_warm_up(space: str) -> None:
    lab, found = labs.make(space), []
    settings = pdarts.Settings(keep=(1.0,), depth=(1.0,), dropout=(0.0,), warm_up=0.3, arch_clip=None, batch_size=None)
    darts = Bilevel(Recipe(warm_up=0.3), settings.weights, settings.arch, lab)
    for searcher in (pdarts.build(settings, lab), darts):
        losses = labs.drive(searcher, lab, 0, 2)
        assert [each.val is None for each in losses] == [True] * 3 + [False] * 3
        seen = labs.outcome(searcher, losses)
        found.append({name: value for name, value in seen.items() if not name.startswith("/selected")})
    labs.same(*found)


@pytest.mark.parametrize(
    ("space", "cells", "networks", "sizes"),
    [("nb201", 5, (3, 9, 15), (5, 3, 2)), ("s1", 3, (3, 6, 9), (3, 2, 1)), ("s3", 1, (3, 3, 3), (3, 2, 1))],
)
@unchecked
def test_each_stage_is_deeper_and_keeps_the_best_operations(
    space: str, cells: int, networks: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    """Stages of 25 epochs; what is alive is nested, rows of inputs keep all, network and logits are new."""
    lab = at(space, 75, cells)
    searcher, lives = pdarts.build(pdarts.Settings(), lab), []
    old, drawn = searcher.logits(), set[float]()
    shapes = {name: value.shape for name, value in searcher.logits().items()}
    for stage in range(3):
        for epoch in (25 * stage, 25 * stage + 24):
            searcher.begin_epoch(epoch)
            assert searcher.supernet.cells == networks[stage]
            assert searcher.stage.lr == pytest.approx(0.0125 * (1 + math.cos(math.pi * (epoch % 25) / 25)))
        assert {name: value.shape for name, value in searcher.logits().items()} == shapes
        assert all(value.abs().max() < 6e-3 for value in searcher.logits().values())
        drawn.add(searcher.logits()["op"][0, 0, 0].item())
        assert len(drawn) == stage + 1
        alive = {name: mask.copy() for name, mask in searcher.stage.recipe.memory.masks.items()}
        assert (alive["op"].sum(-1) == sizes[stage]).all()
        assert all(mask.all() for name, mask in alive.items() if name != "op")
        if stage:
            order = torch.where(torch.as_tensor(lives[-1]["op"]), old["op"], -torch.inf).argsort(-1, descending=True)
            wanted = np.zeros_like(alive["op"])
            np.put_along_axis(wanted, order[..., : sizes[stage]].numpy(), values=True, axis=-1)
            np.testing.assert_array_equal(alive["op"], wanted)
            assert not (alive["op"] & ~lives[-1]["op"]).any()
        lives.append(alive)
        old = random_logits(searcher.logits(), stage)
        searcher.stage.assign(old)
        searcher.end_epoch(25 * stage + 24)
        labs.same(labs.leaves(searcher.logits()), labs.leaves(old))  # records of a stage's last epoch are its own


def test_depth_is_of_the_network_only() -> None:
    for space in ("toy", "s1", "nb201"):
        lab = at(space, 3, 4)
        whole, half, least = (lab.build(SupernetOptions(depth=depth)) for depth in (1.0, 0.5, 0.01))
        assert (whole.cells, half.cells, least.cells) == (12, 6, 3)
        assert whole.groups == half.groups
        sizes = replace(lab.size, cells=2)
        wanted = {n: v.shape for n, v in lab.space.supernet(sizes, 2, SupernetOptions()).named_parameters()}
        assert {name: value.shape for name, value in half.named_parameters()} == wanted
    with pytest.raises(ValueError, match=r"expected a depth, a share of the cells a stage, in \(0, 1\], got 1\.5"):
        lab.build(SupernetOptions(depth=1.5))


def test_the_probability_of_dropping_out() -> None:
    lab = at("nb201", 75)
    stages = pdarts.Stages(pdarts.Settings(), lab)
    for stage, p0 in enumerate((0.0, 0.4, 0.7)):
        inner = stages.searcher(stage, 25 * stage)
        for epoch in range(25):
            inner.epoch = epoch
            wanted = p0 * (25 - epoch - 1) / 25 if epoch < 10 else p0 * math.exp(-0.2 * (epoch - 10))
            assert pdarts.probability(stages.settings, inner, stage) == pytest.approx(wanted, abs=1e-12)


def mixture(lab: Lab, searcher: Progressive, logits: Logits, alive: Tensor, name: str, p: float) -> Choices:
    """Softmax over what is alive, skips times 0 or 1/(1 − p), for each cell and edge."""
    exps = logits["op"].exp() * alive
    weights = (exps / exps.sum(-1, keepdim=True))[None].repeat(3, 1, 1, 1)
    streams = lab.stream(f"skip_dropout/{name}/1", searcher.stage.steps)
    kept = torch.stack([torch.rand((3, 6, 1), generator=stream, dtype=torch.float64) >= p for stream in streams], 1)
    assert 0 < kept.sum() < kept.numel()
    factor = torch.ones(3, 2, 6, 5, dtype=torch.float64)
    factor[..., [SKIP]] = kept.double() / (1 - p)
    return Choices({"op": weights * factor})


def cross_entropy(searcher: Progressive, batch: tuple[Tensor, Tensor], choices: Choices) -> Tensor:
    scores = searcher.supernet(batch[0], choices).log_softmax(-1)
    return -scores.gather(-1, batch[1][..., None]).mean((1, 2)).sum()


@unchecked
def test_a_step_of_the_second_stage_is_the_equations() -> None:
    lab = labs.make("nb201", (3, 8))
    arch, weights = ArchSettings(lr=0.1, weight_decay=0.01, eps=1e-3), WeightSettings(lr=0.2, clip=None)
    settings = pdarts.Settings(weights, arch, warm_up=0.0, arch_clip=1e-4, batch_size=None)
    searcher = pdarts.build(settings, lab)
    old = random_logits(searcher.logits(), 5)
    searcher.stage.assign(old)
    searcher.begin_epoch(1)
    alive = old["op"] >= old["op"].sort(-1, descending=True).values[..., 2:3]
    assert alive[..., SKIP].any()
    logits = {"op": searcher.logits()["op"].clone().requires_grad_()}
    before = {name: value.detach().clone() for name, value in searcher.supernet.named_parameters()}
    (batches,) = labs.steps(lab, searcher.policy, 1)

    val = cross_entropy(searcher, batches.val[0], mixture(lab, searcher, logits, alive, "arch", 0.4))
    (gradient,) = torch.autograd.grad(val, logits["op"])
    norm = gradient.flatten(1).norm(dim=1)[:, None, None]
    assert (norm > 1e-4).all()
    gradient = 1e-4 * gradient / (norm + 1e-6) + 0.01 * logits["op"].detach()
    wanted = logits["op"].detach() - 0.1 * gradient / (gradient.abs() + 1e-3)
    wanted = torch.where(alive, wanted, logits["op"].detach())
    train = cross_entropy(searcher, batches.train[0], mixture(lab, searcher, {"op": wanted}, alive, "weights", 0.4))
    parameters = dict(searcher.supernet.named_parameters())
    found = torch.autograd.grad(train, list(parameters.values()))

    losses = searcher.step(batches)
    torch.testing.assert_close(searcher.logits()["op"], wanted, rtol=1e-9, atol=1e-12)
    assert losses.train.sum().item() == pytest.approx(train.item(), rel=1e-9)
    assert losses.val.sum().item() == pytest.approx(val.item(), rel=1e-9)
    for (name, value), gradient in zip(parameters.items(), found, strict=True):
        address = searcher.supernet.address(name)
        moved = before[name] - 0.2 * (gradient + 3e-4 * before[name])
        for replica in range(2):
            used = address is None or alive[replica, address.decision, address.option]
            target = moved if used else before[name]
            torch.testing.assert_close(value[replica].detach(), target[replica], rtol=1e-8, atol=1e-10)


def test_what_drops_out() -> None:
    """Each cell, replica and row by itself; p = 0 touches nothing; inactive options stay so in every cell."""
    lab = labs.make("s1", (1, 2, 3))
    logits = {g.name: torch.zeros(3, *g.shape, dtype=torch.float64) for g in lab.groups}
    shared = Choices({name: value.softmax(-1)[None] for name, value in logits.items()})
    columns = _skips.places(lab.groups, ["maxpool3x3", "skip_connect"])
    assert columns == {"op": [0]}
    assert _skips.drop(shared, columns, 9, lambda: lab.stream("x", 0), 0.0) is shared
    found = _skips.drop(shared, columns, 9, lambda: lab.stream("x", 0), 0.75).weights
    assert torch.equal(found["op"][..., 1:], shared.weights["op"][..., 1:].expand(9, -1, -1, -1))
    dropping = found["op"][..., 0] * 3
    assert set(dropping.flatten().tolist()) == {0.0, 4.0}
    assert 0.5 < dropping.mean() < 1.5
    assert not torch.equal(dropping[:, 0], dropping[:, 1])
    assert not torch.equal(dropping[0], dropping[1])
    masks = {name: np.arange(value[None].numel()).reshape(value[None].shape) % 2 == 0 for name, value in logits.items()}
    active = _skips.drop(Choices(shared.weights, masks), columns, 9, lambda: lab.stream("x", 0), 0.75).active
    assert active is not None
    assert all((active[name] == mask).all() and len(active[name]) == 9 for name, mask in masks.items())


def test_the_cell_has_no_none_and_as_many_skips_as_it_may() -> None:
    """Six edges with falling preference for skip; the third has no skip left, the fourth would be none."""
    op = torch.zeros(1, 6, 5, dtype=torch.float64)
    op[0, :, SKIP] = torch.tensor([3.0, 1.0, 9.0, 0.5, 4.0, 2.0])
    op[0, :, 3] = 0.1
    op[0, 3, 0] = 5.0
    logits, lab = {"op": op.repeat(2, 1, 1)}, at("nb201", 3)
    for cap, wanted in (
        (None, [1, 1, 3, 1, 1, 1]),
        (2, [1, 3, 3, 3, 1, 3]),
        (0, [3, 3, 3, 3, 3, 3]),
        (9, [1, 1, 3, 1, 1, 1]),
    ):
        stages = pdarts.Stages(pdarts.Settings(skip_cap=cap), lab)
        stages.alive.masks["op"][:, 2, SKIP] = False
        assert stages.select(logits)["op"].argmax(-1).tolist() == [wanted, wanted]
    one_hot = pdarts.Stages(pdarts.Settings(), at("s1", 3))
    assert torch.equal(one_hot.select({"op": op[..., :3].repeat(2, 1, 1)[:, :4]})["op"], logits["op"][:, :4, :3])


def test_the_weakest_skip_has_the_smallest_share_of_what_is_left_of_its_row() -> None:
    """Shares e/(e + √e) = .62 and 1/(1 + e^-.6) = .65, whatever the logits of what is not in the search."""
    op = torch.zeros(1, 6, 5, dtype=torch.float64)
    op[0, :, 3] = 3.0
    op[0, 0, [SKIP, 3]] = torch.tensor([1.0, 0.5]).double()
    op[0, 1, [SKIP, 3]] = torch.tensor([-0.2, -0.8]).double()
    logits = {"op": op.repeat(2, 1, 1)}
    stages = pdarts.Stages(pdarts.Settings(skip_cap=1), at("nb201", 3))
    stages.alive.masks["op"][:, :, [0, 2, 4]] = False
    assert stages.select(logits)["op"].argmax(-1).tolist() == [[3, SKIP, 3, 3, 3, 3]] * 2
    op[0, 1, 0] = -0.9  # in the search `none` has a share, though it is never selected: 1/(1 + e^-.6 + e^-.7) = .49
    stages.alive.masks["op"][:, 1, 0] = True
    assert stages.select({"op": op.repeat(2, 1, 1)})["op"].argmax(-1).tolist() == [[SKIP, 3, 3, 3, 3, 3]] * 2


@unchecked
def test_a_search_resumed_in_any_stage_is_the_whole_one() -> None:
    lab = at("toy", 5)
    settings = pdarts.Settings(warm_up=0.0, batch_size=None)
    whole = pdarts.build(settings, lab)
    resumed = pdarts.build(settings, lab)
    for epoch in range(5):
        labs.drive(whole, lab, epoch, epoch + 1)
        labs.drive(resumed, lab, epoch, epoch + 1)
        state = labs.through_disk(resumed.state_dict())
        labs.same(labs.leaves(whole.state_dict()), labs.leaves(state))
        resumed = pdarts.build(settings, lab)
        resumed.load_state_dict(state)
    assert whole.number == 2


def test_impossible_settings_are_refused() -> None:
    for changes, message in (
        ({"keep": (1.0, 0.5)}, "expected keep, depth and dropout of every stage"),
        ({"keep": (0.5, 0.5, 0.5)}, "expected shares that fall from 1 and stay positive in keep"),
        ({"keep": (1.0, 0.5, 0.6)}, "expected shares that fall from 1 and stay positive in keep"),
        ({"dropout": (0.0, 0.4, 1.0)}, r"expected dropout in \[0, 1\) and warm_up in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(pdarts.Settings(), **changes)
