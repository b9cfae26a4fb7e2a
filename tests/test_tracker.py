"""Curves for TensorBoard: what stands in them, that they change nothing, and that a resume has every point once."""

import logging
import struct
from collections import Counter
from importlib import util
from pathlib import Path

import pytest
from tests import benches
from tests.benches import command, folders, lines, record_bytes

from bench import run, tracker
from bench.store import Store

pytest.importorskip("tensorboardX", reason="the extra [tensorboard] is not installed")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def curves(results: Path, name: str) -> list[tuple[str, int, float]]:
    """Every point of a run: tag, step, value; read by the format of event files, not by what wrote them."""
    from tensorboardX.proto.event_pb2 import Event

    (folder,) = (results / "tensorboard").glob(f"{name}-*")
    (path,) = folder.iterdir()
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        at += size + 16
    return found


def arguments(results: Path, *more: str) -> list[str]:
    return command(results, "darts", "--table", str(benches.table(results.parent / "t.arrow")), *more)


def test_the_tags_of_the_field_hold_what_was_recorded(tmp_path: Path) -> None:
    assert run.main(arguments(tmp_path / "r", "--tensorboard")) == 0
    for name, folder in folders(tmp_path / "r").items():
        records, found = lines(folder / "records.jsonl"), curves(tmp_path / "r", name)
        *epochs, final = records
        expected = {
            "Obj/train": [(r["epoch"], r["train_loss"]) for r in epochs[1:]],
            "Obj/arch": [(r["epoch"], r["val_loss"]) for r in epochs[1:]],
            "Obj/valid": [(r["epoch"], r["supernet"]["val_loss"]) for r in epochs],
            "Acc/valid": [(r["epoch"], r["supernet"]["val_accuracy"]) for r in epochs],
            "Analysis/eigenvalue": [(r["epoch"], r["curvature"]["lambda_dominant"]) for r in epochs],
            "Analysis/eigenvalue_legacy": [
                (r["epoch"], r["curvature"]["lambda_legacy"]) for r in epochs if "lambda_legacy" in r["curvature"]
            ],
            "Analysis/valid": [(r["epoch"], 1 - r["table"]["val_mean"]) for r in epochs],
            "Analysis/test": [(r["epoch"], 1 - r["table"]["test_mean"]) for r in epochs],
            "Final/valid": [(final["epoch"], 1 - final["table"]["val_mean"])],
            "Final/test": [(final["epoch"], 1 - final["table"]["test_mean"])],
        }
        assert {tag for tag, _, _ in found} == set(expected)
        for tag, points in expected.items():
            assert [(step, value) for tag_, step, value in found if tag_ == tag] == [
                (step, pytest.approx(value, rel=1e-6)) for step, value in points
            ], tag


def test_it_is_off_by_default_and_changes_no_record(tmp_path: Path) -> None:
    assert run.main(arguments(tmp_path / "off")) == 0
    assert run.main(arguments(tmp_path / "on", "--tensorboard")) == 0
    assert not (tmp_path / "off" / "tensorboard").exists()
    assert record_bytes(tmp_path / "on") == record_bytes(tmp_path / "off")


def test_a_run_that_goes_on_has_every_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with an epoch recorded and shown that the checkpoint does not count: it is searched again."""
    save, results = Store.save, tmp_path / "r"

    def dying(store: Store, state: dict[str, object]) -> None:
        if state["epoch"] == 2:
            tracker.complete(results, [spec.name for spec in store.specs])
            raise KeyboardInterrupt
        save(store, state)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", dying)
        assert run.main(arguments(results)) != 0
    assert max(step for _, step, _ in curves(results, "toy-darts-s0")) == 2
    assert run.main(arguments(results, "--tensorboard")) == 0
    for name in folders(results):
        count = Counter((tag, step) for tag, step, _ in curves(results, name))
        assert set(count.values()) == {1}
        assert {step for tag, step in count if tag == "Acc/valid"} == {0, 1, 2}


def test_finished_runs_get_their_curves_later(tmp_path: Path) -> None:
    assert run.main(arguments(tmp_path / "r")) == 0
    assert run.main(arguments(tmp_path / "r", "--tensorboard")) == 0
    assert {tag for tag, _, _ in curves(tmp_path / "r", "toy-darts-s1")} >= {"Acc/valid", "Final/test"}


def test_what_is_not_there_is_no_point(tmp_path: Path) -> None:
    record = {"epoch": 3, "stage": "search", "table": None, "curvature": None, "train_loss": None, "val_loss": 0.0,
              "supernet": {"val_loss": 1.5}}  # fmt: skip
    assert tracker.points(record) == {"Obj/arch": 0.0, "Obj/valid": 1.5}


def test_without_the_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _name: None)
    caplog.set_level(logging.WARNING)
    assert run.main(arguments(tmp_path / "r", "--tensorboard")) == 2
    assert "nas-stability[tensorboard]" in caplog.text
    assert not (tmp_path / "r").exists()
