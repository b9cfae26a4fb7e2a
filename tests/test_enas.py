"""ENAS: the controller against a torch LSTM, its gradient against exact expectations, what it learns and ranks."""

import dataclasses
import itertools

import labs
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from test_ranking import KnownLab, number
from torch import Tensor

from bench import spaces
from searchers import enas
from searchers._controller import Controller, ControllerSettings, walk_order
from searchers._optim import ArchSettings
from searchers._paths import Paths
from searchers._ranking import RankingSettings
from searchers.base import Choices, Group, Resources
from searchers.enas import Agent, Reinforce, Settings

ARMS = (Group("op", 1, ("a", "b")),)
PAIRS = (Group("out", 1, ("a", "b", "c"), "edge", keep=2),)
STREAMS = (3, 4)


def streams() -> list[torch.Generator]:
    return [labs.rng(seed) for seed in STREAMS]


def agent(groups: tuple[Group, ...], settings: Settings) -> Agent:
    """An agent of two replicas whose controller is far from uniform."""
    known = KnownLab(labs.make(), lambda _choices, _batches: [0.0, 0.0])
    known.groups = groups
    made = Agent(settings, known)
    for value in made.controller.parameters.values():
        value.mul_(8)
    return made


def gradient(one: Agent, kept: tuple[Tensor, ...], accuracy: Tensor) -> Tensor:
    """What a step on these cells hands to Adam, one row a replica."""
    seen: list[Tensor] = []
    one.adam.step = lambda found, lr: seen.append(one.adam.layout.flatten(found))  # type: ignore[method-assign]
    leaves = {name: value.clone().requires_grad_() for name, value in one.controller.parameters.items()}
    one.learn(leaves, one.controller.replay(leaves, kept), accuracy)
    return seen[0]


@pytest.mark.parametrize("groups", [ARMS, PAIRS], ids=["arms", "pairs"])
def test_the_expected_gradient_is_that_of_the_expected_reward_whatever_the_baseline(groups: tuple[Group, ...]) -> None:
    settings = Settings(
        controller=ControllerSettings(5, joint="sequential", tanh_op=2.5), reinforce=Reinforce(entropy=0.0)
    )
    (group,) = groups
    outcomes = list(itertools.permutations(range(len(group.options)), group.keep))
    rewards = torch.rand((2, len(outcomes)), generator=labs.rng(1), dtype=torch.float64)
    one = agent(groups, settings)
    every = torch.tensor(outcomes).expand(2, -1, -1)
    leaves = {name: value.clone().requires_grad_() for name, value in one.controller.parameters.items()}
    chances = one.controller.replay(leaves, (every,)).log_prob.exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(2, dtype=torch.float64))
    assert (chances[:, 0] - chances[:, 1]).abs().min() > 1e-3
    value = (100 * rewards * chances).sum()
    exact = one.adam.layout.flatten(
        dict(
            zip(
                leaves,
                torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True),
                strict=True,
            )
        )
    )
    assert exact.abs().max() > 0.1
    for baseline in (0.0, 50.0, -7.0):
        expected = torch.zeros_like(exact)
        for i in range(len(outcomes)):
            one.baseline = torch.tensor([baseline, 2 * baseline], dtype=torch.float64)
            found = gradient(one, (every[:, i : i + 1],), rewards[:, i : i + 1])
            expected += chances[:, i : i + 1].detach() * found
        torch.testing.assert_close(expected, -0.99 * exact, rtol=1e-9, atol=1e-9)


