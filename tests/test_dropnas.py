"""DropNAS: its step written out, the invariants of its adjustment, and how often operations drop."""

import dataclasses
from collections.abc import Iterator

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from searchers import _grouped_dropout as dropout
from searchers import dropnas
from searchers._optim import ArchSettings, WeightSettings
from searchers._single import Single, SingleRecipe
from searchers.base import Batch, Choices, Group, StepBatches, SupernetOptions

WEIGHTS = WeightSettings(lr=0.2, lr_min=0.01, weight_decay=0.03, clip=0.4)
ARCH = ArchSettings(lr=0.05, weight_decay=0.1)
GROUPS = (
    Group("op", 4000, ("a", "b", "c", "d", "e"), parametric=(False, False, True, True, False)),
    Group("in_2", 1, ("x", "y"), "edge"),
)
ONE_SHOT = (Group("op", 300, ("pool", "conv3", "conv1"), parametric=(False, True, True)),)
unchecked = pytest.mark.usefixtures("unchecked")


def settings(**changes) -> dropnas.Settings:
    chosen = dropnas.Settings(WEIGHTS, ARCH, probability=0.4, batch_size=None)
    return dataclasses.replace(chosen, **changes)


class Reference:
    """The state of a search, every rule written for each number and each replica; masks are told."""

    def __init__(self, lab: Lab, chosen: dropnas.Settings) -> None:
        self.network, self.chosen = lab.build(SupernetOptions()), chosen
        self.w = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.momentum = {name: torch.zeros_like(value) for name, value in self.w.items()}
        self.alpha = dropnas.build(chosen, lab).logits()
        self.moments = {name: [torch.zeros_like(value) for _ in range(3)] for name, value in self.alpha.items()}

    def step(self, batch: Batch, kept: dict[str, Tensor]) -> Tensor:
        before = {name: value.clone() for name, value in self.alpha.items()}
        losses, by_alpha, by_w = self.gradients(batch, kept)
        used = {name: (value.flatten(1) != 0).any(1) for name, value in by_w.items()}
        for name in used:
            if name.endswith("conv.bias"):  # before a normalisation its gradient is zero up to rounding
                used[name] = used[name.replace("bias", "weight")]
        fused = self.chosen.decay == "fused"
        self.adam(by_alpha, kept, 0.1 if fused else 0.0)
        self.sgd(by_w, used, 0.03 if fused else 0.0)
        if not fused:
            self.adam({n: 2 * 0.1 * a * kept[n] for n, a in self.alpha.items()}, kept, 0.0)
            self.sgd({n: 2 * 0.03 * w * spread(used[n], w) for n, w in self.w.items()}, used, 0.0)
        for name, alpha in self.alpha.items():
            self.alpha[name] = adjusted(before[name], alpha, kept[name])
        return losses

    def gradients(self, batch: Batch, kept: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        alpha = {name: value.clone().requires_grad_() for name, value in self.alpha.items()}
        weights = {name: value.clone().requires_grad_() for name, value in self.w.items()}
        mass = {name: value.exp() * kept[name] for name, value in alpha.items()}
        mixing = Choices({name: (value / value.sum(-1, keepdim=True))[None] for name, value in mass.items()})
        scores = torch.func.functional_call(self.network, weights, (batch.images, mixing))
        losses = functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1)
        found = torch.autograd.grad(losses.sum(), [*alpha.values(), *weights.values()])
        return (
            losses.detach(),
            dict(zip(alpha, found, strict=False)),
            dict(zip(weights, found[len(alpha) :], strict=True)),
        )

    def adam(self, gradients: dict[str, Tensor], kept: dict[str, Tensor], decay: float) -> None:
        for name, alpha in self.alpha.items():
            moves = kept[name] | torch.tensor(not self.chosen.hold_dropped)
            gradient, (mean, square, count) = gradients[name] + decay * alpha, self.moments[name]
            new = [0.5 * mean + 0.5 * gradient, 0.999 * square + 0.001 * gradient**2, count + 1]
            step = new[0] / (1 - 0.5 ** new[2]) / ((new[1] / (1 - 0.999 ** new[2])).sqrt() + 1e-8)
            self.moments[name] = [torch.where(moves, n, o) for n, o in zip(new, (mean, square, count), strict=True)]
            self.alpha[name] = torch.where(moves, alpha - 0.05 * step, alpha)

    def sgd(self, gradients: dict[str, Tensor], used: dict[str, Tensor], decay: float) -> None:
        norm = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
        for name, w in self.w.items():
            scale = spread((0.4 / (norm + 1e-6)).clamp(max=1), w)
            moved = 0.9 * self.momentum[name] + gradients[name] * scale + decay * w
            self.momentum[name] = torch.where(spread(used[name], w), moved, self.momentum[name])
            self.w[name] = torch.where(spread(used[name], w), w - 0.2 * moved, w)


