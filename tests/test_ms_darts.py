"""MS-DARTS and MS-null: the mean shift written out, every setting, the limit cases, and probes that leave nothing."""

import dataclasses
import math
from typing import Any

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from searchers import _perturb, darts, ms_darts, ms_null, sdarts_rs
from searchers._bilevel import Bilevel
from searchers._perturb import Mixture, Ramp
from searchers.base import Batch, Choices, StepBatches
from searchers.entry import Method

SEEDS = (4, 9)
Arrays = dict[str, np.ndarray]


def begun(method: Method, settings: object, space: str = "toy", seeds: tuple[int, ...] = SEEDS) -> tuple[Bilevel, Lab]:
    """A searcher in epoch 1 of 3 whose logits are far from equal."""
    lab = labs.make(space, seeds)
    searcher = method.build(settings, lab)
    assert isinstance(searcher, Bilevel)
    searcher.begin_epoch(1)
    for name, value in searcher._logits.items():
        for replica, stream in enumerate(lab.stream(f"test/{name}", 0)):
            value[replica] = torch.randn(value.shape[1:], generator=stream, dtype=torch.float64)
    return searcher, lab


def perturbed(searcher: Bilevel, batches: StepBatches) -> Mixture:
    """What the weight step sees."""
    assert searcher.recipe.weight_choices is not None
    return searcher.recipe.weight_choices(searcher, searcher.logits(), batches).weights


def batches_of(lab: Lab, searcher: Bilevel, count: int = 1) -> list[StepBatches]:
    return list(labs.steps(lab, searcher.policy, count))


def as_mixture(points: list[Arrays]) -> dict[str, Tensor]:
    """One point a replica, as the supernet takes them."""
    return {name: torch.stack([torch.as_tensor(point[name]) for point in points])[None] for name in points[0]}


def losses_of(searcher: Bilevel, points: list[Arrays], batch: Batch) -> np.ndarray:
    with torch.no_grad():
        scores = searcher.supernet(batch.images, Choices(as_mixture(points)))
        return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).numpy()


def clipped(point: Arrays) -> Arrays:
    found = {}
    for name, rows in point.items():
        kept = np.clip(rows, 0, 1)
        for row, before in zip(kept, rows, strict=True):
            if row.sum() == 0:
                row[before.argmax()] = 1
        found[name] = kept / kept.sum(1, keepdims=True)
    return found


def noise(settings: ms_darts.Settings, shapes: dict[str, tuple[int, int]], epsilon: float, rng: Any) -> Arrays:
    def many(draw: Any) -> Arrays:
        return {
            name: draw((1, *shape), generator=rng, dtype=torch.float64)[0].numpy() for name, shape in shapes.items()
        }

    if settings.region == "box":
        return {name: epsilon * (2 * value - 1) for name, value in many(torch.rand).items()}
    normal, uniform = many(torch.randn), many(torch.rand)
    vector = np.concatenate([value.ravel() for value in normal.values()])
    shares = {name: value[0, 0] for name, value in uniform.items()}
    if settings.region == "joint_ball":
        share = next(iter(shares.values())) ** (1 / vector.size)
        return {name: epsilon * share * value / np.linalg.norm(vector) for name, value in normal.items()}
    return {n: epsilon * shares[n] ** (1 / v.size) * v / np.linalg.norm(v) for n, v in normal.items()}


def oracle(searcher: Bilevel, lab: Lab, settings: ms_darts.Settings, batch: Batch) -> list[Arrays]:
    """The mean shift of every replica, sample after sample, in epoch 1 of 3 and step 0."""
    epsilon = settings.radius.end / 10 + 0.9 * settings.radius.end / 3
    centres = [
        {name: np.asarray(value[r].softmax(-1)) for name, value in searcher.logits().items()}
        for r in range(lab.replicas)
    ]
    shapes = {name: value.shape for name, value in centres[0].items()}
    streams = lab.stream("perturbation", 0)
    for _ in range(settings.rounds):
        samples: list[list[Arrays]] = []
        for _ in range(settings.samples):
            moves = [noise(settings, shapes, epsilon, stream) for stream in streams]
            samples.append([{n: c[n] + u[n] for n in c} for c, u in zip(centres, moves, strict=True)])
        projected = [[clipped(point) for point in points] for points in samples]
        losses = np.stack([losses_of(searcher, points, batch) for points in projected])
        for r, centre in enumerate(centres):
            omega = np.exp(losses[:, r]) if settings.omega_rule == "softmax" else losses[:, r]
            squares = [{n: float(((p[r][n] - centre[n]) ** 2).sum()) for n in centre} for p in projected]
            new = {}
            for name in centre:
                d2 = np.array([sum(s.values()) if settings.joint else s[name] for s in squares])
                weight = omega * np.exp(-0.5 * d2 / settings.bandwidth**2)
                new[name] = sum(w * points[r][name] for w, points in zip(weight, samples, strict=True)) / weight.sum()
            centres[r] = new
    return [clipped(centre) for centre in centres] if settings.projected else centres


