"""Mixed operations as one function: what torch's own operations give, interpreted on a CPU; compiled for a GPU."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import benches
import labs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tape import Tapes
from test_layout import outermost
from test_supernet import choices_of, filled, gradients, pictures, projection
from test_supernet_plain import SPACES, close, normal, supernet
from torch import Tensor

from bench import kernels, ops, run, setup, variants
from bench.batch_norm import EPS
from bench.convolution import Geometry, torch_convolution
from bench.mixture import Branch, Factors
from bench.replay import stepper
from bench.request import parse
from bench.speed.counting import count
from searchers import registry
from searchers.base import ForwardInputs

pytest.importorskip("triton")
convolution = pytest.importorskip("bench.fused.convolution")


def mixed(*given: object) -> tuple[Tensor, ...]:
    found = kernels.of("triton").mixed
    assert found is not None
    return found(*given)  # type: ignore[arg-type]


def composed(factors: Sequence[Sequence[Factors]], branches: Sequence[Branch], replicas: int) -> tuple[Tensor, ...]:
    """The same from torch's operations."""
    return tuple(
        sum(factor * _one(branch, edge, len(factors), replicas) for factor, branch in zip(row, branches, strict=True))
        for edge, row in enumerate(factors)
    )


def _one(branch: Branch, edge: int, edges: int, replicas: int) -> Tensor:
    x = branch.maps
    if branch.normalised:
        x = F.batch_norm(x, None, None, branch.scale, branch.shift, True, 0.0, EPS)
    if branch.wide:
        x = x.unflatten(1, (replicas, edges, -1))[:, :, edge].flatten(1, 2)
    return x.relu() if branch.relu else x


FLAGS = ("wide", "normalised", "relu", "scaled", "moved")
KINDS = st.fixed_dictionaries({name: st.booleans() for name in FLAGS})


def branch(kind: dict[str, bool], edges: int, channels: int, size: tuple[int, int, int], seed: int) -> Branch:
    channels *= edges if kind["wide"] else 1
    scale, shift = (
        normal(channels, seed=seed + i).requires_grad_() if kind[name] else None for i, name in enumerate(FLAGS[3:])
    )
    maps = (1 + 2 * normal(size[0], channels, *size[1:], seed=seed + 2)).requires_grad_()
    return Branch(maps, kind["wide"], kind["normalised"], kind["relu"], scale, shift)


def compare(edges: int, replicas: int, width: int, size: tuple[int, int, int], kinds: list[dict[str, bool]]) -> None:
    channels, options = replicas * width, range(len(kinds))
    own = channels if replicas > 1 else 1
    factors = [[normal(own, 1, 1, seed=50 + 9 * e + k).requires_grad_() for k in options] for e in range(edges)]
    branches = [branch(kind, edges, channels, size, 100 + 5 * k) for k, kind in enumerate(kinds)]
    leaves = [*(f for row in factors for f in row), *(t for b in branches for t in b if isinstance(t, Tensor))]
    onto = [normal(size[0], channels, *size[1:], seed=30 + e) for e in range(edges)]

    def found(function: Callable[..., tuple[Tensor, ...]]) -> list[Tensor]:
        outputs = function(factors, branches, replicas)
        return [*outputs, *filled(torch.autograd.grad(outputs, leaves, onto, allow_unused=True), leaves)]

    for ours, theirs in zip(found(mixed), found(composed), strict=True):
        close(ours, theirs, 1e-10)


@pytest.mark.usefixtures("unchecked")
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.lists(KINDS, min_size=1, max_size=4))
def test_the_function_and_its_derivatives(edges: int, replicas: int, width: int, kinds: list[dict[str, bool]]) -> None:
    compare(edges, replicas, width, (2, 3, 4), kinds)


def test_maps_of_several_blocks_and_stretches() -> None:
    """9,248 numbers a channel: ten blocks, two stretches, the last of each not full."""
    wide = dict.fromkeys(FLAGS, True)
    compare(2, 2, 1, (32, 17, 17), [wide, {**wide, "wide": False}, dict.fromkeys(FLAGS, False)])


