"""Table-only methods against their equations, and the identities between them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tables
import torch

from bench import spaces
from bench.tabular import Draws
from searchers.tabular import _differential, bohb, de, dehb, l2nas, regularized_evolution, reinforce
from searchers.tabular._encoding import Encoding
from searchers.tabular._halving import Rung, brackets, rungs, too_few
from searchers.tabular.base import Query

NB201 = spaces.get("nb201")
S1 = spaces.get("s1")


def noisy(seed: int, replicas: int) -> tables.Fitness:
    draw = np.random.default_rng(seed)
    return lambda _query: draw.random(replicas)


# Encoding


def test_every_value_of_a_gene_has_the_same_share() -> None:
    encoding = Encoding(S1.groups)
    assert encoding.sizes.tolist() == [3, 3, 3, 3, 3, 6, 10]  # four operations, 2 of 3, 2 of 4 and 2 of 5 parents
    grid = np.linspace(0, 1, 3000, endpoint=False)[:, None].repeat(7, 1)
    cells = encoding.decode(grid)
    for gene, size in enumerate(encoding.sizes):
        counts = np.bincount(cells[:, gene], minlength=size)
        assert counts.min() >= 3000 // size - 1
        assert counts.max() <= 3000 // size + 1
    assert encoding.decode(np.full((1, 7), 1.0)).tolist() == [[2, 2, 2, 2, 2, 5, 9]]


def test_neighbours_differ_in_one_option_and_are_all_there() -> None:
    encoding = Encoding(S1.groups)
    cell = np.array([[0, 1, 2, 0, 1, 3, 7]])
    before = encoding.scores(cell)
    found = set()
    for gene, degree in enumerate(encoding.degrees):
        for way in range(degree):
            moved = encoding.neighbour(cell, np.array([gene]), np.array([way]))
            after = encoding.scores(moved)
            assert sum(np.abs(after[name] - before[name]).sum() for name in after) == 2
            found.add(tuple(moved[0]))
    assert len(found) == 4 * 2 + 2 + 4 + 6


# Random search


def test_the_best_of_n_random_cells_is_the_order_statistic_of_the_table(tmp_path: Path) -> None:
    found = tables.lookup(tables.synthetic(tmp_path), budgets=(108,))
    values = np.sort([np.mean(found.entry(code).val) for code in range(found.space.size())])
    history = tables.searched("random_search", found, range(3000), queries=9, fitness="mean")
    for n in (1, 4, 9):
        steps = np.arange(len(values) + 1) / len(values)
        expected = (values * (steps[1:] ** n - steps[:-1] ** n)).sum()
        best = history.fitness[:n].max(0)
        assert abs(best.mean() - expected) < 4 * best.std() / np.sqrt(3000)
        assert abs(best.mean() - expected) < 0.25 * abs(expected - values.mean()) + 4 * best.std() / np.sqrt(3000)


# Regularized evolution


def test_the_population_is_constant_and_the_oldest_leaves() -> None:
    searcher = tables.start("regularized_evolution", "nb201", (0, 1))
    told: list[np.ndarray] = []
    values = noisy(0, 2)
    for query_number in range(35):
        query = searcher.ask()
        told.append(np.column_stack([tables.picks(query), fitness := values(query)]))
        searcher.tell(fitness, fitness)
        if query_number >= 9:
            assert searcher.members.shape == (2, 10, 6)
            kept = np.concatenate([searcher.members, searcher.fitness[..., None]], 2)
            for replica in range(2):
                youngest = sorted(row[replica].tolist() for row in told[-10:])
                assert sorted(kept[replica].tolist()) == youngest


def test_a_child_swaps_one_option_of_the_fittest_of_its_tournament() -> None:
    seeds = (4, 9)
    draws = Draws(NB201.groups, seeds, (12,))
    searcher = tables.start("regularized_evolution", "nb201", seeds)
    asked = [(tables.picks(q), tables.additive(q)) for q in tables.drive(searcher, tables.additive, 60)]
    for number in range(10, 60):
        places = (draws.uniform("tournament", number, 3) * 10).astype(int)
        for replica in range(2):
            ages = [number - 1 - (number - 1 - place) % 10 for place in places[replica]]
            parent = max(ages, key=lambda age: asked[age][1][replica])
            assert (asked[number][0][replica] != asked[parent][0][replica]).sum() == 1


def test_identity_keeps_the_parent_and_kinds_are_drawn_first() -> None:
    settings = regularized_evolution.Settings(population=1, sample=1, identity=1.0)
    asked = tables.drive(tables.start("regularized_evolution", "s1", (0,), settings), noisy(0, 1), 5)
    assert all((query.scores["op"] == asked[0].scores["op"]).all() for query in asked)
    settings = regularized_evolution.Settings(population=1, sample=1)
    searcher = tables.start("regularized_evolution", "s1", range(200), settings)
    asked = tables.drive(searcher, noisy(0, 200), 11)
    operations = [(a.scores["op"] != b.scores["op"]).any((1, 2)) for a, b in itertools.pairwise(asked)]
    assert np.mean(operations) == pytest.approx(0.5, abs=0.05)  # by decisions it would be 4 of 7


def test_evolution_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"identity in \[0, 1\], got Settings\(population=10, sample=3, identity=2.0"):
        regularized_evolution.Settings(identity=2.0)


# REINFORCE


def test_the_mean_of_the_estimator_is_the_gradient_of_the_expected_fitness_for_any_baseline() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(1, 2, 3))
    rewards = draw.random((3, 3))
    leaf = torch.tensor(logits[0], requires_grad=True)
    first, second = leaf.softmax(-1)
    (first @ torch.tensor(rewards) @ second).backward()
    shares = reinforce.softmax(logits)[0]
    for baseline in (0.0, 0.7):
        mean = sum(
            shares[0, i] * shares[1, j] * (rewards[i, j] - baseline) * reinforce.score(logits, np.array([[i, j]]))[0]
            for i, j in itertools.product(range(3), repeat=2)
        )
        np.testing.assert_allclose(mean, leaf.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_steps_are_the_equations(optimiser: str) -> None:
    settings = reinforce.Settings(optimiser=optimiser, lr=0.05)
    searcher = tables.start("reinforce", "nb201", (3, 7), settings)
    leaf = torch.tensor(searcher.logits.copy(), requires_grad=True)
    kind = torch.optim.Adam if optimiser == "adam" else torch.optim.SGD
    ours, numerator, denominator = kind([leaf], lr=0.05), 0.0, 0.0
    draw = np.random.default_rng(2)
    for _ in range(5):
        picks, reward = torch.tensor(tables.picks(searcher.ask())), draw.random(2)
        searcher.tell(reward, reward)
        numerator, denominator = 0.9 * numerator + 0.1 * reward, 0.9 * denominator + 0.1
        advantage = torch.tensor(reward - numerator / denominator)
        ours.zero_grad()
        log_p = leaf.log_softmax(-1).gather(-1, picks[..., None]).sum((1, 2))
        (-(advantage * log_p).sum()).backward()
        ours.step()
        np.testing.assert_allclose(searcher.logits, leaf.detach().numpy(), atol=1e-9)
    assert np.abs(searcher.logits).max() > 0.01


def test_cells_are_drawn_from_the_softmax_and_a_miss_moves_nothing() -> None:
    searcher = tables.start("reinforce", "s1", range(1500))
    searcher.logits[:, 0, :3] = np.log([0.7, 0.2, 0.1])
    cell = searcher.ask().scores["op"][:, 0]
    np.testing.assert_allclose(cell.mean(0), [0.7, 0.2, 0.1], atol=0.05)
    before = searcher.logits.copy()
    searcher.tell(np.full(1500, np.nan), np.zeros(1500))
    np.testing.assert_array_equal(searcher.logits, before)


def test_reinforce_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"a positive lr and a decay in \[0, 1\), got Settings\(.*lr=-1\.0"):
        reinforce.Settings(lr=-1.0)


# Local search


def test_a_neighbourhood_is_asked_for_whole_and_its_best_is_taken() -> None:
    asked = [tables.picks(q) for q in tables.drive(tables.start("local_search", "nb201", (0, 1)), tables.additive, 80)]
    for replica in range(2):
        start, around = asked[0][replica], np.array([cell[replica] for cell in asked[1:25]])
        assert len({tuple(cell) for cell in around}) == 24
        assert ((around != start).sum(1) == 1).all()
        values = (around * np.arange(1, 7)).sum(1)
        assert values.max() > (start * np.arange(1, 7)).sum()
        following = np.array([cell[replica] for cell in asked[25:49]])
        assert ((following != around[values.argmax()]).sum(1) == 1).all()


def test_a_local_optimum_is_left_by_a_fresh_start() -> None:
    seeds = (0, 1, 2)
    asked = tables.drive(tables.start("local_search", "nb201", seeds), tables.additive, 250)
    draws, encoding = Draws(NB201.groups, seeds, (108,)), Encoding(NB201.groups)
    for replica in range(3):
        values = [tables.additive(query)[replica] for query in asked]
        current, first = values[0], 1
        while max(values[first : first + 24]) > current:
            current, first = max(values[first : first + 24]), first + 24
        assert current == 1.0
        fresh = encoding.decode(draws.uniform("start", first + 24, 6))[replica]
        assert tables.picks(asked[first + 24])[replica].tolist() == fresh.tolist()


# TPE


def test_tpe_avoids_what_is_not_in_the_table_and_learns() -> None:
    def fitness(query: Query) -> np.ndarray:
        value = tables.additive(query)
        return np.where(tables.picks(query)[:, 0] == 4, np.nan, value)

    asked = tables.drive(tables.start("tpe", "nb201", (0, 1)), fitness, 60)
    values = np.array([np.nan_to_num(fitness(query)) for query in asked])
    assert values[40:].mean() > values[:10].mean() + 0.15
    assert (values[40:] == 0).mean() < 0.16  # it is 1 if failures are forgotten


# Hyperband


def test_brackets_are_those_of_the_paper() -> None:
    assert brackets((4, 12, 36, 108), 3) == [
        [Rung(27, 4), Rung(9, 12), Rung(3, 36), Rung(1, 108)],
        [Rung(12, 12), Rung(4, 36), Rung(1, 108)],
        [Rung(6, 36), Rung(2, 108)],
        [Rung(4, 108)],
    ]
    assert rungs((1, 4, 12, 37, 110, 111), 3) == (1, 4, 12, 37, 111)
    assert rungs((12, 200), 3) == (200,)
    assert too_few((12, 108), 3) == (
        "it needs budgets that are 3 times each other below the largest, the table has (12, 108)"
    )
    assert too_few((36, 108), 3) is None


@pytest.mark.parametrize("name", ["hyperband", "dehb"])
def test_the_fittest_of_a_rung_go_on(name: str) -> None:
    asked = tables.drive(tables.start(name, "nb201", (0, 5)), tables.additive, 40)
    assert [query.budget for query in asked] == [4] * 27 + [12] * 9 + [36] * 3 + [108]
    for replica in range(2):
        cells = [tuple(tables.picks(query)[replica]) for query in asked]
        values = [tables.additive(query)[replica] for query in asked]
        ranked = sorted(range(27), key=lambda place: -values[place])
        assert cells[27:36] == [cells[place] for place in ranked[:9]]
        assert cells[36:39] == [cells[place] for place in ranked[:3]]
        assert cells[39] == cells[ranked[0]]


def test_halving_without_rungs_is_refused() -> None:
    method = tables.TABLE_METHODS["hyperband"]
    with pytest.raises(ValueError, match=r"expected other budgets: it needs budgets .* the table has \(12, 200\)"):
        method.build(method.settings(), Draws(NB201.groups, (0,), (12, 200)))


# BOHB


def test_bohb_that_always_draws_uniformly_is_hyperband() -> None:
    uniform = bohb.Settings(random_fraction=1.0)
    one = tables.drive(tables.start("bohb", "nb201", (0, 1), uniform), tables.additive, 90)
    two = tables.drive(tables.start("hyperband", "nb201", (0, 1)), tables.additive, 90)
    for ours, theirs in zip(one, two, strict=True):
        assert ours.budget == theirs.budget
        np.testing.assert_array_equal(ours.scores["op"], theirs.scores["op"])


def test_densities_are_means_of_products_of_kernels() -> None:
    draw = np.random.default_rng(0)
    encoding = Encoding(S1.groups)
    model = bohb.Model(bohb.Settings(), Draws(S1.groups, (0, 1), tables.BUDGETS), encoding)
    at, cells = (draw.integers(0, encoding.sizes, (2, count, 7)) for count in (3, 9))
    found = model._log_density(at, cells)
    for replica, place in itertools.product(range(2), range(3)):
        total = 0.0
        for cell in cells[replica]:
            product = 1.0
            for gene, size in enumerate(encoding.sizes):
                h = 1.06 * cells[replica, :, gene].std() * 9 ** (-1 / 11)
                h = min(max(h, 0.3), (size - 1) / size)
                product *= 1 - h if cell[gene] == at[replica, place, gene] else h / (size - 1)
            total += product / 9
        assert found[replica, place] == pytest.approx(np.log(total), abs=1e-10)


def test_the_model_is_of_the_largest_budget_with_enough_cells_split_by_fitness() -> None:
    encoding = Encoding(NB201.groups)
    model = bohb.Model(bohb.Settings(random_fraction=0.0), Draws(NB201.groups, (0,), tables.BUDGETS), encoding)
    for number in range(60):
        model.observe(np.full((1, 6), number % 5), np.array([number / 60]), 4)
    for _ in range(8):
        model.observe(np.full((1, 6), 3), np.array([0.5]), 12)
    good, bad = model._good_and_bad(4)
    assert good[0, :, 0].tolist() == [number % 5 for number in range(59, 50, -1)]
    assert bad.shape == (1, 51, 6)
    assert bad[0, -1, 0] == 0
    uniform = encoding.decode(model.resources.uniform("cell", 1, 6))
    assert (model.propose(1) != uniform).any()
    model.cells.pop(4)
    np.testing.assert_array_equal(model.propose(1), uniform)  # eight are too few for six genes


def test_cells_are_drawn_around_good_ones() -> None:
    encoding = Encoding(NB201.groups)
    settings = bohb.Settings(samples=2000, factor=1.0, min_bandwidth=0.3)
    model = bohb.Model(settings, Draws(NB201.groups, (0,), tables.BUDGETS), encoding)
    drawn = model._draw(0, np.full((1, 9, 6), 2))
    counts = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    np.testing.assert_allclose(counts, [0.075, 0.075, 0.7, 0.075, 0.075], atol=0.02)


# DE and DEHB


def test_without_difference_and_with_full_crossover_children_are_members() -> None:
    settings = de.Settings(population=6, variation=_differential.Variation(scale=0.0, crossover=1.0))
    asked = [tables.picks(q) for q in tables.drive(tables.start("de", "nb201", (0, 1), settings), noisy(0, 2), 12)]
    for replica in range(2):
        members = {tuple(cells[replica]) for cells in asked[:6]}
        assert {tuple(cells[replica]) for cells in asked[6:]} <= members


def test_a_child_is_rand_1_bin() -> None:
    draw = np.random.default_rng(3)
    pool, draws = draw.random((2, 7, 4)), draw.random((2, 7 + 8 + 1))
    variation = _differential.Variation(scale=0.8, crossover=0.4)
    assert _differential.draws_needed(7, 4) == draws.shape[1]
    found = _differential.child(pool[:, 2], pool, 2, draws, variation)
    outside = 0
    for replica in range(2):
        order, fresh, cross, forced = np.split(draws[replica], [7, 11, 15])
        others = sorted((place for place in range(7) if place != 2), key=lambda place: order[place])
        a, b, c = (pool[replica, place] for place in others[:3])
        for gene in range(4):
            value = a[gene] + 0.8 * (b[gene] - c[gene])
            inside = 0 <= value < 1
            outside += not inside
            mutant = value if inside else fresh[gene]
            taken = cross[gene] < 0.4 or gene == int(forced[0] * 4)
            assert found[replica, gene] == pytest.approx(mutant if taken else pool[replica, 2, gene])
    assert outside


def test_a_generation_is_selected_at_once_and_never_gets_worse() -> None:
    searcher = tables.start("de", "nb201", (0, 1))
    tables.drive(searcher, tables.additive, 20)
    for _ in range(4):
        before, points = searcher.fitness.copy(), searcher.points.copy()
        told = np.stack([tables.additive(query) for query in tables.drive(searcher, tables.additive, 19)], 1)
        np.testing.assert_array_equal(searcher.points, points)
        last = tables.additive(tables.drive(searcher, tables.additive, 1)[0])
        told = np.concatenate([told, last[:, None]], 1)
        np.testing.assert_array_equal(searcher.fitness, np.maximum(before, told))
        np.testing.assert_array_equal(searcher.points, np.where((told >= before)[..., None], searcher.children, points))


def test_subpopulations_keep_their_size_and_get_fitter() -> None:
    searcher = tables.start("dehb", "nb201", (0, 1))
    sizes = {budget: points.shape[1] for budget, points in searcher.points.items()}
    assert sizes == {4: 27, 12: 12, 36: 6, 108: 4}
    tables.drive(searcher, tables.additive, 69)
    before = {budget: values.copy() for budget, values in searcher.fitness.items()}
    tables.drive(searcher, tables.additive, 69)
    assert {budget: points.shape[1] for budget, points in searcher.points.items()} == sizes
    assert all((searcher.fitness[budget] >= before[budget]).all() for budget in sizes)
    assert searcher.fitness[108].mean() > before[108].mean()


def test_parents_of_a_higher_rung_are_the_fittest_below() -> None:
    settings = dehb.Settings(variation=_differential.Variation(scale=0.0, crossover=1.0))
    searcher = tables.start("dehb", "nb201", (0, 1), settings)
    tables.drive(searcher, tables.additive, 40 + 12)
    below = searcher.encoding.decode(searcher._fittest(12, 4))
    asked = [tables.picks(query) for query in tables.drive(searcher, tables.additive, 4)]
    for replica in range(2):
        pool = {tuple(cell) for cell in below[replica]}
        assert {tuple(cells[replica]) for cells in asked} <= pool


# L2NAS


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_pinball_loss_is_least_at_the_quantile(quantile: float) -> None:
    targets = torch.tensor(np.random.default_rng(0).normal(size=101))
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    losses = l2nas.pinball(targets[:, None] - grid, quantile).mean(0)
    assert grid[losses.argmin()] == pytest.approx(float(torch.quantile(targets, quantile)), abs=1e-3)
    assert l2nas.pinball(torch.tensor([np.nan, 1.0, -1.0]), 0.9).tolist() == pytest.approx([0.0, 0.9, 0.1])


def test_with_uniform_actions_alone_fitness_changes_nothing() -> None:
    settings = l2nas.Settings(epsilon=1.0, hidden=8, batch=4)
    one, two = (tables.drive(tables.start("l2nas", "nb201", (0, 1), settings), noisy(s, 2), 30) for s in (0, 1))
    assert all((a.scores["op"] == b.scores["op"]).all() for a, b in zip(one, two, strict=True))
    settings = l2nas.Settings(epsilon=0.0, exploration=1, hidden=8, batch=4)
    one, two = (tables.drive(tables.start("l2nas", "nb201", (0, 1), settings), noisy(s, 2), 30) for s in (0, 1))
    assert any((a.scores["op"] != b.scores["op"]).any() for a, b in zip(one, two, strict=True))


def test_a_step_is_adam_on_the_quantile_loss_then_on_the_critic() -> None:
    settings = l2nas.Settings(hidden=5, batch=3, elite=2)
    searcher = tables.start("l2nas", "nb201", (0, 1), settings)
    tables.drive(searcher, noisy(1, 2), 2)
    nets = [[w.detach().clone().requires_grad_() for w in net] for net in (searcher.actor, searcher.critic)]
    tables.drive(searcher, noisy(2, 2), 1)
    picks = (searcher.resources.uniform("replay", 3, 3) * 3).astype(int)

    def run(net: list[torch.Tensor], replica: int, values: torch.Tensor) -> torch.Tensor:
        for layer, weights in enumerate(net):
            values = torch.nn.functional.linear(values, weights[replica, :-1].T, weights[replica, -1])
            values = values.relu() if layer < 2 else values
        return values

    adams = [torch.optim.Adam(net, lr=lr) for net, lr in zip(nets, (1e-4, 1e-3), strict=True)]
    states, actions, rewards = (torch.stack(kept, 1) for kept in (searcher.states, searcher.actions, searcher.rewards))
    rewards = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True, correction=0)
    for step in ("critic", "actor"):
        total = torch.zeros(())
        for replica, rows in enumerate(picks):
            for row in rows:
                state = states[replica, row]
                action = actions[replica, row] if step == "critic" else run(nets[0], replica, state).sigmoid()
                value = run(nets[1], replica, torch.cat([state, action]))[0]
                error = rewards[replica, row] - value
                loss = torch.maximum(0.9 * error, -0.1 * error) if step == "critic" else -value
                total = total + loss / 3
        own = nets[1] if step == "critic" else nets[0]
        for weights, gradient in zip(own, torch.autograd.grad(total, own), strict=True):
            weights.grad = gradient
        adams[1 if step == "critic" else 0].step()
    for ours, theirs in zip(nets, (searcher.actor, searcher.critic), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_state_is_the_mean_of_the_fittest_cells_without_misses() -> None:
    searcher = tables.start("l2nas", "nb201", (0,), l2nas.Settings(hidden=4, elite=2))
    rewards = iter([0.1, np.nan, 0.7, 0.4])
    asked = tables.drive(searcher, lambda _query: np.array([next(rewards)]), 4)
    hot = [np.eye(5)[tables.picks(query)[0]].ravel() for query in asked]
    np.testing.assert_allclose(searcher._state()[0].numpy(), (hot[2] + hot[3]) / 2)
    np.testing.assert_allclose(searcher.states[0][0].numpy(), 0.2)
