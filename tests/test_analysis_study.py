"""Synthetic run folders, and the reading of them."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.load import runs, tidy

LAST = 3


def spec(space: str, method: str, seed: int, **fields: Any) -> dict[str, Any]:
    base = {"space": space, "dataset": "digits", "benchmark": "embedded", "method": method, "seed": seed}
    base |= {"settings": {"lr": 0.1}, "epochs": LAST, "batch_size": 64, "probe_size": 256, "split_rule": "halves"}
    return base | {"signature": f"sig{seed}"} | fields


def record(epoch: int, stage: str = "search", test: float | None = 0.7, **fields: Any) -> dict[str, Any]:
    """One instant: logits (epoch, 2·epoch), λ = epoch − 1.5, and a cell of the given test accuracy or none at all."""
    table = None if test is None else {"val_mean": test + 0.01, "test_mean": test, "test": [test, test], "n_runs": 2}
    base = {"epoch": epoch, "stage": stage, "genotype": "g", "key": "k", "table": table, "miss": False}
    base |= {"regret_val": None, "regret_test": None if test is None else 0.9 - test}
    base |= {"train_loss": 2.0 / epoch if epoch else None, "val_loss": 1.0, "supernet": {"val_accuracy": 0.5}}
    base |= {"curvature": {"lambda_dominant": epoch - 1.5, "residual": 1e-4, "spectrum": [1.0, 2.0]}}
    return base | {"logits": {"op": [[epoch]], "out": [[2 * epoch]]}, "entropy": {"op": 0.5}} | fields


def write_run(results: Path, settings: dict[str, Any], records: list[dict[str, Any]], finished: bool = True) -> Path:
    name = f"{settings['space']}-{settings['method']}-s{settings['seed']}-{settings['signature']}"
    folder = results / "runs" / name
    folder.mkdir(parents=True)
    table = {"digest": f"d-{settings['space']}", "rows": 9, "budget": 108, "optimum": {"val": 0.92, "test": 0.9}}
    files = {"spec.json": settings, "environment.json": {}, "table.json": table | {"random_cell": {"test": 0.6}}}
    files |= {"finished.json": {"records": len(records)}} if finished else {}
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return folder


def write_study(results: Path) -> None:
    """darts with 4 seeds (one unfinished), gdas with a miss and 3, random_ws that selects at the end; two on nb201."""
    for seed in (0, 1, 2, 5):
        last = 1 if seed == 5 else LAST
        records = [record(epoch, test=0.7 + 0.01 * epoch * (seed + 1)) for epoch in range(last + 1)]
        final = [record(LAST, "final", test=0.7 + 0.01 * LAST * (seed + 1))] if seed != 5 else []
        write_run(results, spec("s1", "darts", seed), records + final, finished=seed != 5)
    for seed in (0, 1, 2):
        records = [record(epoch, test=0.6 + 0.02 * seed) for epoch in range(LAST + 1)]
        if seed == 1:
            records[2] |= {"table": None, "miss": True, "regret_test": None}
        write_run(results, spec("s1", "gdas", seed), records)
        nothing = {"curvature": None, "no_curvature": "no architecture logits", "logits": None}
        records = [record(epoch, test=None, **nothing) for epoch in range(LAST + 1)]
        selected = record(LAST, "final", test=0.75 + 0.01 * seed, **nothing)
        write_run(results, spec("s1", "random_ws", seed), [*records, selected])
    for seed in (3, 4):
        write_run(results, spec("nb201", "darts", seed), [record(epoch) for epoch in range(LAST + 1)])


def test_a_row_holds_the_run_and_the_records_scalars(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 7, settings={"lr": 0.1, "unrolled": False}), [record(2, test=0.75)])
    row = tidy(runs(tmp_path)).iloc[0]
    assert (row["space"], row["method"], row["seed"], row["signature"]) == ("s1", "darts", 7, "sig7")
    assert (row["epochs"], row["finished"], row["spec.batch_size"], row["settings.lr"]) == (3, True, "64", "0.1")
    assert (row["settings.unrolled"], row["spec.split_rule"]) == ("false", "halves")
    assert (row["table_test_mean"], row["error_test"], row["lambda_dominant"]) == (0.75, 0.25, 0.5)
    assert row["table_val_mean"] == pytest.approx(0.76)
    assert (row["supernet_val_accuracy"], row["curvature_residual"], row["entropy_op"]) == (0.5, 1e-4, 0.5)
    assert (row["optimum_test"], row["random_test"], row["budget"]) == (0.9, 0.6, "108")
    np.testing.assert_array_equal(row["logits"], [2.0, 4.0])


def test_null_is_missing_never_zero(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 7), [record(0, test=None, curvature=None, miss=True, logits=None)])
    row = tidy(runs(tmp_path)).iloc[0]
    assert not {"table", "curvature"} & set(row.index)
    assert np.isnan([row[c] for c in ("table_test_mean", "error_test", "regret_test", "train_loss")]).all()
    assert np.isnan(row["lambda_dominant"])
    assert row["miss"]
    assert row["logits"] is None


def test_a_null_logit_is_not_a_number(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 7), [record(0, logits={"op": [[1.0, None]], "out": [[3.0]]})])
    np.testing.assert_array_equal(tidy(runs(tmp_path))["logits"].iloc[0], [1.0, np.nan, 3.0])


def test_a_torn_line_is_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_run(tmp_path, spec("s1", "darts", 7), [record(0), record(1)], finished=False)
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"epoch": 2, "sta')
    (run,) = runs(tmp_path)
    assert [line["epoch"] for line in run.records] == [0, 1]
    assert run.warnings == (f"{folder / 'records.jsonl'}:3: not a JSON object, left out",)
    assert run.warnings[0] in caplog.text


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ('{"stage": "search"}', "records.jsonl:2: a record without an epoch"),
        ('{"epoch": 0, "stage": "search", "val_loss": 9}', "records.jsonl:2: a second record of epoch 0 (search)"),
        ("[1]", "records.jsonl:2: not a JSON object"),
    ],
)
def test_odd_lines_are_named(tmp_path: Path, line: str, warning: str) -> None:
    folder = write_run(tmp_path, spec("s1", "darts", 7), [record(0)], finished=False)
    with (folder / "records.jsonl").open("a") as file:
        file.write(line + "\n")
    (run,) = runs(tmp_path)
    assert len(run.records) == 1
    assert [warning in text for text in run.warnings] == [True]


def test_a_folder_without_a_specification_is_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path, spec("s1", "darts", 7), [record(0)])
    (tmp_path / "runs" / "stray").mkdir()
    with caplog.at_level(logging.WARNING):
        assert [run.spec["seed"] for run in runs(tmp_path)] == [7]
    assert "stray: its spec.json has no space, method, seed" in caplog.text


def test_a_run_without_a_table_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_run(tmp_path, spec("s1", "darts", 7), [record(0)])
    (folder / "table.json").write_text("null\n")
    (run,) = runs(tmp_path)
    assert (run.table, run.warnings, caplog.text) == ({}, (), "")


def test_no_folder_is_no_runs(tmp_path: Path) -> None:
    assert runs(tmp_path / "nowhere") == []
    assert tidy([]).empty
