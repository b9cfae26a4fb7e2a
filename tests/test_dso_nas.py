"""DSO-NAS: proximal steps, options that die, and what is selected among them."""

from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.spaces import get
from bench.spaces.base import discretise
from searchers import dso_nas
from searchers._optim import WeightSettings
from searchers._proximal import ProximalGradient, ScaleSettings, by_death, starting_scales
from searchers.base import Choices, Group, Logits

unchecked = pytest.mark.usefixtures("unchecked")
PLAIN = WeightSettings(lr=0.2, lr_min=0.01, momentum=0.0, weight_decay=0.0, clip=None)
SCALE = ScaleSettings(lr=0.5, gamma=0.3, momentum=0.6)
NOW = dso_nas.Settings(PLAIN, SCALE, warm_up=0.0, batch_size=None)


def scales_of(*rows: list[float]) -> Logits:
    return {"op": torch.tensor([rows], dtype=torch.float64)}


def test_without_threshold_and_momentum_it_is_projected_gradient_descent_exactly() -> None:
    stream = labs.rng(3)
    scales = {"op": torch.rand(2, 4, 5, generator=stream, dtype=torch.float64)}
    wanted = scales["op"].clone()
    optimiser = ProximalGradient(scales, ScaleSettings(gamma=0.0, momentum=0.0))
    for _ in range(5):
        gradient = 10 * torch.randn(2, 4, 5, generator=stream, dtype=torch.float64)
        optimiser.step({"op": gradient}, 0.1)
        wanted = (wanted - 0.1 * gradient).clamp_min(0.0)
        assert torch.equal(scales["op"], wanted)
    assert 0.2 < (wanted == 0).double().mean() < 0.8


def by_hand(scale: float, gradients: list[float], settings: ScaleSettings) -> list[float]:
    found, velocity = [], 0.0
    for gradient in gradients:
        x = scale - settings.lr * gradient
        z = np.sign(x) * max(abs(x) - settings.lr * settings.gamma, 0.0)
        velocity = settings.momentum * velocity + z - scale
        scale = max(0.0, z + settings.momentum * velocity)
        found.append(scale)
    return found


def test_steps_are_the_equations_and_deaths_are_remembered() -> None:
    gradients = torch.randn(6, 1, 2, 3, generator=labs.rng(5), dtype=torch.float64)
    scales = {"op": torch.ones(1, 2, 3, dtype=torch.float64)}
    optimiser, found = ProximalGradient(scales, SCALE), []
    for gradient in gradients:
        optimiser.step({"op": gradient}, SCALE.lr)
        found.append(scales["op"].flatten().tolist())
    for entry in range(6):
        wanted = by_hand(1.0, gradients.flatten(1)[:, entry].tolist(), SCALE)
        assert [row[entry] for row in found] == pytest.approx(wanted)
        falls = [i for i, (a, b) in enumerate(zip([1.0, *wanted], wanted, strict=False)) if a > 0 and b == 0]
        assert optimiser.deaths()["op"].flatten()[entry] == (falls[-1] if falls else float("inf"))
    assert any(0.0 in row for row in found)


