"""GDAS: sampling, its straight-through gradient, and a step against the equations."""

import dataclasses
import math

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.presets import PRESETS
from bench.spec import replace_settings
from searchers import darts, gdas
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Choices, ForwardInputs, StepBatches
from searchers.registry import METHODS

unchecked = pytest.mark.usefixtures("unchecked")
PLAIN = WeightSettings(lr=0.2, lr_min=0.01, momentum=0.0, weight_decay=0.0, clip=None)
HARD = {"op"}


def logits_of(*rows: list[float], replicas: int = 1) -> dict[str, Tensor]:
    return {"op": torch.tensor(rows, dtype=torch.float64).expand(replicas, -1, -1).clone()}


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_an_operation_is_sampled_as_often_as_its_softmax_says(tau: float) -> None:
    """χ² with 3 degrees of freedom, 20,000 draws, threshold of 0.1 %; and so for every temperature."""
    draws, logits = 20_000, logits_of([0.5, -1.0, 1.5, 0.0])
    noise = gdas.gumbel(logits, (labs.rng(3),), draws)
    active = gdas.sample(logits, noise, tau, HARD).active
    assert active is not None
    counts = active["op"][:, 0, 0].sum(0)
    expected = draws * logits["op"][0, 0].softmax(-1).numpy()
    assert counts.sum() == draws
    assert ((counts - expected) ** 2 / expected).sum() < 16.27


def test_noise_has_the_gumbel_moments() -> None:
    noise = gdas.gumbel(logits_of([0.0] * 5), (labs.rng(1),), 20_000)["op"]
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)


