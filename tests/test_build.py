"""Tables of our own making: every cell is trained, and none depends on what it is trained beside."""

import contextlib
import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tests import benches

from bench import data, spaces
from bench.data.types import Dataset, ImageSet, subset
from bench.spaces.base import NetworkSize
from bench.tables import Table, __main__, arrow, build
from bench.tables import plan as planned
from bench.tables.cost import Cost, cost
from bench.tables.data import Slot, TableData
from bench.tables.parts import Outcome, Parts
from bench.tables.plan import Job, Plan, Protocol

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


def plan(protocol: Protocol = TINY, dataset: Dataset | None = None) -> Plan:
    return Plan(spaces.get("toy"), dataset or small(), protocol)


def nothing(_done: int, _total: int) -> None: ...


def built(protocol: Protocol) -> TableData:
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), "any")
        assert build.build(plan(protocol), parts, (1, 1), CPU, nothing)
        return build.table(plan(protocol), parts, ())


def accuracies(table: TableData, split: str) -> np.ndarray:
    return table.measurements[Slot("digits", split, 1)].values  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["toy", pytest.param("s1", marks=pytest.mark.slow)])
def test_there_is_one_cell_for_every_key_of_the_space(name: str) -> None:
    space = spaces.get(name)
    found = planned.first_encodings(space, space.key)
    assert set(found) == set(space.multiplicities())
    assert all(space.key(genotype) == key for key, genotype in found.items())


def test_the_table_covers_the_space_and_says_how_it_was_made() -> None:
    counts, table = spaces.get("toy").multiplicities(), tiny()
    assert dict(zip(table.keys, table.multiplicities.tolist(), strict=True)) == counts
    assert int(table.multiplicities.sum()) == table.total_encodings == spaces.get("toy").size()
    assert {slot.name: found.runs for slot, found in table.measurements.items()} == {
        "digits/train/1": ("0", "1"),
        "digits/val/1": ("0", "1"),
        "digits/test/1": ("0", "1"),
    }
    assert str(dataclasses.replace(TINY, replicas=0)) in table.provenance[0]
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
    cells = planned.first_encodings(spaces.get("toy"), spaces.get("toy").key)
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
    key, genotype = next(iter(planned.first_encodings(spaces.get("toy"), spaces.get("toy").key).items()))
    build.train(plan(plain), [Job(key, genotype, 0)], CPU)
    found = small()
    both = torch.cat([found.train_indices, found.val_indices])
    mean, std = (torch.tensor(moment)[:, None, None] for moment in (found.mean, found.std))
    wanted = (found.search.images[both] / 255 - mean) / std
    seen = torch.cat(batches)
    assert seen.shape == wanted.shape
    nearest = torch.cdist(wanted.flatten(1), seen.flatten(1)).min(1)
    assert nearest.values.max() < 0.1
    assert sorted(nearest.indices.tolist()) == list(range(40))


