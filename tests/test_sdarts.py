"""SmoothDARTS: one step against its equations, its limit cases, and attacks that leave nothing behind."""

from collections.abc import Callable

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from searchers import _perturb, darts, sdarts_adv, sdarts_rs, sdarts_rs_matched
from searchers._bilevel import Bilevel
from searchers._perturb import Mixture, Ramp
from searchers.base import Batch, Choices, StepBatches
from searchers.entry import Method

METHODS = [sdarts_rs.METHOD, sdarts_adv.METHOD]
SEEDS = (4, 9)
STILL = Ramp(0.0, 0.0)


def begun(method: Method, settings: object, space: str = "toy", epoch: int = 1) -> tuple[Bilevel, Lab]:
    lab = labs.make(space, SEEDS)
    searcher = method.build(settings, lab)
    assert isinstance(searcher, Bilevel)
    searcher.begin_epoch(epoch)
    return searcher, lab


def batches_of(lab: Lab, searcher: Bilevel, count: int) -> list[StepBatches]:
    return list(labs.steps(lab, searcher.policy, count))


def losses_of(searcher: Bilevel, weights: dict[str, Tensor], mixture: Mixture, batch: Batch) -> Tensor:
    """Of each replica, without the package's helpers."""
    scores = torch.func.functional_call(searcher.supernet, weights, (batch.images, Choices(mixture)))
    return functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1)


def weights_of(searcher: Bilevel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in searcher.parameters.items()}


def drawn(lab: Lab, like: Mixture, radius: float, step: int = 0) -> dict[str, Tensor]:
    """One draw of box noise, written out."""
    found = {name: torch.empty_like(value) for name, value in like.items()}
    for replica, stream in enumerate(lab.stream("perturbation", step)):
        for name, value in like.items():
            own = torch.rand((len(value), *value.shape[2:]), generator=stream, dtype=torch.float64)
            found[name][:, replica] = radius * (2 * own - 1)
    return found


def on_simplex(mixture: Mixture) -> dict[str, Tensor]:
    found = {}
    for name, value in mixture.items():
        rows = value.clamp(0, 1)
        assert (rows.sum(-1) > 0).all()
        found[name] = rows / rows.sum(-1, keepdim=True)
    return found


def check_weight_step(searcher: Bilevel, start: dict[str, Tensor], mixture: Mixture, batch: Batch) -> None:
    """First SGD step from `start`: clipped gradient at the mixture, weight decay, no momentum yet."""
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    losses = losses_of(searcher, leaves, {n: v.detach() for n, v in mixture.items()}, batch)
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    for (name, value), gradient in zip(start.items(), gradients, strict=True):
        factor = torch.clamp(5.0 / (norms + 1e-6), max=1.0).reshape(-1, *[1] * (value.dim() - 1))
        wanted = value - searcher.lr * (factor * gradient + 3e-4 * value)
        torch.testing.assert_close(searcher.parameters[name].detach(), wanted, rtol=1e-9, atol=1e-12)


def stepped(method: Method, settings: object) -> tuple[Bilevel, Lab, dict[str, Tensor], StepBatches]:
    """A searcher after its first step, in epoch 1 of 3, the weights before it, and its batches."""
    searcher, lab = begun(method, settings)
    start = weights_of(searcher)
    (batches,) = batches_of(lab, searcher, 1)
    searcher.step(batches)
    return searcher, lab, start, batches


def softmax(searcher: Bilevel) -> dict[str, Tensor]:
    return {name: value.softmax(-1)[None] for name, value in searcher.logits().items()}


def test_a_step_of_random_smoothing_is_the_equations() -> None:
    searcher, lab, start, batches = stepped(sdarts_rs.METHOD, sdarts_rs.Settings())
    clean = softmax(searcher)  # the weight step comes after the architecture step
    noise = drawn(lab, clean, 0.03 + 0.27 / 3)
    mixture = on_simplex({name: value + noise[name] for name, value in clean.items()})
    check_weight_step(searcher, start, mixture, batches.train[0])


