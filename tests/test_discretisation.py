"""What discretising costs the supernet: against choices made by hand, and beside a search that must not notice it."""

from pathlib import Path
from typing import Any

import labs
import numpy as np
import pytest
import torch
from test_analysis_study import record, spec, write_run
from tests import benches

from analysis import stability, tables
from analysis.load import runs, tidy
from analysis.selection import select
from bench.lab import Lab
from bench.metrics import discretisation
from searchers.base import Choices, Searcher
from searchers.registry import METHODS

OFF = ("--curvature", "off")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def moved(method: str, lab: Lab) -> Searcher:
    """A searcher after an epoch, whose logits say different cells for different seeds."""
    searcher = labs.start(METHODS[method], lab)
    labs.drive(searcher, lab, 0, 1)
    for name, values in searcher.logits().items():
        values.copy_(torch.randn(values.shape, generator=labs.rng(len(name)), dtype=values.dtype))
    return searcher


def counted(searcher: Searcher, lab: Lab, choices: Choices) -> list[float]:
    """Accuracies over the whole validation half, with a loop of our own."""
    right, total = torch.zeros(lab.replicas), 0
    for images, classes in lab.feed.evaluation("val"):
        right += (searcher.supernet(images, choices).argmax(-1) == classes).sum(1)
        total += classes.shape[1]
    assert total == labs.HALF
    return (right.double() / total).tolist()


def one_hot(searcher: Searcher, lab: Lab) -> dict[str, torch.Tensor]:
    """The kept options of every decision with weight 1, by sorting."""
    found = {}
    for group in lab.groups:
        scores = searcher.selected()[group.name]  # type: ignore[index]
        kept = scores.topk(group.keep, dim=-1).indices
        found[group.name] = torch.zeros_like(scores).scatter(-1, kept, 1.0)[None]
    return found


@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_both_accuracies_are_of_the_same_weights_and_images(space: str) -> None:
    lab = labs.make(space, channels=4)
    searcher = moved("darts", lab)
    before = labs.leaves(searcher.state_dict())
    found = discretisation.measure(searcher, lab, None)
    labs.same(labs.leaves(searcher.state_dict()), before)
    relaxed = counted(searcher, lab, searcher.relax(searcher.logits()))
    discrete = counted(searcher, lab, Choices(one_hot(searcher, lab)))
    assert [one["relaxed_accuracy"] for one in found] == relaxed  # type: ignore[index]
    assert [one["discrete_accuracy"] for one in found] == discrete  # type: ignore[index]
    assert relaxed != discrete
    assert [one["images"] for one in found] == [labs.HALF] * lab.replicas  # type: ignore[index]


def test_groups_that_a_cell_does_not_decide_keep_their_weights() -> None:
    lab = labs.make("nb201", seeds=(0, 1, 2, 3), channels=4)
    searcher = moved("pc_darts", lab)
    found = [one["discrete_accuracy"] for one in discretisation.measure(searcher, lab, None) if one is not None]
    edges = {name: weights for name, weights in searcher.relax(searcher.logits()).weights.items() if name != "op"}
    assert edges.keys() == {"in_1", "in_2", "in_3"}
    wanted = counted(searcher, lab, Choices({**one_hot(searcher, lab), **edges}))
    even = {name: torch.ones_like(weights) for name, weights in edges.items()}
    assert found == wanted
    assert wanted != counted(searcher, lab, searcher.relax(searcher.logits()))
    assert wanted != counted(searcher, lab, Choices({**one_hot(searcher, lab), **even}))


def test_a_seed_without_finite_scores_has_no_gap_and_the_other_keeps_its_own() -> None:
    lab = labs.make()
    searcher = moved("darts", lab)
    _, healthy = discretisation.measure(searcher, lab, None)
    searcher.logits()["op"][0] = float("nan")
    lost, other = discretisation.measure(searcher, lab, None)
    assert lost is None
    assert other == healthy