def test_progress_counts_trainings(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    protocol = dataclasses.replace(TINY, runs=1, replicas=10)
    build.build(plan(protocol), Parts(tmp_path, "any"), (1, 1), CPU, lambda done, total: told.append((done, total)))
    assert told == [(10, 27), (20, 27), (27, 27)]


def test_accuracies_are_taken_at_a_quarter_half_and_all_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [dataclasses.replace(TINY, epochs=epochs).instants for epochs in (1, 2, 3, 4, 8)] == [
        *((1,), (1, 2), (1, 3), (1, 2, 4), (2, 4, 8))
    ]
    key, genotype = next(iter(planned.first_encodings(spaces.get("toy"), spaces.get("toy").key).items()))
    (long,) = build.train(plan(dataclasses.replace(TINY, epochs=4)), [Job(key, genotype, 0)], CPU)
    assert len(long.correct) == 3
    assert len(set(long.correct)) > 1
    assert long.wall_s > 0


def test_a_killed_build_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, parts, stacks = dataclasses.replace(TINY, replicas=18), Parts(tmp_path, "any"), []
    train = build.train

    def killed(*arguments):
        stacks.append(len(arguments[1]))
        if len(stacks) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(build, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build(plan(protocol), parts, (1, 1), CPU, nothing)
    (file,) = tmp_path.iterdir()
    with file.open("a") as torn:
        torn.write('{"key": "half a li')
    assert len(parts.read()) == 18
    assert build.build(plan(protocol), parts, (1, 1), CPU, nothing)
    assert stacks == [18, 18, 18, 18]
    found = build.table(plan(protocol), parts, ())
    assert np.array_equal(accuracies(found, "test"), accuracies(built(protocol), "test"))


def test_shares_are_disjoint_and_make_the_whole_table(tmp_path: Path) -> None:
    parts, stacks = Parts(tmp_path, "any"), plan(dataclasses.replace(TINY, replicas=10))
    assert build.stacks_left(stacks, parts) == 6
    assert [build.build(stacks, parts, (i, 3), CPU, nothing) for i in (2, 1, 3)] == [False, False, True]
    assert build.stacks_left(stacks, parts) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-of-3.jsonl", "2-of-3.jsonl", "3-of-3.jsonl"]
    lines = [len(path.read_text().splitlines()) - 1 for path in sorted(tmp_path.iterdir())]
    assert lines == [20, 20, 14]  # whole stacks
    gap = np.abs(accuracies(build.table(stacks, parts, ()), "test") - accuracies(tiny(), "test"))
    assert gap.max() <= 2 / 50


def test_parts_of_another_protocol_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    writer = Parts(tmp_path, "one").writer("a")
    with pytest.raises(ValueError, match="another process writes"):
        Parts(tmp_path, "one").writer("a")
    writer.add([Outcome("k", 0, ((1, 2, 3),), 0.5)])
    writer.close()
    assert Parts(tmp_path, "one").read() == {("k", 0): Outcome("k", 0, ((1, 2, 3),), 0.5)}
    with pytest.raises(ValueError, match="expected trainings of the protocol at hand in"):
        Parts(tmp_path, "two").read()
    for damage in ("[1]", '{"key": "k"}', '{"key": "k", "run": 0, "correct": [[1, 2]], "wall_s": 1}'):
        (tmp_path / "b.jsonl").write_text('{"identity":"one"}\n' + damage + "\n")
        with pytest.raises(ValueError, match=r"b\.jsonl:2"):
            Parts(tmp_path, "one").read()
    Parts(tmp_path, "two").remove()
    assert Parts(tmp_path, "two").read() == {}


def test_operations_are_those_of_the_published_table() -> None:
    """Two of the published 16-channel figures, in millions, which leave out the classifier's ten biases."""
    space, size = spaces.get("nb201"), NetworkSize(channels=16, cells=5)
    cells = {space.describe(genotype): genotype for genotype in space.cells()}
    for name, published in (
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|", 220.11969),
        ("|none~0|+|avg_pool_3x3~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|", 43.17249),
    ):
        assert cost(space, cells[name], size, 32).flops / 1e6 == pytest.approx(published, abs=1.5e-5)


def test_parameters_are_those_the_cell_uses() -> None:
    """All-skip cells have stem, residual blocks and head only; each 3×3 convolution adds its kernel and bias."""
    space, size = spaces.get("nb201"), NetworkSize(channels=4, cells=1)
    cells = {space.describe(genotype): genotype for genotype in space.cells()}
    skip = "|skip_connect~0|+|none~0|skip_connect~1|+|{}~0|none~1|skip_connect~2|"
    one, two = (cost(space, cells[skip.format(name)], size, 12).params for name in ("none", "nor_conv_3x3"))
    assert two - one == sum(9 * c * c + c for c in (4, 8, 16))


def test_other_images_or_another_protocol_are_another_table() -> None:
    found = small()
    assert found.test is not None
    changed = dataclasses.replace(found, test=ImageSet(found.test.images ^ 1, found.test.labels))
    names = {
        planned.identity(plan()),
        planned.identity(plan(dataset=changed)),
        planned.identity(plan(dataclasses.replace(TINY, runs=3))),
    }
    assert len(names) == 3
    assert planned.identity(plan()) == planned.identity(
        plan(dataclasses.replace(TINY, replicas=9), dataclasses.replace(found))
    )


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line at the size of these tests."""
    monkeypatch.setattr(planned, "Protocol", lambda: TINY)
    monkeypatch.setattr(data, "load", lambda name: small() if name == "digits" else benches.digits.func(name))


def test_the_command_builds_into_the_cache_and_then_has_nothing_to_do(
    tmp_path: Path, line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", "--space", "toy", "--dataset", "digits", "--device", "cpu", "--jobs", "1"]
    path = tmp_path / "cache" / "nas-stability" / "tables" / "toy-digits.arrow"
    assert __main__.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "54 of 54 trainings done" in printed
    assert f"27 cells of toy-digits, 2 trainings each, in {path}" in printed
    assert "random cell" in printed
    before = path.stat()
    assert __main__.main(arguments) == 0
    assert f"{path} is there, of the same protocol: nothing to do" in capsys.readouterr().out
    assert path.stat() == before
    assert Table.open(path, "digits").reference().rows == 27
    assert __main__.main([*arguments, "--fresh"]) == 0
    assert path.stat().st_ino != before.st_ino
    assert arrow.load(path).provenance[0] == planned.identity(plan())


def test_a_share_writes_no_table_and_the_last_call_does(
    tmp_path: Path, line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", "--space", "toy", "--device", "cpu", "--jobs", "1", "--out", str(tmp_path / "t.arrow")]
    for share in ("2/2", "1/2"):
        assert __main__.main([*arguments, "--share", share]) == 0
        assert "this share is trained" in capsys.readouterr().out
    assert not (tmp_path / "t.arrow").exists()
    assert __main__.main(arguments) == 0
    assert Table.open(tmp_path / "t.arrow", "digits").reference().rows == 27


def test_another_protocol_replaces_the_table(tmp_path: Path, line: None) -> None:
    arguments = ["build", "--space", "toy", "--device", "cpu", "--jobs", "1", "--out", str(tmp_path / "t.arrow")]
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
        (["--share", "3/2"], "argument --share: expected a share like 1/2, got '3/2'"),
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
def test_the_toy_table_means_something(tmp_path: Path) -> None:
    """Two whole trainings of a cell agree, and cells differ by much more than the runs of one."""
    whole = plan(Protocol(), benches.digits())
    build.build(whole, Parts(tmp_path, "any"), (1, 1), CPU, nothing)
    table = build.table(whole, Parts(tmp_path, "any"), ())
    whole_trainings = [found.values for slot, found in table.measurements.items() if slot.epoch is None]
    assert len(whole_trainings) == 3
    for values in whole_trainings:
        assert spearmanr(values[:, 0], values[:, 1]).statistic > 0.6
        low, high = np.percentile(values.mean(1), [10, 90])
        assert high - low > 0.2


def test_cells_of_one_structure_are_trained_once_and_all_have_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "cost", lambda *_: Cost(1, 2))  # minutes for so many networks
    space = spaces.get("nb201")
    whole = Plan(space, small(), dataclasses.replace(TINY, runs=1))
    jobs = planned.jobs(whole)
    assert len(jobs) == len({job.structure for job in jobs}) == 6_466
    parts = Parts(tmp_path, "any")
    with contextlib.closing(parts.writer("all")) as writer:
        writer.add([Outcome(job.structure, 0, ((i % 40, i % 50, i % 47),), 1.0) for i, job in enumerate(jobs)])
    found = build.table(whole, parts, ())
    assert len(found.keys) == 15_625
    assert found.provenance[1] == "6466 trainings, 6466 s in all"
    expected = {job.structure: i % 47 / 50 for i, job in enumerate(jobs)}
    cells = planned.first_encodings(space, space.key)
    for key, accuracy in zip(found.keys, accuracies(found, "test")[:, 0], strict=True):
        assert accuracy == expected[space.structure(cells[key])]


def test_a_dataset_without_images_for_a_table_validates_on_a_half_of_its_own() -> None:
    found = benches.digits()
    plain = dataclasses.replace(found, table_val=None)
    aside = planned.set_aside(plain)
    assert aside.table_val is not None
    assert torch.equal(aside.table_val.images, plain.search.images[plain.val_indices])
    pool = torch.cat([aside.train_indices, aside.val_indices])
    assert torch.equal(pool, plain.train_indices)
    assert planned.set_aside(found) is found