@pytest.mark.usefixtures("unchecked")
def test_a_step_of_the_attack_is_the_equations() -> None:
    settings = sdarts_adv.Settings(radius=Ramp(0.0, 0.9))  # 0.3 in epoch 1 of 3
    searcher, lab, start, batches = stepped(sdarts_adv.METHOD, settings)
    clean, train = softmax(searcher), batches.train[0]
    noise = drawn(lab, clean, 0.3)
    point = on_simplex({name: value + noise[name] for name, value in clean.items()})
    for _ in range(7):
        leaves = {name: value.clone().requires_grad_() for name, value in point.items()}
        gradients = torch.autograd.grad(losses_of(searcher, start, leaves, train).sum(), list(leaves.values()))
        moved = {}
        for (name, value), gradient in zip(point.items(), gradients, strict=True):
            ahead = value + (2 * 0.3 / 7) * gradient.sign()
            moved[name] = torch.minimum(torch.maximum(ahead, clean[name] - 0.3), clean[name] + 0.3)
        point = on_simplex(moved)
    higher = losses_of(searcher, start, point, train) >= losses_of(searcher, start, clean, train)
    worst = {
        n: torch.stack([(v if up else clean[n])[:, r] for r, up in enumerate(higher)], 1) for n, v in point.items()
    }
    check_weight_step(searcher, start, worst, train)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (sdarts_rs.METHOD, sdarts_rs.Settings(radius=STILL)),
        (sdarts_adv.METHOD, sdarts_adv.Settings(radius=STILL)),
        (sdarts_rs_matched.METHOD, sdarts_rs_matched.Settings(radius=STILL)),
        (sdarts_rs_matched.METHOD, sdarts_rs_matched.Settings(radius=STILL, projected=True)),
        (sdarts_rs_matched.METHOD, sdarts_rs_matched.Settings(rounds=0, projected=True)),
    ],
)
def test_a_radius_of_zero_is_darts_to_the_bit(method: Method, settings: object, space: str) -> None:
    found = []
    for each, chosen in ((darts.METHOD, darts.Settings()), (method, settings)):
        searcher, lab = begun(each, chosen, space)
        found.append(
            labs.outcome(
                searcher, [searcher.step(batches) for batches in batches_of(lab, searcher, 2 if space == "toy" else 1)]
            )
        )
    labs.same(*found)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_defaults_differ_from_darts_after_three_steps(method: Method) -> None:
    found = []
    for each in (darts.METHOD, method):
        searcher, lab = begun(each, each.settings(), epoch=0)
        for batches in batches_of(lab, searcher, 3):
            searcher.step(batches)
        found.append(torch.cat([value.detach().flatten() for value in searcher.parameters.values()]))
    assert (found[0] - found[1]).abs().max() > 1e-4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("radius", [0.03, 0.3, 2.0])
def test_an_attack_never_lowers_the_loss_and_falls_back_by_replica(radius: float) -> None:
    searcher, lab = begun(sdarts_adv.METHOD, sdarts_adv.Settings())
    for batches in batches_of(lab, searcher, 2):
        searcher.step(batches)
        clean, train = softmax(searcher), batches.train[0]
        before = losses_of(searcher, weights_of(searcher), clean, train)
        for steps in (1, 7):
            worst = sdarts_adv.attack(searcher, clean, train, radius, steps)
            assert (losses_of(searcher, weights_of(searcher), worst, train) >= before).all()


@pytest.mark.usefixtures("unchecked")
def test_a_replica_whose_loss_falls_keeps_its_mixture_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the slope turned round, the attack lowers the loss; the other replica's attack is kept."""
    searcher, lab = begun(sdarts_adv.METHOD, sdarts_adv.Settings())
    (batches,) = batches_of(lab, searcher, 1)
    slope = sdarts_adv.gradient
    side = torch.tensor([-1.0, 1.0])[None, :, None, None]
    turned: Callable[..., Mixture] = lambda *given: {name: side * value for name, value in slope(*given).items()}  # noqa: E731
    monkeypatch.setattr(sdarts_adv, "gradient", turned)
    clean = softmax(searcher)
    found = sdarts_adv.attack(searcher, clean, batches.train[0], 0.3, 7)
    for name, value in clean.items():
        assert torch.equal(found[name][:, 0], value[:, 0])
        assert not torch.equal(found[name][:, 1], value[:, 1])


