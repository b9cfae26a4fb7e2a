"""Stability of runs, the tables made of it, and how they are written."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run, write_study

from analysis import _sheets, stability, tables, typeset
from analysis._contents import kind_of
from analysis.load import runs, tidy
from analysis.published import published
from analysis.selection import select
from analysis.typeset import Cell, Sheet, statement


def rows(results: Path) -> pd.DataFrame:
    return stability.per_run(select(tidy(runs(results))))


def search(lambdas: list[float], tests: list[float], **fields: Any) -> list[dict[str, Any]]:
    """Return records of a run whose table's best cell has a test accuracy of .9."""
    pairs = enumerate(zip(lambdas, tests, strict=True))
    return [
        record(epoch, test=test, curvature={"lambda_dominant": value}, regret_test=0.9 - test, **fields)
        for epoch, (value, test) in pairs
    ]


def test_a_run_is_summed_up_from_its_records(tmp_path: Path) -> None:
    records = search([0.5, 1.0, -3.0, 2.0], [0.5, 0.8, 0.8, 0.6], genotype="|conv~0|")
    chosen = record(3, "final", test=0.7, regret_test=0.2, genotype="|skip~0|")
    write_run(tmp_path, spec("s1", "darts", 0), [*records, chosen])
    (row,) = rows(tmp_path).to_dict("records")
    assert row["final_regret_test"] == pytest.approx(0.2)
    assert row["best_regret_test"] == pytest.approx(0.1)
    assert (row["best_epoch"], row["lambda_final"], row["lambda_peak"], row["parameter_free"]) == (1, 2.0, -3.0, 1)
    assert row["regret_gap"] == pytest.approx(0.1)
    assert row["lambda_slope"] == pytest.approx(np.polyfit(range(4), [0.5, 1, -3, 2], 1)[0])
    assert math.isnan(row["lambda_ratio"])


def test_a_run_without_curvature_or_table_has_none_of_their_values(tmp_path: Path) -> None:
    write_run(
        tmp_path, spec("s1", "random_ws", 0), [record(e, test=None, curvature=None, regret_test=None) for e in (0, 1)]
    )
    (row,) = rows(tmp_path).to_dict("records")
    for name in ("lambda_final", "lambda_slope", "degenerate", "best_regret_test", "regret_gap", "best_epoch"):
        assert math.isnan(row[name]), name


def bandwidths(results: Path, seeds: int = 3) -> None:
    """Write runs in which a larger bandwidth has a smaller λ and a smaller regret."""
    for h in (2.0, 0.1, 10.0):
        for seed in range(seeds):
            fields = spec("s1", "ms_darts", seed, settings={"bandwidth": h})
            fields["signature"] = f"{h}-{seed}"
            write_run(results, fields, search([1.0, 1 / h + 0.001 * seed], [0.5, 0.8 - 0.1 / h + 0.001 * seed]))
    for seed in range(seeds):
        write_run(results, spec("s1", "ms_null", seed), search([1.0, 0.9], [0.5, 0.5 + 0.001 * seed]))


def test_the_ablation_orders_values_as_numbers_and_controls_last(tmp_path: Path) -> None:
    bandwidths(tmp_path)
    made = tables.sheet("bandwidth", select(tidy(runs(tmp_path))), "s1")
    assert [row[0].text for row in made.rows] == [
        *(f"ms_darts[bandwidth={h}]" for h in ("0.1", "2.0", "10.0")), "ms_null",
    ]  # fmt: skip
    assert [row[2].text for row in made.rows] == ["10 ± 0.001", "0.501 ± 0.001", "0.101 ± 0.001", "0.9 ± 0"]
    assert [row[4].bold for row in made.rows] == [False, False, True, False]
    assert "Bold" in made.caption


def test_an_ablation_leaves_out_the_runs_of_another_one(tmp_path: Path) -> None:
    """One setting varies at a time: rounds at the default bandwidth, bandwidths at the default rounds."""
    for h, rounds in ((0.1, 2), (1.0, 2), (1.0, 3)):
        fields = spec("s1", "ms_darts", 0, settings={"bandwidth": h, "rounds": rounds})
        write_run(tmp_path, fields | {"signature": f"{h}-{rounds}"}, search([1.0], [0.5]))
    frame = select(tidy(runs(tmp_path)))
    assert [row[0].text for row in tables.sheet("bandwidth", frame, "s1").rows] == [
        "ms_darts[bandwidth=0.1]", "ms_darts[bandwidth=1.0]",
    ]  # fmt: skip
    assert [row[0].text for row in tables.sheet("rounds", frame, "s1").rows] == [
        "ms_darts[rounds=2]", "ms_darts[rounds=3]",
    ]  # fmt: skip