VARIANTS = {
    "code": ms_darts.Settings(),
    "narrow": ms_darts.Settings(bandwidth=0.2, samples=4, rounds=3),
    "linear": ms_darts.Settings(bandwidth=0.2, omega_rule="linear"),
    "joint": ms_darts.Settings(bandwidth=0.2, joint=True),
    "ball": ms_darts.Settings(region="ball"),
    "val": ms_darts.Settings(omega_data="val"),
    "projected": ms_darts.Settings(projected=True),
    "paper": ms_darts.PAPER,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", VARIANTS)
def test_the_mean_shift_is_the_equations(name: str) -> None:
    settings = VARIANTS[name]
    searcher, lab = begun(ms_darts.METHOD, settings)
    (batches,) = batches_of(lab, searcher)
    batch = batches.val[1] if settings.omega_data == "val" else batches.train[0]
    wanted = as_mixture(oracle(searcher, lab, settings, batch))
    for group, value in perturbed(searcher, batches).items():
        torch.testing.assert_close(value, wanted[group], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_every_setting_matters() -> None:
    found = {}
    for name, settings in VARIANTS.items():
        searcher, lab = begun(ms_darts.METHOD, dataclasses.replace(settings, samples=3, rounds=2))
        (batches,) = batches_of(lab, searcher)
        found[name] = perturbed(searcher, batches)["op"]
    names = list(found)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert (found[one] - found[other]).abs().max() > 1e-7, (one, other)


def test_the_weight_step_is_sgd_at_the_shifted_mixture() -> None:
    settings = ms_darts.Settings(bandwidth=0.2)
    searcher, lab = begun(ms_darts.METHOD, settings)
    start = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    (batches,) = batches_of(lab, searcher)
    losses = searcher.step(batches)
    logits, step = searcher.logits(), searcher.parameters
    fresh, _ = begun(ms_darts.METHOD, settings)
    for name, value in logits.items():
        fresh._logits[name].copy_(value)  # the weight step sees the logits after the architecture step
    points = as_mixture(oracle(fresh, lab, settings, batches.train[0]))
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    scores = torch.func.functional_call(fresh.supernet, leaves, (batches.train[0].images, Choices(points)))
    own = functional.cross_entropy(scores.mT, batches.train[0].labels, reduction="none").mean(1)
    torch.testing.assert_close(losses.train, own.detach(), rtol=1e-9, atol=0)
    gradients = torch.autograd.grad(own.sum(), list(leaves.values()))
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    for (name, value), gradient in zip(start.items(), gradients, strict=True):
        factor = torch.clamp(5.0 / (norms + 1e-6), max=1.0).reshape(-1, *[1] * (value.dim() - 1))
        wanted = value - searcher.lr * (factor * gradient + 3e-4 * value)
        torch.testing.assert_close(step[name].detach(), wanted, rtol=1e-8, atol=1e-11)


def searched(method: Method, settings: object, space: str = "toy") -> dict[str, Any]:
    lab = labs.make(space, SEEDS)
    searcher = method.build(settings, lab)
    searcher.begin_epoch(1)
    return labs.outcome(searcher, [searcher.step(batches) for batches in labs.steps(lab, searcher.policy, 3)])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
@pytest.mark.parametrize("projected", [False, True])
def test_no_rounds_is_darts_to_the_bit(space: str, projected: bool) -> None:
    reference = searched(darts.METHOD, darts.Settings(), space)
    labs.same(reference, searched(ms_darts.METHOD, ms_darts.Settings(rounds=0, projected=projected), space))
    labs.same(reference, searched(ms_null.METHOD, ms_null.Settings(rounds=0, projected=projected), space))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", [ms_darts.METHOD, ms_null.METHOD], ids=lambda method: method.name)
def test_defaults_differ_from_darts_after_three_steps(method: Method) -> None:
    found, reference = searched(method, method.settings()), searched(darts.METHOD, darts.Settings())
    name = "/weights/stem.conv.weight"
    assert (found[name] - reference[name]).abs().max() > 1e-4


@pytest.mark.parametrize("settings", [ms_darts.Settings(), ms_darts.Settings(bandwidth=0.01), ms_null.Settings()])
def test_a_radius_of_zero_changes_nothing(settings: Any) -> None:
    method = ms_null.METHOD if isinstance(settings, ms_null.Settings) else ms_darts.METHOD
    searcher, lab = begun(method, dataclasses.replace(settings, radius=Ramp(0.0, 0.0)))
    (batches,) = batches_of(lab, searcher)
    for name, value in perturbed(searcher, batches).items():
        torch.testing.assert_close(value, searcher.logits()[name].softmax(-1)[None], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_one_sample_is_taken_unprojected_for_any_bandwidth_and_omega() -> None:
    for rounds in (1, 3):
        plain, lab = begun(ms_null.METHOD, ms_null.Settings(samples=1, rounds=rounds))
        (batches,) = batches_of(lab, plain)
        wanted = dict(perturbed(plain, batches))
        for change in ({"bandwidth": 1e-3}, {"bandwidth": 50.0}, {"omega_rule": "linear"}, {"joint": True}):
            searcher, _ = begun(ms_darts.METHOD, ms_darts.Settings(samples=1, rounds=rounds, **change))
            labs.same(labs.leaves(dict(perturbed(searcher, batches))), labs.leaves(wanted))
        if rounds == 1:
            (noise,) = _perturb.noise(plain, plain.relax(plain.logits()).weights, 0.1)
            for name, value in wanted.items():
                assert torch.equal(value, plain.logits()[name].softmax(-1)[None] + noise[name])


@pytest.mark.usefixtures("unchecked")
def test_one_projected_sample_in_one_round_is_random_smoothing_to_the_bit() -> None:
    radius = Ramp(0.05, 0.4)
    wanted = searched(sdarts_rs.METHOD, sdarts_rs.Settings(radius=radius))
    settings = {"radius": radius, "samples": 1, "rounds": 1, "projected": True}
    labs.same(wanted, searched(ms_darts.METHOD, ms_darts.Settings(**settings)))
    labs.same(wanted, searched(ms_null.METHOD, ms_null.Settings(**settings)))


@pytest.mark.usefixtures("unchecked")
def test_a_wide_kernel_leaves_the_means_by_omega_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ms_darts.Settings(bandwidth=1e300, rounds=1)
    searcher, lab = begun(ms_darts.METHOD, settings)
    (batches,) = batches_of(lab, searcher)
    clean = searcher.relax(searcher.logits()).weights
    streams = lab.stream("perturbation", 0)
    samples = [_perturb.add(clean, _perturb.drawn_noise(clean, lambda: streams, 0.1)[0]) for _ in range(3)]
    feasible = [_perturb.project(sample) for sample in samples]
    omega = torch.stack([_perturb.probe(searcher, sample, batches.train[0]) for sample in feasible]).exp()
    for name, value in perturbed(searcher, batches).items():
        parts = [weight[None, :, None, None] * sample[name] for weight, sample in zip(omega, samples, strict=True)]
        wanted = sum(parts) / omega.sum(0)[None, :, None, None]
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    monkeypatch.setattr(_perturb, "probe", lambda *_: torch.full((2,), 1.7, dtype=torch.float64))
    plain, _ = begun(ms_null.METHOD, ms_null.Settings(rounds=1))
    labs.same(labs.leaves(dict(perturbed(searcher, batches))), labs.leaves(dict(perturbed(plain, batches))))


def test_a_constant_on_all_losses_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher, lab = begun(ms_darts.METHOD, ms_darts.Settings())
    (batches,) = batches_of(lab, searcher)
    probe, found = _perturb.probe, []
    for constant in (0.0, 40.0, -900.0):
        monkeypatch.setattr(_perturb, "probe", lambda *given, more=constant: probe(*given) + more)
        found.append(perturbed(searcher, batches))
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["softmax", "linear"])
def test_a_worse_sample_has_the_larger_weight(rule: str) -> None:
    losses = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    shares = ms_darts.OMEGA_RULES[rule](losses).softmax(0)
    weights = np.exp(losses.numpy()) if rule == "softmax" else losses.numpy()
    np.testing.assert_allclose(shares.numpy(), weights / weights.sum(), rtol=1e-12)
    zero = ms_darts.OMEGA_RULES[rule](torch.zeros(3)).softmax(0)
    assert zero.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bandwidth", [0.01, 1e-30])
def test_a_narrow_bandwidth_gives_numbers(bandwidth: float, dtype: torch.dtype) -> None:
    lab = labs.make("toy", SEEDS, dtype)
    searcher = ms_darts.build(ms_darts.Settings(bandwidth=bandwidth, radius=Ramp(3.0, 3.0)), lab)
    searcher.begin_epoch(2)
    losses = [searcher.step(batches) for batches in labs.steps(lab, searcher.policy, 2)]
    for value in labs.outcome(searcher, losses).values():
        assert value.isfinite().all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("settings", [ms_darts.Settings(), ms_darts.PAPER], ids=["code", "paper"])
def test_probes_leave_everything_untouched(settings: ms_darts.Settings) -> None:
    searcher, lab = begun(ms_darts.METHOD, settings)
    first, second = batches_of(lab, searcher, 2)
    searcher.step(first)
    state, inputs, logits = labs.leaves(searcher.state_dict()), labs.leaves(second), searcher.logits()
    copies, randomness = labs.leaves(logits), torch.get_rng_state()
    assert searcher.recipe.weight_choices is not None
    one, two = (searcher.recipe.weight_choices(searcher, logits, second) for _ in range(2))
    labs.same(labs.leaves(dict(one.weights)), labs.leaves(dict(two.weights)))
    labs.same(labs.leaves(searcher.state_dict()), state)
    labs.same(labs.leaves(second), inputs)
    labs.same(labs.leaves(logits), copies)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert not any(value.requires_grad for value in one.weights.values())
    assert all(value.grad is None for value in searcher.parameters.values())
    assert not list(searcher.supernet.buffers())  # no running statistics that a forward pass could move


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", [ms_darts.METHOD, ms_null.METHOD], ids=lambda method: method.name)
def test_the_logits_after_a_step_are_those_of_darts_to_the_bit(method: Method) -> None:
    """In the first step both have the same weights when the logits move; the weight step leaves the logits alone."""
    found = []
    for each in (darts.METHOD, method):
        searcher, lab = begun(each, each.settings())
        (batches,) = batches_of(lab, searcher)
        losses = searcher.step(batches)
        found.append(labs.leaves({"logits": searcher.logits(), "arch": searcher.arch.state_dict(), "val": losses.val}))
    labs.same(*found)


@pytest.mark.usefixtures("unchecked")
def test_validation_losses_are_of_a_batch_that_the_architecture_step_did_not_see() -> None:
    assert ms_darts.METHOD.policy(ms_darts.Settings()).val_batches == 1
    settings = ms_darts.Settings(omega_data="val")
    assert ms_darts.METHOD.policy(settings).val_batches == 2
    searcher, lab = begun(ms_darts.METHOD, settings)
    (batches,) = batches_of(lab, searcher)
    assert len(batches.val) == 2
    other = labs.fake_batch(2, seed=77)
    before = perturbed(searcher, batches)
    for changed, moves in (
        (StepBatches((other,), batches.val), False),
        (StepBatches(batches.train, (other, batches.val[1])), False),
        (StepBatches(batches.train, (batches.val[0], other)), True),
    ):
        after = perturbed(searcher, changed)
        assert torch.equal(before["op"], after["op"]) != moves


@pytest.mark.usefixtures("unchecked")
def test_the_paper_variant_stacked_is_alone() -> None:
    found = []
    for seeds in ((7, 3), (7,), (3,)):
        lab = labs.make("toy", seeds)
        searcher = ms_darts.build(ms_darts.PAPER, lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)))
    for replica, alone in enumerate(found[1:]):
        labs.close(labs.replicas(found[0], [replica]), alone)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth": 0.0}, "expected a bandwidth of at least 1e-30, got 0.0"),
        ({"bandwidth": math.nan}, "expected a bandwidth of at least 1e-30, got nan"),
        ({"samples": 0}, "expected at least 1 sample, got 0"),
        ({"rounds": -1}, "expected at least 0 rounds, got -1"),
        ({"region": "cube"}, "expected a region out of .*, got 'cube'"),
        ({"omega_data": "test"}, "expected omega_data train or val, got 'test'"),
        ({"omega_rule": "equal"}, "expected omega_rule out of .*, got 'equal'"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ms_darts.Settings(**change)
