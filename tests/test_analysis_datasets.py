"""Accuracies on several datasets: looked up by the run, side by side in one table."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run
from tests import benches

from analysis import _command, _datasets, _sections, figures, predict, report, tables
from analysis.load import runs, tidy
from analysis.selection import select
from bench import spaces
from bench.tables import Table
from bench.tables.arrow import write
from bench.tables.data import Measurement, Slot, TableData

OTHERS = {"cifar100": 0.7, "imagenet16": 0.4}
DASHES = ["–", "–"]


def found_on(results: Path, method: str, dataset: str, tests: list[float], *, looked_up: bool = True) -> None:
    """Runs of the papers' benchmark whose cell has 0.2 less on CIFAR-100, and for seed 1 only 0.5 on ImageNet16-120."""
    for seed, test in enumerate(tests):
        own = spec("nb201", method, seed, benchmark="paper", dataset=dataset)
        own |= {"signature": f"{dataset}{seed}", "data": f"fingerprint of {dataset}"}
        elsewhere = {"cifar100": {"val_mean": test - 0.21, "test_mean": test - 0.2}, "imagenet16": None}
        elsewhere |= {"imagenet16": {"val_mean": 0.4, "test_mean": 0.5}} if seed == 1 else {}
        more = {"elsewhere": elsewhere if looked_up else {}}
        folder = write_run(results, own, [record(0, test=0.1), record(3, "final", test=test, **more)])
        table = json.loads((folder / "table.json").read_text())
        best = {name: {"optimum": {"val": v, "test": v + 0.01}, "random_cell": {}} for name, v in OTHERS.items()}
        table |= {"digest": f"table of {dataset}"} | ({"elsewhere": best} if looked_up else {})
        (folder / "table.json").write_text(json.dumps(table))


def texts(rows: tuple[tuple[Any, ...], ...]) -> list[list[str]]:
    return [[cell.text for cell in row] for row in rows]


def test_every_dataset_has_a_pair_of_columns_and_published_rows_stand_below(tmp_path: Path) -> None:
    found_on(tmp_path, "gdas", "cifar10", [0.9, 0.91, 0.92])
    found_on(tmp_path, "my_own", "cifar10", [0.5, 0.5, 0.5])
    (made,) = _datasets.sheets(select(tidy(runs(tmp_path)))).values()
    columns = [f"{name} {split} %" for name in _datasets.NAMES.values() for split in ("validation", "test")]
    assert made.header == ("method", "searched on", "seeds", *columns)
    assert texts(made.rows) == [
        ["gdas", "CIFAR-10", "3", "92.00 ± 1.00", "91.00 ± 1.00", "70.00 ± 1.00", "71.00 ± 1.00", "40.00", "50.00"],
        ["gdas, published", "CIFAR-10", "–", "89.89 ± 0.08", "93.61 ± 0.09", "71.34 ± 0.04", "70.70 ± 0.30",
         "41.59 ± 1.33", "41.71 ± 0.98"],
        ["my_own", "CIFAR-10", "3", "51.00 ± 0.00", "50.00 ± 0.00", "29.00 ± 0.00", "30.00 ± 0.00", "40.00", "50.00"],
        ["random cell (mean)", "–", "–", "–", "60.00", "–", "–", *DASHES],
        ["best cell of the table", "–", "–", "92.00", "90.00", "70.00", "71.00", "40.00", "41.00"],
    ]  # fmt: skip
    assert [cell.bold for cell in made.rows[0]] == [False, False, False, True, True, True, True, False, False]
    assert "own protocols: gdas: NAS-Bench-201 (Dong and Yang 2020)." in made.caption


def test_searches_on_several_datasets_stand_in_one_table_and_apart_in_the_others(tmp_path: Path) -> None:
    for dataset in ("imagenet16", "cifar10", "cifar100"):
        found_on(tmp_path / "r", "gdas", dataset, [0.9, 0.8], looked_up=False)
    assert tables.main(["--results", str(tmp_path / "r"), "--out", str(tmp_path / "out"), "--format", "csv"]) == 0
    apart = {f"{name}-nb201-{dataset}.csv" for name in tables.DEFAULT for dataset in _datasets.NAMES}
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"datasets-nb201.csv", *apart}
    read = pd.read_csv(tmp_path / "out" / "datasets-nb201.csv")
    own = read[read["method"] == "gdas"]
    assert list(own["searched on"]) == ["CIFAR-10", "CIFAR-100", "ImageNet16-120"]
    means = own[[f"{name} test mean" for name in _datasets.NAMES.values()]].to_numpy(float)
    assert np.diag(means) == pytest.approx(np.full(3, 0.85))
    assert np.isnan(means[~np.eye(3, dtype=bool)]).all()
    assert list(read["method"][:3]) == ["gdas", "gdas, published", "gdas"]  # published: searched on CIFAR-10


