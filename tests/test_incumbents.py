"""The figure of table-only search: what its curves are, what may stand together, and the command."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_analysis_study import write_study

from analysis import _incumbents, figures
from analysis._incumbents import quartiles, regrets, searches, select, times
from analysis.style import MEAN_PT


def curve(*points: tuple[float, float | None], queries: int = 9) -> dict[str, Any]:
    """A repetition whose incumbent changes at the given seconds to the given test accuracy."""
    seconds, test = zip(*points, strict=True)
    rising = list(range(1, len(points) + 1))
    found = {"query": rising, "simulated_s": list(seconds), "budget": [12] * len(points), "fitness": list(test)}
    val = [None if value is None else value - 0.1 for value in test]
    return {"queries": queries, "simulated_s": 100.0, "curve": {**found, "val_mean": val, "test_mean": list(test)}}


REPETITIONS = (
    curve((10.0, 0.5), (40.0, 0.8)),
    curve((20.0, 0.6)),
    curve((5.0, 0.4), (10.0, 0.7), (80.0, 0.9)),
)


def write(results: Path, method: str, records: tuple[dict[str, Any], ...] = REPETITIONS, **fields: Any) -> None:
    settings = {"settings": {"lr": 0.1}, "queries": None, "budget_s": 100.0, "budgets": [12], "fitness": "run"}
    name = f"toy-synthetic-{method}-{fields.get('signature', 'a')}"
    base = {"space": "toy", "dataset": "synthetic", "method": method, "seeds": list(range(len(records)))}
    spec = {**base, **settings, "table": "abc", "budget": 108, "signature": "a", **fields}
    folder = results / "tabular" / "runs" / name
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    table = {"optimum": {"val": 0.9, "test": 1.0}, "rows": 27}
    (folder / "table.json").write_text(json.dumps(table), encoding="utf-8")
    lines = [json.dumps({"seed": seed, **record}) + "\n" for seed, record in enumerate(records)]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "finished.json").write_text(json.dumps({"records": len(records)}), encoding="utf-8")


def test_a_curve_is_the_incumbent_s_regret_until_the_next_one(tmp_path: Path) -> None:
    write(tmp_path, "random_search")
    (search,) = searches(tmp_path)
    at = np.array([5.0, 9.0, 10.0, 20.0, 39.0, 40.0, 100.0])
    nan = np.nan
    wanted = [
        [nan, nan, 0.5, 0.5, 0.5, 0.2, 0.2],
        [nan, nan, nan, 0.4, 0.4, 0.4, 0.4],
        [0.6, 0.6, 0.3, 0.3, 0.3, 0.3, 0.1],
    ]
    np.testing.assert_allclose(regrets(search, "test", at), wanted)
    np.testing.assert_allclose(regrets(search, "val", at), wanted)
    low, middle, high = quartiles(regrets(search, "test", at))
    np.testing.assert_allclose(middle, [nan, nan, nan, 0.4, 0.4, 0.3, 0.2])
    np.testing.assert_allclose(low[3:], [0.35, 0.35, 0.25, 0.15])
    np.testing.assert_allclose(high[3:], [0.45, 0.45, 0.35, 0.3])
    grid = times([search])
    assert (grid[0], grid[-1]) == pytest.approx((5.0, 100.0))


def test_without_times_curves_are_over_queries(tmp_path: Path) -> None:
    untimed = tuple({**one, "simulated_s": None, "curve": {**one["curve"], "simulated_s": None}} for one in REPETITIONS)
    write(tmp_path, "random_search", untimed, queries=9, budget_s=None)
    found = searches(tmp_path)
    np.testing.assert_allclose(regrets(found[0], "test", np.array([1.0, 3.0])), [[0.5, 0.2], [0.4, 0.4], [0.6, 0.1]])
    figure = _incumbents.draw(found, _incumbents.caption(found))
    assert [axes.get_xlabel() for axes in figure.axes] == ["queries", "queries"]


def test_a_panel_has_a_median_and_a_band_for_every_method(tmp_path: Path) -> None:
    write(tmp_path, "random_search")
    write(tmp_path, "reinforce", tuple(curve((10.0, 0.9)) for _ in range(3)))
    found = select(searches(tmp_path), [], [], {})
    text = _incumbents.caption(found)
    assert "quartiles over n = 3 repetitions" in text
    assert "toy, synthetic: 100 simulated s, 27 cells" in text
    assert "table budget 108" in text
    figure = _incumbents.draw(found, text)
    assert [axes.get_ylabel() for axes in figure.axes] == ["validation regret", "test regret"]
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["random_search", "reinforce"]
    test = figure.axes[1]
    ends = [line.get_ydata()[-1] for line in test.lines if line.get_linewidth() == MEAN_PT]
    np.testing.assert_allclose(ends, [0.2, 0.1])
    bands = [collection.get_paths()[0].vertices[:, 1] for collection in test.collections]
    assert [(band.min(), band.max()) for band in bands] == [pytest.approx((0.15, 0.45)), pytest.approx((0.1, 0.1))]


@pytest.mark.parametrize(
    ("ends", "numbers"),
    [
        ((130.0, 2500.0), ["200", "500", "1000", "2000"]),
        ((9.0, 20000.0), ["10", "100", "1000", "10000"]),
    ],
)
def test_the_times_are_a_few_plain_numbers(ends: tuple[float, float], numbers: list[str]) -> None:
    axes = Figure().subplots()
    _incumbents._scale_times(axes, np.array(ends))
    axes.set_xlim(*ends)
    axes.figure.draw_without_rendering()
    labels = [label for label in axes.get_xticklabels(which="both") if label.get_text()]
    assert [label.get_text() for label in labels if ends[0] <= label.get_position()[0] <= ends[1]] == numbers


def test_a_short_time_has_two_numbers_at_least() -> None:
    axes = Figure().subplots()
    _incumbents._scale_times(axes, np.array([210.0, 290.0]))
    axes.set_xlim(210.0, 290.0)
    assert sum(210 <= tick <= 290 for tick in axes.get_xticks()) >= 2


def test_settings_tell_searches_apart_and_protocols_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, "reinforce")
    write(tmp_path, "reinforce", signature="b", settings={"lr": 0.2})
    assert [one.label for one in select(searches(tmp_path), [], [], {})] == ["reinforce[lr=0.1]", "reinforce[lr=0.2]"]
    assert [one.label for one in select(searches(tmp_path), [], [], {"lr": ["0.2"]})] == ["reinforce"]
    write(tmp_path, "random_search", signature="c", budget_s=50.0)
    with pytest.raises(ValueError, match=r"toy, synthetic differ in budget_s: 100\.0, 50\.0; choose with --where"):
        select(searches(tmp_path), [], [], {})
    assert len(select(searches(tmp_path), ["toy"], ["random_search"], {})) == 1
    with pytest.raises(ValueError, match="no finished table search"):
        select(searches(tmp_path), ["s1"], [], {})
    (tmp_path / "tabular" / "runs" / "toy-synthetic-reinforce-b" / "finished.json").unlink()
    assert len(searches(tmp_path)) == 2


def test_the_command_draws_it_by_name_beside_the_others_or_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "random_search")
    out = ["--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert figures.main(out) == 0
    names = [os.fspath(tmp_path / "out" / f"incumbents.{kind}") for kind in ("png", "pdf")]
    assert capsys.readouterr().out.split() == names
    first = Path(names[0]).read_bytes()
    write_study(tmp_path)
    assert figures.main([*out, "--figure", "incumbents", "regret"]) == 0
    assert [Path(line).stem for line in capsys.readouterr().out.split()[::2]] == ["regret", "incumbents"]
    assert Path(names[0]).read_bytes() == first
    assert figures.main([*out, "--figure", "incumbents", "--methods", "tpe"]) == 2
    assert "no finished table search meets the choice" in capsys.readouterr().err
