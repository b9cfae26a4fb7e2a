"""Single-DARTS and its ablation: against the equations written out, and the corners that are other methods."""

import dataclasses
import itertools

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from searchers import _relax, darts, fair_darts, single_darts
from searchers._bilevel import Bilevel, first_order
from searchers._optim import ArchSettings, WeightSettings
from searchers._single import Single, SingleRecipe
from searchers.base import Batch, Choices, StepBatches, SupernetOptions

WEIGHTS = WeightSettings(lr=0.2, lr_min=0.01, weight_decay=0.01, clip=0.4)
ARCH = ArchSettings(lr=0.05)
CORNERS = list(itertools.product(("single", "bi"), ("sigmoid", "softmax")))
unchecked = pytest.mark.usefixtures("unchecked")


def settings(level: str = "single", activation: str = "sigmoid") -> single_darts.Settings:
    return single_darts.Settings(WEIGHTS, ARCH, level, activation)


def mixing(alpha: dict[str, Tensor], activation: str) -> Choices:
    def competitive(value: Tensor) -> Tensor:
        return value.exp() / value.exp().sum(-1, keepdim=True)

    def weigh(name: str, value: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-value)) if name == "op" and activation == "sigmoid" else competitive(value)

    return Choices({name: weigh(name, value)[None] for name, value in alpha.items()})


def reference(lab: Lab, batches: list[StepBatches], level: str, activation: str) -> dict[str, object]:
    """Torch's optimisers on all replicas; every rule but clipping acts on each number alone."""
    network = lab.build(SupernetOptions())
    alpha = {name: value.requires_grad_() for name, value in darts.build(darts.Settings(), lab).logits().items()}
    weights = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    adam = torch.optim.Adam(alpha.values(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    sgd = torch.optim.SGD(weights.values(), lr=0.2, momentum=0.9, weight_decay=0.01)
    seen: list[Tensor] = []
    clipped = 0

    def differentiate(batch: Batch, leaves: dict[str, Tensor]) -> Tensor:
        scores = torch.func.functional_call(network, weights, (batch.images, mixing(alpha, activation)))
        losses = functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1)
        for leaf, gradient in zip(
            leaves.values(), torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True
        ):
            leaf.grad = gradient
        return losses.detach()

    for step in batches:
        if level == "single":
            seen.append(differentiate(step.train[0], {**alpha, **weights}))
        else:
            differentiate(step.val[0], alpha)
        adam.step()
        if level == "bi":
            seen.append(differentiate(step.train[0], weights))
        norms = torch.stack([leaf.grad.flatten(1).norm(dim=1) for leaf in weights.values()]).norm(dim=0)
        clipped += int((norms > 0.4).sum())
        for leaf in weights.values():
            leaf.grad = leaf.grad * (0.4 / (norms + 1e-6)).clamp(max=1).view(-1, *[1] * (leaf.dim() - 1))
        sgd.step()
    assert clipped > 0
    return {"weights": weights, "logits": alpha, "losses": seen}


@unchecked
@pytest.mark.parametrize("space", ["toy", "nb201"])
@pytest.mark.parametrize(("level", "activation"), CORNERS)
def test_steps_are_the_equations(level: str, activation: str, space: str) -> None:
    lab = labs.make(space)
    searcher = single_darts.build(settings(level, activation), lab)
    searcher.begin_epoch(0)
    batches = list(labs.steps(lab, searcher.policy, 3))
    losses = [searcher.step(each).train for each in batches]
    wanted = reference(lab, batches, level, activation)
    found = {"weights": searcher.parameters, "logits": searcher.logits(), "losses": losses}
    for kind, values in found.items():
        labs.close(labs.leaves(values), labs.leaves(wanted[kind]), 1e-10)


def searched(build, chosen) -> dict[str, object]:
    lab = labs.make("s2")
    searcher = build(chosen, lab)
    return labs.outcome(searcher, labs.drive(searcher, lab, 0, 1))


@unchecked
def test_two_levels_and_softmax_are_darts_to_the_bit() -> None:
    labs.same(
        searched(single_darts.build, settings("bi", "softmax")), searched(darts.build, darts.Settings(WEIGHTS, ARCH))
    )


@unchecked
def test_two_levels_and_sigmoids_are_fair_darts_without_its_loss_to_the_bit() -> None:
    """From the same logits and at the same rates."""

    def fair(chosen: fair_darts.Settings, lab: Lab) -> Bilevel:
        recipe = dataclasses.replace(fair_darts.recipe(chosen, lab.groups), init=_relax.normal_logits)
        return Bilevel(recipe, chosen.weights, chosen.arch, lab)

    without = fair_darts.Settings(WEIGHTS, ARCH, weight=0.0, none=True)
    labs.same(searched(single_darts.build, settings("bi", "sigmoid")), searched(fair, without))


@unchecked
def test_one_level_and_softmax_are_one_level_darts_to_the_bit() -> None:
    one_level = searched(lambda chosen, lab: Single(SingleRecipe(), chosen.weights, chosen.arch, lab), settings())
    labs.same(searched(single_darts.build, settings("single", "softmax")), one_level)


@unchecked
def test_the_four_corners_differ() -> None:
    found = [searched(single_darts.build, settings(*corner)) for corner in CORNERS]
    for one, other in itertools.combinations(found, 2):
        assert max((one[f"/logits/{n}"] - other[f"/logits/{n}"]).abs().max() for n in ("op", "out")) > 1e-6


def test_operations_do_not_compete() -> None:
    searcher = single_darts.build(settings(), labs.make("s1"))
    logits = {name: value * 1000 for name, value in searcher.logits().items()}

    def jacobian(name: str) -> Tensor:
        def row(value: Tensor) -> Tensor:
            moved = {**logits, name: torch.cat([value[None, None], logits[name][:1, 1:]], 1)}
            return searcher.relax({n: v[:1] for n, v in moved.items()}).weights[name][0, 0, 0]

        return torch.autograd.functional.jacobian(row, logits[name][0, 0])

    own, edges = jacobian("op"), jacobian("in_3")
    value = logits["op"][0, 0]
    expected = torch.diag(torch.exp(-value) / (1 + torch.exp(-value)) ** 2)
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=0)
    assert (edges != 0).all()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_without_competition_none_has_no_gradient(activation: str) -> None:
    lab = labs.make("nb201")
    searcher = single_darts.build(settings("bi", activation), lab)
    gradient = first_order(searcher, labs.fake_step(2)).gradient["op"]
    assert (gradient[..., 1:] != 0).all()
    assert (gradient[..., 0] == 0).all() == (activation == "sigmoid")


