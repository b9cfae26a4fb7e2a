"""λ of a stack measured in parts is λ of the stack."""

import dataclasses

import labs
import pytest
import torch

from bench.instruments import curvature_probes
from bench.metrics import curvature, native
from bench.metrics.native import NativeSettings
from searchers import _early_stop, gdas
from searchers._bilevel import Bilevel
from searchers._part import parts
from searchers.entry import Method
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
SEEDS = (0, 1, 2)
EVERY_EPOCH = ("lambda_dominant", "loss", "gradient_norm")


def rounded(value: object) -> object:
    return pytest.approx(value, rel=1e-7, abs=1e-10) if isinstance(value, float | list) else value


@pytest.mark.parametrize("method", list(METHODS.values()), ids=list(METHODS))
def test_every_method_is_measured_in_parts_as_at_once(method: Method) -> None:
    measured_as_at_once(method, EVERY_EPOCH, curvature.CurvatureSettings("lanczos", tolerance=1e-9), whole=False)


@pytest.mark.parametrize("name", ["darts", "gdas", "pc_darts"])
def test_whole_spectra_are_measured_in_parts_as_at_once(name: str) -> None:
    fields = (*EVERY_EPOCH, "lambda_simplex", "lambda_legacy", "spectrum")
    measured_as_at_once(METHODS[name], fields, curvature.CurvatureSettings("exact"), whole=True)


def measured_as_at_once(
    method: Method, fields: tuple[str, ...], settings: curvature.CurvatureSettings, *, whole: bool
) -> None:
    lab = labs.make("toy", SEEDS)
    searcher = labs.start(method, lab)
    labs.drive(searcher, lab, 0, 1)
    if searcher.no_curvature is not None:
        pytest.skip(searcher.no_curvature)
    found = []
    for together in (None, 2):  # three seeds are two parts: of one, and of two
        noise = lab.stream("curvature", 0)
        probes = curvature.Probes(lab.feed.probe(8), lab.feed.legacy_probe(0, labs.EPOCHS, size=8), together)
        found.append(curvature.measure(searcher, probes, None, noise, settings, whole))
    torch.testing.assert_close(found[1].vectors.abs(), found[0].vectors.abs(), rtol=1e-3, atol=1e-3)
    for record, expected in zip(found[1].records, found[0].records, strict=True):
        assert {field: record[field] for field in fields} == {field: rounded(expected[field]) for field in fields}


SAMPLERS = ("gdas", "snas")
SAMPLING = {
    "gdas": lambda lab: gdas.build(gdas.ONE_SHOT, lab),
    "gdas, shifted": lambda lab: gdas.build(dataclasses.replace(gdas.ONE_SHOT, gradient="constant_map"), lab),
    "snas": lambda lab: labs.start(METHODS["snas"], lab),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_the_loss_that_a_method_samples_is_measured_in_parts_as_at_once(name: str) -> None:
    lab = labs.make("toy", SEEDS)
    searcher = SAMPLING[name](lab)
    labs.drive(searcher, lab, 0, 1)
    widths: list[int] = []
    searcher.supernet.stem.register_forward_pre_hook(lambda _m, inputs: widths.append(inputs[0].shape[1] // 3))
    expected = native.measure(searcher, lab.feed.probe(8), NativeSettings(2))
    assert set(widths) == {3}
    for together in (2, 1):
        widths.clear()
        found = native.measure(searcher, lab.feed.probe(8), NativeSettings(2), together)
        assert max(widths) == together
        for row, all_at_once in zip(found, expected, strict=True):
            assert row == {field: rounded(value) for field, value in all_at_once.items()}


def test_these_are_all_methods_that_sample() -> None:
    lab = labs.make("toy", SEEDS)
    assert [name for name, one in METHODS.items() if native.loss_of(labs.start(one, lab))] == list(SAMPLERS)


@pytest.mark.parametrize(("together", "expected"), [(None, [4]), (9, [4]), (3, [2, 2]), (2, [2, 2]), (1, [1] * 4)])
def test_parts_are_as_few_and_as_equal_as_they_can_be(together: int | None, expected: list[int]) -> None:
    searcher = labs.start(METHODS["darts"], labs.make("toy", (0, 1, 2, 3)))
    found = [part.rows for part in parts(searcher, 4, together)]
    assert [rows.stop - rows.start for rows in found] == expected
    assert [i for rows in found for i in range(4)[rows]] == [0, 1, 2, 3]


def test_early_stopping_measures_in_parts_too() -> None:
    found = []
    for together in (None, 2, 1):
        lab = dataclasses.replace(labs.make("s1", SEEDS), curvature_replicas=together)
        searcher = labs.start(METHODS["darts_es"], lab)
        assert isinstance(searcher, Bilevel)
        widths: list[int] = []
        searcher.supernet.stem.register_forward_pre_hook(  # type: ignore[attr-defined]
            lambda _m, inputs, widths=widths: widths.append(inputs[0].shape[1] // 3)
        )
        found.append(_early_stop.eigenvalue(searcher, 0))
        assert max(widths) == (together or len(SEEDS))
    assert found[1] == pytest.approx(found[0], rel=1e-7)
    assert found[2] == pytest.approx(found[0], rel=1e-7)


def test_no_pass_computes_more_replicas_than_are_allowed_at_once() -> None:
    lab = labs.make("s1", SEEDS)
    searcher = labs.start(METHODS["darts"], lab)
    widths: list[int] = []
    searcher.supernet.stem.register_forward_pre_hook(lambda _m, inputs: widths.append(inputs[0].shape[1] // 3))
    probes = curvature_probes(lab)._replace(together=2)
    curvature.measure(searcher, probes, None, lab.stream("curvature", 0), curvature.CurvatureSettings(), True)
    assert set(widths) == {1, 2}
