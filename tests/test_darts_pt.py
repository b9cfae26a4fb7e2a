"""DARTS-PT: one decision and one step written out, its schedule, what is decided stays, scoring touches nothing."""

import dataclasses
from collections.abc import Iterator

import labs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.lab import Lab
from bench.spaces import get
from searchers import darts, darts_pt, darts_pt_fixed
from searchers._perturbation import Perturbation, Settings, Trained, accuracy_then_loss
from searchers._staged import Staged, searching
from searchers.base import Batch, Choices, Evaluation, Horizon, Logits, Supernet
from searchers.entry import Method

BOTH = pytest.mark.parametrize("method", [darts_pt.METHOD, darts_pt_fixed.METHOD], ids=lambda method: method.name)
SPACES = pytest.mark.parametrize("space", ["nb201", "s1"])


def longer(space: str, epochs: int) -> Lab:
    return dataclasses.replace(labs.make(space), horizon=Horizon(epochs))


def started(method: Method, lab: Lab, first: int, select: Settings) -> Staged:
    """At the start of the selection's first epoch."""
    settings = dataclasses.replace(method.settings(), select=select)
    searcher = method.build(settings, lab)
    assert isinstance(searcher, Staged)
    labs.drive(searcher, lab, 0, first)
    searcher.begin_epoch(first)
    return searcher


def perturbation(searcher: Staged) -> Perturbation:
    assert isinstance(searcher.selection, Perturbation)
    return searcher.selection


def rows_in_order(lab: Lab, replica: int) -> list[tuple[str, int]]:
    rows = [(group.name, decision) for group in lab.groups for decision in range(group.decisions)]
    stream = lab.stream("projection", 0)[replica]
    return [rows[i] for i in torch.randperm(len(rows), generator=stream).tolist()]


def correct(lab: Lab, network: Supernet, weights: Logits) -> Tensor:
    """Correct predictions of each replica on the whole validation half."""
    found = torch.zeros(lab.replicas)
    with torch.no_grad():
        for batch in lab.feed.evaluation("val"):
            predictions = network(batch.images, Choices({name: value[None] for name, value in weights.items()}))
            found += (predictions.argmax(-1) == batch.labels).sum(1)
    return found


def cross_entropy(network: Supernet, batch: Batch, weights: Logits) -> Tensor:
    predictions = network(batch.images, Choices({name: value[None] for name, value in weights.items()}))
    return torch.stack([F.cross_entropy(p, y) for p, y in zip(predictions, batch.labels, strict=True)]).sum()


@pytest.mark.usefixtures("unchecked")
@SPACES
def test_the_first_decision_is_the_removal_that_hurts_most(space: str) -> None:
    lab = longer(space, 2)
    searcher = started(darts_pt.METHOD, lab, 1, Settings())
    alone = darts.build(darts.Settings(), dataclasses.replace(lab, horizon=Horizon(1)))
    labs.drive(alone, lab, 0, 1)
    mixed = {name: value.softmax(-1) for name, value in alone.logits().items()}
    kept = searcher.relax(searcher.logits()).weights
    for replica in range(lab.replicas):
        name, decision = rows_in_order(lab, replica)[0]
        keep = next(group.keep for group in lab.groups if group.name == name)
        left = set(range(mixed[name].shape[-1]))
        chosen = {int(o) for o in kept[name][0, replica, decision].nonzero()}
        assert len(chosen) == keep
        while len(left) > keep:
            hits = {}
            for option in sorted(left):
                weights = {n: value.clone() for n, value in mixed.items()}
                gone = [o for o in range(mixed[name].shape[-1]) if o not in left - {option}]
                weights[name][replica, decision, gone] = 0.0
                hits[option] = correct(lab, alone.supernet, weights)[replica].item()
            if keep == 1:  # equal accuracies are told apart by the loss
                assert hits[min(chosen)] == min(hits.values())
                left = chosen
            else:
                left.remove(min((o for o in left - chosen), key=lambda o: -hits[o]))
        wanted = torch.zeros_like(mixed[name][replica, decision])
        wanted[sorted(left)] = 1.0
        assert torch.equal(kept[name][0, replica, decision], wanted)
        for group in lab.groups:
            for row in range(group.decisions):
                if (group.name, row) != (name, decision):
                    assert torch.equal(kept[group.name][0, replica, row], mixed[group.name][replica, row])


def used(network: Supernet, choices: Choices, name: str) -> Tensor:
    """Which replicas use a parameter: what is left out does not move."""
    address = network.address(name)
    if address is None:
        return torch.ones(network.replicas, dtype=torch.bool)
    assert choices.active is not None
    row = network.live(choices.active)[address.group][0, :, address.decision]
    return torch.as_tensor(row.any(-1) if address.option is None else row[:, address.option])


