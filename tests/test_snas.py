"""SNAS: its relaxed samples, a step against the equations, and the cost of weights."""

from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.spaces import get
from bench.spaces.base import discrete_choices, discretise
from searchers import snas
from searchers._gumbel import first, gumbel, ranked, relaxed, subset
from searchers._optim import ArchSettings, WeightSettings
from searchers._single import Single
from searchers.base import Choices, ForwardInputs, StepBatches

unchecked = pytest.mark.usefixtures("unchecked")
PLAIN = WeightSettings(lr=0.2, lr_min=0.01, momentum=0.0, weight_decay=0.0, clip=None)


def random_logits(space: str, seed: int = 3) -> dict[str, Tensor]:
    stream = labs.rng(seed)
    shapes = {group.name: (2, *group.shape) for group in get(space).groups}
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


def by_hand(row: list[float], tau: float, keep: int) -> list[float]:
    """One relaxed k-hot row in plain arithmetic."""
    scores, total = np.array(row), np.zeros(len(row))
    for _ in range(keep):
        share = np.exp(scores / tau) / np.exp(scores / tau).sum()
        total, scores = total + share, scores + np.log(1 - share)
    return total.tolist()


@pytest.mark.parametrize(("keep", "tau"), [(1, 0.7), (2, 0.7), (3, 1.5)])
def test_a_relaxed_row_is_the_sum_of_softmaxes_and_its_gradient_is_theirs(keep: int, tau: float) -> None:
    scores = torch.tensor([[0.3, -0.6, 1.1, 0.2], [-1.0, 0.4, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    found = subset(scores, tau, keep)
    assert keep > 1 or torch.equal(found, (scores / tau).softmax(-1))
    torch.testing.assert_close(found.sum(-1), torch.full((2,), float(keep), dtype=torch.float64))
    torch.testing.assert_close(found.tolist(), [by_hand(row, tau, keep) for row in scores.tolist()])
    assert torch.autograd.gradcheck(lambda s: subset(s, tau, keep), scores)


@unchecked
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_low_temperatures_a_sample_is_a_discrete_cell(dtype: torch.dtype) -> None:
    """One that is drawn without replacement; the network then computes that cell."""
    lab = labs.make("s1", dtype=dtype)
    network, logits = lab.build(snas.SingleRecipe().options), {n: v.to(dtype) for n, v in random_logits("s1").items()}
    noise = gumbel(logits, lab.stream("gumbel", 0), 1)
    cold = {n: v.requires_grad_() for n, v in logits.items()}
    sample = relaxed(lab.groups, cold, noise, 1e-3)
    keys = [{n: (logits[n].double() + noise[n])[0, r].detach().numpy() for n in logits} for r in range(2)]
    cells = discrete_choices(lab.groups, [discretise(lab.groups, each) for each in keys], logits["op"])
    order = ranked(logits, noise)
    for group in lab.groups:
        torch.testing.assert_close(sample[group.name], cells.weights[group.name], rtol=0, atol=1e-6)
        assert cells.active is not None
        np.testing.assert_array_equal(first(order[group.name], group.keep).numpy(), cells.active[group.name])
    assert all(g.isfinite().all() for g in torch.autograd.grad(sum(v.sum() for v in sample.values()), cold.values()))
    images = labs.fake_batch(2).images.to(dtype)
    exact = {name: value.detach().round() for name, value in sample.items()}
    torch.testing.assert_close(network(images, Choices(exact)), network(images, Choices(cells.weights)))


def reference(searcher: Single, lab, batches: StepBatches, settings: snas.Settings) -> tuple[dict, dict]:
    """Gradients of a step in the second epoch of three: draws, samples, masks and loss written out."""
    tau, p = (settings.tau + settings.tau_min) / 2, settings.drop / 2
    cells = searcher.supernet.cells
    logits = {name: value.clone().requires_grad_() for name, value in searcher.logits().items()}
    weights = {name: value.detach().clone().requires_grad_() for name, value in searcher.parameters.items()}
    drawn: dict[str, list[Tensor]] = {name: [] for name in logits}
    keeps = []
    for stream, other in zip(lab.stream("gumbel", 0), lab.stream("drop_path", 0), strict=True):
        for name, value in logits.items():
            shape = (cells if settings.per_cell else 1, *value.shape[1:])
            drawn[name].append(-torch.empty(shape, dtype=torch.float64).exponential_(generator=stream).log())
        rows = logits["op"].shape[1]
        keeps.append((torch.rand((cells, labs.BATCH, rows), generator=other) >= p).double() / (1 - p))
    sample = {}
    for group in lab.groups:
        scores = logits[group.name] + torch.stack(drawn[group.name], 1)
        total = torch.zeros_like(scores)
        for _ in range(group.keep):
            share = (scores / tau).exp() / (scores / tau).exp().sum(-1, keepdim=True)
            total, scores = total + share, scores + (1 - share).log()
        sample[group.name] = total
    inputs = ForwardInputs(keep={"op": torch.stack(keeps, 1)})
    scores = torch.func.functional_call(searcher.supernet, weights, (batches.train[0].images, Choices(sample), inputs))
    loss = functional.cross_entropy(scores.mT, batches.train[0].labels, reduction="none").mean(1).sum()
    cost = sum((sample[n] * share).sum() for n, share in counted(searcher).items())
    by_weight = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    by_logit = torch.autograd.grad(loss + settings.resource * cost, list(logits.values()))
    return dict(zip(logits, by_logit, strict=True)), dict(zip(weights, by_weight, strict=True))


def counted(searcher: Single) -> dict[str, Tensor]:
    """Shares of weights by option, from the names of nb201's and 1Shot1's parameters."""
    found = {group.name: torch.zeros(searcher.supernet.cells, 1, *group.shape) for group in searcher.supernet.groups}
    for name, value in searcher.parameters.items():
        part = name.split(".")
        if part[0] != "cell":
            continue
        cell, size = int(part[1]), value[0].numel()
        nb201 = "in_2" not in found and "in_3" not in found
        if part[2] in {"conv1x1", "conv3x3"}:
            option = {"conv1x1": 2, "conv3x3": 3 if nb201 else 1}[part[2]]
            found["op"][cell, 0, int(part[3]), option] += size
        elif part[2] == "project_out":
            found["out"][cell, 0, 0, 0] += size
        elif f"in_{int(part[3]) + 1}" in found:
            found[f"in_{int(part[3]) + 1}"][cell, 0, 0, 0] += size
    total = sum(table.sum() for table in found.values())
    return {name: (table / total).double() for name, table in found.items()}


@unchecked
@pytest.mark.parametrize(("space", "per_cell"), [("s1", False), ("nb201", True)])
def test_a_step_is_the_equations(space: str, per_cell: bool) -> None:
    settings = snas.Settings(PLAIN, ArchSettings(lr=0.01, weight_decay=0.0), resource=0.3, per_cell=per_cell)
    lab = labs.make(space, (3, 4))
    searcher = snas.build(settings, lab)
    searcher.begin_epoch(1)
    batches = labs.fake_step(2, 3)
    by_logit, by_weight = reference(searcher, lab, batches, settings)
    logits = {name: value.clone() for name, value in searcher.logits().items()}
    weights = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    searcher.step(batches)
    for name, gradient in by_logit.items():  # Adam's first step is the sign, but for eps
        moved = -0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(searcher.logits()[name] - logits[name], moved, rtol=1e-6, atol=1e-9)
    for name, gradient in by_weight.items():
        wanted = weights[name] - (0.01 + 0.75 * 0.19) * gradient
        torch.testing.assert_close(searcher.parameters[name].detach(), wanted, rtol=1e-8, atol=1e-10)


@unchecked
def test_the_cost_is_off_by_default_and_makes_cells_small() -> None:
    assert snas.Settings().resource == 0
    found = []
    for eta in (0.0, 300.0):
        lab = labs.make("toy")
        searcher = snas.build(snas.Settings(arch=ArchSettings(lr=0.5, weight_decay=0.0), resource=eta), lab)
        assert bool(searcher.recipe.penalties) == (eta > 0)
        labs.drive(searcher, lab, 0, 1)
        found.append(searcher.logits()["op"].softmax(-1)[..., 1].mean())  # 3×3 convolutions
    assert found[1] < 0.7 * found[0]


def test_the_shares_of_the_weights_add_up_to_one() -> None:
    for space in ("toy", "s1", "nb201"):
        searcher = snas.build(snas.Settings(), labs.make(space))
        shares = snas.weight_shares(searcher.supernet)
        assert sum(table.sum().item() for table in shares.values()) == pytest.approx(1)
        for name, table in counted(searcher).items():
            torch.testing.assert_close(shares[name], table)


def test_start_temperatures_and_refusals() -> None:
    searcher = snas.build(snas.Settings(), labs.make("s3"))
    start = torch.cat([value.flatten() for value in searcher.logits().values()])
    assert start.mean().item() == pytest.approx(1.0, abs=5e-3)
    assert start.std().item() == pytest.approx(0.01, abs=3e-3)
    with pytest.raises(ValueError, match=r"expected 0 < tau_min <= tau, got 0\.03 and 0\.0"):
        snas.build(snas.Settings(tau=0.0), labs.make())
    with pytest.raises(ValueError, match=r"expected a drop probability in \[0, 1\), got 1\.0"):
        snas.build(replace(snas.Settings(), drop=1.0), labs.make())