def by_torch(controller: Controller, replica: int, kept: list[list[list[int]]]) -> tuple[list[float], list[float]]:
    """Log-probability and entropy of one replica's cells, by torch's LSTM cell; `kept` is sample, decision, options."""
    settings, weights = controller.settings, {n: v[replica] for n, v in controller.parameters.items()}
    cells = [torch.nn.LSTMCell(settings.hidden, settings.hidden, dtype=torch.float64) for _ in range(settings.layers)]
    for layer, cell in enumerate(cells):
        cell.weight_ih.data, cell.weight_hh.data = weights[f"{layer}.input"].T, weights[f"{layer}.state"].T
        cell.bias_ih.data, cell.bias_hh.data = weights[f"{layer}.bias"], torch.zeros_like(weights[f"{layer}.bias"])
    logs, entropies = [], []
    for sample in kept:
        x, states = weights["start"][None], [None] * settings.layers
        log, entropy = 0.0, 0.0
        for (group, _), options in zip(controller.order, sample, strict=True):
            for layer, cell in enumerate(cells):
                states[layer] = cell(x, states[layer])
                x = states[layer][0]
            bound = 0.5 if group.kind == "op" else 2.5
            chances = (bound * torch.tanh((x @ weights[f"{group.name}.head"])[0] / 5)).softmax(0).detach()
            log += sum(float(chances[o].log()) for o in options) / len(options)
            entropy -= float((chances * chances.log()).sum())
            x = weights[f"{group.name}.embed"][options].mean(0, keepdim=True)
        logs.append(log)
        entropies.append(entropy)
    return logs, entropies


@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_step_of_the_controller_is_the_equations(space: str) -> None:
    adam = ArchSettings(0.02, (0.1, 0.999), 0.0, 1e-3)
    reinforce = Reinforce(samples=3, adam=adam, entropy=0.5, clip=0.7)
    one = agent(
        spaces.get(space).groups,
        Settings(controller=ControllerSettings(hidden=6, layers=2), reinforce=reinforce),
    )
    one.baseline = torch.tensor([10.0, 60.0], dtype=torch.float64)
    leaves = {name: value.clone().requires_grad_() for name, value in one.controller.parameters.items()}
    before = {name: value.clone() for name, value in one.controller.parameters.items()}
    walk = one.controller.draw(leaves, streams(), 3)
    accuracy = torch.rand((2, 3), generator=labs.rng(2), dtype=torch.float64)
    for replica in range(2):
        kept = [[row[replica, i].tolist() for row in walk.kept] for i in range(3)]
        logs, entropies = by_torch(one.controller, replica, kept)
        torch.testing.assert_close(walk.log_prob[replica].tolist(), logs)
        torch.testing.assert_close(walk.entropy[replica].tolist(), entropies)
    one.learn(leaves, walk, accuracy)
    for replica in range(2):
        again = {name: value.clone().requires_grad_() for name, value in before.items()}
        redo = one.controller.replay(again, walk.kept)
        rewards = 100 * accuracy[replica] + 0.5 * redo.entropy[replica].detach()
        baseline, above = (10.0, 60.0)[replica], []
        for reward in rewards.tolist():
            baseline = 0.99 * baseline + 0.01 * reward
            above.append(reward - baseline)
        assert one.baseline[replica] == pytest.approx(baseline, rel=1e-12)
        loss = -(torch.tensor(above, dtype=torch.float64) * redo.log_prob[replica]).mean()
        gradients = torch.autograd.grad(loss, list(again.values()))
        mine = [torch.nn.Parameter(value[replica].clone()) for value in before.values()]
        for parameter, found in zip(mine, gradients, strict=True):
            parameter.grad = found[replica]
        assert torch.nn.utils.clip_grad_norm_(mine, 0.7) > 0.7
        torch.optim.Adam(mine, lr=0.02, betas=(0.1, 0.999), eps=1e-3).step()
        for (name, value), wanted in zip(one.controller.parameters.items(), mine, strict=True):
            torch.testing.assert_close(value[replica], wanted.data, rtol=1e-9, atol=1e-12, msg=name)


