"""The loop: what it records is of one instant, and measuring changes nothing."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import benches
from tests.benches import EPOCHS, Record, searched
from tests.tape import Tapes

from bench import replay
from bench.metrics import curvature
from bench.record import EpochRecord
from bench.search import Stack, search
from bench.spaces.base import discretise
from bench.store import Store
from bench.tables import Table
from searchers.base import Choices, Searcher, StepBatches, StepLosses
from searchers.entry import Method

FIRST = ["darts", *(pytest.param(name, marks=pytest.mark.slow) for name in benches.KINDS if name != "darts")]
"""One method at once, one of every kind in the long suite."""

README = Path(__file__).parents[1] / "results" / "README.md"


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


Usual = Callable[[str], tuple[Stack, list[list[Record]]]]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Usual:
    """Search each method once as it is, for all the tests that compare with it."""
    return functools.cache(lambda method: searched(tmp_path_factory.mktemp(method), method))


def trajectory(records: list[Record]) -> list[Record]:
    """What is left of the records of a seed without what was measured."""
    kept = ("epoch", "stage", "genotype", "train_loss", "val_loss", "logits", "weights", "supernet")
    return [{name: record[name] for name in kept} for record in records]


@pytest.mark.parametrize("method", benches.EVERY)
def test_a_record_for_every_epoch_from_zero_and_one_for_the_selection(method: str, usual: Usual) -> None:
    stack, found = usual(method)
    epochs = benches.epochs_of(method)
    assert stack.spec.epochs == epochs
    stages = [(epoch, "search") for epoch in range(epochs + 1)] + [(epochs, "final")]
    for records in found:
        assert [(record["epoch"], record["stage"]) for record in records] == stages
        losses = [record["train_loss"] for record in records]
        assert losses[0] is losses[-1] is None
        assert all(1 < loss < 4 for loss in losses[1:-1])
        assert all(record["no_genotype"] is None for record in records if record["genotype"])
        assert all(record["no_genotype"] for record in records if record["genotype"] is None)
        assert records[-1]["genotype"] is not None
        assert all((record["curvature"] is None) == bool(record["no_curvature"]) for record in records)


def test_the_fields_are_those_the_readme_names() -> None:
    text = README.read_text(encoding="utf-8")
    assert [field.name for field in dataclasses.fields(EpochRecord) if f"`{field.name}`" not in text] == []


@pytest.mark.parametrize("method", benches.EVERY)
def test_everything_in_a_record_is_of_the_end_of_its_epoch(method: str, usual: Usual) -> None:
    """A second search, without the loop, has the logits, the cell and the supernet's accuracy of every record."""
    stack, (_, records) = usual(method)
    again, feed = stack.method.build(stack.spec.settings, stack.lab), stack.lab.feed
    if not again.logits():
        pytest.skip(f"{method} has no logits")
    for epoch in range(EPOCHS + 1):
        record, logits = records[epoch], {name: values[1] for name, values in again.logits().items()}
        assert record["logits"] == {name: values.double().tolist() for name, values in logits.items()}
        selected = again.selected()
        if selected is None:
            assert record["key"] is record["genotype"] is None
        else:
            scores = {name: values[1].double().numpy() for name, values in selected.items()}
            genotype = discretise(stack.lab.space.groups, scores)
            assert record["key"] == stack.lab.space.key(genotype)
            assert record["genotype"] == stack.lab.space.describe(genotype)
        with torch.no_grad():
            choices = again.relax(again.logits())
            seen = stack.lab.evaluate(again.supernet, choices, "val", None)
        assert record["supernet"] == {"val_accuracy": float(seen.accuracy[1]), "val_loss": float(seen.loss[1])}
        probe = curvature.probe_loss(again, feed.probe(10))(again.logits())
        assert record["curvature"]["loss"] == pytest.approx(float(probe[1]), abs=1e-6)
        if any(len(values) > 1 for values in choices.weights.values()):  # every cell has mixing weights of its own
            assert record["weights"] is record["entropy"] is None
            choices = Choices({})
        for name, values in choices.weights.items():
            rows = values[0, 1].double()
            assert record["weights"][name] == rows.tolist()
            share = rows / rows.sum(-1, keepdim=True)
            entropy = -(share * share.clamp_min(1e-300).log()).sum(-1).mean()
            assert record["entropy"][name] == pytest.approx(float(entropy), abs=1e-6)
        if epoch < EPOCHS:
            again.begin_epoch(epoch)
            for batches in feed.epoch(again.policy, epoch, EPOCHS):
                again.step(batches)
            again.end_epoch(epoch)