def test_an_ablation_of_a_control_counts_its_runs_once(tmp_path: Path) -> None:
    for lr in (0.1, 1.0):
        fields = spec("s1", "darts", 0, settings={"lr": lr}) | {"signature": f"{lr}"}
        write_run(tmp_path, fields, search([lr], [0.5]))
    frame = select(tidy(runs(tmp_path)))
    made = tables.sheet("darts.lr", frame, "s1")
    assert [row[0].text for row in made.rows] == ["darts[lr=0.1]", "darts[lr=1.0]"]
    assert len(_sheets._ablated(kind_of("darts.lr"), frame, "darts.lr")) == len(frame)


def test_an_ablation_is_of_the_spaces_that_have_it(tmp_path: Path) -> None:
    bandwidths(tmp_path)
    write_run(tmp_path, spec("nb201", "darts", 0), search([1.0], [0.5]))
    write_run(tmp_path, spec("nb201", "ms_darts", 0, settings={"bandwidth": 1.0}), search([1.0], [0.5]))
    frame = select(tidy(runs(tmp_path)))
    assert list(tables.sheets(["bandwidth"], frame)) == ["bandwidth-s1"]
    with pytest.raises(ValueError, match="expected runs of ms_darts with several values of bandwidth"):
        tables.sheets(["bandwidth"], frame[frame["space"] == "nb201"])


def test_two_seeds_mark_nothing_best(tmp_path: Path) -> None:
    bandwidths(tmp_path, seeds=2)
    made = tables.sheet("bandwidth", select(tidy(runs(tmp_path))), "s1")
    assert not any(cell.bold for row in made.rows for cell in row)
    assert "Fewer than 3 seeds" in made.caption


def test_overlapping_intervals_mark_nothing_best() -> None:
    rng = np.random.default_rng(0)
    assert _sheets.best([rng.normal(size=5), rng.normal(size=5)], -1) is None
    assert _sheets.best([np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2])], -1) == 0
    assert _sheets.best([np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2])], 1) == 1
    assert _sheets.best([np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2])], 0) is None