def test_several_inputs_count_as_the_mean_or_as_drawn_one_after_the_other() -> None:
    one = agent(PAIRS, Settings(controller=ControllerSettings(hidden=4)))
    every = torch.tensor(list(itertools.permutations(range(3), 2))).expand(2, -1, -1)
    walk = one.controller.replay(one.controller.parameters, (every,))
    x, _ = one.controller._lstm(
        one.controller.parameters,
        one.controller.parameters["start"][:, None],
        [(torch.zeros(2, 1, 4, dtype=torch.float64),) * 2],
    )
    chances = (2.5 * torch.tanh(x @ one.controller.parameters["out.head"] / 5)).softmax(-1)[:, 0]
    for replica, p in enumerate(chances.tolist()):
        for place, (a, b) in enumerate(every[0].tolist()):
            assert walk.log_prob[replica, place] == pytest.approx((np.log(p[a]) + np.log(p[b])) / 2)
    counts = np.zeros(6)
    draws = one.controller.draw(one.controller.parameters, streams(), 3000).kept[0][0].tolist()
    for pair in draws:
        counts[every[0].tolist().index(pair)] += 1
    p = chances[0].tolist()
    assert chisquare(counts, [3000 * p[a] * p[b] / (1 - p[a]) for a, b in every[0].tolist()]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("off_by_one", "order"),
    [
        (True, ["op0", "in_30", "op1", "in_40", "op2", "out0", "op3"]),
        (False, ["op0", "op1", "in_30", "op2", "in_40", "op3", "out0"]),
    ],
)
def test_decisions_go_node_by_node(off_by_one: bool, order: list[str]) -> None:
    found = walk_order(spaces.get("s1").groups, off_by_one)
    assert [f"{group.name}{decision}" for group, decision in found] == order
    assert [decision for _, decision in walk_order(spaces.get("nb201").groups, off_by_one)] == list(range(6))


def searcher(known: Resources, **changes: object) -> Paths:
    few = RankingSettings(candidates=4, batches=1, finalists=1)
    settings = Settings(ranking=few, reinforce=Reinforce(steps=5, samples=2), batch_size=None)
    return enas.build(dataclasses.replace(settings, **changes), known)


def test_rewards_and_ranks_come_from_the_validation_half_and_leave_the_weights() -> None:
    known = KnownLab(labs.make(), lambda choices, _batches: [n / 20 for n in number(choices)])  # asserts the split
    mine = searcher(known)
    before = labs.leaves({"weights": dict(mine.parameters), "momentum": mine.weights.momentum})
    mine.end_epoch(0)
    mine.end_epoch(1)
    labs.same(labs.leaves({"weights": dict(mine.parameters), "momentum": mine.weights.momentum}), before)
    reward = [range(i, i + 1) for i in range(20)]
    rank = [*(range(i, i + 1) for i in range(4)), None]
    assert known.asked == [*reward[:10], *rank, *reward[10:], *rank]
    candidates = [mine.recipe.memory.cell("candidate", 4 + i) for i in range(4)]
    assert mine.selected() is not None
    for replica in range(2):
        numbers = [number_of(cell, replica) for cell in candidates]
        chosen = {name: value[None].numpy() for name, value in mine.selected().items()}
        assert number_of(chosen, replica) == max(numbers)


def number_of(hot: dict[str, np.ndarray], replica: int) -> int:
    return number(Choices({name: torch.as_tensor(v) for name, v in hot.items()}))[replica]


@pytest.mark.usefixtures("unchecked")
def test_the_controller_finds_what_is_rewarded() -> None:
    known = KnownLab(labs.make(), lambda choices, _batches: (choices.weights["op"][0, :, 0, 2] * 0.5).tolist())
    reinforce = Reinforce(steps=30, samples=2, adam=ArchSettings(0.05, (0.1, 0.999), 0.0, 1e-3))
    mine = searcher(known, controller=ControllerSettings(hidden=8, tanh_op=2.5), reinforce=reinforce)
    share = []
    for _ in range(2):
        drawn = [mine.recipe.memory.cell("test", i)["op"][0, :, 0, 2] for i in range(30)]
        share.append(np.mean(drawn, 0))
        mine.end_epoch(0)
    assert (share[0] < 0.6).all()
    assert (share[1] > 0.8).all()


def test_a_step_trains_the_cell_that_the_controller_draws() -> None:
    mine = searcher(labs.make())
    seen: list[Choices] = []
    mine.supernet.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[1]))
    (batches,) = labs.steps(mine.resources, mine.policy, 1)
    mine.begin_epoch(0)
    mine.step(batches)
    wanted = mine.recipe.memory.cell("cell", 0)
    for name, values in wanted.items():
        np.testing.assert_array_equal(seen[0].weights[name].numpy(), values)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden=0"):
        ControllerSettings(hidden=0)
    with pytest.raises(ValueError, match="steps=0"):
        Reinforce(steps=0)