@pytest.mark.parametrize("method", benches.KINDS)
def test_the_entry_is_the_tables_and_regret_is_against_its_best_means(method: str, tmp_path: Path) -> None:
    path = benches.table(tmp_path / "t.arrow")
    stack, found = searched(tmp_path, method, "--table", str(path), "--curvature", "off")
    table = Table.open(path, "digits")
    assert stack.truth is not None
    best = stack.truth.reference
    for record in [record for records in found for record in records if record["key"]]:
        entry = table.query(record["key"])
        assert entry is not None
        left_out = {"key", "flops", "epoch"}
        fields = {name: value for name, value in dataclasses.asdict(entry).items() if name not in left_out}
        assert record["table"] == {**fields, "val": list(entry.val), "test": list(entry.test)}
        assert record["miss"] is False
        assert record["regret_val"] == best.optimum_val - entry.val_mean >= 0
        assert record["regret_test"] == best.optimum_test - entry.test_mean >= 0
        assert record["table"]["val_mean"] != record["table"]["test_mean"]


def test_a_cell_that_is_not_in_the_table_is_a_miss_and_never_a_number(tmp_path: Path) -> None:
    _, found = searched(tmp_path / "full", "darts", "--curvature", "off")
    absent = {found[0][0]["key"]}
    path = benches.table(tmp_path / "t.arrow", without=absent)
    _, found = searched(tmp_path, "darts", "--curvature", "off", "--table", str(path))
    records = [record for records in found for record in records]
    assert [record["key"] in absent for record in records] == [record["miss"] for record in records]
    missed = [record for record in records if record["miss"]]
    assert missed
    assert all(record["table"] is record["regret_val"] is record["regret_test"] is None for record in missed)


def test_without_a_table_there_are_nulls_and_no_misses(tmp_path: Path) -> None:
    _, found = searched(tmp_path, "darts", "--curvature", "off")
    for record in found[0]:
        assert record["table"] is record["miss"] is record["regret_val"] is record["regret_test"] is None
        assert record["key"] is not None


@pytest.mark.parametrize("method", benches.EVERY)
def test_measuring_changes_nothing(method: str, tmp_path: Path, usual: Usual) -> None:
    _, found = searched(tmp_path, method, "--curvature", "off")
    assert [trajectory(records) for records in found] == [trajectory(records) for records in usual(method)[1]]


@pytest.mark.parametrize("method", FIRST)
@pytest.mark.parametrize(
    "change", ["every", "table", *(pytest.param(c, marks=pytest.mark.slow) for c in ("exact", "probe"))]
)
def test_measuring_otherwise_changes_nothing(method: str, change: str, tmp_path: Path, usual: Usual) -> None:
    options = {
        "every": ["--curvature-every", "2"],
        "exact": ["--curvature", "exact"],
        "table": ["--table", str(benches.table(tmp_path / "t.arrow")), "--curvature", "off"],
        "probe": ["--probe-size", "20"],
    }
    _, found = searched(tmp_path, method, *options[change])
    assert [trajectory(records) for records in found] == [trajectory(records) for records in usual(method)[1]]


