"""Tables of our own making: every cell is trained, and none depends on what it is trained beside."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bench import data, spaces
from bench.data.types import Dataset, ImageSet, subset
from bench.tables import Table, __main__, arrow, build
from bench.tables.build import Job, Protocol
from bench.tables.data import Slot, TableData
from tests import benches

CPU = torch.device("cpu")
TINY = Protocol(epochs=1, runs=2, channels=2, batch_size=20, replicas=54)


@functools.cache
def small() -> Dataset:
    """40 images to train on, 50 each to measure validation and test accuracy on."""
    found = benches.digits()
    assert found.table_val is not None
    assert found.test is not None
    parts = (ImageSet(images.images[:50], images.labels[:50]) for images in (found.table_val, found.test))
    return dataclasses.replace(subset(found, 40), **dict(zip(("table_val", "test"), parts, strict=True)))


@functools.cache
def tiny() -> TableData:
    return built(TINY)


def built(protocol: Protocol) -> TableData:
    return build.build(spaces.get("toy"), small(), protocol, CPU, lambda _done, _total: None)


def accuracies(table: TableData, split: str) -> np.ndarray:
    return table.measurements[Slot("digits", split, 1)].values  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["toy", pytest.param("s1", marks=pytest.mark.slow)])
def test_there_is_one_cell_for_every_key_of_the_space(name: str) -> None:
    space = spaces.get(name)
    found = build.representatives(space)
    assert set(found) == set(space.multiplicities())
    assert all(space.key(genotype) == key for key, genotype in found.items())


def test_the_table_covers_the_space_and_says_how_it_was_made() -> None:
    counts, table = spaces.get("toy").multiplicities(), tiny()
    assert dict(zip(table.keys, table.multiplicities.tolist(), strict=True)) == counts
    assert int(table.multiplicities.sum()) == table.total_encodings == spaces.get("toy").size()
    assert {slot.name: found.runs for slot, found in table.measurements.items()} == {
        "digits/val/1": ("0", "1"),
        "digits/test/1": ("0", "1"),
    }
    assert str(TINY) in table.provenance[0]
    assert len(set(table.cells)) == len(table.keys) == 27


def test_accuracies_are_fractions_of_the_held_out_images() -> None:
    for split in ("val", "test"):
        counts = accuracies(tiny(), split) * 50
        assert counts.shape == (27, 2)
        assert np.abs(counts - counts.round()).max() < 1e-9
        assert counts.min() >= 0
        assert counts.max() <= 50
    assert (accuracies(tiny(), "val") != accuracies(tiny(), "test")).any()


def test_the_same_table_is_built_again() -> None:
    again = built(TINY)
    assert again.keys == tiny().keys
    for split in ("val", "test"):
        assert np.array_equal(accuracies(again, split), accuracies(tiny(), split))


@pytest.mark.parametrize("replicas", [7, 10])
def test_a_cell_does_not_depend_on_what_it_is_trained_beside(replicas: int) -> None:
    """Up to rounding, which may turn single images."""
    other = built(dataclasses.replace(TINY, replicas=replicas))
    assert other.keys == tiny().keys
    for split in ("val", "test"):
        gap = np.abs(accuracies(other, split) - accuracies(tiny(), split))
        assert gap.max() <= 2 / 50
        assert (gap > 0).mean() < 0.1


def test_a_run_does_not_depend_on_how_many_there_are() -> None:
    other = built(dataclasses.replace(TINY, runs=1))
    gap = np.abs(accuracies(other, "test")[:, 0] - accuracies(tiny(), "test")[:, 0])
    assert gap.max() <= 2 / 50
    assert (gap > 0).mean() < 0.1


def test_every_training_has_draws_of_its_own() -> None:
    cells = build.representatives(spaces.get("toy"))
    seeds = {Job(key, genotype, run).seed for key, genotype in cells.items() for run in range(3)}
    assert len(seeds) == 81
    assert (accuracies(tiny(), "test")[:, 0] != accuracies(tiny(), "test")[:, 1]).any()


def test_training_sees_both_halves_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[torch.Tensor] = []
    step = build.weight_step

    def note(network, optimiser, batch, choices, rate):
        batches.append(batch.images[0])
        return step(network, optimiser, batch, choices, rate)

    monkeypatch.setattr(build, "weight_step", note)
    plain = dataclasses.replace(TINY, augmentation=dataclasses.replace(TINY.augmentation, padding=0))
    key, genotype = next(iter(build.representatives(spaces.get("toy")).items()))
    build.train(spaces.get("toy"), small(), plain, [Job(key, genotype, 0)], CPU, lambda: None)
    found = small()
    both = torch.cat([found.train_indices, found.val_indices])
    mean, std = (torch.tensor(moment)[:, None, None] for moment in (found.mean, found.std))
    wanted = (found.search.images[both] / 255 - mean) / std
    seen = torch.cat(batches)
    assert seen.shape == wanted.shape
    nearest = torch.cdist(wanted.flatten(1), seen.flatten(1)).min(1)
    assert nearest.values.max() < 0.1
    assert sorted(nearest.indices.tolist()) == list(range(40))


def test_progress_counts_the_epochs_of_all_trainings() -> None:
    told: list[tuple[int, int]] = []
    protocol = dataclasses.replace(TINY, epochs=2, runs=1, replicas=20)
    build.build(spaces.get("toy"), small(), protocol, CPU, lambda done, total: told.append((done, total)))
    assert told == [(20, 54), (40, 54), (47, 54), (54, 54)]


def test_a_dataset_without_images_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a dataset with images for a table's validation, .* got 'digits'"):
        build.build(
            spaces.get("toy"), dataclasses.replace(small(), table_val=None), TINY, CPU, lambda _done, _total: None
        )


def test_other_images_or_another_protocol_are_another_table() -> None:
    found = small()
    assert found.test is not None
    changed = dataclasses.replace(found, test=ImageSet(found.test.images ^ 1, found.test.labels))
    names = {
        build.identity(found, TINY),
        build.identity(changed, TINY),
        build.identity(found, dataclasses.replace(TINY, runs=3)),
    }
    assert len(names) == 3
    assert build.identity(found, TINY) == build.identity(dataclasses.replace(found), TINY)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line at the size of these tests."""
    monkeypatch.setattr(build, "Protocol", lambda: TINY)
    monkeypatch.setattr(data, "load", lambda name: small() if name == "digits" else benches.digits.func(name))


