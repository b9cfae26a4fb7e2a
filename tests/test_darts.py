"""First-order DARTS against its equations, written out with torch's autograd and optimisers."""

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.lab import Lab
from searchers import darts
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Batch, Choices, StepBatches, SupernetOptions
from searchers.registry import METHODS

LR, LR_MIN = 0.2, 0.01
SETTINGS = darts.Settings(WeightSettings(lr=LR, lr_min=LR_MIN, weight_decay=0.01, clip=0.4), ArchSettings(lr=0.05))


def reference(lab: Lab, batches: list[StepBatches], *, weights_first: bool = False) -> dict[str, object]:
    """Search with one replica: every step α on the validation batch, then w on the training batch."""
    network = lab.build(SupernetOptions())
    alpha = {name: value.requires_grad_() for name, value in darts.build(SETTINGS, lab).logits().items()}
    weights = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    adam = torch.optim.Adam(alpha.values(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    sgd = torch.optim.SGD(weights.values(), lr=LR, momentum=0.9, weight_decay=0.01)
    losses: list[tuple[float, float]] = []
    clipped = 0

    def loss(batch: Batch) -> Tensor:
        mixing = Choices(
            {name: torch.exp(v)[None] / torch.exp(v).sum(-1)[None, ..., None] for name, v in alpha.items()}
        )
        scores = torch.func.functional_call(network, weights, (batch.images, mixing))
        return functional.cross_entropy(scores[0], batch.labels[0])

    def arch_step(batch: Batch) -> float:
        value = loss(batch)
        for leaf, gradient in zip(alpha.values(), torch.autograd.grad(value, list(alpha.values())), strict=True):
            leaf.grad = gradient
        adam.step()
        return value.item()

    def weight_step(batch: Batch) -> float:
        nonlocal clipped
        value = loss(batch)
        for leaf, gradient in zip(weights.values(), torch.autograd.grad(value, list(weights.values())), strict=True):
            leaf.grad = gradient
        clipped += int(torch.nn.utils.clip_grad_norm_(weights.values(), 0.4) > 0.4)
        sgd.step()
        return value.item()

    for index, step in enumerate(batches):
        if index == 3:  # the second epoch of three: half a cosine through thirds, cos(π/3) = ½
            sgd.param_groups[0]["lr"] = LR_MIN + 0.75 * (LR - LR_MIN)
        train = weight_step(step.train[0]) if weights_first else None
        val = arch_step(step.val[0])
        losses.append((weight_step(step.train[0]) if train is None else train, val))
    assert clipped > 0
    return {"weights": weights, "logits": alpha, "losses": losses}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_steps_are_the_equations(space: str) -> None:
    lab = labs.make(space, (4,))
    searcher = darts.build(SETTINGS, lab)
    losses = labs.drive(searcher, lab, 0, 2)
    batches = list(labs.steps(lab, searcher.policy, 6))
    wanted = reference(lab, batches)
    found = {"weights": dict(searcher.supernet.named_parameters()), "logits": searcher.logits()}
    for kind, values in found.items():
        labs.close(labs.leaves(values), labs.leaves(wanted[kind]), 1e-10)
    assert [(one.train.item(), one.val.item()) for one in losses] == [
        (pytest.approx(train, rel=1e-9), pytest.approx(val, rel=1e-9)) for train, val in wanted["losses"]
    ]
    swapped = reference(lab, batches, weights_first=True)
    gap = max((swapped["logits"][name] - value).abs().max().item() for name, value in searcher.logits().items())
    assert gap > 1e-6  # so the order of the two steps shows


def test_defaults_are_the_papers() -> None:
    settings = METHODS["darts"].settings()
    assert settings.weights == WeightSettings(0.025, 0.001, 0.9, 3e-4, 5.0, nesterov=False)
    assert settings.arch == ArchSettings(3e-4, (0.5, 0.999), 1e-3, 1e-8)


def test_logits_start_small_and_normal() -> None:
    lab = labs.make("s3", tuple(range(40)))
    values = torch.cat([value.flatten() for value in darts.build(SETTINGS, lab).logits().values()])
    assert values.std().item() == pytest.approx(1e-3, rel=0.1)
    assert abs(values.mean().item()) < 1e-4
    assert len(values.unique()) == len(values)


def test_the_cell_is_the_logits() -> None:
    lab = labs.make()
    searcher = darts.build(SETTINGS, lab)
    labs.drive(searcher, lab, 0, 1)
    searcher.finish()
    selected = searcher.selected()
    assert selected is not None
    labs.same(selected, searcher.logits())


@pytest.mark.usefixtures("unchecked")
def test_a_replica_that_diverges_leaves_its_neighbour_alone() -> None:
    found = []
    for broken in (False, True):
        lab = labs.make()
        searcher = darts.build(SETTINGS, lab)
        if broken:
            with torch.no_grad():
                dict(searcher.supernet.named_parameters())["classifier.bias"][1] = torch.nan
        found.append(labs.replicas(labs.outcome(searcher, labs.drive(searcher, lab, 0, 1)), [0]))
    labs.close(*found, 1e-12)