def test_edges_may_have_no_competition_either() -> None:
    lab = labs.make("s1")
    searcher = single_darts.build(dataclasses.replace(settings(), edge_activation="sigmoid"), lab)
    assert searcher.shift_invariant == ()
    logits = searcher.logits()
    weights = searcher.relax(logits).weights
    assert all(torch.equal(weights[name][0], logits[name].sigmoid()) for name in logits)
    mixed = single_darts.build(settings(), lab)
    assert mixed.shift_invariant == ("in_3", "in_4", "out")
    torch.testing.assert_close(mixed.relax(logits).weights["out"].sum(-1), torch.ones(1, 2, 1, dtype=torch.float64))


@unchecked
def test_one_level_sees_all_images_and_no_validation_batch() -> None:
    lab = labs.make()
    one, two = (single_darts.policy(settings(level)) for level in ("single", "bi"))
    assert lab.feed.steps_per_epoch(one, 0) == 2 * lab.feed.steps_per_epoch(two, 0)
    assert all(step.val == () for step in labs.steps(lab, one, 2))


def test_defaults() -> None:
    chosen = single_darts.METHOD.settings()
    assert (chosen.level, chosen.activation, chosen.edge_activation) == ("single", "sigmoid", "softmax")
    assert (chosen.weights, chosen.arch) == (WeightSettings(), ArchSettings())