def test_the_command_writes_every_table_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "results")
    out = tmp_path / "out"
    assert tables.main(["--results", str(tmp_path / "results"), "--out", str(out)]) == 0
    names = {f"{name}-{space}{suffix}" for name in tables.DEFAULT for space in ("s1", "nb201") for suffix in
             (".md", ".tex", ".csv")}  # fmt: skip
    assert {path.name for path in out.glob("[!.]*")} == names
    assert len(capsys.readouterr().out.splitlines()) == len(names)
    assert "random cell (mean)" in (out / "accuracy-s1.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no table 'nonsense'; there are accuracy"),
        (["bandwidth"], "expected runs of ms_darts with several values of bandwidth"),
        (["--results", "nowhere"], "no runs with records under"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "results")
    assert tables.main(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


SHEET = Sheet(
    "A & B",
    ("method", "λ_max"),
    (
        (Cell("a|b_c"), statement([1.0, 3.0], lambda value: f"{value:.1f}", bold=True)),
        (Cell("d"), statement([], lambda value: f"{value:.1f}")),
    ),
    "n = 2, 50 %.",
)


def test_markdown_escapes_bars_and_marks_the_best() -> None:
    assert typeset.markdown(SHEET).splitlines()[2:6] == [
        "| method | λ_max |", "| --- | --- |", "| a\\|b_c | **2.0 ± 1.4** |", "| d | – |",
    ]  # fmt: skip


def test_latex_has_no_unescaped_special_letter() -> None:
    text = typeset.latex(SHEET)
    assert r"a|b\_c & \textbf{2.0 $\pm$ 1.4} \\" in text
    assert r"A \& B. n = 2, 50 \%." in text
    assert r"method & $\lambda$\_max \\" in text
    assert text.isascii()


def test_csv_holds_the_numbers_and_leaves_missing_ones_empty() -> None:
    first, second = csv.DictReader(io.StringIO(typeset.comma_separated(SHEET)))
    assert (first["method"], float(first["λ_max mean"]), float(first["λ_max n"])) == ("a|b_c", 2.0, 2.0)
    assert float(first["λ_max std"]) == pytest.approx(2**0.5)
    assert (second["λ_max mean"], second["λ_max std"], second["λ_max n"]) == ("", "", "0.0")


def test_csv_has_fractions_without_a_sign_and_no_column_for_what_is_missing() -> None:
    some, none = typeset.Cell("77.9", (("mean", 0.779),)), typeset.Cell("–")
    sheet = typeset.Sheet("t", ("method", "test %"), ((typeset.Cell("a"), some), (typeset.Cell("b"), none)), "")
    assert typeset.comma_separated(sheet) == "method,test mean\na,0.779\nb,\n"


def test_the_accuracy_table_has_ranges_and_the_published_row_below_its_method(tmp_path: Path) -> None:
    for seed in range(3):
        fields = {"benchmark": "paper", "dataset": "cifar10"}
        write_run(tmp_path, spec("nb201", "gdas", seed, **fields), [record(0, test=0.7 + 0.1 * seed)])
        write_run(tmp_path, spec("nb201", "gaea_erm", seed, **fields), [record(0, test=0.7)])
    made = tables.sheet("accuracy", select(tidy(runs(tmp_path))), "nb201")
    names = [row[0].text for row in made.rows]
    assert names == [
        "gaea_erm", "gaea_erm, published †", "gdas", "gdas, published", "random cell (mean)", "best cell of the table",
    ]  # fmt: skip
    test = made.header.index("test accuracy %")
    assert [row[test].text for row in made.rows[1:4]] == ["94.10", "80.00 ± 10.00", "93.61 ± 0.09"]
    assert made.rows[2][test + 1].text == "70.00–90.00"
    assert made.rows[-1][test].text == "90.00"
    assert "gdas: NAS-Bench-201 (Dong and Yang 2020); gaea_erm: GAEA (Li et al. 2021)." in made.caption
    assert "†: quoted from memory, not checked." in made.caption


@pytest.mark.parametrize("fields", [{"benchmark": "embedded", "dataset": "cifar10"}, {"benchmark": "paper"}])
def test_published_figures_stand_only_beside_their_own_benchmark(tmp_path: Path, fields: dict[str, str]) -> None:
    write_run(tmp_path, spec("nb201", "gdas", 0, **fields), [record(0)])
    made = tables.sheet("accuracy", select(tidy(runs(tmp_path))), "nb201")
    assert [row[0].text for row in made.rows] == ["gdas", "random cell (mean)", "best cell of the table"]


def test_every_published_figure_is_a_percentage_with_a_source() -> None:
    for dataset in ("cifar10", "cifar100", "imagenet16"):
        rows = published("nb201", dataset)
        assert len({one.method for one in rows}) == len(rows) >= 20
        assert all(0.1 < one.test.mean < 0.95 and one.source for one in rows)
    assert published("s1", "cifar10") == []


def test_any_setting_has_an_ablation_and_one_word_stands_for_all(tmp_path: Path) -> None:
    bandwidths(tmp_path)
    frame = select(tidy(runs(tmp_path)))
    made = tables.sheets(["ablation", "ms_darts.bandwidth"], frame)
    assert list(made) == ["ms_darts.bandwidth-s1"]
    assert [row[0].text for row in made["ms_darts.bandwidth-s1"].rows][-1] == "ms_null"
    with pytest.raises(ValueError, match="no method has runs with several values"):
        tables.sheets(["ablation"], frame[frame["method"] == "ms_null"])


def test_a_degenerate_epoch_marks_its_run(tmp_path: Path) -> None:
    for seed in range(4):
        flags = [{"lambda_dominant": 1.0, "degenerate": seed == 1 and epoch == 1} for epoch in range(3)]
        write_run(tmp_path, spec("s1", "darts", seed), [record(e, curvature=flag) for e, flag in enumerate(flags)])
    made = tables.sheet("stability", select(tidy(runs(tmp_path))), "s1")
    assert made.rows[0][made.header.index("share degenerate %")].text == "25.00"


def test_methods_are_compared_with_the_reference_by_seed(tmp_path: Path) -> None:
    for method, gain in (("darts", 0.0), ("better", 0.125), ("one_seed", 0.25), ("lost", None)):
        for seed in range(1 if method == "one_seed" else 4):
            test = None if gain is None else 0.5 + 0.0625 * seed + gain
            write_run(tmp_path, spec("s1", method, seed), [record(0, test=test)])
    made = tables.sheets(["comparison"], select(tidy(runs(tmp_path))))["comparison-s1"]
    assert made.header[5:] == ("P(less than darts)", "difference to darts %", "p (Holm)")
    better, darts, lost, alone = ({n: c.text for n, c in zip(made.header, row, strict=True)} for row in made.rows)
    assert (better["method"], better["seeds"], better["difference to darts %"]) == (
        "better", "4", "−12.50 [−12.50, −12.50]",
    )  # fmt: skip
    assert better["mean %"].startswith("18.1")
    assert better["P(less than darts)"].startswith("0.88 [")  # of 16 pairs 13 are less and two are equal
    assert better["p (Holm)"] == "0.125"  # two of the sixteen ways to flip four signs
    assert list(darts.values())[5:] == ["–"] * 3
    assert list(lost.values())[1:] == ["0", *["–"] * 6]
    assert list(alone.values())[1:] == ["1", *["–"] * 6]
    assert "fewer than 3 seeds" in made.caption
    assert "Of 4 seeds no p is below 0.125" in made.caption
    for seed in (4, 5):
        write_run(tmp_path, spec("s1", "darts", seed), [record(0, test=0.5)])
    enough = tables.sheets(["comparison"], select(tidy(runs(tmp_path))))["comparison-s1"]
    assert "no p is below" not in enough.caption


def test_shares_and_agreement_are_of_all_seeds_together(tmp_path: Path) -> None:
    for seed, key in enumerate(("a", "a", "b")):
        write_run(tmp_path, spec("s1", "darts", seed), [record(0, key=key, genotype="conv" if seed else "pool")])
    made = tables.sheet("stability", select(tidy(runs(tmp_path))), "s1")
    values = dict(zip(made.header, [cell.text for cell in made.rows[0]], strict=True))
    assert values["share without convolution %"] == "33.33"
    assert values["share degenerate %"] == "–"
    assert (values["different cells"], values["P(two seeds have one cell)"]) == ("2", "0.333")


def timed(results: Path, method: str, seed: int, steps_s: list[float], test: float) -> None:
    """A run of a stack of two whose epochs' steps took so long."""
    folder = write_run(results, spec("s1", method, seed), [record(0, test=0.5), record(1, "final", test=test)])
    (folder / "environment.json").write_text('{"seeds": [0, 1]}')
    lines = [{"epoch": 0, "stage": "search", "search_s": 0.0, "wall_s": 3.0}]
    lines += [{"epoch": i, "stage": "search", "search_s": s, "wall_s": s + 1} for i, s in enumerate(steps_s, start=1)]
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_summary_has_cost_over_darts_and_the_share_above_a_random_cell(tmp_path: Path) -> None:
    for seed in (0, 1):
        timed(tmp_path, "darts", seed, [2.0, 2.0, 9.0], 0.7)
        timed(tmp_path, "slow", seed, [5.0, 5.0, 1.0], 0.59 + 0.02 * seed)
    made = tables.sheet("summary", select(tidy(runs(tmp_path))), "s1")
    darts, slow, random, best = ({n: c.text for n, c in zip(made.header, row, strict=True)} for row in made.rows)
    assert (darts["steps of an epoch / darts"], slow["steps of an epoch / darts"]) == ("1", "2.5")
    assert (darts["stack, s"], slow["stack, s"]) == ("19.0", "17.0")
    assert (darts["seeds above a random cell %"], slow["seeds above a random cell %"]) == ("100.00", "50.00")
    assert (random["method"], random["test accuracy %"], random["test regret %"]) == (
        "random cell (mean)", "60.00", "30.00",
    )  # fmt: skip
    assert (best["test accuracy %"], best["final λ"]) == ("90.00", "–")
    assert "may have done other things" in made.caption
