"""Measuring curvature changes nothing, and one replica's fate is not its neighbours'."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_curvature_toy import TIGHT, batch, make, measure, noise
from torch import nn

from bench.metrics import curvature as metric
from searchers import _curvature

EVERY_EPOCH = {
    "lambda_dominant",
    "residual",
    "products",
    "solver",
    "hessian_of",
    "loss",
    "gradient_norm",
    "degenerate",
    "not_finite",
}
WHOLE = {
    "lambda_max",
    "lambda_min",
    "trace",
    "spectrum",
    "asymmetry",
    "lambda_simplex",
    "lambda_legacy",
    "disagreement",
}


def kill(searcher, replica: int) -> None:
    """Make the operations of a replica give zero, as weight decay can: the output no longer depends on the choices."""
    with torch.no_grad():
        searcher.supernet.ops[replica] = 0


def close(record: dict, other: dict, rel: float = 1e-9) -> None:
    assert record.keys() == other.keys()
    for name, value in record.items():
        wanted = other[name]
        if isinstance(value, str | bool) or value is None:
            assert value == wanted, name
        elif name in {"asymmetry", "disagreement", "residual"}:  # rounding errors themselves
            assert value == pytest.approx(wanted, abs=1e-9), name
        else:
            assert value == pytest.approx(wanted, rel=rel, abs=1e-13), name


def test_fields_are_those_of_the_schema_and_plain() -> None:
    assert set(measure(make(1), whole=False)[0]) == EVERY_EPOCH
    (record,) = measure(make(1))
    assert set(record) == EVERY_EPOCH | WHOLE
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_measuring_twice_gives_the_same_bits_and_leaves_everything_untouched() -> None:
    searcher = make(1, 2)
    searcher.supernet.ops.requires_grad_(False)
    before = {name: value.clone() for name, value in searcher.supernet.state_dict().items()}
    table = {name: value.clone() for name, value in searcher.table.items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = measure(searcher)
    assert first == measure(searcher)
    after = searcher.supernet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(isinstance(value, nn.Parameter) and value.grad is None for value in searcher.supernet.parameters())
    assert (searcher.supernet.ops.requires_grad, searcher.supernet.head.requires_grad) == (False, True)
    assert all(torch.equal(table[name], searcher.table[name]) for name in table)
    assert not any(value.requires_grad or value.grad_fn for value in searcher.table.values())
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def fail_within(owners) -> None:
    with _curvature.exact_arithmetic():
        assert [getattr(owner, name) for owner, name in owners] == [False, False, True, False]
        raise KeyError


def test_precision_settings_are_exact_within_and_restored_after_a_failure() -> None:
    owners = ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32"),
              (torch.backends.cudnn, "deterministic"), (torch.backends.cudnn, "benchmark"))  # fmt: skip
    original = [getattr(owner, name) for owner, name in owners]
    try:
        for (owner, name), value in zip(owners, (True, True, False, True), strict=True):
            setattr(owner, name, value)
        with pytest.raises(KeyError):
            fail_within(owners)
        assert [getattr(owner, name) for owner, name in owners] == [True, True, False, True]
    finally:
        for (owner, name), value in zip(owners, original, strict=True):
            setattr(owner, name, value)


def test_stacked_equals_alone_also_beside_a_dead_and_a_broken_replica() -> None:
    stacked = make(1, 2, 3, 4)
    kill(stacked, 1)
    with torch.no_grad():
        stacked.supernet.head[3] = torch.nan
    records = measure(stacked)
    for replica, seed in ((0, 1), (1, 2), (2, 3)):
        alone = make(seed)
        if seed == 2:
            kill(alone, 0)
        close(records[replica], measure(alone)[0])
    assert [record["degenerate"] for record in records] == [False, True, False, False]
    assert [record["not_finite"] for record in records] == [False, False, False, True]
    assert records[3]["lambda_dominant"] is records[3]["spectrum"] is records[3]["lambda_legacy"] is None
    assert records[3]["loss"] is None


def test_dead_network_is_flagged_and_its_curvature_is_zero() -> None:
    searcher = make(1)
    kill(searcher, 0)
    (record,) = measure(searcher)
    assert record["degenerate"] is True
    assert record["solver"] == "power"
    for name in ("lambda_dominant", "residual", "gradient_norm", "lambda_max", "lambda_min", "lambda_simplex"):
        assert record[name] == 0, name
    assert record["lambda_legacy"] == pytest.approx(1e-3, rel=1e-12)
    assert record["disagreement"] == 0
    assert record["loss"] > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_float32_agrees_with_float64(seed: int) -> None:
    (exact,) = measure(make(seed))
    searcher = make(seed)
    searcher.supernet.float()
    searcher.table = {name: value.float() for name, value in searcher.table.items()}
    probes = metric.Probes(batch(1)._replace(images=batch(1).images.float()))
    settings = metric.CurvatureSettings()
    (record,) = metric.measure(searcher, probes, None, noise(1), settings, True).records
    assert record["lambda_dominant"] == pytest.approx(exact["lambda_dominant"], rel=2e-3)
    assert record["lambda_max"] == pytest.approx(exact["lambda_max"], rel=1e-4)
    assert record["asymmetry"] < 1e-5
    assert record["residual"] <= 1e-3
    assert record["degenerate"] is False


def test_warm_start_saves_products_and_keeps_its_random_part() -> None:
    searcher, settings = make(1), replace(TIGHT, tolerance=1e-3)
    probes = metric.Probes(batch(1))
    cold = metric.measure(searcher, probes, None, noise(1), settings, False)
    warm = metric.measure(searcher, probes, cold.vectors, noise(1, 1), settings, False)
    assert warm.records[0]["products"] < cold.records[0]["products"]
    begin = metric.start_vectors(cold.vectors, noise(1, 1), 8, 0.1)
    assert (begin - cold.vectors).norm().item() == pytest.approx(0.1)


def test_exact_mode_takes_the_dominant_value_from_the_spectrum_and_still_checks_power() -> None:
    searcher = make(1)
    (loose,) = measure(searcher, metric.CurvatureSettings(tolerance=0.05))
    (record,) = measure(searcher, metric.CurvatureSettings(mode="exact", tolerance=0.05))
    assert (record["solver"], record["products"], record["residual"]) == ("exact", 8, 0)
    assert record["lambda_dominant"] == max(record["lambda_max"], record["lambda_min"], key=abs)
    assert record["disagreement"] == loose["disagreement"] > 1e-9
    off = abs(loose["lambda_dominant"] - record["lambda_dominant"]) / abs(record["lambda_dominant"])
    assert record["disagreement"] == pytest.approx(off)


def test_undefined_or_unwanted_curvature_is_refused() -> None:
    searcher = make(1)
    with pytest.raises(ValueError, match="mode off"):
        measure(searcher, metric.CurvatureSettings(mode="off"))
    searcher.no_curvature = "no logits"
    with pytest.raises(ValueError, match="no logits"):
        measure(searcher)


def test_epochs_that_want_the_spectrum() -> None:
    power, exact, off = (metric.CurvatureSettings(mode=mode) for mode in ("power", "exact", "off"))
    assert [e for e in range(26) if metric.epoch_wants_spectrum(e, 25, power)] == [0, 10, 20, 25]
    assert all(metric.epoch_wants_spectrum(e, 25, exact) for e in range(26))
    assert not any(metric.epoch_wants_spectrum(e, 25, off) for e in range(26))