def spread(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *[1] * (like.dim() - 1))


def adjusted(before: Tensor, after: Tensor, kept: Tensor) -> Tensor:
    """Row by row, as the paper writes it."""
    result = after.clone()
    for replica in range(len(after)):
        for row in range(after.shape[1]):
            own = kept[replica, row]
            if not own.all():
                old, new = before[replica, row].exp(), after[replica, row].exp()
                rho = old[own].sum() / old.sum()
                result[replica, row, own] += torch.log(rho / (1 - rho) * new[~own].sum() / new[own].sum())
    return result


def watched(searcher: Single, batches: list[StepBatches]) -> Iterator[tuple[Tensor, dict[str, Tensor], Batch]]:
    """Step by step: the losses, what was kept, the batch."""
    for step in batches:
        seen: list[Choices] = []
        handle = searcher.supernet.register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.append(inputs[1]))
        losses = searcher.step(step).train
        handle.remove()
        (choices,) = seen
        assert choices.active is not None
        yield losses, {name: torch.as_tensor(mask[0]) for name, mask in choices.active.items()}, step.train[0]


@unchecked
@pytest.mark.parametrize(
    ("space", "changes"),
    [
        ("nb201", {}),
        ("nb201", {"decay": "fused", "hold_dropped": False}),
        ("toy", {"decay": "fused"}),
        ("s1", {"hold_dropped": False}),
    ],
)
def test_steps_are_the_equations(space: str, changes: dict[str, object]) -> None:
    lab = labs.make(space)
    searcher, wanted = dropnas.build(settings(**changes), lab), Reference(lab, settings(**changes))
    searcher.begin_epoch(0)
    for losses, kept, batch in watched(searcher, list(labs.steps(lab, searcher.policy, 3))):
        assert not all(mask.all() for mask in kept.values())
        torch.testing.assert_close(losses, wanted.step(batch, kept), rtol=1e-10, atol=0)
        labs.close(labs.leaves(searcher.logits()), labs.leaves(wanted.alpha), 1e-9)
        labs.close(labs.leaves(searcher.parameters), labs.leaves(wanted.w), 1e-9)


@unchecked
@pytest.mark.parametrize("changes", [{"drop": "rate", "rate": 0.0}, {"probability": 0.0}])
@pytest.mark.parametrize("space", ["nb201", "s1"])
def test_without_drops_it_is_one_level_darts_to_the_bit(space: str, changes: dict[str, object]) -> None:
    found = []
    for make in (
        lambda lab: dropnas.build(settings(decay="fused", **changes), lab),
        lambda lab: Single(SingleRecipe(), WEIGHTS, ARCH, lab),
    ):
        lab = labs.make(space)
        searcher = make(lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)))
    labs.same(*found)


@unchecked
def test_a_second_step_of_decay_is_not_the_fused_one() -> None:
    found = []
    for decay in ("double_step", "fused"):
        lab = labs.make()
        searcher = dropnas.build(settings(decay=decay, probability=0.0), lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)))
    assert (found[0]["/logits/op"] - found[1]["/logits/op"]).abs().max() > 1e-3


def drawn(count: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor], Choices]:
    """Logits before and after a step, and choices with some options dropped."""
    streams = [labs.rng(seed) for seed in range(count)]
    values = [
        {g.name: torch.stack([torch.randn(g.shape, generator=s, dtype=torch.float64) for s in streams]) for g in GROUPS}
        for _ in range(2)
    ]
    kept = dropout.draw(GROUPS, dropout.classes(GROUPS, lambda _size: 0.3), streams)
    before, after = values
    mask = torch.as_tensor(kept["op"][0])
    after["op"] = torch.where(mask, after["op"], before["op"])
    return before, after, dropout.mixture(before, kept)


