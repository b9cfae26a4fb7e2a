"""What a run's records, and the runs of a method, say about its stability."""

import math
from pathlib import Path

import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run

from analysis import _contents, _sections, stability, tables
from analysis.load import runs, tidy
from analysis.selection import select


def found(results: Path) -> pd.DataFrame:
    return stability.per_run(select(tidy(runs(results))))


def curved(epoch: int, value: float, simplex: float | None = None) -> dict:
    curvature = {"lambda_dominant": value} | ({} if simplex is None else {"lambda_simplex": simplex})
    return record(epoch, curvature=curvature, entropy={"op": 1.0 / (epoch + 1), "out": 0.25})


def test_levels_are_of_the_last_window_in_magnitude(tmp_path: Path) -> None:
    values = [9.0, 9.0, -1.0, 2.0, -3.0, 4.0, -5.0]
    write_run(tmp_path, spec("s1", "darts", 0), [curved(epoch, value) for epoch, value in enumerate(values)])
    (row,) = found(tmp_path).to_dict("records")
    assert row["lambda_level"] == pytest.approx(3)
    assert math.isnan(row["simplex_level"])
    assert row["entropy_final"] == pytest.approx((1 / 7 + 0.25) / 2)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([9.0, *[1.0] * 5, *[3.0] * 5], 3.0),
        ([9.0, 1.0, -1.0, 1.0, -1.0, 1.0, *[-3.0] * 5], 3.0),
        ([9.0, *[0.0] * 5, *[3.0] * 5], math.inf),
        ([9.0, *[1.0] * 5, *[0.0] * 5], 0.0),
        ([9.0, *[0.0] * 10], math.nan),
        ([9.0, *[1.0] * 9], math.nan),
    ],
)
def test_the_ratio_is_of_magnitudes_of_two_windows(values: list[float], wanted: float, tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [curved(epoch, value) for epoch, value in enumerate(values)])
    (row,) = found(tmp_path).to_dict("records")
    assert row["lambda_ratio"] == pytest.approx(wanted, nan_ok=True)


def growth(*values: float) -> tuple[str, dict[str, float]]:
    cell = _contents.factor(values, _contents.significant)
    return cell.text, dict(cell.numbers)


def test_ratios_are_averaged_as_factors_and_limited() -> None:
    text, numbers = growth(4.0, 0.25, 1.0, 1.0)
    assert numbers["geometric mean"] == pytest.approx(1)
    assert text == f"1 [{numbers['low']:.3g}, {numbers['high']:.3g}]"
    assert 0.25 <= numbers["low"] < 1 < numbers["high"] <= 4
    assert growth(math.inf, 0.0, math.nan, 1.0)[1]["geometric mean"] == pytest.approx(1)
    assert growth(math.inf, 10.0)[0] == "10, 1e+03"
    assert growth(math.nan)[0] == growth()[0] == "–"


def test_peaks_of_both_signs_do_not_cancel(tmp_path: Path) -> None:
    for seed, sign in enumerate((1, -1, 1, -1)):
        write_run(tmp_path, spec("s1", "darts", seed), [curved(0, 1.0), curved(1, 4.0 * sign), curved(2, 0.5)])
    made = tables.sheet("stability", select(tidy(runs(tmp_path))), "s1")
    shown = dict(zip(made.header, (cell.text for cell in made.rows[0]), strict=True))
    assert shown["peak magnitude of λ"] == "4 ± 0"
    assert shown["λ end / start"] == "–"
    assert _contents.PEAK in made.caption
    assert _contents.GROWTH in made.caption


@pytest.mark.parametrize("exploded", [True, False])
def test_a_run_that_diverged_has_no_end(exploded: bool, tmp_path: Path) -> None:
    curvature = {"lambda_dominant": 1e9 if exploded else None, "not_finite": not exploded}
    lost = record(1, test=0.1, curvature=curvature, discretisation={"relaxed_accuracy": 0.5, "discrete_accuracy": 0.2})
    for seed in range(2):
        first = curved(0, 0.25) | {"discretisation": {"relaxed_accuracy": 0.5, "discrete_accuracy": 0.25}}
        folder = write_run(tmp_path, spec("s1", "darts", seed), [first, lost if seed else curved(1, 2.0)], not seed)
    (folder / "diverged.json").write_text('{"records": 2, "epoch": 1, "reason": "train_loss is nan"}')
    frame = select(tidy(runs(tmp_path)))
    whole, row = stability.per_run(frame).to_dict("records")
    assert (whole["diverged"], whole["lambda_final"]) == (False, 2.0)
    ends = ("lambda_final", "lambda_peak", "lambda_level", "lambda_slope", "entropy_final", "discretisation_gap",
            "final_regret_test", "regret_gap", "key", "strongest")  # fmt: skip
    assert row["diverged"]
    assert not [name for name in ends if pd.notna(row[name])]
    assert row["best_regret_test"] == pytest.approx(0.2)
    made = tables.sheet("stability", frame, "s1")
    assert made.rows[0][made.header.index("final λ")].text == "2"
    assert "Diverged, so without a value at the end: darts on s1: 1." in made.caption
    assert "Not finished" not in made.caption
    warned = _sections.warnings({"": frame}, [])
    assert "1 of 2 runs have diverged: darts on s1, seed 1." in warned
    assert "not finished" not in warned


