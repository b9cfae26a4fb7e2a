"""Presets leave what a method was published with, and scale the architecture's rate of all alike."""

import dataclasses
import functools
from typing import Any

import pytest

from bench.presets import PRESETS
from bench.spec import replace_settings
from searchers._optim import ArchSettings
from searchers.entry import Method
from searchers.registry import METHODS

STEPS_SHORTER = 100 / 3
"""The embedded rate of DARTS over the published one."""


def of(benchmark: str, space: str, method: Method) -> Any:
    """A method's settings under a preset, without the preset's part for all methods."""
    settings, preset = method.settings(), PRESETS[benchmark](space).settings
    fields = {field.name for field in dataclasses.fields(settings)}
    shared = {path: value for path, value in preset["*"].items() if path.split(".")[0] in fields}
    both = (shared, preset.get(method.name, {}))
    return functools.reduce(replace_settings, both, settings)


@pytest.mark.parametrize("name", ["dropnas", "dso_nas", "sdarts_rs", "sdarts_adv"])
def test_an_optimiser_of_its_own_stays_on_nb201(name: str) -> None:
    own, found = METHODS[name].settings().weights, of("paper", "nb201", METHODS[name]).weights
    assert (found.weight_decay, found.clip, found.nesterov) == (own.weight_decay, own.clip, own.nesterov)


@pytest.mark.parametrize("name", ["sdarts_rs", "sdarts_adv", "ms_darts", "ms_null", "sdarts_rs_matched"])
def test_smooth_darts_has_its_authors_optimiser_on_nb201(name: str) -> None:
    found = of("paper", "nb201", METHODS[name]).weights
    assert (found.weight_decay, found.clip, found.nesterov) == (3e-4, 5.0, False)


def test_darts_has_nats_benchs_optimiser_on_nb201() -> None:
    found = of("paper", "nb201", METHODS["darts"]).weights
    assert (found.weight_decay, found.clip, found.nesterov) == (5e-4, None, True)


@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_the_embedded_rate_is_a_multiple_of_the_published_one(space: str) -> None:
    rates = {
        name: of("embedded", space, method).arch.lr / method.settings().arch.lr
        for name, method in METHODS.items()
        if isinstance(getattr(method.settings(), "arch", None), ArchSettings)
    }
    assert rates["darts"] == pytest.approx(STEPS_SHORTER)
    assert {name for name, rate in rates.items() if abs(rate / STEPS_SHORTER - 1) > 0.11} == set()
