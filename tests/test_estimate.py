"""What a search would cost, without training anything."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tests import benches

from bench import estimate as module
from bench import spaces
from bench.estimate import IMAGES, Estimate, PassCost, estimate, line
from bench.search import Stack
from searchers._projection import removals
from searchers.base import Batch, Group, SupernetOptions
from searchers.registry import METHODS

OPTIONS = sum(group.decisions * len(group.options) for group in spaces.get("toy").groups)
DIRECTIONS = OPTIONS - sum(group.decisions for group in spaces.get("toy").groups)
REMOVALS = removals(spaces.get("toy").groups)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "_cost", lambda _stack, _network, _kind: PassCost(0.0, 0.001, 1000.0))


def stack(tmp_path: Path, *more: str, method: str = "darts") -> Stack:
    return benches.stack(benches.bench(tmp_path, method, *more), method)


def estimated(tmp_path: Path, *more: str) -> Estimate:
    return estimate(stack(tmp_path, *more))


def test_weights_logits_and_rows_are_counted(tmp_path: Path) -> None:
    found = estimated(tmp_path, "--seeds", "0:3")
    searched = stack(tmp_path)
    network = searched.lab.space.supernet(searched.lab.size, 1, SupernetOptions())
    assert found.weights == sum(parameter.numel() for _, parameter in network.named_parameters())
    groups = spaces.get("toy").groups
    assert found.logits == sum(group.decisions * len(group.options) for group in groups)
    assert found.rows == sum(group.decisions for group in groups)


@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_of_the_feed(method: str, tmp_path: Path) -> None:
    searched = stack(tmp_path, method=method)
    steps = list(searched.lab.feed.epoch(searched.method.policy(searched.spec.settings), 0, benches.EPOCHS))
    assert estimate(searched).steps_per_epoch == len(steps)


LAMBDA, SPECTRUM = 1 + 2 * 7, 2 + 2 * 7 + 2 * 2 * DIRECTIONS
"""Passes over the 10 probe images for λ, and for what is measured besides where the whole spectrum is due."""


def test_time_grows_with_epochs_and_curvature(tmp_path: Path) -> None:
    """Epochs of 3 steps × 8 images × 2 passes; λ before the first and after every one; the spectrum at both ends."""
    steps, off = 3 * 8 * 2, ("--curvature", "off")
    assert estimated(tmp_path, *off).wall_s == pytest.approx(2 * steps / 1000)
    assert estimated(tmp_path, *off, "--epochs", "6").wall_s == pytest.approx(6 * steps / 1000)
    for more, due, whole in (
        ((), 3, 2),
        (("--curvature-every", "2"), 2, 2),
        (("--curvature", "exact"), 3, 3),
        (("--epochs", "11"), 12, 3),
    ):
        found = estimated(tmp_path, *more).wall_s - estimated(tmp_path, *more, *off).wall_s
        assert found == pytest.approx(10 * (due * LAMBDA + whole * SPECTRUM) / 1000)


def test_without_logits_no_curvature_is_counted(tmp_path: Path) -> None:
    with_it, off = (estimate(stack(tmp_path, *more, method="random_ws")) for more in ((), ("--curvature", "off")))
    assert with_it.wall_s == off.wall_s


def test_a_pass_has_a_fixed_cost_and_one_for_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 passes over 8 images at 20 ms and 0.25 ms an image."""
    monkeypatch.setattr(module, "_cost", lambda _stack, _network, _kind: PassCost(0.020, 0.00025, 1000.0))
    assert estimated(tmp_path, "--curvature", "off").wall_s == pytest.approx(12 * (0.020 + 8 * 0.00025))


