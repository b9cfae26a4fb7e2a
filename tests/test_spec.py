"""What names a run, and how settings are changed by name."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from bench.data.augment import Augmentation
from bench.metrics.curvature import CurvatureSettings
from bench.metrics.landscape import LandscapeSettings
from bench.metrics.native import NativeSettings
from bench.metrics.ranking import RankingProbe
from bench.spec import RunSpec, replace_settings
from searchers.darts import Settings
from searchers.registry import METHODS

ROOT = Path(__file__).parents[1]


def spec() -> RunSpec:
    return RunSpec(
        benchmark="embedded",
        space="toy",
        dataset="digits",
        data="0123",
        method="darts",
        settings=Settings(),
        seed=3,
        epochs=7,
        train_size=40,
        batch_size=8,
        eval_batch_size=10,
        channels=2,
        cells=1,
        split_rule="recipe",
        augmentation=Augmentation(padding=1, flip=False, cutout_length=0),
        probe_size=10,
        curvature=CurvatureSettings(),
        curvature_every=1,
        ranking=RankingProbe(5, 2, 1),
        landscape=LandscapeSettings(),
        native=NativeSettings(),
        table="abcd",
        budget=5,
        precision="bf16",
    )


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        last = dataclasses.fields(value)[-1].name
        return dataclasses.replace(value, **{last: other(getattr(value, last))})
    if isinstance(value, bool):
        return not value
    return value + "x" if isinstance(value, str) else value + 1


def test_what_is_not_asked_for_leaves_name_and_specification_as_they_were() -> None:
    without = dataclasses.replace(spec(), native=None, precision=None)
    assert not {"native", "precision"} & set(without.resolved())
    said = dataclasses.asdict(without)
    fields = {name: value for name, value in said.items() if name not in {"native", "precision"}}
    text = json.dumps(fields, sort_keys=True)
    assert without.signature == hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", [found.name for found in dataclasses.fields(RunSpec)])
def test_every_field_changes_the_signature(name: str) -> None:
    one = spec()
    changed = dataclasses.replace(one, **{name: other(getattr(one, name))})
    assert changed.signature != one.signature
    assert changed.name != one.name


@pytest.mark.parametrize("name", ["table", "budget"])
def test_a_run_without_a_table_is_another_run(name: str) -> None:
    assert dataclasses.replace(spec(), **{name: None}).signature != spec().signature


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("weights.lr", 0.026),
        ("weights.nesterov", True),
        ("weights.clip", None),
        ("arch.betas", [0.5, 0.9]),
        ("arch.eps", 1e-7),
    ],
)
def test_every_setting_changes_the_signature(path: str, value: Any) -> None:
    settings = replace_settings(Settings(), {path: value})
    assert dataclasses.replace(spec(), settings=settings).signature != spec().signature


def test_the_name_says_space_method_and_seed() -> None:
    assert spec().name == f"toy-darts-s3-{spec().signature}"
    assert re.fullmatch("[0-9a-f]{12}", spec().signature)


def test_what_a_run_is_stacked_with_and_where_it_runs_is_not_in_its_signature() -> None:
    names = {found.name for found in dataclasses.fields(RunSpec)}
    assert not names & {"stack", "seeds", "device", "threads", "replicas", "versions"}


def test_the_signature_is_that_of_another_process() -> None:
    code = "from tests.test_spec import spec; print(spec().signature)"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    assert found.stdout.strip() == spec().signature


def test_the_resolved_specification_is_plain_and_has_the_signature() -> None:
    resolved = spec().resolved()
    assert resolved["signature"] == spec().signature
    assert resolved["settings"]["weights"]["clip"] == 5.0
    assert resolved["curvature"]["mode"] == "power"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    betas: tuple[float, float] = (0.5, 0.9)
    mode: Literal["a", "b"] = "a"
    places: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    clip: float | None = 5.0
    size: int | None = None
    count: int = 3
    on: bool = False
    word: str = "x"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("inner.rate", 2, 2.0),
        ("inner.rate", 1e-3, 1e-3),
        ("inner.betas", [0, 0.999], (0.0, 0.999)),
        ("inner.mode", "b", "b"),
        ("inner.places", [3, -1, 0], (3, -1, 0)),
        ("inner.places", [], ()),
        ("inner.places", None, None),
        ("clip", None, None),
        ("clip", 1, 1.0),
        ("size", 8, 8),
        ("size", None, None),
        ("count", 0, 0),
        ("on", True, True),
        ("word", "1", "1"),
    ],
)
def test_a_setting_takes_a_value_in_the_fields_own_type(path: str, value: Any, expected: Any) -> None:
    changed = replace_settings(Outer(), {path: value})
    for name in path.split("."):
        changed = getattr(changed, name)
    assert changed == expected
    assert type(changed) is type(expected)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inner.rate", "fast", r"expected float for the setting 'inner.rate', got 'fast'"),
        ("inner.rate", True, "expected float"),
        ("inner.rate", None, "expected float"),
        ("inner.rate", float("nan"), "expected float"),
        ("inner.rate", float("inf"), "expected float"),
        ("inner.betas", [0.5], r"expected tuple\[float, float\]"),
        ("inner.betas", 0.5, r"expected tuple\[float, float\]"),
        ("inner.betas", ["a", 0.5], "expected float for the setting 'inner.betas', got 'a'"),
        ("inner.places", [1, 0.5], "expected int for the setting 'inner.places', got 0.5"),
        ("inner.mode", "c", r"expected .*Literal\['a', 'b'\]"),
        ("clip", "none", r"expected float \| None for the setting 'clip', got 'none'"),
        ("count", 1.0, "expected int"),
        ("count", True, "expected int"),
        ("count", None, "expected int"),
        ("on", 1, "expected bool"),
        ("word", 1, "expected str"),
        ("speed", 1, "expected one of the settings inner, clip, size, count, on, word, got 'speed'"),
        ("inner.speed", 1, "expected one of the settings rate, betas, mode, places, got 'inner.speed'"),
        ("inner", 1, "expected one of the settings inner.rate, inner.betas, inner.mode, inner.places, got 'inner'"),
        ("count.bits", 1, "expected a setting without parts, got 'count.bits'"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_message_says_what_does(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace_settings(Outer(), {path: value})


def test_changes_are_made_together_and_the_original_stays() -> None:
    before = Outer()
    after = replace_settings(before, {"inner.rate": 1.0, "inner.betas": (0.1, 0.2), "count": 9})
    assert after == Outer(inner=Inner(1.0, (0.1, 0.2)), count=9)
    assert before == Outer()


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_every_method_take_their_own_values_back(name: str) -> None:
    settings = METHODS[name].settings()
    flat = leaves(dataclasses.asdict(settings))
    assert replace_settings(settings, flat) == settings


def leaves(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return found