def test_what_gets_no_gradient_takes_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixing weights are constants for a weight step, weights are for an architecture step."""
    from bench.fused import device

    kernels_run: list[str] = []
    for name in ("dots", "backward"):
        monkeypatch.setattr(device, name, Noted(getattr(device, name), kernels_run))
    maps, factor = normal(2, 2, 3, 3, seed=1), normal(2, 1, 1, seed=2)
    for wanted, runs in ((factor, ["dots"]), (maps, ["backward"])):
        wanted.requires_grad_()
        (found,) = mixed([[factor]], [Branch(maps)], 2)
        torch.autograd.grad(found.sum(), wanted)
        assert kernels_run == runs
        wanted.requires_grad_(False)
        kernels_run.clear()


class Noted:
    """A kernel whose launches are noted."""

    def __init__(self, kernel: Any, runs: list[str]) -> None:
        self.kernel, self.runs = kernel, runs

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        self.runs.append(self.kernel.__name__)
        return self.kernel[grid]


def test_it_is_differentiated_once() -> None:
    maps, factor = normal(2, 2, 3, 3, seed=1).requires_grad_(), normal(2, 1, 1, seed=2).requires_grad_()
    (found,) = mixed([[factor]], [Branch(maps, normalised=True)], 2)
    (first,) = torch.autograd.grad(found.square().sum(), maps, create_graph=True)
    with pytest.raises(RuntimeError, match="as its pass was made for"):
        torch.autograd.grad(first.sum(), factor)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("lost", [torch.nan, torch.inf])
def test_what_is_lost_stays_lost(lost: float) -> None:
    """A search that diverges must be seen to."""
    maps = normal(2, 2, 3, 3, seed=1)
    maps[0, 0, 0, 0] = lost
    branches = [Branch(maps, normalised=True, relu=True), Branch(maps, relu=True)]
    factors = [[normal(2, 1, 1, seed=2 + k) for k in range(2)]]
    for ours, theirs in zip(mixed(factors, branches, 2), composed(factors, branches, 2), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert not ours.isfinite().all()


def test_maps_of_bfloat16_are_added_in_float32() -> None:
    maps = [(1 + normal(4, 2, 5, 5, seed=k)).bfloat16() for k in range(2)]
    factors = [normal(2, 1, 1, seed=5 + k).float() for k in range(2)]
    narrow = [Branch(maps[0]), Branch(maps[1], normalised=True, relu=True)]
    (found,) = mixed([factors], narrow, 2)
    (exact,) = composed([factors], [part._replace(maps=part.maps.float()) for part in narrow], 2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=2**-7, atol=0)  # rounded on a GPU, cut when interpreted


CONVOLUTIONS = [(1, 3, 4, 3, (2, 5, 6)), (2, 3, 5, 1, (2, 5, 6)), (2, 40, 3, 1, (3, 7, 7)), (1, 2, 70, 1, (2, 5, 5))]


@pytest.mark.parametrize(
    ("groups", "into", "out", "side", "size"),
    [*CONVOLUTIONS, pytest.param(1, 2, 2, 3, (33, 17, 17), marks=pytest.mark.slow)],  # two stretches
)
def test_convolutions(
    groups: int, into: int, out: int, side: int, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels of less than a block and of more, with and without a bias; maps of several blocks."""
    monkeypatch.setattr(convolution, "FEWEST", 1)
    x = normal(size[0], groups * into, *size[1:], seed=1).requires_grad_()
    weights = normal(groups * out, into, side, side, seed=2).requires_grad_()
    bias = normal(groups * out, seed=3).requires_grad_() if groups > 1 else None
    leaves = [tensor for tensor in (x, weights, bias) if tensor is not None]
    own = [kernels.of("triton-all").convolution, torch_convolution]
    found = []
    for convolve in own:
        y = convolve(x, weights, bias, Geometry(1, side // 2, groups))
        found.append([y, *torch.autograd.grad(y, leaves, normal(*y.shape, seed=4))])
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, 1e-10)


@pytest.mark.parametrize(("into", "stride"), [(8, 2), (3, 1)])
def test_convolutions_with_a_stride_or_of_few_channels_are_torchs(into: int, stride: int) -> None:
    x, weights = normal(2, into, 5, 5, seed=1), normal(4, into, 3, 3, seed=2)
    ours = kernels.of("triton-all").convolution(x, weights, None, Geometry(stride, 1, 1))
    assert torch.equal(ours, torch_convolution(x, weights, None, Geometry(stride, 1, 1)))


QUICK = [("toy", "shared", 1, 1), ("nb201", "active", 1, 1)]
CASES = [
    *((name, kind, 1, 1) for name in SPACES for kind in ("shared", "per cell", "active")),
    *((name, "active", 2, 2) for name in ("s1", "nb201")),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kernel", "name", "kind", "parts", "channels"),
    [
        *(("triton", *case) for case in QUICK),
        *(pytest.param("triton", *case, marks=pytest.mark.slow) for case in CASES),
        pytest.param("triton-all", "toy", "shared", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_networks(
    kernel: str, name: str, kind: str, parts: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients of the weights, of the mixing weights."""
    outermost(monkeypatch)
    monkeypatch.setattr(convolution, "FEWEST", 1)
    network, choices, onto = supernet(name, 2, parts=parts, channels=channels), choices_of(name, kind, 2), projection(2)
    out, found = gradients(network, pictures(2), choices, onto)
    network.once = kernels.of(kernel)
    ours, fused = gradients(network, pictures(2), choices, onto)
    close(ours, out, 1e-10)
    for key, values in found.items():
        torch.testing.assert_close(fused[key], values, rtol=1e-8, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


def test_products_with_the_hessian_and_observers_have_torchs_own() -> None:
    triton = kernels.of("triton")
    assert ops.flow_of(ForwardInputs(), 1, triton).kernels is triton
    assert ops.flow_of(ForwardInputs(twice=True), 1, triton).kernels is kernels.TWICE
    assert ops.flow_of(ForwardInputs(observe=lambda _seen: None), 1, triton).kernels is kernels.ONCE


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["darts", "spos"])
def test_searches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps, to rounding."""
    outermost(monkeypatch)
    found = []
    for kind in kernels.NAMES:
        lab = dataclasses.replace(labs.make(seeds=(0,)), kernels=kernels.of(kind))
        searcher = labs.start(registry.METHODS[name], lab)
        losses = [searcher.step(batches) for batches in labs.steps(lab, searcher.policy, 2)]
        found.append(labs.outcome(searcher, losses))
    for other in found[1:]:
        labs.close(found[0], other, tolerance=1e-7)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_steps_can_be_recorded_and_played() -> None:
    """As a CUDA graph would hold them: nothing of a launch is decided on the host but what stays as it is."""
    found, tapes = [], Tapes()
    for recorder in (None, tapes):
        lab = dataclasses.replace(labs.make(seeds=(0,)), kernels=kernels.of("triton"))
        searcher = labs.start(registry.METHODS["darts"], lab)
        step = stepper(searcher, recorder)
        losses = [step(batches) for batches in labs.steps(lab, searcher.policy, 3)]
        found.append(labs.outcome(searcher, losses))
    assert tapes.played == 1
    labs.same(*found)


def test_it_compiles_for_a_gpu() -> None:
    """What no interpreter says: types that do not fit, what is not known when it is compiled, too much on the chip."""
    script = Path(__file__).with_name("compile_fused.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 24 + 12
    spilled = [int(line.rsplit(": ", 1)[1].removesuffix(" bytes spilled")) for line in lines]
    assert max(spilled) <= 8


def test_what_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--space", "toy", "--methods", "darts", "--results", str(tmp_path), "--kernels"]
    assert run.main([*command, "cuda"]) == 2
    assert "expected kernels out of torch, triton, triton-all, got 'cuda'" in caplog.text
    monkeypatch.delenv("TRITON_INTERPRET")
    assert run.main([*command, "triton"]) == 2
    assert "expected a GPU for --kernels triton, got cpu: leave it out there" in caplog.text
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert run.main([*command, "triton"]) == 2
    assert "expected the package triton for --kernels triton: pip install" in caplog.text


def test_a_stack_is_searched_with_what_was_asked_for() -> None:
    bench = setup.prepare(parse([*benches.TINY, "--methods", "darts", "--kernels", "triton", "--curvature", "off"]))
    method = registry.METHODS["darts"]
    lab = setup.stack(bench, method, variants.specs(bench, method)).lab
    assert lab.kernels.name == "triton"
    assert method.build(method.settings(), lab).supernet.once is lab.kernels
    setup.rehearse(bench, method, variants.specs(bench, method)[0])  # on a machine that need not have Triton


@pytest.mark.slow
def test_the_command_says_so(tmp_path: Path) -> None:
    images = ("--curvature", "off", "--epochs", "1", "--seeds", "0", "--batch-size", "10")
    for kind in kernels.NAMES:
        assert run.main([*benches.command(tmp_path / kind, "darts"), *images, "--kernels", kind]) == 0
    runs = [path for kind in kernels.NAMES for path in benches.folders(tmp_path / kind).values()]
    assert [benches.lines(path / "attempts.jsonl")[0]["kernels"] for path in runs] == [*kernels.NAMES]
    losses = [benches.lines(path / "records.jsonl")[1]["train_loss"] for path in runs]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_launches_are_calls_of_torchs_library() -> None:
    """What counts calls sees them, with their bytes and operations."""
    maps, factor = normal(2, 4, 3, 3, seed=1), normal(4, 1, 1, seed=2)
    found = {call.name: call for call in count(lambda: mixed([[factor]], [Branch(maps)], 2))}
    assert found["nas_stability::mix"].bytes == 2 * maps.nbytes + 5 * factor.nbytes
    maps, weights, geometry = normal(2, 16, 3, 3, seed=1), normal(6, 8, 3, 3, seed=3), Geometry(1, 1, 2)
    calls = [
        count(lambda of=of: of(maps, weights, None, geometry))
        for of in (torch_convolution, kernels.of("triton-all").convolution)
    ]
    ours, theirs = (sum(call.flops for call in every) for every in calls)
    assert ours == theirs > 0