@pytest.mark.parametrize(("gamma", "steps"), [(10.0, 1), (1.0, 4)])
def test_a_large_gamma_kills_all_scales_in_the_same_number_of_steps(gamma: float, steps: int) -> None:
    """Without gradients 1 → .81 → .548 → .229 → 0 at η = .1, γ = 1, μ = .9."""
    groups = get("s2").groups
    scales = starting_scales(groups, (labs.rng(0), labs.rng(1)), torch.zeros((), dtype=torch.float64))
    optimiser = ProximalGradient(scales, ScaleSettings(gamma=gamma))
    for step in range(steps):
        assert all((value > 0).all() for value in scales.values()), step
        optimiser.step({}, 0.1)
    assert all((value == 0).all() for value in scales.values())
    assert all((value == steps - 1).all() for value in optimiser.deaths().values())


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_step_is_the_equations(space: str) -> None:
    lab = labs.make(space, (3, 4))
    searcher = dso_nas.build(NOW, lab)
    searcher.begin_epoch(1)
    searcher.step(labs.fake_step(2, 3))  # so that the velocity is not zero
    batches, velocity = labs.fake_step(2, 4), searcher.arch.layout.split(searcher.arch.velocity.clone())
    scales = {name: value.clone() for name, value in searcher.logits().items()}
    weights = {name: value.detach().clone().requires_grad_() for name, value in searcher.parameters.items()}

    def loss(batch, params: dict[str, Tensor], mix: Logits) -> Tensor:
        choices = Choices({name: value[None] for name, value in mix.items()})
        scores = torch.func.functional_call(searcher.supernet, params, (batch.images, choices))
        return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).sum()

    found = torch.autograd.grad(loss(batches.train[0], weights, scales), list(weights.values()), allow_unused=True)
    moved = {name: value.detach() - (0.01 + 0.75 * 0.19) * (0.0 if g is None else g)
             for (name, value), g in zip(weights.items(), found, strict=True)}  # fmt: skip
    leaves = {name: value.clone().requires_grad_() for name, value in scales.items()}
    by_scale = torch.autograd.grad(
        loss(batches.val[0], moved, leaves), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    searcher.step(batches)
    for name, wanted in moved.items():
        torch.testing.assert_close(searcher.parameters[name].detach(), wanted, rtol=1e-9, atol=1e-11)
    for (name, value), gradient in zip(scales.items(), by_scale, strict=True):
        x = value - SCALE.lr * gradient
        z = x.sign() * (x.abs() - SCALE.lr * SCALE.gamma).clamp_min(0.0)
        wanted = (z + 0.6 * (0.6 * velocity[name] + z - value)).clamp_min(0.0)
        torch.testing.assert_close(searcher.logits()[name], wanted, rtol=1e-9, atol=1e-11)


@unchecked
def test_at_zero_an_option_has_no_gradient_and_after_the_epoch_it_has_left_the_graph() -> None:
    lab = labs.make("nb201")
    searcher = dso_nas.build(replace(NOW, weights=WeightSettings(), scale=ScaleSettings(gamma=0.0)), lab)
    searcher.begin_epoch(0)
    searcher._logits["op"][0, 2, 3] = 0.0  # a 3×3 convolution of one replica
    searcher._logits["op"][1, 4] = 0.0  # a whole edge of the other
    dead = [(0, "conv3x3.2"), (1, "conv3x3.4"), (1, "conv1x1.4")]
    batch = labs.fake_batch(2)
    choices = searcher.relax(searcher.logits())
    assert choices.active is None
    scores = searcher.supernet(batch.images, choices)
    loss = functional.cross_entropy(scores.mT, batch.labels)
    gradients = dict(
        zip(searcher.parameters, torch.autograd.grad(loss, list(searcher.parameters.values())), strict=True)
    )
    searcher.end_epoch(0)
    left = searcher.relax(searcher.logits())
    torch.testing.assert_close(searcher.supernet(batch.images, left), scores)
    before = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    for batches in labs.steps(lab, searcher.policy, 3):
        searcher.step(batches)
    for replica, part in dead:
        names = [name for name in searcher.parameters if part in name]
        assert len(names) == 6  # a kernel and a bias in each of three cells
        for name in names:
            assert (gradients[name][replica] == 0).all()
            assert torch.equal(searcher.parameters[name][replica], before[name][replica])
            assert not torch.equal(searcher.parameters[name][1 - replica], before[name][1 - replica])
    assert (searcher.logits()["op"][1, 4] == 0).all()
    assert (searcher.logits()["op"][0, 2, 3] == 0).all()
    assert (searcher.logits()["op"][1, 2] != 1).any()
    selected = searcher.selected()
    assert selected is not None
    assert discretise(lab.groups, {"op": selected["op"][1].numpy()})["op"][4] == (0,)


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_search_in_which_all_dies_ends_without_harm(space: str) -> None:
    """nb201 selects `none` everywhere; other rows keep what died last."""
    lab = labs.make(space)
    searcher = dso_nas.build(replace(NOW, scale=ScaleSettings(gamma=100.0)), lab)
    labs.drive(searcher, lab, 0, 2)
    assert all((value == 0).all() for value in searcher.logits().values())
    selected = searcher.selected()
    assert selected is not None
    cell = discretise(lab.groups, {name: value[0].numpy() for name, value in selected.items()})
    assert all(kept == tuple(range(group.keep)) for group in lab.groups for kept in cell[group.name])
    assert all(value.isfinite().all() for value in searcher.parameters.values())


def test_the_highest_scale_is_selected_then_what_died_last() -> None:
    groups = (Group("op", 3, ("none", "a", "b", "c")),)
    scales = scales_of([0.0, 0.0, 0.2, 0.3], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1e-6])
    deaths = scales_of([torch.inf, 5, torch.inf, 8], [torch.inf, 7, 9, 2], [torch.inf, 7, 9, torch.inf])
    scores = by_death(scales, deaths)
    assert discretise(groups, {"op": scores["op"][0].numpy()})["op"] == ((3,), (0,), (3,))
    plain = (Group("op", 3, ("a", "b", "c")),)
    assert discretise(plain, {"op": scores["op"][0, :, 1:].numpy()})["op"] == ((2,), (1,), (2,))


@unchecked
def test_in_the_first_stage_all_scales_are_one() -> None:
    lab = labs.make("nb201")
    searcher = dso_nas.build(replace(NOW, warm_up=0.3), lab)
    losses = labs.drive(searcher, lab, 0, 1)
    assert (searcher.logits()["op"][..., 1:] == 1).all()
    assert (searcher.logits()["op"][..., 0] == 0).all()
    assert all(each.val is None for each in losses)
    labs.drive(searcher, lab, 1, 2)
    assert (searcher.logits()["op"][..., 1:] != 1).all()
    assert (searcher.logits()["op"][..., 0] == 0).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected lr above 0, gamma of at least 0 and momentum in"):
        ScaleSettings(momentum=1.0)
    with pytest.raises(ValueError, match=r"expected a warm_up in \[0, 1\], got -1"):
        dso_nas.build(replace(NOW, warm_up=-1.0), labs.make())
