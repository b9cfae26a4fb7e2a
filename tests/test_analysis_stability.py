"""What a run's records, and the runs of a method, say about its stability."""

import math
from pathlib import Path

import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run

from analysis import stability
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