def by_hand(searcher: Staged, lab: Lab, count: int) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Yield logits and weights after each step of tuning, in plain torch, and take the step."""
    logits = {name: value.clone() for name, value in searcher.logits().items()}
    hot = searcher.relax(searcher.logits())
    assert hot.active is not None
    decided = {n: torch.as_tensor(m[0]).logical_not().any(-1) for n, m in hot.active.items()}
    network, moments = searcher.supernet, searcher.search.state_dict()["arch"]
    shapes = [(n, v.shape, v[0].numel()) for n, v in logits.items()]
    mean, square, steps = (
        dict(zip(logits, (part.clone().view(s) for part, (_, s, _) in zip(
            moments[key].split([size for *_, size in shapes], 1), shapes, strict=True)), strict=True))
        for key in ("mean", "square", "count")
    )  # fmt: skip
    momentum = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    own = {name: value.detach().clone() for name, value in network.named_parameters()}

    def mixed(values: Logits) -> Logits:
        return {n: torch.where(decided[n][..., None], hot.weights[n][0], v.softmax(-1)) for n, v in values.items()}

    for batches in labs.steps(lab, searcher.policy, count):
        leaves = {name: value.clone().requires_grad_() for name, value in logits.items()}
        loss = cross_entropy(network, batches.val[0], mixed(leaves))
        for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            decayed = gradient + 1e-3 * logits[name]
            mean[name] = 0.5 * mean[name] + 0.5 * decayed
            square[name] = 0.999 * square[name] + 0.001 * decayed**2
            steps[name] = steps[name] + 1
            spread = (square[name] / (1 - 0.999 ** steps[name])).sqrt() + 1e-8
            moved = logits[name] - 3e-4 * mean[name] / (1 - 0.5 ** steps[name]) / spread
            logits[name] = torch.where(decided[name][..., None], logits[name], moved)
        loss = cross_entropy(network, batches.train[0], mixed(logits))
        found = dict(zip(own, torch.autograd.grad(loss, list(dict(network.named_parameters()).values())), strict=True))
        norm = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
        for name, gradient in found.items():
            moves = used(network, hot, name).view(-1, *[1] * (gradient.dim() - 1))
            scale = (5 / (norm + 1e-6)).clamp(max=1.0).view(-1, *[1] * (gradient.dim() - 1))
            direction = 0.9 * momentum[name] + scale * gradient + 3e-4 * own[name]
            momentum[name] = torch.where(moves, direction, momentum[name])
            own[name] = own[name] - 0.0025 * torch.where(moves, direction, 0.0)
        searcher.step(batches)
        yield logits, own


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "s1"])
def test_tuning_is_the_equations(space: str) -> None:
    """Adam goes on with its moments, SGD starts anew at .0025, decided rows mix one-hot and do not move."""
    lab = longer(space, 4)
    searcher = started(darts_pt.METHOD, lab, 3, Settings())
    before = {name: value.clone() for name, value in searcher.logits().items()}
    for logits, weights in by_hand(searcher, lab, 2):
        labs.close(labs.leaves(searcher.logits()), labs.leaves(logits))
        labs.close(labs.leaves(dict(searcher.supernet.named_parameters())), labs.leaves(weights))
    for replica in range(lab.replicas):
        name, decision = rows_in_order(lab, replica)[0]
        moved = {(n, d) for n, v in searcher.logits().items() for d in range(v.shape[1])
                 if not torch.equal(v[replica, d], before[n][replica, d])}  # fmt: skip
        assert moved == set(rows_in_order(lab, replica)) - {(name, decision)}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("method", "space"), [(darts_pt.METHOD, "s1"), (darts_pt_fixed.METHOD, "nb201")], ids=["s1", "fixed-nb201"]
)
def test_what_is_decided_stays_and_in_the_end_the_network_is_the_cell(method: Method, space: str) -> None:
    lab = longer(space, 3)
    searcher = started(method, lab, 1, Settings(share=0.4, batches=1))
    fixed, rows = method is darts_pt_fixed.METHOD, sum(group.decisions for group in lab.groups)
    seen: dict[tuple[str, int, int], np.ndarray] = {}
    for epoch in range(1, 4):
        if epoch < 3:
            labs.drive(searcher, lab, epoch, epoch + 1)
        else:
            searcher.finish()
        made = perturbation(searcher).projection.made
        assert made == 1 + (epoch - 1) * (rows - 1) // 2
        choices, selected = searcher.relax(searcher.logits()), searcher.selected()
        assert (selected is None) == (fixed and made < rows)
        assert choices.active is not None
        for replica in range(lab.replicas):
            for name, decision in rows_in_order(lab, replica)[:made]:
                hot = choices.active[name][0, replica, decision]
                assert hot.sum() == next(group.keep for group in lab.groups if group.name == name)
                np.testing.assert_array_equal(choices.weights[name][0, replica, decision].numpy(), hot)
                np.testing.assert_array_equal(seen.setdefault((name, decision, replica), hot.copy()), hot)
                if selected is not None:
                    np.testing.assert_array_equal(selected[name][replica, decision].numpy(), hot)
        assert not fixed or all((value == 0).all() for value in searcher.logits().values())
    assert made == rows


@pytest.mark.usefixtures("unchecked")
@BOTH
def test_scoring_leaves_everything_as_it_is(method: Method) -> None:
    lab = longer("toy", 5)
    searcher = method.build(method.settings(), lab)
    assert isinstance(searcher, Staged)
    labs.drive(searcher, lab, 0, 4)
    before, state = labs.leaves(searcher.state_dict()["search"]), torch.get_rng_state()
    searcher.begin_epoch(4)
    assert perturbation(searcher).projection.made == 1
    labs.same(labs.leaves(searcher.state_dict()["search"]), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None for _, value in searcher.supernet.named_parameters())
    assert not perturbation(searcher).weights.momentum.any()


def test_the_published_budget_has_the_published_epochs() -> None:
    assert searching(Settings().share, 125) == 100
    lab = longer("nb201", 125)
    inner = darts.build(darts.Settings(), lab)
    assert isinstance(inner, Trained)
    found = Perturbation(Settings(), inner, lab, range(100, 125))
    assert [found.due(tuned) for tuned in range(26)] == [1 + tuned // 5 for tuned in range(26)]
    quick = Perturbation(Settings(tune_epochs=2), inner, lab, range(100, 125))
    assert [quick.due(tuned) for tuned in (0, 1, 2, 9, 10, 24)] == [1, 1, 2, 5, 6, 6]
    assert [searching(0.8, epochs) for epochs in (1, 2, 3, 5, 10)] == [1, 1, 2, 4, 8]
    assert (searching(1.0, 7), searching(0.01, 7)) == (7, 1)


def test_equal_accuracies_are_told_apart_by_the_loss() -> None:
    accuracy = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.50004, 0.49996])
    loss = torch.tensor([1.0, 2.0, torch.inf, torch.nan, 9.0, 0.0])
    found = accuracy_then_loss(Evaluation(accuracy, loss))
    assert found.argsort(stable=True).tolist() == [5, 2, 3, 1, 0, 4]


@pytest.mark.usefixtures("unchecked")
def test_the_criterion_and_the_batches_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def evaluate(_lab: Lab, _network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        asked.append((split, batches))
        removed = torch.as_tensor(choices.active["op"][0]).logical_not().double()  # type: ignore[index]
        place = (removed * torch.arange(removed.shape[-1])).sum((1, 2))
        return Evaluation(place, place)  # the last is the best and has the highest loss

    for criterion, batches, wanted in (("accuracy", None, 0), ("loss", 2, -1)):
        lab = longer("nb201", 2)
        inner = darts.build(darts.Settings(), lab)
        with monkeypatch.context() as patch:
            patch.setattr(Lab, "evaluate", evaluate)
            found = Perturbation(Settings(criterion=criterion, batches=batches), inner, lab, range(1, 2))  # type: ignore[arg-type]
            found.begin_epoch(1)
        assert set(asked) == {("val", None if batches is None else range(2))}
        asked.clear()
        for replica in range(2):
            name, decision = rows_in_order(lab, replica)[0]
            options = len(get("nb201").groups[0].options)
            kept = found.projection.frozen.kept[name][replica, decision].nonzero()[0].tolist()
            assert kept == [range(options)[wanted]]


def test_what_cannot_be_is_refused() -> None:
    first, second = (
        "expected a share in .* and a positive lr, got",
        "expected tune_epochs and batches of at least 1, got",
    )
    with pytest.raises(ValueError, match=first):
        Settings(share=0.0)
    with pytest.raises(ValueError, match=first):
        Settings(lr=0.0)
    with pytest.raises(ValueError, match=second):
        Settings(tune_epochs=0)
    with pytest.raises(ValueError, match=second):
        Settings(batches=0)


@pytest.mark.usefixtures("unchecked")
def test_a_search_without_optimisers_is_refused() -> None:
    lab = labs.make()
    inner = darts.build(darts.Settings(), lab)
    arch, weights = inner.arch, inner.weights
    del inner.arch
    with pytest.raises(ValueError, match="expected a search whose logits have an optimiser, got Bilevel"):
        Perturbation(Settings(), inner, lab, range(1))
    inner.arch = arch
    del inner.weights
    with pytest.raises(ValueError, match="expected a search that trains its weights by SGD, got Bilevel"):
        Perturbation(Settings(), inner, lab, range(1))
    inner.weights = weights
    Perturbation(Settings(), inner, lab, range(1))
