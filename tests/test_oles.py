"""OLES: which operations are frozen and when, and what frozen means."""

from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import darts, oles
from searchers._bilevel import Bilevel
from searchers._matching import Matching, operations
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Choices, SupernetOptions

SETTINGS = oles.Settings(WeightSettings(lr=0.2, clip=0.5), ArchSettings(lr=0.05), window=2)


def memory(searcher: Bilevel) -> Matching:
    found = searcher.recipe.memory
    assert isinstance(found, Matching)
    return found


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_a_threshold_of_minus_one_is_darts_to_the_bit(space: str) -> None:
    found = []
    for build, settings in (
        (darts.build, darts.Settings()),
        (oles.build, oles.Settings(window=1, threshold=-1.0, none=True)),
    ):
        lab = labs.make(space)
        searcher = build(settings, lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(*found)


def plain_gradients(network, alpha: dict[str, Tensor], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """∂L/∂w of one replica."""
    weights = dict(network.named_parameters())
    mixing = Choices({name: torch.softmax(value, -1)[None] for name, value in alpha.items()})
    loss = functional.cross_entropy(network(images, mixing)[0], labels[0])
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), found, strict=True)}


def operation_of(name: str) -> tuple[str, ...] | None:
    """Cell, kind and place of a weight of an operation of a NAS-Bench-1Shot1 cell, read from its name."""
    parts = name.split(".")
    return tuple(parts[1:4]) if parts[0] == "cell" and parts[2] in {"conv3x3", "conv1x1"} else None


@pytest.mark.usefixtures("unchecked")
def test_steps_are_the_equations() -> None:
    """Two epochs of one replica: cosines of each operation, windows of two, frozen weights, with torch's SGD."""
    lab = labs.make("s1", (4,))
    settings = replace(SETTINGS, threshold=0.2)
    searcher = oles.build(settings, lab)
    network = lab.build(SupernetOptions())
    weights = dict(network.named_parameters())
    momentum = {name: torch.zeros_like(value) for name, value in weights.items()}
    kinds = {name: operation_of(name) for name in weights}
    frozen: set[tuple[str, ...]] = set()
    cosines: list[dict[tuple[str, ...], float]] = []
    before: dict[str, Tensor] | None = None
    for epoch in range(2):
        searcher.begin_epoch(epoch)
        lr = 0.001 + (1 + np.cos(np.pi * epoch / 3)) / 2 * 0.199
        for batches in lab.feed.epoch(searcher.policy, epoch, labs.EPOCHS):
            alpha = searcher.logits()
            val = plain_gradients(network, alpha, *batches.val[0])
            if before is not None:
                found = {}
                for kind in set(kinds.values()) - {None}:
                    one, other = (
                        torch.cat([g.flatten() for name, g in table.items() if kinds[name] == kind])
                        for table in (val, before)
                    )
                    found[kind] = float(one @ other / (one.norm() * other.norm()))
                cosines.append(found)
                if len(cosines) == 2:
                    frozen |= {kind for kind in found if (cosines[0][kind] + cosines[1][kind]) / 2 < 0.2}
                    cosines = []
            searcher.step(batches)
            train = before = plain_gradients(network, searcher.logits(), *batches.train[0])
            free = {name: gradient for name, gradient in train.items() if kinds[name] not in frozen}
            norm = torch.cat([gradient.flatten() for gradient in free.values()]).norm()
            scale = min(1.0, 0.5 / (float(norm) + 1e-6))
            with torch.no_grad():
                for name, gradient in free.items():
                    momentum[name] = 0.9 * momentum[name] + scale * gradient + 3e-4 * weights[name]
                    weights[name] -= lr * momentum[name]
            labs.close(labs.leaves(dict(searcher.parameters)), labs.leaves(weights), 1e-8)
    assert 0 < len(frozen) < len(set(kinds.values())) - 1
    assert memory(searcher).frozen.sum() == len(frozen)


@pytest.mark.usefixtures("unchecked")
def test_frozen_weights_stay_for_good_and_the_architecture_trains_on() -> None:
    lab = labs.make("nb201")
    searcher = oles.build(replace(SETTINGS, threshold=0.2), lab)
    labs.drive(searcher, lab, 0, 1)
    matching = memory(searcher)
    frozen = matching.frozen.copy()
    assert 0 < frozen[0].sum() < frozen.shape[1] - 1
    used = matching.used()
    assert used is not None
    before = {name: value.detach().clone() for name, value in searcher.parameters.items()}
    alpha = {name: value.clone() for name, value in searcher.logits().items()}
    labs.drive(searcher, lab, 1, 2)
    assert (matching.frozen >= frozen).all()
    owned = operations(searcher.supernet)
    for column, (name, value) in enumerate(searcher.parameters.items()):
        for replica in range(2):
            if not used[replica, column]:
                assert name in owned
                assert torch.equal(value[replica], before[name][replica])
            elif name not in owned:
                assert not torch.equal(value[replica], before[name][replica])
    assert (searcher.logits()["op"] != alpha["op"]).all()


def test_cosines_of_an_operation_see_all_of_its_weights_and_no_others() -> None:
    network = labs.make("nb201").build(SupernetOptions())
    matching = Matching(network, 1, 0.4)
    names = list(matching.layout.shapes)
    mine = [name for name in names if name.startswith("cell.1.conv3x3.4.")]
    assert len(mine) == 2  # kernel and bias
    values = {name: torch.zeros(2, *matching.layout.shapes[name][1:], dtype=torch.float64) for name in names}
    one, other = ({name: value.clone() for name, value in values.items()} for _ in range(2))
    for place, name in enumerate(mine):
        one[name][:, 0] = 1.0 + place
        other[name][0, 0], other[name][1, 0] = 2.0 - 3 * place, 5.0 * (1 + place)
    cosines = matching.cosines(*(matching.layout.flatten(each) for each in (one, other)))
    column = matching.owner[names.index(mine[0])]
    assert (matching.owner == column).sum() == 2
    dot = sum((one[n][0] * other[n][0]).sum() for n in mine)
    norms = [torch.cat([each[n][0].flatten() for n in mine]).norm() for each in (one, other)]
    torch.testing.assert_close(cosines[0, column], dot / (norms[0] * norms[1]))
    torch.testing.assert_close(cosines[1, column], torch.tensor(1.0, dtype=torch.float64))
    rest = torch.arange(cosines.shape[1]) != column
    assert (cosines[:, rest] == 0).all()


def test_none_is_no_option_unless_asked() -> None:
    lab = labs.make("nb201")
    for none in (False, True):
        searcher = oles.build(replace(SETTINGS, none=none), lab)
        weights = searcher.relax(searcher.logits()).weights["op"]
        selected = searcher.selected()
        assert selected is not None
        assert (weights[..., 0] > 0).all() == none
        assert (selected["op"][..., 0] == searcher.logits()["op"][..., 0]).all() == none
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_looking_at_gradients_leaves_everything_else() -> None:
    lab = labs.make("s1")
    searcher = oles.build(SETTINGS, lab)
    searcher.begin_epoch(0)
    first, second = labs.steps(lab, searcher.policy, 2)
    searcher.step(first)
    before = {name: part for name, part in searcher.state_dict().items() if name != "memory"}
    copies = labs.leaves(before)
    oles.arch_gradient(memory(searcher), searcher, second)
    labs.same(labs.leaves({name: part for name, part in searcher.state_dict().items() if name != "memory"}), copies)


def test_a_window_has_a_step() -> None:
    with pytest.raises(ValueError, match="expected a window of at least 1 step, got 0"):
        oles.Settings(window=0)
