"""Pi-NAS: two disjoint paths, a teacher of what they use, and the step written out."""

import dataclasses

import labs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchers import pi_nas, random_ws
from searchers._optim import WeightSettings
from searchers._paths import Paths
from searchers._ranking import RankingSettings
from searchers._touched import touched
from searchers.base import Choices
from searchers.pi_nas import Settings, partner

FEW = RankingSettings(2, 1, 1)
WEIGHTS = WeightSettings(lr=0.2, lr_min=0.0, weight_decay=0.05, clip=0.4)


def searcher(space: str, seeds: tuple[int, ...] = (0, 1), **changes: object) -> Paths:
    settings = dataclasses.replace(Settings(ranking=FEW, batch_size=None), **changes)
    return pi_nas.build(settings, labs.make(space, seeds))


@pytest.mark.parametrize("space", ["s1", "s2", "s3", "nb201"])
def test_paths_share_as_little_as_they_can(space: str) -> None:
    mine = searcher(space, (0, 1, 2))
    seen = set()
    for step in range(25):
        mine.steps = step
        first = mine.uniform("cell", step)
        second = partner(mine, first)
        for group in mine.supernet.groups:
            shared = (first[group.name] * second[group.name]).sum(-1)
            assert (second[group.name].sum(-1) == group.keep).all()
            assert (shared == max(0, 2 * group.keep - len(group.options))).all(), group.name
            if group.kind == "op":
                assert (shared == 0).all()
        live = mine.supernet.live({name: values > 0 for name, values in second.items()})
        assert np.logical_or.reduce([values.any((2, 3)) for values in live.values()]).all()
        seen.add(second["op"][0, 0].tobytes())
    assert len(seen) > 10


def test_the_partner_of_a_replica_does_not_depend_on_the_stack() -> None:
    together, alone = searcher("nb201", (0, 1, 2)), [searcher("nb201", (seed,)) for seed in range(3)]
    for step in range(30):
        for mine in (together, *alone):
            mine.steps = step
        found = partner(together, together.uniform("cell", step))["op"]
        for replica, one in enumerate(alone):
            np.testing.assert_array_equal(found[:, [replica]], partner(one, one.uniform("cell", step))["op"])


@pytest.mark.usefixtures("unchecked")
def test_one_path_without_agreement_is_random_search_with_weight_sharing_to_the_bit() -> None:
    found = []
    for build in (
        lambda lab: pi_nas.build(Settings(ranking=FEW, batch_size=None, paths=1, consistency=0.0), lab),
        lambda lab: random_ws.build(random_ws.Settings(ranking=FEW, batch_size=None), lab),
    ):
        lab = labs.make("nb201")
        mine = build(lab)
        found.append(labs.outcome(mine, labs.drive(mine, lab, 0, 1)))
    labs.same(*found)


def dense(hot: dict[str, np.ndarray]) -> Choices:
    return Choices({name: torch.as_tensor(values) for name, values in hot.items()})


@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_a_step_is_the_equations(space: str) -> None:
    """Two replicas; the reference computes every option densely and keeps its own weights, momentum and teacher."""
    mine = searcher(space, weights=WEIGHTS, momentum=0.6, consistency=1.5)
    network, names = mine.supernet, list(mine.parameters)
    weights = {name: value.detach().clone() for name, value in mine.parameters.items()}
    teacher = {name: value.clone() for name, value in weights.items()}
    buffers = {name: torch.zeros_like(value) for name, value in weights.items()}
    mine.begin_epoch(0)
    clipped = 0
    for step, batches in enumerate(labs.steps(mine.resources, mine.policy, 2)):
        first = mine.uniform("cell", step)
        cells = [first, partner(mine, first)]
        used = np.any([touched(network, mine.choices(hot), names) for hot in cells], 0)
        for column, name in enumerate(names):
            for replica in np.flatnonzero(used[:, column]):
                teacher[name][replica] = 0.6 * teacher[name][replica] + 0.4 * weights[name][replica]
        (images, labels), leaves = batches.train[0], {n: v.clone().requires_grad_() for n, v in weights.items()}
        mine_is = [torch.func.functional_call(network, leaves, (images, dense(hot))) for hot in cells]
        target = [torch.func.functional_call(network, teacher, (images, dense(hot))).softmax(-1) for hot in cells]
        total, wanted = torch.zeros((), dtype=torch.float64), []
        for replica in range(2):
            both = [functional.cross_entropy(scores[replica], labels[replica]) for scores in mine_is]
            wanted.append(float(sum(both).detach()) / 2)
            total = total + sum(both)
            for scores, other in zip(mine_is, reversed(target), strict=True):
                logs = scores[replica].log_softmax(-1)
                total = total + 1.5 * functional.kl_div(logs, other[replica], reduction="batchmean")
        gradients = dict(zip(names, torch.autograd.grad(total, list(leaves.values())), strict=True))
        for replica in range(2):
            norm = torch.cat([gradients[name][replica].flatten() for name in names]).norm()
            clipped += int(norm > 0.4)
            for column, name in enumerate(names):
                if used[replica, column]:
                    direction = gradients[name][replica] * min(1.0, 0.4 / (float(norm) + 1e-6))
                    direction = direction + 0.05 * weights[name][replica]
                    buffers[name][replica] = 0.9 * buffers[name][replica] + direction
                    weights[name][replica] = weights[name][replica] - 0.2 * buffers[name][replica]
        losses = mine.step(batches)
        torch.testing.assert_close(losses.train.tolist(), wanted, rtol=1e-9, atol=0)
        labs.close(labs.leaves(dict(mine.parameters)), labs.leaves(weights), 1e-9)
    assert clipped


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_teacher_follows_what_is_used_and_is_the_network_without_momentum(momentum: float) -> None:
    mine = searcher("nb201", momentum=momentum)
    teacher, kinds = mine.recipe.memory, set()
    follow = teacher.follow

    def named(one: Paths) -> dict[str, Tensor]:
        return one.parameters if teacher.flat is None else one.weights.layout.split(teacher.flat)

    def watched(one: Paths, used: np.ndarray) -> None:
        before = {n: v.detach().clone() for n, v in named(one).items()}
        follow(one, used)
        for column, (name, value) in enumerate(one.parameters.items()):
            for replica in range(2):
                now = named(one)[name][replica]
                still, same = torch.equal(now, before[name][replica]), torch.equal(now, value[replica])
                assert used[replica, column] or still, name
                assert not (used[replica, column] and momentum == 0) or same, name
                kinds.add((still, same))

    teacher.follow = watched
    labs.drive(mine, mine.resources, 0, 1)
    assert {(True, True), (True, False)} <= kinds
    assert ((False, False) in kinds) == (momentum > 0)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="paths=3"):
        Settings(paths=3)
    with pytest.raises(ValueError, match="momentum=-1"):
        Settings(momentum=-1.0)