def test_the_adjustment_restores_the_kept_mass_and_nothing_else() -> None:
    before, after, choices = drawn()
    assert choices.active is not None
    result = dropout.adjusted(before, after, choices)
    kept = torch.as_tensor(choices.active["op"][0])
    some = ~kept.all(-1)

    def mass(logits: dict[str, Tensor]) -> Tensor:
        return (logits["op"].softmax(-1) * kept).sum(-1)

    assert 0.3 < some.double().mean() < 0.99
    torch.testing.assert_close(mass(result), torch.where(some, mass(before), mass(after)), rtol=1e-12, atol=0)
    assert (mass(after) - mass(before))[some].abs().max() > 0.1
    torch.testing.assert_close(result["op"][~kept], after["op"][~kept], rtol=0, atol=0)
    torch.testing.assert_close(result["op"][~some], after["op"][~some], rtol=0, atol=0)
    shift = torch.where(kept, result["op"] - after["op"], torch.nan)
    assert ((shift - shift.nanmean(-1, keepdim=True)).nan_to_num().abs() < 1e-12).all()
    torch.testing.assert_close(result["in_2"], after["in_2"], rtol=0, atol=0)


def test_the_adjustment_of_saturated_rows_is_finite() -> None:
    kept = {"op": np.array([[[[True, True, False]]]])}
    before = {"op": torch.tensor([[[400.0, 399.0, -500.0]]])}
    after = {"op": torch.tensor([[[401.0, 399.5, -500.0]]])}
    result = dropout.adjusted(before, after, dropout.mixture(before, kept))["op"]
    assert result.isfinite().all()
    assert result.logsumexp(-1).item() == pytest.approx(before["op"].logsumexp(-1).item(), abs=1e-3)


def test_kept_options_mix_with_the_softmax_over_them() -> None:
    before, _, choices = drawn(1)
    assert choices.active is not None
    for name, value in before.items():
        for row in range(min(20, value.shape[1])):
            kept = choices.active[name][0, 0, row]
            weights = choices.weights[name][0, 0, row]
            torch.testing.assert_close(weights[kept], value[0, row][kept].softmax(0), rtol=1e-12, atol=0)
            assert (weights[~kept] == 0).all()


@pytest.mark.parametrize(("drop", "published"), [("prob", (0.074, 0.074)), ("rate", (0.0055, 0.031))])
def test_operations_drop_as_often_as_asked(drop: str, published: tuple[float, float]) -> None:
    probability = dropnas.drop_probability(dropnas.Settings(drop=drop))
    classes = dropout.classes(GROUPS, probability)
    assert [members for members, _ in classes["op"]] == [(2, 3), (0, 1, 4)]
    assert classes["in_2"] == ()
    streams = [labs.rng(seed) for seed in range(10)]
    kept = dropout.draw(GROUPS, classes, streams)
    assert kept["in_2"].all()
    for (members, p), target in zip(classes["op"], published, strict=True):
        assert p == pytest.approx(target, rel=0.02)
        size = len(members)
        expected = p * (1 - p ** (size - 1)) / (1 - p**size)  # all at once is drawn again
        found = 1 - kept["op"][..., members].mean()
        deviation = (expected * (1 - expected) / kept["op"][..., members].size) ** 0.5
        assert abs(found - expected) < 4 * deviation


def test_every_class_keeps_one_and_a_single_member_never_drops() -> None:
    streams = [labs.rng(seed) for seed in range(3)]
    kept = dropout.draw(GROUPS, dropout.classes(GROUPS, lambda _size: 0.9), streams)["op"]
    assert kept[..., [2, 3]].any(-1).all()
    assert kept[..., [0, 1, 4]].any(-1).all()
    assert kept.mean() < 0.5
    lone = dropout.draw(ONE_SHOT, dropout.classes(ONE_SHOT, lambda _size: 0.9), streams)["op"]
    assert lone[..., 0].all()
    assert lone[..., 1:].any(-1).all()
    assert lone[..., 1:].all(-1).mean() < 0.1  # .01/.19 of the draws that keep one


@pytest.mark.parametrize("changes", [{"probability": 1.0}, {"rate": -1e-3, "drop": "rate"}, {"rate": 1.5}])
def test_impossible_rates_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected (probability|rate) in \[0, 1\), got"):
        dropnas.build(settings(**changes), labs.make())


def test_defaults_are_the_papers() -> None:
    chosen = dropnas.METHOD.settings()
    assert (chosen.weights.lr, chosen.weights.lr_min, chosen.weights.clip, chosen.batch_size) == (
        0.0375,
        0.0015,
        3.0,
        96,
    )
    assert (chosen.rate, chosen.probability, chosen.drop, chosen.decay) == (3e-5, 0.074, "prob", "double_step")
    assert dropnas.drop_probability(dropnas.Settings(drop="rate"))(4) == pytest.approx(0.074, abs=1e-3)