def test_half_the_arithmetic_of_a_pass_is_not_half_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 steps of one sampled cell on 8 images; then 4 + 2 cells, each in a forward pass over 20 images."""
    monkeypatch.setattr(module, "_cost", lambda _stack, _network, _kind: PassCost(0.020, 0.00025, 1000.0))
    steps, ranked = 6 * (0.020 + 0.5 * 8 * 0.00025), 6 * 0.4 * (0.020 + 0.75 * 20 * 0.00025)
    found = estimate(stack(tmp_path, "--curvature", "off", method="random_ws"))
    assert found.wall_s == pytest.approx(steps + ranked)


def test_the_cost_of_a_pass_is_the_line_through_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    benches.isolate(monkeypatch, tmp_path)
    taken = dict(zip(IMAGES, (0.022, 0.028), strict=True))

    def passed(_stack: Stack, _network: object, batch: Batch) -> tuple[float, int]:
        images = batch.labels.shape[1]
        return taken[images], images * 500

    monkeypatch.setattr(module, "_pass", passed)
    assert estimated(tmp_path, "--curvature", "off").wall_s == pytest.approx(12 * 0.022)
    assert line(0.022, 0.028) == pytest.approx((0.020, 0.00025))
    assert line(0.028, 0.022) == pytest.approx((0.022, 0.0))  # noise: no image has a negative cost
    assert line(0.001, 0.032) == pytest.approx((0.0, 0.001))  # and no pass


EXTRA = {
    # In the end 4 cells on a batch each, and 2 in full; a cell costs 0.3 of a pass. After both epochs 3 rewards.
    "random_ws": (4 * 20 + 2 * 20) * 0.3,
    "enas": 2 * 3 * 20 * 0.3 + (4 * 20 + 2 * 20) * 0.3,
    "spos": 4 * 2 * 20 * 0.3,
    # One of two epochs is past the warm-up: 2 orders of all options; a pass without gradients is 0.4 of one.
    "shapley_nas": 2 * (1 + OPTIONS) * 20 * 0.4,
    "darts_pt": REMOVALS * 20 * 0.4,
    # 2 proposals of all removals, each then on 4 batches as a discrete cell; batches of 10.
    # The proxy takes two thirds of a pass.
    "zero_cost_pt": 2 * (REMOVALS + 4 * 0.75) * 10 * 2 / 3,
    "darts": 0.0,
}
"""Passes over an image in what a method evaluates: 20 validation images, one evaluation batch."""


@pytest.mark.parametrize("method", EXTRA)
def test_what_is_evaluated_besides_steps_is_counted(method: str, tmp_path: Path) -> None:
    searched = stack(tmp_path, "--curvature", "off", method=method)
    found, none = (estimate(one) for one in (searched, silent(searched)))
    assert (found.wall_s - none.wall_s) * 1000 == pytest.approx(EXTRA[method])


def silent(searched: Stack) -> Stack:
    method = dataclasses.replace(searched.method, evaluated=lambda _settings, _extent: ())
    return dataclasses.replace(searched, method=method)


def test_removals_of_a_row_that_keeps_several_are_asked_again() -> None:
    """4 of 5 options, then one of 4: keeping 3 takes 5 + 4 removals; keeping one takes 5."""
    rows = [Group("op", 2, ("a", "b", "c", "d", "e")), Group("in", 1, ("a", "b", "c", "d", "e"), "edge", keep=3)]
    assert removals(rows) == 2 * 5 + 5 + 4
    assert removals([Group("in", 1, ("a", "b"), "edge", keep=2)]) == 0


def test_memory_holds_the_larger_of_step_and_product_and_four_copies_of_the_weights(tmp_path: Path) -> None:
    found = estimated(tmp_path)
    assert found.peak_bytes == 27_000 + 4 * 2 * found.weights * 4
    wide = estimated(tmp_path, "--batch-size", "50", "--train-size", "100")
    assert wide.peak_bytes - found.peak_bytes == 50 * 1700 - 27_000
    off = estimated(tmp_path, "--curvature", "off", "--batch-size", "10")
    assert found.peak_bytes - off.peak_bytes == 27_000 - 17_000


def test_memory_of_products_is_that_of_the_seeds_that_are_measured_at_once(tmp_path: Path) -> None:
    found, one = (estimated(tmp_path, *more) for more in ((), ("--curvature-replicas", "1")))
    assert (
        found.peak_bytes - one.peak_bytes == 27_000 - 13_600
    )  # a step of both, of 8 images, takes more than a product of one


@pytest.mark.parametrize("more", [(), ("--curvature-replicas", "3"), ("--curvature", "off")])
def test_what_a_wide_stack_keeps_is_found_from_a_narrow_one(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    benches.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "_timed", lambda work, _device: work() or 0.1)
    narrow, wide = (stack(tmp_path, "--seeds", seeds, *more) for seeds in ("0:2", "0:8"))
    found, whole = estimate(narrow, 8), estimate(wide)
    assert found.peak_bytes == pytest.approx(whole.peak_bytes, rel=1e-4)  # what all seeds share is counted as theirs
    assert dataclasses.replace(found, wall_s=0.0, peak_bytes=0) == dataclasses.replace(whole, wall_s=0.0, peak_bytes=0)
    assert found.wall_s == pytest.approx(4 * estimate(narrow).wall_s)


@pytest.mark.parametrize("space", ["toy", "s1", "s2", "s3", "nb201"])
def test_a_pass_is_measured_on_every_space(space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    benches.isolate(monkeypatch, tmp_path)
    small, large = (
        estimated(tmp_path, "--space", space, "--seeds", seeds, "--channels", channels)
        for seeds, channels in (("0:1", "2"), ("0:3", "4"))
    )
    assert small.wall_s > 0
    assert large.weights > small.weights
    assert large.peak_bytes > 2 * small.peak_bytes


def test_nothing_is_trained_written_or_changed(tmp_path: Path) -> None:
    searched = stack(tmp_path)
    before = searched.method.build(searched.spec.settings, searched.lab).state_dict()
    names = sorted(path.name for path in tmp_path.iterdir())
    estimate(searched)
    after = searched.method.build(searched.spec.settings, searched.lab).state_dict()
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(bool((after["logits"][name] == value).all()) for name, value in before["logits"].items())
    assert dataclasses.asdict(estimate(searched)) == dataclasses.asdict(estimate(searched))


def test_narrow_steps_and_wide_products_are_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {torch.float32: PassCost(0.0, 0.001, 1000.0), torch.bfloat16: PassCost(0.0, 0.0005, 500.0)}
    monkeypatch.setattr(module, "_cost", lambda _stack, _network, kind: costs[kind])
    off = ("--curvature", "off")
    assert estimated(tmp_path, *off).wall_s == pytest.approx(
        2 * estimated(tmp_path, *off, "--precision", "bf16").wall_s
    )
    assert estimated(tmp_path).peak_bytes == estimated(tmp_path, "--precision", "bf16").peak_bytes  # of the products