def test_the_command_builds_into_the_cache_and_then_has_nothing_to_do(
    tmp_path: Path, line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", "--space", "toy", "--dataset", "digits", "--device", "cpu"]
    path = tmp_path / "cache" / "nas-stability" / "tables" / "toy-digits.arrow"
    assert __main__.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "100% of the epochs trained  0 s left" in printed
    assert f"27 cells of toy, 2 trainings each, in {path}" in printed
    assert "random cell" in printed
    before = path.stat()
    assert __main__.main(arguments) == 0
    assert f"{path} is there, of the same protocol: nothing to do" in capsys.readouterr().out
    assert path.stat() == before
    assert Table.open(path, "digits").reference().rows == 27
    assert __main__.main([*arguments, "--fresh"]) == 0
    assert path.stat().st_ino != before.st_ino
    assert arrow.load(path).provenance[0] == build.identity(small(), TINY)


def test_another_protocol_replaces_the_table(tmp_path: Path, line: None) -> None:
    arguments = ["build", "--space", "toy", "--device", "cpu", "--out", str(tmp_path / "t.arrow")]
    assert __main__.main([*arguments, "--runs", "1"]) == 0
    assert __main__.main([*arguments, "--runs", "2"]) == 0
    table = Table.open(tmp_path / "t.arrow", "digits")
    assert table.query(tiny().keys[0]) is not None
    row = tiny().keys.index(tiny().keys[0])
    entry = table.query(tiny().keys[row])
    assert entry is not None
    assert entry.test == tuple(accuracies(tiny(), "test")[row])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--space", "s9"], "expected one of the spaces s1, s2, s3, nb201, toy, got 's9'"),
        (["--dataset", "mnist"], "expected a dataset out of"),
        (["--device", "tpu"], "expected --device cpu, cuda or cuda:N, got 'tpu'"),
        (["--epochs", "0"], "expected a positive whole number, got '0'"),
        (["--runs", "two"], "argument --runs: expected a positive whole number, got 'two'"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = __main__.main(["build", "--space", "toy", "--out", str(tmp_path / "t.arrow"), *more])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "t.arrow").exists()


@pytest.mark.slow
def test_the_toy_table_means_something() -> None:
    """Two trainings of a cell agree, and cells differ by much more than the runs of one."""
    table = build.build(spaces.get("toy"), benches.digits(), Protocol(), CPU, lambda _done, _total: None)
    for values in (found.values for found in table.measurements.values()):
        assert spearmanr(values[:, 0], values[:, 1]).statistic > 0.6
        low, high = np.percentile(values.mean(1), [10, 90])
        assert high - low > 0.2