def test_lambda_on_the_simplex_is_summed_up_from_the_epochs_that_have_it(tmp_path: Path) -> None:
    simplex = {0: 7.0, 2: -2.0, 4: 5.0}
    records = [curved(epoch, 1.0, simplex.get(epoch)) for epoch in range(6)]
    write_run(tmp_path, spec("s1", "darts", 0), records)
    (row,) = found(tmp_path).to_dict("records")
    assert (row["simplex_level"], row["simplex_ratio"]) == (5.0, 2.5)
    assert row["simplex_slope"] == pytest.approx((-2 * 7 + 0 * -2 + 2 * 5) / 8)


def test_seeds_agree_where_they_select_the_same_cell(tmp_path: Path) -> None:
    for seed, key in enumerate(["k", "k", "k", "other", None]):
        write_run(tmp_path, spec("s1", "darts", seed), [record(0, key=key, genotype="conv" if seed else "skip")])
    (row,) = stability.per_label(found(tmp_path)).to_dict("records")
    assert (row["space"], row["label"], row["seeds"], row["cells"]) == ("s1", "darts", 5, 2)
    assert row["agreement"] == pytest.approx(6 / 12)
    assert row["modal"] == pytest.approx(3 / 4)
    assert row["parameter_free"] == pytest.approx(1 / 5)
    assert math.isnan(row["degenerate"])


def chosen(*values: tuple[float, ...], threshold: float = 0.0) -> dict[str, list[list[float]]]:
    return {"op": [list(row) for row in values], "threshold": [[threshold]]}


def test_decisions_are_shared_where_the_strongest_options_are_the_same(tmp_path: Path) -> None:
    left, middle, right = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    yes, no = (1.0, 0.0), (0.0, 1.0)
    last = [chosen(left, yes), chosen(left, no), chosen(right, no)]
    for seed, logits in enumerate(last):
        records = [
            record(0, logits=chosen(middle, yes)),
            record(1, logits=logits),
            record(1, stage="final", logits=None),
        ]
        write_run(tmp_path, spec("s1", "darts", seed), records)
    (row,) = stability.per_label(found(tmp_path)).to_dict("records")
    assert row["same_decisions"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert row["same_by_chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_decision_without_one_strongest_option_is_none(tmp_path: Path) -> None:
    for seed, row in enumerate([(1.0, 0.0), (1.0, 1.0)]):
        write_run(tmp_path, spec("s1", "darts", seed), [record(0, logits=chosen(row, (0.0, float(seed))))])
    (found_row,) = stability.per_label(found(tmp_path)).to_dict("records")
    assert math.isnan(found_row["same_decisions"])


def test_one_seed_and_methods_without_logits_share_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0, logits=chosen((1.0, 0.0)))])
    for seed in range(2):
        write_run(tmp_path, spec("s1", "enas", seed), [record(0, logits=None)])
    for row in stability.per_label(found(tmp_path)).to_dict("records"):
        assert math.isnan(row["same_decisions"])
        assert math.isnan(row["same_by_chance"])


def test_no_cell_or_one_alone_agrees_with_nothing() -> None:
    assert math.isnan(stability.agreement([])["modal"])
    alone = stability.agreement(["k"])
    assert math.isnan(alone["agreement"])
    assert (alone["cells"], alone["modal"]) == (1, 1)


@pytest.mark.parametrize("kept", [3, 0])
def test_a_run_without_the_records_it_finished_with_has_not_finished(
    kept: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [record(epoch) for epoch in range(5)]
    folder = write_run(tmp_path, spec("s1", "darts", 0), records)
    (folder / "finished.json").write_text('{"records": 5}')
    (whole,) = runs(tmp_path)
    path = folder / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    (cut,) = runs(tmp_path)
    assert (whole.finished, cut.finished) == (True, False)
    assert f"{folder}: {kept} of the 5 records it finished with: not finished" in caplog.text
