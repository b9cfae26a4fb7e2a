"""Searches on nb201 with CIFAR-100 and ImageNet16-120: small files in the official layouts, columns of one table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import benches, official

from bench import choice, run, spaces
from bench.data import cifar100, imagenet16
from bench.presets import PRESETS, on_dataset
from bench.request import parse
from bench.retrain import __main__ as retrain
from bench.tables.arrow import write
from bench.tables.data import Measurement, Slot, TableData

SMALL = (
    *("--space", "nb201", "--benchmark", "paper", "--methods", "darts", "--batch-size", "100", "--channels", "2"),
    *("--cells", "1", "--device", "cpu", "--epochs", "1", "--seeds", "0", "--curvature", "off"),
)
BASES = {"cifar10": 0.9, "cifar100": 0.6, "imagenet16": 0.3}
CELL = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|skip_connect~2|"


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cells on all datasets at two budgets, accuracies by dataset: test is validation less 0.1, 12 epochs half."""
    counts = spaces.get("nb201").multiplicities()
    order = np.arange(len(counts), dtype=np.float64)[:, None] / len(counts) / 20
    slots = {}
    for dataset, base in BASES.items():
        for budget, share in ((12, 0.5), (200, 1.0)):
            slots[Slot(dataset, "val", budget)] = Measurement(share * (base + order), ("777",))
            slots[Slot(dataset, "test", budget)] = Measurement(share * (base - 0.1 + order), ("777",))
    data = TableData("nb201", tuple(counts), ("",) * len(counts), np.array(list(counts.values())), slots)
    path = tmp_path_factory.mktemp("made") / "nb201.arrow"
    write(path, data)
    return path


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cache" / "nas-stability" / "tables" / "nb201.arrow"
    path.parent.mkdir(parents=True)
    path.symlink_to(made)
    return path


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 images of CIFAR-100 for weights and 100 for choices; 240 and 120 of ImageNet16-120."""
    root = tmp_path / "data"
    official.expect(monkeypatch, "cifar100", official.write_cifar100(root, 200, 200))
    official.write_split(root, cifar100.SPLIT.name, {"xvalid": range(100, 200), "xtest": range(100)})
    official.expect(monkeypatch, "imagenet16", official.write_imagenet16(root, 36, 480))
    official.write_split(root, imagenet16.SPLIT.name, {"xvalid": range(120, 240), "xtest": range(120)})


@pytest.mark.usefixtures("small", "table")
@pytest.mark.parametrize(("dataset", "weights", "choices"), [("cifar100", 200, 100), ("imagenet16", 240, 120)])
def test_a_search_uses_the_dataset_s_images_and_its_columns_of_the_table(
    dataset: str, weights: int, choices: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, size = tmp_path / "results", weights + choices
    assert run.main([*SMALL, "--dataset", dataset, "--train-size", str(size), "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert f"nb201 on {dataset}: {size} images ({weights} for weights, {choices} for choices), batch 100" in printed
    assert "15625 cells" in printed
    for folder in benches.folders(results).values():
        spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        assert (spec["dataset"], spec["split_rule"], spec["budget"]) == (dataset, "nb201", 200)
        last = benches.lines(folder / "records.jsonl")[-1]
        assert 0 <= last["table"]["val_mean"] - BASES[dataset] < 0.05
        assert last["table"]["val_mean"] - last["table"]["test_mean"] == pytest.approx(0.1)


def test_paper_takes_all_images_and_crops_as_published() -> None:
    paper = {space: PRESETS["paper"](space) for space in ("s1", "nb201")}
    found = {(s, d): on_dataset(paper[s], d, s) for s in paper for d in ("cifar10", "cifar100", "imagenet16")}
    assert {key: preset.train_size for key, preset in found.items()} == {
        ("s1", "cifar10"): 50_000,
        ("s1", "cifar100"): 50_000,
        ("s1", "imagenet16"): 151_700,
        ("nb201", "cifar10"): 50_000,
        ("nb201", "cifar100"): 55_000,
        ("nb201", "imagenet16"): 154_700,
    }
    assert {preset.augmentation.padding for (_, d), preset in found.items() if d == "imagenet16"} == {2}
    assert {preset.augmentation.padding for (_, d), preset in found.items() if d != "imagenet16"} == {4}
    assert [found[s, "cifar10"] for s in paper] == list(paper.values())


def test_the_embedded_probe_has_every_class() -> None:
    embedded = PRESETS["embedded"]("nb201")
    assert [on_dataset(embedded, d, "nb201").probe_size for d in ("digits", "cifar10", "cifar100", "imagenet16")] == [
        40, 40, 100, 120,
    ]  # fmt: skip
    assert on_dataset(embedded, "cifar100", "nb201").train_size == embedded.train_size
    assert on_dataset(embedded, "digits", "nb201") == embedded


def test_auto_asks_for_the_files_and_the_table_of_the_dataset(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    space, gpu = spaces.get("nb201"), torch.device("cuda")
    monkeypatch.setattr(choice, "find_table", lambda _space, dataset: Path(dataset) if dataset == "cifar100" else None)
    found = {}
    for dataset in ("cifar10", "cifar100", "imagenet16"):
        name, why = choice.choose_benchmark(parse(["--space", "nb201", "--dataset", dataset]), space, gpu)
        found[dataset] = name, why.split(";")[0]
    assert found == {
        "cifar10": ("embedded", "CIFAR-10 is not prepared"),
        "cifar100": ("paper", "GPU, CIFAR-100 and table are there"),
        "imagenet16": ("embedded", "no official table of nb201 is prepared"),
    }


@pytest.mark.slow
def test_a_found_cell_is_trained_by_the_table_s_protocol(
    small: None, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"--space nb201 --cell {CELL} --dataset imagenet16 --seeds 0:1 --epochs 1 --channels 2 --cells 1"
    assert retrain.main([*arguments.split(), "--results", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    assert (
        f"{table}, 200 epochs\nthe table's trainings were other ones: epochs 200, here 1; channels 16, here 2"
        in printed
    )
    (plan,) = (tmp_path / "results").rglob("plan.json")
    assert json.loads(plan.read_text(encoding="utf-8"))["augmentation"]["padding"] == 2