def test_removing_every_metric_changes_nothing(tmp_path: Path, usual: Usual, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = usual("darts")
    monkeypatch.setattr("bench.metrics.cell.supernet", lambda _searcher, lab: [None] * lab.replicas)
    monkeypatch.setattr("bench.metrics.discretisation.undefined", lambda _searcher, _space: "removed")
    nothing = dict.fromkeys(("genotype", "key", "table", "miss", "regret_val", "regret_test", "elsewhere"))
    monkeypatch.setattr(
        "bench.metrics.cell.cells", lambda _space, _selected, n, _truth: [{**nothing, "no_genotype": "removed"}] * n
    )
    _, after = searched(tmp_path, "darts", "--curvature", "off")
    for one, other in zip(before, after, strict=True):
        for name in ("logits", "weights", "train_loss", "val_loss"):
            assert [record[name] for record in one] == [record[name] for record in other]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the measurement by one that costs nothing and notes the vectors it starts from."""
    found: list[Any] = []

    def measure(_searcher: Searcher, _probes: Any, start: Any, noise: Any, _settings: Any, whole: bool) -> Any:
        found.append(start)
        vectors = torch.full((2, 11), float(len(found)), dtype=torch.float64)
        return curvature.Measured([{"spectrum": []} if whole else {"lambda_dominant": 0.0}] * len(noise), vectors)

    monkeypatch.setattr(curvature, "measure", measure)
    return found


@pytest.mark.parametrize(("every", "measured"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (3, [0, 3]), (5, [0, 3])])
def test_curvature_is_measured_when_it_is_due_and_at_the_last_epoch(
    every: int, measured: list[int], tmp_path: Path, starts: list[Any]
) -> None:
    _, (records, _) = searched(tmp_path, "darts", "--curvature-every", str(every), "--epochs", "3")
    assert [None if start is None else float(start[0, 0]) for start in starts] == [None, 1.0, 2.0, 3.0][: len(measured)]
    assert [record["epoch"] for record in records if record["curvature"]] == measured
    unmeasured = {record["no_curvature"] for record in records[:-1] if record["curvature"] is None}
    assert unmeasured == (set() if every == 1 else {f"curvature is measured every {every} epochs"})
    assert records[-1]["no_curvature"] == "not measured at stage 'final': see the last epoch"
    whole = [record["epoch"] for record in records if record["curvature"] and "spectrum" in record["curvature"]]
    assert whole == [0, 3]


def test_the_curvature_of_a_record_is_that_of_its_logits(usual: Usual) -> None:
    """Measured exactly and apart from the loop, at the state the loop left behind."""
    stack, (_, records) = usual("darts")
    again = stack.method.build(stack.spec.settings, stack.lab)
    for epoch in range(EPOCHS):
        again.begin_epoch(epoch)
        for batches in stack.lab.feed.epoch(again.policy, epoch, EPOCHS):
            again.step(batches)
    noise = stack.lab.stream("another", 0)
    settings = curvature.CurvatureSettings(mode="exact")
    found = curvature.measure(again, curvature.Probes(stack.lab.feed.probe(10)), None, noise, settings, True)
    mine = records[EPOCHS]["curvature"]
    assert mine["spectrum"] == pytest.approx(found.records[1]["spectrum"], abs=1e-5)
    assert mine["lambda_dominant"] == pytest.approx(found.records[1]["lambda_dominant"], rel=1e-2)


def diverging(method: Method, replica: int) -> Method:
    """The method with the weights of one replica not a number from its first step on."""

    def build(settings: Any, resources: Any) -> Searcher:
        searcher = method.build(settings, resources)
        step = searcher.step

        def poisoned(batches: StepBatches) -> StepLosses:
            losses = step(batches)
            for parameter in searcher.supernet.parameters():
                parameter.data[replica] = math.nan
            return losses

        searcher.step = poisoned
        return searcher

    return dataclasses.replace(method, build=build)


LEAVE_OUT = ("gdas", "entrannas_dst", "sgas", "sgas_2", "dsnas", "dso_nas", "darts_pt", "darts_pt_fixed")
"""What they compute depends on the choices of all replicas: an option is left out where none has it. A sum with another
option of weight zero rounds otherwise, so the others of a stack go on to the same numbers, not to the same bits."""


@pytest.mark.parametrize("method", benches.EVERY)
def test_a_seed_that_diverges_ends_and_the_others_go_on_as_if_nothing_had_happened(
    method: str, tmp_path: Path, usual: Usual, caplog: pytest.LogCaptureFixture
) -> None:
    stack, (_, healthy) = usual(method)
    if not benches.epochs_of(method):
        pytest.skip(f"{method} trains nothing")
    sick = Stack(stack.specs, diverging(stack.method, 0), stack.lab, stack.truth)
    store = Store(tmp_path, stack.specs)
    store.create({"seeds": [0, 1]}, None)
    search(sick, store, lambda _records, _timing: None)
    lost, other = (benches.records(tmp_path, spec) for spec in stack.specs)
    if method in LEAVE_OUT:
        assert [numbers(record) for record in other] == [pytest.approx(numbers(r), abs=1e-3) for r in healthy]
    else:
        assert other == healthy
    assert [record["epoch"] for record in lost] == [0, 1]
    folders = [store.folder(spec) for spec in stack.specs]
    assert [sorted(path.name for path in folder.glob("*ed.json")) for folder in folders] == [
        ["diverged.json"],
        ["finished.json"],
    ]
    said = json.loads((folders[0] / "diverged.json").read_text(encoding="utf-8"))
    assert said["reason"].endswith(" nan")
    assert said == {"records": 2, "epoch": 1, "reason": said["reason"]}
    assert [record.getMessage() for record in caplog.records] == [
        f"{stack.specs[0].name} has diverged in epoch 1: {said['reason']}"
    ]


def numbers(record: Record) -> list[float]:
    """Losses and logits of a record."""
    rows = [row for group in (record["logits"] or {}).values() for row in group]
    losses = [record["train_loss"], record["val_loss"]]
    return [value for value in [*losses, *(value for row in rows for value in row)] if value is not None]


@pytest.mark.parametrize("method", FIRST)
def test_what_the_observer_is_told_is_what_is_written(method: str, tmp_path: Path) -> None:
    found = benches.stack(benches.bench(tmp_path, method, "--curvature", "off"), method)
    store = Store(tmp_path, found.specs)
    store.create({}, None)
    told: list[tuple[str, str]] = []
    search(found, store, lambda records, _timing: told.append(tuple(record.line() for record in records)))
    for column, spec in enumerate(found.specs):
        text = (store.folder(spec) / "records.jsonl").read_text(encoding="utf-8")
        assert text == "".join(pair[column] for pair in told)


def test_the_timing_adds_up_and_has_a_line_for_every_record(tmp_path: Path, starts: list[Any]) -> None:
    stack, (records, _) = searched(tmp_path, "darts")
    assert len(starts) == EPOCHS + 1
    for spec in stack.specs:
        timings = benches.lines(tmp_path / "runs" / spec.name / "timing.jsonl")
        instants = [(timing["epoch"], timing["stage"]) for timing in timings]
        assert instants == [(record["epoch"], record["stage"]) for record in records]
        for timing in timings:
            assert timing["wall_s"] == pytest.approx(timing["search_s"] + timing["measure_s"])
            assert timing["measure_s"] >= timing["curvature_s"] >= 0
        searching = timings[1:-1]
        assert timings[0]["images_per_s"] is None
        for timing in searching:
            assert timing["images_per_s"] * timing["search_s"] == pytest.approx(2 * 2 * 20)
            assert timing["curvature_s"] > 0
            assert timing["peak_bytes"] > 2**20  # this process


@pytest.mark.parametrize("method", FIRST)
def test_the_same_search_has_the_same_bits(method: str, tmp_path: Path, usual: Usual) -> None:
    assert searched(tmp_path, method)[1] == usual(method)[1]


@pytest.mark.parametrize("method", ["darts", "ms_darts", "gdas"])
def test_recorded_steps_are_searched_to_the_same_records(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--cuda-graphs`, with tapes of a CPU in their place; those of `gdas` are never the same."""
    tapes = Tapes()
    monkeypatch.setattr(replay, "CudaGraphs", lambda _device: tapes)
    monkeypatch.setattr(replay, "check", lambda *_: None)
    small = ("--batch-size", "6", "--curvature", "off")
    assert searched(tmp_path, method, *small, "--cuda-graphs")[1] == searched(tmp_path / "taken", method, *small)[1]
    batches, steps = 6 * EPOCHS - 2, 0 if method == "gdas" else EPOCHS
    assert tapes.played == batches + steps