def test_weights_are_one_hot_forward_and_softmax_backward() -> None:
    logits = {"op": torch.randn(2, 3, 4, generator=labs.rng(2), dtype=torch.float64).requires_grad_()}
    noise, tau = gdas.gumbel(logits, (labs.rng(5), labs.rng(6)), 3), 0.7
    choices = gdas.sample(logits, noise, tau, HARD)
    assert choices.active is not None
    weights = choices.weights["op"]
    picked = (logits["op"].detach() + noise["op"]).argmax(-1)
    assert torch.equal(weights.detach(), functional.one_hot(picked, 4).double())  # exactly: the weights add up to 1
    assert (choices.active["op"] == (weights.detach().numpy() == 1)).all()
    scaled = ((logits["op"] + noise["op"]) / tau).exp()
    soft = scaled / scaled.sum(-1, keepdim=True)
    for entry in range(weights.numel()):
        found, wanted = (torch.autograd.grad(v.flatten()[entry], logits["op"], retain_graph=True)[0]
                         for v in (weights, soft))  # fmt: skip
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_low_temperatures_make_soft_rows_one_hot_and_high_ones_uniform() -> None:
    logits = logits_of([0.3, -0.2, 0.1])
    noise = gdas.gumbel(logits, (labs.rng(8),), 5)
    cold, hot = (gdas.sample(logits, noise, tau, set()) for tau in (1e-4, 1e6))
    picked = (logits["op"] + noise["op"]).argmax(-1)
    torch.testing.assert_close(cold.weights["op"], functional.one_hot(picked, 3).double())
    torch.testing.assert_close(
        hot.weights["op"], torch.full((5, 1, 1, 3), 1 / 3, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert hot.active is not None
    assert hot.active["op"].all()


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_forward_pass_is_the_sampled_cell_with_the_same_weights(space: str) -> None:
    lab = labs.make(space)
    settings = gdas.NATS if space == "nb201" else gdas.ONE_SHOT
    searcher = gdas.build(settings, lab)
    assert searcher.recipe.weight_choices is not None
    batch = labs.fake_batch(2)
    choices = searcher.recipe.weight_choices(searcher, searcher.logits(), StepBatches((batch,), (batch,)))
    assert choices.active is not None
    assert choices.weights["op"].shape[0] == (1 if space == "nb201" else searcher.supernet.cells)
    assert (choices.active["op"].sum(-1) == 1).all()
    rows = choices.weights["op"][:, 0]  # cells, decisions, options: other cells have other noise
    assert space == "nb201" or not torch.equal(rows[0], rows[1])
    hot = {name: torch.as_tensor(active).double() for name, active in choices.active.items() if name == "op"}
    plain = Choices({**choices.weights, **hot}, choices.active)
    every = Choices({**choices.weights, **hot})  # the same, with zero weights computed
    shifted = ForwardInputs(shift=gdas.unsampled(choices))
    found = searcher.supernet(batch.images, choices)
    assert torch.equal(found, searcher.supernet(batch.images, plain))
    assert torch.equal(found, searcher.supernet(batch.images, choices, shifted))
    torch.testing.assert_close(found, searcher.supernet(batch.images, every))


def reference_gradient(
    searcher: gdas.Bilevel, batches: StepBatches, noise: gdas.Noise, tau: float, *, maps: bool
) -> dict[str, Tensor]:
    """∂L/∂α, from the derivatives by free weights and shifts, times those of the softmax written out by hand."""
    logits = searcher.logits()
    soft = {}
    for name, value in logits.items():
        scaled = ((value + noise[name]) / tau).exp()
        soft[name] = scaled / scaled.sum(-1, keepdim=True)
    picked = {name: functional.one_hot((value + noise[name]).argmax(-1), value.shape[-1]).double()
              for name, value in logits.items()}  # fmt: skip
    weights = {n: (picked[n] if n == "op" else soft[n]).clone().requires_grad_() for n in logits}
    active = {n: (picked[n].numpy() > 0) if n == "op" else np.ones(soft[n].shape, bool) for n in logits}
    shift = torch.zeros_like(weights["op"][..., 0]).requires_grad_()
    batch = batches.val[0]
    scores = searcher.supernet(batch.images, Choices(weights, active), ForwardInputs(shift={"op": shift}))
    loss = functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).sum()
    *found, by_shift = torch.autograd.grad(loss, [*weights.values(), shift], allow_unused=True, materialize_grads=True)
    by_weight = dict(zip(weights, found, strict=True))
    by_weight["op"] = by_weight["op"] * picked["op"]
    if maps:
        by_weight["op"] = by_weight["op"] + by_shift[..., None] * (1 - picked["op"])
    gradient = {}
    for name, y in soft.items():  # ∂y_i/∂α_j = y_i (δ_ij − y_j)/τ
        centred = by_weight[name] - (by_weight[name] * y).sum(-1, keepdim=True)
        gradient[name] = (y * centred / tau).sum(0)
    return gradient


@unchecked
@pytest.mark.parametrize("space", ["s2", "nb201"])
@pytest.mark.parametrize("settings", [gdas.ONE_SHOT, gdas.NATS])
def test_a_step_is_the_equations(space: str, settings: gdas.Settings) -> None:
    settings = dataclasses.replace(settings, weights=PLAIN, arch=ArchSettings(weight_decay=0.0))
    lab = labs.make(space, (3, 4))
    searcher = gdas.build(settings, lab)
    searcher.begin_epoch(1)
    tau = gdas.temperature(settings, 1, labs.EPOCHS)
    batches = labs.fake_step(2, 3)
    cells = searcher.supernet.cells if settings.per_cell else 1
    noise = gdas.gumbel(searcher.logits(), lab.stream("gumbel/arch", 0), cells)
    wanted = reference_gradient(searcher, batches, noise, tau, maps=settings.gradient == "constant_map")
    assert searcher.recipe.arch_gradient is not None
    before = labs.leaves(searcher.state_dict())
    found = searcher.recipe.arch_gradient(searcher, batches)
    labs.same(labs.leaves(searcher.state_dict()), before)
    labs.close(labs.leaves(found.gradient), labs.leaves(wanted), 1e-10)
    assert wanted["op"].abs().max() > 1e-6

    weights = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    logits = searcher.logits()
    start = {name: value.clone() for name, value in logits.items()}
    searcher.step(batches)
    for name, value in searcher.logits().items():  # Adam's first step is the sign, but for eps
        moved = -3e-4 * wanted[name] / (wanted[name].abs() + 1e-8)
        torch.testing.assert_close(value - start[name], moved, rtol=1e-6, atol=1e-10)
    noise = gdas.gumbel(searcher.logits(), lab.stream("gumbel/weights", 0), cells)
    sampled = gdas.sample(searcher.logits(), noise, tau, HARD)
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    scores = torch.func.functional_call(searcher.supernet, leaves, (batches.train[0].images, sampled))
    loss = functional.cross_entropy(scores.mT, batches.train[0].labels, reduction="none").mean(1).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    lr = 0.01 + 0.75 * 0.19  # the second epoch of three
    for (name, value), gradient in zip(leaves.items(), gradients, strict=True):
        torch.testing.assert_close(searcher.parameters[name].detach(), (value - lr * gradient).detach())


@unchecked
def test_the_gradient_is_clipped_for_each_replica() -> None:
    lab, batches = labs.make("s1", (3, 4)), labs.fake_step(2, 3)
    norms = []
    for bound in (None, 1e-3):
        searcher = gdas.build(dataclasses.replace(gdas.ONE_SHOT, arch_clip=bound), lab)
        assert searcher.recipe.arch_gradient is not None
        gradient = searcher.recipe.arch_gradient(searcher, batches).gradient
        norms.append(torch.cat([value.flatten(1) for value in gradient.values()], 1).norm(dim=1))
    assert (norms[0] > 2e-3).all()
    assert (norms[1] <= 1e-3).all()
    torch.testing.assert_close(norms[1], torch.full_like(norms[1], 1e-3), rtol=2e-3, atol=0)


@unchecked
def test_a_cell_without_a_path_has_no_gradient() -> None:
    lab = labs.make("nb201")
    searcher = gdas.build(dataclasses.replace(gdas.NATS, gradient="selected_only"), lab)
    searcher._logits["op"][..., 0] = 1e6  # always no operation
    assert searcher.recipe.arch_gradient is not None
    found = searcher.recipe.arch_gradient(searcher, labs.fake_step(2, 3))
    assert (found.gradient["op"] == 0).all()
    assert found.loss.isfinite().all()
    losses = searcher.step(labs.fake_step(2, 3))
    assert losses.train.isfinite().all()


def test_temperatures() -> None:
    one_shot = [gdas.temperature(gdas.ONE_SHOT, epoch, 100) for epoch in range(100)]
    nats = [gdas.temperature(gdas.NATS, epoch, 100) for epoch in range(100)]
    assert (one_shot[0], nats[0]) == (10.0, 10.0)
    assert one_shot[-1] == pytest.approx(1.09)
    assert nats[-1] == pytest.approx(0.1)
    for values in (one_shot, nats):
        assert np.diff(values) == pytest.approx(values[1] - values[0])
    assert gdas.temperature(gdas.NATS, 0, 1) == 10.0
    with pytest.raises(ValueError, match=r"expected 0 < tau_min <= tau, got 2\.0 and 1\.0"):
        gdas.build(gdas.Settings(tau=1.0, tau_min=2.0), labs.make())


@pytest.mark.parametrize("benchmark", PRESETS)
def test_presets_of_the_benchmarks(benchmark: str) -> None:
    changes = {space: PRESETS[benchmark](space).settings for space in ("s1", "nb201")}
    assert METHODS["gdas"].settings() == gdas.ONE_SHOT
    assert "gdas" not in changes["s1"]
    assert replace_settings(gdas.Settings(), changes["nb201"]["gdas"]) == gdas.NATS


@unchecked
def test_it_differs_from_darts_after_three_steps() -> None:
    found = []
    for method in (darts, gdas):
        lab = labs.make()
        searcher = method.build(method.Settings(), lab)
        labs.drive(searcher, lab, 0, 1)
        found.append(searcher.logits()["op"])
    assert (found[0] - found[1]).abs().max() > 1e-5