def test_a_run_that_diverged_has_found_nothing_elsewhere(tmp_path: Path) -> None:
    found_on(tmp_path, "darts", "cifar10", [0.9, 0.5])
    folder = sorted((tmp_path / "runs").iterdir())[1]
    (folder / "finished.json").replace(folder / "diverged.json")
    (made,) = _datasets.sheets(select(tidy(runs(tmp_path)))).values()
    assert made.rows[0][made.header.index("CIFAR-10 test %")].text == "90.00"


def test_one_dataset_alone_has_no_such_table(tmp_path: Path) -> None:
    found_on(tmp_path, "gdas", "cifar10", [0.9], looked_up=False)
    assert _datasets.sheets(select(tidy(runs(tmp_path)))) == {}


def test_datasets_of_several_are_refused_beside_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dataset in ("cifar10", "cifar100"):
        found_on(tmp_path, "gdas", dataset, [0.9])
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert tables.main([*arguments, "--others", str(tmp_path)]) == 2
    assert "expected --dataset NAME beside --others" in capsys.readouterr().err
    assert tables.main([*arguments, "--where", "dataset=cifar10"]) == 0
    assert "datasets-nb201.md" in capsys.readouterr().out


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Options of runs on nb201 on two datasets, on the second also an ablation, and on s1 on one."""
    for dataset in ("cifar10", "cifar100"):
        found_on(tmp_path, "gdas", dataset, [0.9, 0.8])
    for lr in (0.2, 0.3):
        more = {"settings": {"lr": lr}, "dataset": "cifar100", "benchmark": "paper", "data": "fingerprint of cifar100"}
        folder = write_run(tmp_path, spec("nb201", "darts", 0, signature=f"lr{lr}", **more), [record(0), record(1)])
        table = json.loads((folder / "table.json").read_text())
        (folder / "table.json").write_text(json.dumps(table | {"digest": "table of cifar100"}))
    write_run(tmp_path, spec("s1", "darts", 0), [record(0), record(1)])
    return ["--results", str(tmp_path), "--out", str(tmp_path / "out")]


def test_every_dataset_of_a_space_is_drawn_apart(
    two: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(_name: str, _frame: pd.DataFrame, stem: Path) -> list[Path]:
        stem.parent.mkdir(exist_ok=True)
        stem.touch()
        return [stem]

    monkeypatch.setattr(figures, "write", write)

    def drawn(*more: str) -> set[str]:
        assert figures.main([*two, "--figure", *more]) == 0
        return {Path(line).name for line in capsys.readouterr().out.split()}

    assert drawn("regret") == {"regret", "regret-cifar10", "regret-cifar100"}
    both = ["--where", "dataset=cifar10", "dataset=cifar100"]
    assert drawn("regret", *both) == {"regret-cifar10", "regret-cifar100"}
    assert drawn("regret", "--dataset", "cifar100") == {"regret"}
    assert drawn("regret", "--space", "s1") == {"regret"}
    assert drawn("ablation") == {"ablation-cifar100"}  # the other datasets have nothing of it


def test_a_panel_and_its_caption_are_of_one_dataset(two: list[str]) -> None:
    parts = _command.selected_by_dataset(figures._parser().parse_args(two))
    for suffix, dataset in (("", "digits"), ("-cifar10", "cifar10"), ("-cifar100", "cifar100")):
        assert set(parts[suffix]["dataset"]) == {dataset}
        text = " ".join(figures.draw("regret", parts[suffix]).texts[0].get_text().split())
        assert f"dataset {dataset}," in text


def test_the_report_has_a_section_for_every_dataset(two: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"regret": figures.FIGURES["regret"]})
    monkeypatch.setattr(_sections, "DEFAULT", ("accuracy",))
    assert report.main(two) == 0
    text = (Path(two[-1]) / "report.html").read_text()
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    for part in (
        "<h3>Regret</h3>", "<h3>Regret, cifar10</h3>", "<h3>Regret, cifar100</h3>", "digits, benchmark embedded",
        'aria-label="regret, nb201, cifar100"', 'id="accuracy-nb201-cifar10"', 'id="accuracy-s1"', ">dataset</button>",
        'id="datasets-nb201"', "Cell selected at the end, nb201, cifar100", 'data-value="cifar100"',
    ):  # fmt: skip
        assert part in text
    assert report.main([*two, "--dataset", "cifar10"]) == 0
    text = (Path(two[-1]) / "report.html").read_text()
    assert "<h3>Regret</h3>" in text
    assert not re.search(r"dataset cifar100|>dataset</button>|digits", text)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--dataset", "svhn"], "no run has dataset=svhn; there are cifar10, cifar100, digits"),
        (["--dataset", "digits", "--space", "nb201"], "no run has dataset=digits; there are cifar10, cifar100"),
        (["--dataset", "cifar10", "--where", "dataset=digits"], "expected --dataset or --where dataset=…, got both"),
        (["--dataset", "cifar10", "--others", "."], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [figures, report, tables, predict])
def test_an_impossible_choice_of_a_dataset_is_one_sentence(
    command: ModuleType, more: list[str], sentence: str | None, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*two, *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert sentence is None or error == f"{command.__name__}: {sentence}\n"
    assert not Path(two[-1]).exists()


def test_an_impossible_figure_is_refused_before_any_is_drawn(
    two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures.main([*two, "--figure", "regret", "landscape"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path(two[-1]).exists()


def test_one_statement_of_several_datasets_is_refused(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--where", "dataset=cifar10", "dataset=cifar100"]):
        assert predict.main([*two, *more]) == 2
        assert capsys.readouterr().err == (
            "analysis.predict: runs in space nb201 are of several datasets: cifar10 (2 runs), cifar100 (4 runs); "
            "choose one with --dataset, for example --dataset cifar100\n"
        )


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Path:
    """A table of toy on three datasets; CIFAR-100 has the first half of the cells, another budget is left out."""
    benches.isolate(monkeypatch, tmp_path)
    counts, draw = spaces.get("toy").multiplicities(), np.random.default_rng(3)
    measured = {}
    for dataset, budget in (("digits", 5), ("cifar10", 5), ("cifar100", 5), ("imagenet16", 9)):
        for what in ("val", "test"):
            values = draw.uniform(0.2, 0.9, (len(counts), 1))
            values[len(counts) // 2 :] = np.nan if dataset == "cifar100" else values[len(counts) // 2 :]
            measured[Slot(dataset, what, budget)] = Measurement(values, ("0",))
    many = np.array(list(counts.values()), dtype=np.int64)
    write(tmp_path / "t.arrow", TableData("toy", tuple(counts), ("",) * len(counts), many, measured))
    return tmp_path / "t.arrow"


def test_a_run_looks_its_cell_up_on_the_other_datasets_of_its_table(three: Path, tmp_path: Path) -> None:
    more = ("--table", str(three), "--curvature", "off", "--epochs", "1", "--seeds", "0:4")
    stack, found = benches.searched(tmp_path / "r", "darts", *more)
    others = {name: Table.open(three, name, 5) for name in ("cifar10", "cifar100")}
    seen = set()
    for one in (record_ for records in found for record_ in records if record_["key"]):
        assert one["elsewhere"].keys() == others.keys()
        for name, table in others.items():
            entry = table.query(one["key"])
            wanted = None if entry is None else {"val_mean": entry.val_mean, "test_mean": entry.test_mean}
            assert one["elsewhere"][name] == wanted
            seen.add((name, entry is None))
    assert seen == {("cifar10", False), ("cifar100", False), ("cifar100", True)}
    facts = json.loads((tmp_path / "r" / "runs" / stack.spec.name / "table.json").read_text())
    assert facts["elsewhere"].keys() == others.keys()
    assert facts["elsewhere"]["cifar10"]["optimum"]["test"] == others["cifar10"].reference().optimum_test
    made = _datasets.sheets(select(tidy(runs(tmp_path / "r"))))["datasets-toy"]
    assert [name for name in made.header if name.endswith("test %")] == [
        "CIFAR-10 test %", "CIFAR-100 test %", "digits test %",
    ]  # fmt: skip
    shown = made.rows[0][made.header.index("CIFAR-10 test %")].numbers
    assert dict(shown)["mean"] == pytest.approx(
        np.mean([records[-1]["elsewhere"]["cifar10"]["test_mean"] for records in found])
    )
