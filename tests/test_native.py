"""The curvature of sampled losses: against Hessians written out, fixed draws, and that it changes nothing else."""

import functools
from pathlib import Path

import labs
import pytest
import torch
from tests import benches
from torch import Tensor
from torch.nn import functional

from bench import variants
from bench.lab import Lab
from bench.metrics import native
from bench.metrics.native import NativeSettings
from searchers import _curvature, gdas, snas
from searchers._gumbel import gumbel
from searchers.base import Choices, ForwardInputs, Logits, Searcher
from searchers.registry import METHODS, find

unchecked = pytest.mark.usefixtures("unchecked")
DRAWS = 2


def hard(searcher: Searcher, lab: Lab, settings: gdas.Settings, epoch: int) -> list[Tensor]:
    """The Hessian of each draw of GDAS, in plain torch: one replica, the sample fixed, L(one-hot + y(α) − y)."""
    tau, logits = gdas.temperature(settings, epoch, labs.EPOCHS), searcher.logits()
    batch, found = lab.feed.probe(8), []
    for draw in range(DRAWS):
        cells = searcher.supernet.cells if settings.per_cell else 1
        noise = gumbel(logits, lab.stream("gumbel/native", draw), cells)
        picked = functional.one_hot((logits["op"] + noise["op"]).argmax(-1), logits["op"].shape[-1]).double()

        def loss(vector: Tensor, noise: Logits = noise, picked: Tensor = picked) -> Tensor:
            moved = _curvature.unpack(vector[None], logits)
            soft = {name: ((value + noise[name]) / tau).softmax(-1) for name, value in moved.items()}
            still = ((logits["op"] + noise["op"]) / tau).softmax(-1)
            weights = {**soft, "op": picked + soft["op"] - still}
            active = {name: torch.ones_like(value).bool().numpy() for name, value in soft.items()}
            inputs = ForwardInputs()
            if settings.gradient == "constant_map":
                inputs = ForwardInputs(shift={"op": (weights["op"] * (1 - picked)).sum(-1)})
            choices = Choices(weights, {**active, "op": picked.bool().numpy()})
            scores = searcher.supernet(batch.images, choices, inputs)
            return functional.cross_entropy(scores[0], batch.labels[0])

        found.append(torch.autograd.functional.hessian(loss, _curvature.pack(logits)[0]))
    return found


def soft(searcher: Searcher, lab: Lab, epoch: int) -> list[Tensor]:
    """The Hessian of each draw of SNAS on a space whose rows keep one option."""
    tau, logits = 1.0 + (0.03 - 1.0) * epoch / (labs.EPOCHS - 1), searcher.logits()
    batch, found = lab.feed.probe(8), []
    for draw in range(DRAWS):
        noise = gumbel(logits, lab.stream("gumbel/native", draw), 1)

        def loss(vector: Tensor, noise: Logits = noise) -> Tensor:
            moved = _curvature.unpack(vector[None], logits)
            weights = {name: ((value + noise[name]) / tau).softmax(-1) for name, value in moved.items()}
            return functional.cross_entropy(searcher.supernet(batch.images, Choices(weights))[0], batch.labels[0])

        found.append(torch.autograd.functional.hessian(loss, _curvature.pack(logits)[0]))
    return found


def far(hessian: Tensor) -> float:
    values = torch.linalg.eigvalsh(hessian)
    return values[values.abs().argmax()].item()


@unchecked
@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("selected_only", "toy"),
        ("constant_map", "toy"),
        *(pytest.param(name, "nb201", marks=pytest.mark.slow) for name in ("selected_only", "constant_map", "snas")),
    ],
)
def test_the_mean_over_draws_is_the_hessians_written_out(name: str, space: str) -> None:
    lab = labs.make(space, (3,))
    if name == "snas":
        searcher: Searcher = snas.build(snas.Settings(), lab)
    else:
        settings = gdas.ONE_SHOT if name == "selected_only" else gdas.NATS
        searcher = gdas.build(settings, lab)
    labs.drive(searcher, lab, 0, 2)
    wanted = soft(searcher, lab, 1) if name == "snas" else hard(searcher, lab, settings, 1)
    before = labs.leaves(searcher.state_dict())
    (record,) = native.measure(searcher, lab.feed.probe(8), NativeSettings(DRAWS))
    labs.same(labs.leaves(searcher.state_dict()), before)
    assert native.measure(searcher, lab.feed.probe(8), NativeSettings(DRAWS)) == [record]
    single = torch.tensor([far(one) for one in wanted], dtype=torch.float64)
    assert record["lambda_native"] == pytest.approx(far(torch.stack(wanted).mean(0)), rel=1e-7)
    assert record["lambda_native_mean"] == pytest.approx(single.mean().item(), rel=1e-7)
    assert record["lambda_native_std"] == pytest.approx(single.std(correction=0).item(), rel=1e-7)
    assert abs(record["lambda_native"]) > 1e-6
    assert record["lambda_native_std"] > 1e-6


@unchecked
def test_a_replica_alone_is_measured_as_in_a_stack_and_others_have_no_such_loss() -> None:
    found = []
    for seeds in ((0, 1), (1,)):
        lab = labs.make("s1", seeds)
        found.append(native.measure(gdas.build(gdas.ONE_SHOT, lab), lab.feed.probe(8), NativeSettings(2))[-1])
    assert found[0] == pytest.approx(found[1], rel=1e-8)
    lab = labs.make()
    sampled = {name for name, method in METHODS.items() if native.loss_of(labs.start(method, lab)) is not None}
    assert sampled == {"gdas", "snas"}
    for name in ("darts", "random_ws"):
        assert native.measure(labs.start(METHODS[name], lab), lab.feed.probe(8), NativeSettings(2)) == [{}, {}]
    staged = find("gdas+perturbation")
    assert staged is not None
    assert native.loss_of(staged.build(staged.settings(), lab)) is not None


@unchecked
def test_records_have_it_where_the_spectrum_is_and_are_otherwise_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benches.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(variants, "NativeSettings", functools.partial(NativeSettings, 2))
    asked, plain = (
        benches.searched(tmp_path / name, "gdas", "--table", "none", "--seeds", "0:1", *more)
        for name, more in (("a", ("--metrics", "native")), ("b", ()))
    )
    assert asked[0].spec.signature != plain[0].spec.signature
    assert "native" not in plain[0].spec.resolved()
    for one, other in zip(asked[1], plain[1], strict=True):
        has = [record["curvature"] is not None and "lambda_native" in record["curvature"] for record in one]
        assert has == [True, False, True, False]  # epochs 0, 1, 2, and the end
        for record in one:
            names = [name for name in record["curvature"] or {} if "native" in name]
            assert all(isinstance(record["curvature"].pop(name), float) for name in names)
        assert one == other