def test_there_is_a_reason_where_there_is_none(tmp_path: Path) -> None:
    _, ((*search, final), _) = benches.searched(tmp_path, "random_ws", *OFF)
    reasons = {record["no_discretisation"] for record in (*search, final)}
    assert reasons == {"random search with weight sharing has no architecture logits"}
    assert all(record["discretisation"] is None for record in (*search, final))


def test_it_is_recorded_at_the_beginning_the_end_and_after_the_selection(tmp_path: Path) -> None:
    _, (records, _) = benches.searched(tmp_path, "darts", *OFF)
    assert [record["discretisation"] is not None for record in records] == [True, False, True, True]
    assert records[1]["no_discretisation"] == "measured every 10 epochs"
    *_, last, final = records
    assert last["discretisation"]["relaxed_accuracy"] == last["supernet"]["val_accuracy"]
    assert final["discretisation"] == last["discretisation"]  # DARTS selects what its logits say
    assert final["supernet"] is None
    assert [epoch for epoch in range(26) if discretisation.due(epoch, 25)] == [0, 10, 20, 25]


@pytest.mark.parametrize(
    "method", ["darts", *(pytest.param(name, marks=pytest.mark.slow) for name in benches.KINDS if name != "darts")]
)
def test_measuring_it_leaves_the_records_to_the_bit(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discretisation, "EVERY", 1)
    found = benches.searched(tmp_path / "a", method, *OFF)[1]
    monkeypatch.setattr(discretisation, "undefined", lambda *_: "left out")
    without = benches.searched(tmp_path / "b", method, *OFF)[1]
    for one, other in zip(found, without, strict=True):
        for record_, plain in zip(one, other, strict=True):
            assert plain.pop("discretisation") is None
            assert plain.pop("no_discretisation") == "left out"
            record_.pop("discretisation")
            record_.pop("no_discretisation")
        assert one == other


def gap(relaxed: float, discrete: float) -> dict[str, Any]:
    return {"relaxed_accuracy": relaxed, "discrete_accuracy": discrete, "images": 128}


def test_the_gap_of_a_run_is_that_of_its_last_instant(tmp_path: Path) -> None:
    search = [record(0, discretisation=gap(0.3, 0.1)), record(1), record(3, discretisation=gap(0.8, 0.5))]
    write_run(tmp_path, spec("s1", "darts", 0), search)
    write_run(tmp_path, spec("s1", "darts_pt", 0), [*search, record(3, "final", discretisation=gap(0.8, 0.9))])
    nothing = {"discretisation": None, "no_discretisation": "no mixing weights"}
    write_run(tmp_path, spec("s1", "random_ws", 0), [record(0, **nothing)])
    write_run(tmp_path, spec("s1", "old", 0), [record(0), record(3, "final")])
    frame = select(tidy(runs(tmp_path)))
    found = stability.per_run(frame).set_index("method")["discretisation_gap"]
    assert found["darts"] == pytest.approx(0.3)
    assert found["darts_pt"] == pytest.approx(-0.1)
    assert np.isnan(found[["random_ws", "old"]].to_numpy(float)).all()
    made = tables.sheet("stability", frame, "s1")
    column = made.header.index("supernet accuracy − discretised %")
    assert [row[column].text for row in made.rows] == ["30.00", "−10.00", "–", "–"]
    assert "on 128 un-augmented images of the validation half" in made.caption
    assert "Without it: old (not recorded); random_ws (no mixing weights)." in made.caption


def test_records_of_earlier_versions_alone_still_make_tables(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0), record(3, "final")])
    frame = select(tidy(runs(tmp_path))).drop(
        columns=[*(f"discretisation_{n}" for n in ("images", "relaxed_accuracy"))]
    )
    assert np.isnan(stability.per_run(frame)["discretisation_gap"].iloc[0])
    assert "discretised:" not in tables.sheet("stability", frame, "s1").caption
