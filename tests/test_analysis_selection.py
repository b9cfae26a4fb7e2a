"""Which runs may stand in one panel, and what they are called there."""

from pathlib import Path

import pandas as pd
import pytest
from test_analysis_study import record, spec, write_run, write_study

from analysis._caption import protocol
from analysis.load import runs, tidy
from analysis.selection import select, space_order


@pytest.fixture
def mixed(tmp_path: Path) -> pd.DataFrame:
    """Two batch sizes of darts on s1, one on nb201."""
    for seed, batch in ((0, 64), (1, 64), (2, 96)):
        write_run(tmp_path, spec("s1", "darts", seed, batch_size=batch), [record(0)])
    write_run(tmp_path, spec("nb201", "darts", 0, batch_size=256), [record(0)])
    return tidy(runs(tmp_path))


def test_mixed_protocols_are_refused(mixed: pd.DataFrame) -> None:
    pattern = r"space s1 differ in batch_size: 64 \(2 runs\), 96 \(1 run\).*--where batch_size=64$"
    with pytest.raises(ValueError, match=pattern):
        select(mixed)


def test_spaces_may_differ_in_protocol(mixed: pd.DataFrame) -> None:
    chosen = select(mixed[mixed["spec.batch_size"] != "96"])
    assert sorted(set(chosen["label"])) == ["darts"]
    assert len(chosen) == 3


def test_a_protocol_is_chosen_by_name(mixed: pd.DataFrame) -> None:
    chosen = select(mixed, where={"batch_size": ["96"]})
    assert chosen["seed"].to_list() == [2]
    assert chosen["label"].to_list() == ["darts"]


def test_named_protocols_stand_together_under_labels_of_their_own(mixed: pd.DataFrame) -> None:
    chosen = select(mixed, ["s1"], where={"batch_size": ["64", "96"]})
    assert chosen["label"].to_list() == ["darts[batch_size=64]", "darts[batch_size=64]", "darts[batch_size=96]"]


def test_a_field_that_some_runs_lack_is_a_difference(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0)])
    write_run(tmp_path, spec("s1", "darts", 1, curvature_every=5), [record(0)])
    with pytest.raises(ValueError, match=r"curvature_every: 5 \(1 run\), absent \(1 run\)"):
        select(tidy(runs(tmp_path)))


def test_what_was_measured_besides_is_no_difference_but_can_be_chosen_by(tmp_path: Path) -> None:
    for seed, fields in enumerate(({"landscape": None}, {"landscape": {"points": 21}}, {"native": {"draws": 16}})):
        write_run(tmp_path, spec("s1", "darts", seed, **fields), [record(0)])
    frame = tidy(runs(tmp_path))
    assert select(frame)["label"].to_list() == ["darts"] * 3
    assert select(frame, where={"landscape": ["null"]})["seed"].to_list() == [0]


def test_a_method_that_trains_nothing_stands_beside_the_others(tmp_path: Path) -> None:
    for method, epochs in (("darts", 100), ("zero_cost_pt", 0)):
        write_run(tmp_path, spec("s1", method, 0, epochs=epochs), [record(0)])
    frame = tidy(runs(tmp_path))
    assert sorted(select(frame)["label"]) == ["darts", "zero_cost_pt"]
    assert ", 100 epochs," in protocol(select(frame))
    assert ", 0 epochs," in protocol(select(frame, methods=["zero_cost_pt"]))
    write_run(tmp_path, spec("s1", "darts", 1, epochs=50), [record(0)])
    with pytest.raises(ValueError, match=r"epochs: 100 \(1 run\), 50 \(1 run\)"):
        select(tidy(runs(tmp_path)))


def test_tables_are_not_mixed(mixed: pd.DataFrame) -> None:
    frame = mixed[mixed["spec.batch_size"] == "64"].reset_index(drop=True)
    frame["table_digest"] = ["old", "new"]
    with pytest.raises(ValueError, match=r"table_digest: new \(1 run\), old \(1 run\)"):
        select(frame)
    frame["table_digest"] = ["old", None]
    assert len(select(frame)) == 2


def test_settings_variants_are_labelled_by_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path, spec("s1", "darts", 0), [record(0)])
    write_run(tmp_path, spec("s1", "darts", 0, settings={"lr": 0.2, "warm": {"up": 5}}, signature="b"), [record(0)])
    write_run(tmp_path, spec("s1", "gdas", 0, settings={"tau": 10}), [record(0)])
    frame = tidy(runs(tmp_path))
    assert sorted(select(frame)["label"]) == ["darts[lr=0.1, warm.up=absent]", "darts[lr=0.2, warm.up=5]", "gdas"]
    assert sorted(select(frame, where={"lr": ["0.2"]})["label"]) == ["darts", "gdas"]


def test_one_seed_in_two_runs_is_refused(tmp_path: Path) -> None:
    for signature in ("a", "b"):
        write_run(tmp_path, spec("s1", "darts", 3, signature=signature), [record(0)])
    frame = tidy(runs(tmp_path))
    with pytest.raises(ValueError, match=r"seed 3 of darts on s1 occurs in 2 runs \(s1-darts-s3-a, s1-darts-s3-b\)"):
        select(frame)
    assert len(select(frame, where={"signature": ["b"]})) == 1


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"spaces": ["s9"]}, "no runs of space 's9'; there are nb201, s1"),
        ({"methods": ["dart"]}, "no runs of method 'dart'; there are darts, gdas, random_ws"),
        ({"where": {"batch": ["64"]}}, "no run has a field 'batch'; there are batch_size, "),
        ({"where": {"batch_size": ["65"]}}, "no run has batch_size=65; there are 64"),
        ({"spaces": ["nb201"], "methods": ["gdas"]}, "no runs of method 'gdas'; there are darts"),
        ({"where": {"seed": ["5"], "signature": ["sig1"]}}, "no run has signature=sig1; there are sig5"),
    ],
)
def test_unknown_choices_list_what_exists(tmp_path: Path, choice: dict, sentence: str) -> None:
    write_study(tmp_path)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        select(tidy(runs(tmp_path)), **choice)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ValueError, match="no run meets all of the chosen spaces, methods and values"):
        select(tidy([]))


def test_spaces_keep_their_usual_order() -> None:
    frame = pd.DataFrame({"space": ["another", "nb201", "s2", "s1"]})
    assert space_order(frame) == ["s1", "s2", "nb201", "another"]
