"""Table-only methods from the command line: records, tables, refusals."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import benches
import numpy as np
import pytest
import tables

from bench import data, run, spaces, tabular_setup
from bench.request import parse
from bench.spaces.trivial import trivial_cells
from bench.tables.arrow import load, write
from bench.tables.table import Table
from bench.tabular_summary import _published, reference_rows
from searchers.tabular.registry import TABLE_METHODS


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tables.synthetic(tmp_path)


def command(table: Path, *more: str) -> list[str]:
    place = ["--space", "toy", "--table", str(table), "--dataset", "synthetic", "--results", str(table.parent / "r")]
    return [*place, "--seeds", "0:2", "--queries", "8", *more]


def folders(table: Path) -> dict[str, Path]:
    found = sorted((table.parent / "r" / "tabular" / "runs").glob("*"))
    return {path.name.removeprefix("toy-synthetic-").rsplit("-", 1)[0]: path for path in found}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("unchecked")
def test_all_table_methods_write_their_records(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(table, "--methods", "tabular", "--set", "l2nas.hidden=8")
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out
    found = folders(table)
    assert set(found) == set(TABLE_METHODS)
    for name, folder in found.items():
        records = rows(folder)
        assert [record["seed"] for record in records] == [0, 1]
        assert all(record["queries"] == 8 and record["simulated_s"] > 0 for record in records)
        spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        assert (spec["method"], spec["queries"], spec["budget"]) == (name, 8, 108)
        assert json.loads((folder / "finished.json").read_text(encoding="utf-8")) == {"records": 2}
        mean = np.mean([record["table"]["test_mean"] for record in records])
        assert f"{name} " in printed
        assert f"{mean:.4f}" in printed
    for name in ("random cell (expectation)", "median cell", "conv3x3 in a row", "optimum"):
        assert name in printed
    before = {name: (folder / "records.jsonl").read_bytes() for name, folder in found.items()}
    assert run.main(arguments) == 0
    assert capsys.readouterr().out.count("finished before") == len(TABLE_METHODS)
    assert run.main([*command(table, "--methods", "random_search,bohb"), "--fresh"]) == 0
    assert {name: (folder / "records.jsonl").read_bytes() for name, folder in found.items()} == before


@pytest.mark.usefixtures("unchecked")
def test_both_kinds_of_methods_in_one_command(tmp_path: Path) -> None:
    more = ("--table", str(benches.table(tmp_path / "toy.arrow")), "--dataset", "digits", "--queries", "5")
    more = (*more, "--curvature", "off", "--set", "de.population=4", "--methods", "darts,de")
    assert run.main(benches.command(tmp_path / "r", "darts", *more)) == 0
    assert {name.split("-")[1] for name in benches.folders(tmp_path / "r")} == {"darts"}
    (folder,) = (tmp_path / "r" / "tabular" / "runs").glob("*")
    assert folder.name.startswith("toy-digits-de-")
    assert all(record["simulated_s"] is None and record["curve"]["simulated_s"] is None for record in rows(folder))


def test_a_method_that_fails_does_not_stop_the_others(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_settings: object, _resources: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setitem(TABLE_METHODS, "de", dataclasses.replace(TABLE_METHODS["de"], build=broken))
    assert run.main(command(table, "--methods", "de,random_search")) == 1
    assert "no more" in caplog.text
    found = folders(table)
    assert (found["de"] / "error.txt").exists()
    assert (found["random_search"] / "finished.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--methods", "hyperband", "--set", "hyperband.eta=5"],
            "hyperband cannot search this table: it needs budgets",
        ),
        (["--methods", "de", "--set", "de.population=3"], "expected a population of at least 4, got 3"),
        (["--methods", "de", "--set", "bohb.eta=4"], "expected --set for one of de, got bohb"),
        (["--methods", "de", "--set", "darts.arch.lr=1"], "expected --set for one of de, got darts"),
        (["--methods", "de", "--fitness-budget", "5"], r"expected --fitness-budget out of \(4, 12, 36, 108\), got 5"),
        (["--methods", "de", "--table", "none"], "expected a table for table-only methods, got --table none"),
        (["--methods", "de", "--budget-s", "-1"], "expected a positive number of seconds for budget_s, got -1.0"),
        (["--methods", "de", "--queries", "0"], "expected a positive whole number for queries, got 0"),
        (["--methods", "de", "--space", "s1"], "expected a table of the space s1, got .* of toy"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(
    table: Path, more: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert run.main(command(table, *more)) == 2
    (record,) = caplog.records
    assert "\n" not in record.message
    assert re.search(message, record.message)


def test_without_a_table_or_without_times_it_says_so(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run.main(["--space", "nb201", "--methods", "random_search", "--results", str(table.parent / "r")]) == 2
    assert "expected a benchmark table of nb201 on cifar10 or digits, found none" in caplog.text
    write(table, dataclasses.replace(load(table), scalars={}))
    assert run.main(command(table, "--methods", "de", "--budget-s", "9")) == 2
    assert "expected --queries: toy.arrow has no training times to spend --budget-s on" in caplog.text


def test_a_dry_run_writes_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(command(table, "--methods", "tabular", "--dry-run")) == 0
    assert not (table.parent / "r").exists()
    assert capsys.readouterr().out.count("2 repetitions") == len(TABLE_METHODS)


def test_reference_rows_are_those_of_the_table(table: Path) -> None:
    bench = tabular_setup.prepare(parse(command(table, "--methods", "random_search")))
    found = reference_rows(bench)
    report = Table.open(table, "synthetic")
    counts = spaces.get("toy").multiplicities()
    entries = {key: report.query(key) for key in counts}
    tests = np.array([entry.test_mean for entry in entries.values()])
    assert found["optimum"][1] == tests.max()
    assert found["mean cell"][1] == pytest.approx(tests.mean())
    assert found["median cell"][1] == pytest.approx(np.median(tests))
    assert found["random cell (expectation)"][1] == pytest.approx(np.average(tests, weights=list(counts.values())))
    space = spaces.get("nb201")
    keys = {name: space.key(cell) for name, cell in trivial_cells(space).items()}
    assert keys["all conv3x3"].count("nor_conv_3x3") == 6
    assert keys["conv3x3, skip 0→3"] == (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )


def test_published_figures_are_shown_on_their_own_space_only() -> None:
    spec = tables.spec(TABLE_METHODS["random_search"], (0,), dataset="cifar10", budget_s=12_000.0)
    assert _published(dataclasses.replace(spec, space="nb201")) == "0.9370 ± 0.0036 (12000 s)"
    assert _published(dataclasses.replace(spec, space="nb201", budget_s=2e4)) == "0.9386 ± 0.0023 (20000 s)"
    assert _published(dataclasses.replace(spec, space="s1")) == ""


REAL = data.data_root() / "nasbench201.parquet"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="nasbench201.parquet is not under NAS_STABILITY_DATA")
@pytest.mark.usefixtures("unchecked")
def test_published_accuracies_are_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAS_STABILITY_DATA", str(REAL.parent))
    arguments = ["--space", "nb201", "--methods", "random_search,regularized_evolution", "--results", str(tmp_path)]
    assert run.main([*arguments, "--seeds", "0:200"]) == 0
    found = {path.name.split("-")[2]: rows(path) for path in (tmp_path / "tabular" / "runs").glob("*")}
    tests = {name: np.mean([row["table"]["test_mean"] for row in kept]) for name, kept in found.items()}
    assert tests["random_search"] == pytest.approx(0.9386, abs=0.001)
    assert tests["regularized_evolution"] == pytest.approx(0.9402, abs=0.0015)
    assert "0.9402 ± 0.0031 (20000 s)" in capsys.readouterr().out
