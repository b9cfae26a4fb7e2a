"""What every table-only method promises, and the loop that all of them share."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tables
import torch

from bench import spaces
from bench.rng import numpy_stream
from bench.spaces.base import k_hot
from bench.tables.arrow import load, write
from bench.tables.data import Measurement
from bench.tables.lookup import Numbering
from bench.tables.table import Table
from bench.tabular import Draws, History, Judge, records
from searchers.tabular.base import Query, TableSearcher
from searchers.tabular.registry import TABLE_METHODS

methods = pytest.mark.parametrize("name", list(TABLE_METHODS))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.synthetic(tmp_path_factory.mktemp("table"))


def same(one: History, other: History) -> None:
    for field in dataclasses.fields(History):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@methods
def test_names_settings_and_protocol(name: str) -> None:
    method = TABLE_METHODS[name]
    settings = method.settings()
    assert method.name == name
    assert method.source
    assert method.repetitions > 0
    assert hash(settings) == hash(method.settings())
    assert json.loads(json.dumps(dataclasses.asdict(settings), allow_nan=False)) is not None
    assert method.unfit(settings, tables.BUDGETS) is None
    assert isinstance(tables.start(name, "toy", (0,)), TableSearcher)


@methods
def test_same_seed_same_queries_and_another_seed_others(name: str, path: Path) -> None:
    one, two = (tables.searched(name, tables.lookup(path)) for _ in range(2))
    same(one, two)
    assert (one.codes[:, 0] != one.codes[:, 1]).any()


@methods
def test_stacked_is_alone(name: str, path: Path) -> None:
    found = tables.lookup(path)
    stacked = tables.searched(name, found, (5, 0, 3))
    for replica, seed in enumerate((5, 0, 3)):
        alone = tables.searched(name, found, (seed,))
        np.testing.assert_array_equal(alone.codes[:, 0], stacked.codes[:, replica])
        np.testing.assert_array_equal(alone.fitness[:, 0], stacked.fitness[:, replica])


@methods
def test_test_accuracies_are_never_seen(name: str, path: Path, tmp_path: Path) -> None:
    data = load(path)
    other = {
        slot: m if slot.what == "val" else Measurement(1 - m.values, m.runs) for slot, m in data.measurements.items()
    }
    write(tmp_path / "other.arrow", dataclasses.replace(data, measurements=other))
    assert Table.open(tmp_path / "other.arrow", "synthetic").reference() != Table.open(path, "synthetic").reference()
    same(tables.searched(name, tables.lookup(path)), tables.searched(name, tables.lookup(tmp_path / "other.arrow")))


@methods
def test_a_method_is_not_random_search(name: str, path: Path) -> None:
    if name == "random_search":
        pytest.skip("it is random search")
    found = tables.lookup(path)
    assert (tables.searched(name, found).codes != tables.searched("random_search", found).codes).any()


@methods
def test_scores_are_cells_of_the_space_at_budgets_that_are_lent(name: str) -> None:
    groups = spaces.get("s1").groups
    method = TABLE_METHODS[name]
    noise = np.random.default_rng(1)
    asked = tables.drive(tables.start(name, "s1", (0, 1)), lambda _query: noise.random(2), 30)
    budgets = tables.BUDGETS if method.budgets else tables.BUDGETS[-1:]
    for query in asked:
        assert query.budget in budgets
        assert list(query.scores) == [group.name for group in groups]
        for group in groups:
            assert query.scores[group.name].shape == (2, *group.shape)
            if name != "l2nas":  # its scores are an action
                assert (query.scores[group.name].sum(-1) == group.keep).all()
                assert set(np.unique(query.scores[group.name])) == {0.0, 1.0}


@pytest.mark.usefixtures("unchecked")
@methods
def test_global_random_state_is_neither_read_nor_moved(name: str, path: Path) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        found.append(tables.searched(name, tables.lookup(path), queries=20))
        after = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        assert before == after
    same(*found)


@methods
def test_a_cell_that_is_not_in_the_table_is_counted_and_never_found(name: str, path: Path, tmp_path: Path) -> None:
    keys = load(path).keys
    partial = tables.synthetic(tmp_path, without=keys[::2])
    found = tables.lookup(partial)
    history = tables.searched(name, found, (0, 1))
    report = Table.open(partial, "synthetic")
    rows = records(tables.spec(TABLE_METHODS[name], (0, 1)), history, found, Judge(report.reference(), {})).rows
    for replica, row in enumerate(rows):
        assert row["queries"] == 60
        assert row["misses"] == np.isnan(history.fitness[:, replica]).sum() > 0
        assert row["miss"] is False
        assert row["key"] not in keys[::2]
        assert history.cost_s[np.isnan(history.fitness[:, replica]), replica].sum() == 0


@methods
def test_a_table_of_misses_alone_has_no_result(name: str) -> None:
    asked = tables.drive(tables.start(name, "toy", (0, 1)), lambda query: np.full(2, np.nan), 40)
    assert all(np.isfinite(values).all() for query in asked for values in query.scores.values())


def test_queries_are_as_many_as_asked_for(path: Path) -> None:
    history = tables.searched("regularized_evolution", tables.lookup(path), queries=37)
    assert history.codes.shape == (37, 3)
    assert history.counted.all()


@pytest.mark.parametrize("name", ["random_search", "hyperband"])
def test_simulated_seconds_end_with_the_last_query_that_fits(name: str, path: Path) -> None:
    budget_s, found = 5000.0, tables.lookup(path)
    history = tables.searched(name, found, (0, 1, 2, 3), queries=None, budget_s=budget_s)
    for replica in range(4):
        costs, counted = history.cost_s[:, replica], int(history.counted[:, replica].sum())
        assert history.counted[:counted, replica].all()
        assert costs[:counted].sum() <= budget_s < costs[: counted + 1].sum()
    assert len(set(history.counted.sum(0).tolist())) > 1
    rows = records(
        tables.spec(TABLE_METHODS[name], (0, 1, 2, 3)), history, found, Judge(found.report.reference(), {})
    ).rows
    assert [row["queries"] for row in rows] == history.counted.sum(0).tolist()
    assert all(
        row["simulated_s"] == pytest.approx(history.cost_s[: row["queries"], i].sum()) for i, row in enumerate(rows)
    )
    assert all(query <= row["queries"] for row in rows for query in row["curve"]["query"])


@pytest.mark.parametrize("name", ["random_search", "dehb"])
def test_incumbents_are_the_best_at_the_largest_budget_so_far(name: str, path: Path) -> None:
    found = tables.lookup(path)
    history = tables.searched(name, found)
    changes = history.incumbents()
    for replica in range(3):
        best = (0, -np.inf)
        for query, budget in enumerate(history.budget.tolist()):
            seen = (budget, history.fitness[query, replica])
            assert changes[query, replica] == (seen > best)
            best = max(best, seen)
    rows = records(
        tables.spec(TABLE_METHODS[name], (0, 1, 2)), history, found, Judge(found.report.reference(), {})
    ).rows
    for row in rows:
        curve = row["curve"]
        assert sorted(zip(curve["budget"], curve["fitness"], strict=True)) == list(
            zip(curve["budget"], curve["fitness"], strict=True)
        )
        entry = found.report.query(row["key"])
        assert (row["table"]["val_mean"], row["table"]["test_mean"]) == (entry.val_mean, entry.test_mean)
        assert (curve["val_mean"][-1], curve["test_mean"][-1]) == (entry.val_mean, entry.test_mean)
        assert row["regret_test"] == found.report.reference().optimum_test - entry.test_mean


def test_fitness_is_one_stored_run_or_the_mean(path: Path) -> None:
    found = tables.lookup(path)
    one = tables.searched("random_search", found, range(20))
    mean = tables.searched("random_search", found, range(20), fitness="mean")
    np.testing.assert_array_equal(one.codes, mean.codes)
    picked = set()
    for code, value, average in zip(one.codes.ravel(), one.fitness.ravel(), mean.fitness.ravel(), strict=True):
        runs = found.entry(int(code)).val
        picked.add(runs.index(value))
        assert average == pytest.approx(np.mean(runs))
    assert picked == {0, 1, 2}


def test_a_budget_that_is_not_lent_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks:
        def ask(self) -> Query:
            return Query({g.name: np.zeros((1, *g.shape)) for g in spaces.get("toy").groups}, 7)

        def tell(self, _fitness: np.ndarray, _cost_s: np.ndarray, /) -> None: ...

    method = dataclasses.replace(TABLE_METHODS["random_search"], build=lambda _settings, _resources: Asks())
    monkeypatch.setitem(TABLE_METHODS, "random_search", method)
    with pytest.raises(ValueError, match=r"expected random_search to ask for a budget out of \(108,\), got 7"):
        tables.searched("random_search", tables.lookup(path), (0,))


def test_draws_are_functions_of_seed_name_and_step() -> None:
    groups = spaces.get("toy").groups
    draws, again = (Draws(groups, (3, 8), (108,)) for _ in range(2))
    forward = [draws.uniform("a", step, 5).copy() for step in range(130)]
    for step in (129, 0, 64, 63):
        np.testing.assert_array_equal(again.uniform("a", step, 5), forward[step])
    assert len({row.tobytes() for block in forward for row in block}) == 260
    assert (draws.uniform("b", 0, 5) != forward[0]).all()
    np.testing.assert_array_equal(forward[0][1], numpy_stream(8, "a/5", 0).random((64, 5))[0])
    with pytest.raises(ValueError, match="read-only"):
        draws.uniform("a", 0, 5)[0] = 0


@pytest.mark.parametrize("space", ["toy", "s1", "nb201"])
def test_numbers_of_encodings_are_those_of_the_enumeration(space: str) -> None:
    found = spaces.get(space)
    numbering = Numbering(found.groups)
    cells = list(found.cells())
    chosen = [0, 1, len(cells) // 3, len(cells) // 2, len(cells) - 1]
    for code in chosen:
        assert numbering.genotype(code) == cells[code]
    hot = [k_hot(found.groups, cells[code]) for code in chosen]
    scores = {group.name: np.stack([one[group.name] for one in hot]) for group in found.groups}
    assert numbering.codes(scores).tolist() == chosen
    with pytest.raises(ValueError, match="expected finite scores for group 'op'"):
        numbering.codes({**scores, "op": scores["op"] * np.nan})
