"""The benchmark of speed: what it counts, how it compares, what it writes. No time is asserted."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from tests import benches
from torch.nn import functional

from bench import layers
from bench.data.feed import Feed
from bench.metrics import cell
from bench.setup import Bench
from bench.speed import floor, growth, outside, width
from bench.speed.__main__ import PARTS, main
from bench.speed.counting import Call, count
from bench.speed.floor import Rates
from bench.speed.report import Report, Sitting
from bench.speed.rounds import Sample, alternate, middle, ratio
from bench.speed.section import Column, Plan, Section

CPU = torch.device("cpu")
TINY = [
    *("--space", "toy", "--benchmark", "embedded", "--train-size", "80", "--batch-size", "8", "--channels", "2"),
    *("--probe-size", "10", "--device", "cpu", "--table", "none", "--rounds", "1", "--most", "2", "--title", "tiny"),
]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def flops(calls: list[Call]) -> int:
    return sum(call.flops for call in calls)


def total(calls: list[Call]) -> int:
    return sum(call.bytes for call in calls)


def convolved(groups: int, *, derivatives: bool = True) -> list[Call]:
    """Calls of a 3×3 convolution of 5 images of 7×7, 4 to 6 channels a group, and of its derivatives."""
    x = torch.ones(5, 4 * groups, 7, 7, requires_grad=True)
    weight = torch.ones(6 * groups, 4, 3, 3, requires_grad=True)

    def work() -> None:
        y = functional.conv2d(x, weight, padding=1, groups=groups)
        if derivatives:
            torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    return count(work)


def test_a_convolution_costs_two_operations_a_multiplication_and_thrice_as_much_with_both_derivatives() -> None:
    once = 2 * 5 * 6 * 7 * 7 * 4 * 3 * 3
    assert flops(convolved(1, derivatives=False)) == once
    assert flops(convolved(1)) == 3 * once


def test_a_grouped_convolution_costs_as_many_operations_as_its_groups() -> None:
    assert flops(convolved(3)) == 3 * flops(convolved(1))


def test_products_are_counted() -> None:
    a, b = torch.ones(3, 4, 5), torch.ones(3, 5, 6)
    assert flops(count(lambda: a @ b)) == 2 * 3 * 4 * 5 * 6


def test_bytes_are_what_is_read_and_written_once() -> None:
    a, b = torch.ones(10, 8), torch.ones(10, 8)
    assert total(count(lambda: a + b)) == 3 * 80 * 4
    assert total(count(lambda: a + a)) == 2 * 80 * 4
    assert total(count(lambda: a.add_(b))) == 3 * 80 * 4
    assert total(count(lambda: a + torch.ones(()).expand(10, 8))) == 4 + 2 * 80 * 4 + 4
    assert total(count(lambda: a.T.reshape(80)[1:])) == 2 * 80 * 4  # which copies
    assert count(lambda: a.view(80)[3:]) == []
    assert count(lambda: torch.empty(1000)) == []


def test_a_floor_is_of_bytes_or_of_operations() -> None:
    machine = Rates(bytes_per_s=10.0, cached_bytes_per_s=20.0, flops_per_s=100.0)
    assert machine.floor_s(Call("a", 40, 100)) == 2.0
    assert machine.floor_s(Call("b", 40, 300)) == 3.0


def test_works_take_turns_and_the_first_round_is_left_out() -> None:
    order: list[str] = []
    found = alternate({name: partial(order.append, name) for name in "ab"}, 2, CPU)
    assert order == list("ababab")
    assert {name: len(samples) for name, samples in found.items()} == {"a": 2, "b": 2}


def test_ratios_are_medians_of_the_rounds_ratios() -> None:
    slow, fast = [Sample(4.0, 2.0), Sample(90.0, 2.0), Sample(8.0, 6.0)], [Sample(2.0, 1.0)] * 2 + [Sample(1.0, 2.0)]
    assert middle(slow) == (8.0, 2.0)
    assert ratio(slow, fast) == (8.0, 2.0)
    assert math.isnan(ratio(slow, [Sample(1.0, 0.0)] * 3).cpu_s)


def test_an_exponent_is_that_of_a_power_law() -> None:
    assert growth.exponent({size: 3.0 * size**1.5 for size in (2, 4, 16)}) == pytest.approx(1.5)
    assert growth.exponent({1: 2.0, 2: 2.0, 4: 2.0}) == pytest.approx(0.0)


def test_only_widths_that_may_be_measured_are() -> None:
    assert Plan(most=4).widths(1, 2, 4, 8) == [1, 2, 4]


class Owner:
    def one(self, value: int) -> int:
        return value + 1

    def many(self) -> object:
        return iter([1, 2, 3])


def test_functions_are_timed_and_then_as_they_were() -> None:
    before = Owner.__dict__["one"], Owner.__dict__["many"]
    with outside._timed({"a": [(Owner, "one")], "b": [(Owner, "many")]}, CPU) as spent:
        assert Owner().one(3) == 4
        assert spent["a"] > 0
        assert spent["b"] == 0
        assert list(Owner().many()) == [1, 2, 3]
        assert spent["b"] > 0
    assert (Owner.__dict__["one"], Owner.__dict__["many"]) == before


@pytest.mark.slow
def test_the_parts_of_a_run_make_up_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "EPOCHS", 2)
    before = Feed.epoch, cell.cells
    bench = benches.bench(tmp_path, "darts")
    (section,) = outside.measure(bench, [benches.METHODS["darts"]], Plan(rounds=1, most=2))
    shares = {row["part"]: row["share"] for row in section.rows}
    whole, beside = shares.pop("whole run"), shares.pop("outside steps and what is measured on the network")
    assert whole == 1.0
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(share > 0 for share in shares.values())
    assert beside == pytest.approx(1 - sum(shares[part] for part in outside.NOT_OUTSIDE))
    assert (Feed.epoch, cell.cells) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_both_files_have_the_same_numbers() -> None:
    columns = (Column("name", "what"), Column("x", "x, ms", ".1f"), Column("y", "y"))
    rows = [{"name": "a", "x": 1.26, "y": None}, {"name": "b", "x": math.nan, "y": 3}]
    section = Section("Title", "How it was measured.", columns, rows)
    report = Report("t", {"threads": 1, "versions": {"torch": "2"}}, (Sitting("s1", (section,)),))
    text = report.markdown()
    assert "| what | x, ms | y |\n| --- | ---: | ---: |\n| a | 1.3 | – |\n| b | nan | 3 |\n" in text
    assert "- versions: torch 2\n" in text
    read = json.loads(json.dumps(report.plain(), allow_nan=False))
    assert read["sittings"][0]["sections"][0]["rows"] == [{**rows[0]}, {**rows[1], "x": None}]


def test_one_part_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--parts", "stack", "--into", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "tiny.json").read_text(encoding="utf-8"))
    assert {"device_name", "threads", "versions", "load", "revision", "made"} <= set(told)
    (sitting,) = told["sittings"]
    (section,) = sitting["sections"]
    assert [row["replicas"] for row in section["rows"]] == [1, 2]
    assert section["rows"][0]["ratio"] == 1.0
    assert (tmp_path / "out" / "tiny.md").read_text(encoding="utf-8") in capsys.readouterr().out


def test_narrow_steps_are_compared_with_narrow_plain_ones(tmp_path: Path) -> None:
    given = ["--parts", "plain", "--precision", "bf16", "--into", str(tmp_path)]
    maps = []
    with pytest.MonkeyPatch.context() as patch:
        relu = torch.Tensor.relu
        patch.setattr(torch.Tensor, "relu", lambda x: maps.append(x.dtype) or relu(x))  # only plain networks call it
        assert main([*TINY, *given, "--space", "s1"]) == 0
    assert set(maps) == {torch.bfloat16}


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "ROWS", (100, 200))
    monkeypatch.setattr(floor, "WIDTHS", (1, 2))
    monkeypatch.setattr(growth, "EPOCHS", (1, 2))
    monkeypatch.setattr(outside, "EPOCHS", 2)
    monkeypatch.setattr(layers, "SMALL", 0)  # one seed computes what each of several does
    given = ["--methods", "darts,random_ws,zero_cost_pt", "--into", str(tmp_path / "out")]
    assert main([*TINY, *given]) == 0
    told = json.loads((tmp_path / "out" / "tiny.json").read_text(encoding="utf-8"))
    sections = {section["title"]: section["rows"] for section in told["sittings"][0]["sections"]}
    assert len(sections) >= len(PARTS)
    assert all(sections.values())
    of_methods = {row["method"]: row for row in sections["Methods"]}
    assert set(of_methods) == {"darts", "random_ws"}  # the third trains nothing
    assert of_methods["darts"]["flops"] == of_methods["darts"]["excess"] == 1.0
    assert of_methods["random_ws"]["flops"] < 0.5
    floors = sections["Floor of a step"]
    assert floors[1]["gflop"] == pytest.approx(2 * floors[0]["gflop"], rel=0.01)


def test_without_a_benchmark_the_papers_width_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [option for option in TINY if option not in {"--benchmark", "embedded"}]
    small[small.index("toy")] = "s1"
    sizes = []

    def noted(bench: Bench, methods: object, plan: Plan) -> list[Section]:
        preset, side = bench.preset, bench.dataset.search.images.shape[1:]
        sizes.append((preset.channels, preset.cells, side, plan.most, preset.curvature))
        return [Section("Noted", "", (), [])]

    monkeypatch.setitem(PARTS, "stack", noted)
    monkeypatch.setitem(PARTS, "floor", lambda *_: [])
    out = ["--into", str(tmp_path / "out")]
    assert main([*small, "--most", "8", "--parts", "stack,floor", "--curvature", "exact", *out]) == 0
    read = json.loads((tmp_path / "out" / "tiny.json").read_text(encoding="utf-8"))
    assert [len(sitting["sections"]) for sitting in read["sittings"]] == [1, 1]
    assert sizes == [(2, 1, (3, 8, 8), 8, "exact"), (16, 1, (3, 32, 32), 2, "exact")]


def test_noise_has_halves_and_classes_like_the_images_it_stands_for() -> None:
    found = width.noise(200)
    assert found.search.images.shape == (200, 3, 32, 32)
    assert found.search.labels.bincount().tolist() == [20] * 10
    assert set(found.train_indices.tolist()) | set(found.val_indices.tolist()) == set(range(200))
    assert found.search.images.float().mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--parts", "stack,speed"], "error: expected --parts out of stack, plain, "),
        (["--parts", ","], "error: expected --parts out of stack, plain, "),
        (["--title", "a/b"], "error: expected a --title that can be a file's name, got 'a/b'"),
        (["--into", __file__], "error: [Errno 17] File exists: "),
        (["--rounds", "0"], "expected a positive whole number, got '0'; see python -m bench.speed --help"),
        (["--nothing"], "error: unrecognized arguments: --nothing"),
        (["--space", "s9"], "error: expected one of the spaces "),
        (["--methods", "zero_cost_pt"], "error: expected a method that trains, got zero_cost_pt, which has no steps"),
    ],
)
def test_bad_input_is_one_sentence(given: list[str], said: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*TINY, *given]) == 2
    (record,) = caplog.records
    assert said in record.getMessage()
