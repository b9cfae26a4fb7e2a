"""`--epochs published`: every method's own horizon, in plans and records, or one sentence."""

import json
import logging
from pathlib import Path

import pytest
from tests import benches

from bench import run, setup, variants
from bench.request import Request, parse, read, spelled
from searchers.entry import Published
from searchers.registry import METHODS, find

TRAINED = [name for name in METHODS if benches.epochs_of(name)]
STATED = [name for name in TRAINED if METHODS[name].published is not None]
UNSTATED = [name for name in TRAINED if METHODS[name].published is None]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def asked(tmp_path: Path, *methods: str) -> list[str]:
    return [*benches.command(tmp_path, methods[0]), "--methods", ",".join(methods), "--epochs", "published"]


def published(name: str) -> Published:
    method = find(name)
    assert method is not None
    assert method.published is not None
    return method.published


@pytest.mark.parametrize("name", [*STATED, "sdarts_rs+perturbation"])
def test_every_method_has_its_own_horizon(name: str, tmp_path: Path) -> None:
    bench = setup.prepare(
        parse([*benches.TINY, "--results", str(tmp_path), "--methods", name, "--epochs", "published"])
    )
    method = variants.method(name)
    (spec, *_) = variants.specs(bench, method)
    assert spec.epochs == published(name).epochs > 1
    assert spec == variants.specs(
        setup.prepare(parse([*benches.TINY, "--results", str(tmp_path), "--epochs", str(spec.epochs)])), method
    )[0]  # fmt: skip
    assert published(name).where


def test_horizons_of_the_specification() -> None:
    found = {name: published(name).epochs for name in ("darts", "ms_darts", "gaea_erm", "dropnas", "sgas", "snas")}
    assert found == {"darts": 50, "ms_darts": 100, "gaea_erm": 25, "dropnas": 76, "sgas": 40, "snas": 150}
    assert published("darts_pt").epochs == published("darts_pt_fixed").epochs == 125
    assert "oles" in UNSTATED


def test_a_plan_says_the_horizons_and_where_they_are_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*asked(tmp_path, "darts", "dropnas", "zero_cost_pt"), "--dry-run"]) == run.OK
    said = capsys.readouterr().out
    assert "each method's published epochs" in said
    assert f"50 epochs ({published('darts').where})" in said
    assert f"76 epochs ({published('dropnas').where})" in said
    assert "zero_cost_pt" in said


@pytest.mark.parametrize("name", UNSTATED)
def test_what_has_none_says_so_and_nothing_is_searched(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert run.main(asked(tmp_path, "darts", name)) == run.WRONG
    assert f"expected methods with a published horizon beside --epochs published, got {name}: " in caplog.text
    assert not (tmp_path / "runs").exists()


def test_records_show_the_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METHODS, "darts", METHODS["darts"].__class__(**{
        **vars(METHODS["darts"]), "published": Published(3, "made up"),
    }))  # fmt: skip
    assert run.main([*asked(tmp_path, "darts"), "--seeds", "0", "--table", "none"]) == run.OK
    (folder,) = benches.folders(tmp_path).values()
    assert json.loads((folder / "spec.json").read_text(encoding="utf-8"))["epochs"] == 3
    assert [record["epoch"] for record in benches.lines(folder / "records.jsonl")] == [0, 1, 2, 3, 3]


def test_the_word_is_an_option_of_files_and_of_workers(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("space: toy\nepochs: published\n", encoding="utf-8")
    request = parse(["--config", str(path)])
    assert request.epochs == "published"
    assert read(json.loads(json.dumps(spelled(request)))) == request
    assert parse(["--space", "toy", "--epochs", "7"]) == Request("toy", epochs=7)
    for wrong in ("0", "2.5", "paper"):
        with pytest.raises(ValueError, match="expected a positive whole number or published"):
            parse(["--space", "toy", "--epochs", wrong])