def test_attacks_stay_in_the_box_until_they_are_projected_and_end_on_the_simplex() -> None:
    searcher, lab = begun(sdarts_adv.METHOD, sdarts_adv.Settings())
    (batches,) = batches_of(lab, searcher, 1)
    clean = softmax(searcher)
    point: Mixture = clean
    for _ in range(4):
        slope = sdarts_adv.gradient(searcher, point, batches.train[0])
        point = sdarts_adv.ascend(point, slope, clean, (0.1, 0.07))
        for name, value in point.items():
            assert (value - clean[name]).abs().max() <= 0.1 + 1e-15
    for name, value in sdarts_adv.attack(searcher, clean, batches.train[0], 0.3, 7).items():
        assert value.min() >= 0, name
        torch.testing.assert_close(value.sum(-1), torch.ones_like(value[..., 0]), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_attacks_raise_the_loss_more_than_noise_does_on_average() -> None:
    searcher, lab = begun(sdarts_adv.METHOD, sdarts_adv.Settings())
    attacked, smoothed = [], []
    for step, batches in enumerate(batches_of(lab, searcher, 3)):
        clean, train = softmax(searcher), batches.train[0]
        noisy = on_simplex(_perturb.add(clean, drawn(lab, clean, 0.3, step)))
        attacked.append(_perturb.probe(searcher, sdarts_adv.attack(searcher, clean, train, 0.3, 7), train))
        smoothed.append(_perturb.probe(searcher, noisy, train))
        searcher.step(batches)
    assert (torch.stack(attacked).mean(0) > torch.stack(smoothed).mean(0)).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_perturbing_leaves_everything_untouched(method: Method) -> None:
    searcher, lab = begun(method, method.settings())
    first, second = batches_of(lab, searcher, 2)
    searcher.step(first)
    state, inputs = labs.leaves(searcher.state_dict()), labs.leaves(second)
    logits, randomness = searcher.logits(), torch.get_rng_state()
    copies = labs.leaves(logits)
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


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_architecture_step_is_that_of_darts_to_the_bit(method: Method) -> None:
    """In the first step both have the same weights when the logits move; nothing moves them after that."""
    found = []
    for each in (darts.METHOD, method):
        searcher, lab = begun(each, each.settings())
        (batches,) = batches_of(lab, searcher, 1)
        losses = searcher.step(batches)
        found.append(labs.leaves({"logits": searcher.logits(), "arch": searcher.arch.state_dict(), "val": losses.val}))
    labs.same(*found)


@pytest.mark.parametrize("projected", [False, True])
def test_matched_noise_is_as_large_as_the_mean_shift(projected: bool) -> None:
    settings = sdarts_rs_matched.Settings(radius=Ramp(0.1, 0.1), samples=4, rounds=2, projected=projected)
    searcher, lab = begun(sdarts_rs_matched.METHOD, settings)
    (batches,) = batches_of(lab, searcher, 1)
    assert searcher.recipe.weight_choices is not None
    found = searcher.recipe.weight_choices(searcher, searcher.logits(), batches).weights
    clean = softmax(searcher)
    moved = _perturb.add(clean, drawn(lab, clean, 0.1 * 0.5**0.5))
    wanted = on_simplex(moved) if projected else moved
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=1e-14)
    smooth = sdarts_rs.METHOD.build(sdarts_rs.Settings(radius=Ramp(0.1 * 0.5**0.5, 0.1 * 0.5**0.5)), lab)
    same = smooth.recipe.weight_choices(smooth, searcher.logits(), batches).weights
    assert all(torch.allclose(value, same[name], rtol=1e-12) for name, value in found.items()) == projected


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1 attack step, got 0"):
        sdarts_adv.Settings(attack_steps=0)
    with pytest.raises(ValueError, match="expected at least 1 sample, got 0"):
        sdarts_rs_matched.Settings(samples=0)
