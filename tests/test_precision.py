"""Steps in bfloat16: what is rounded and what is not, and that nothing but steps is touched."""

import itertools
from pathlib import Path
from typing import Any

import labs
import pytest
import torch
from tests import benches
from torch import Tensor, nn

from bench import precision, run, setup, variants
from bench.kernels import ONCE
from bench.layers import Conv, ConvNorm, Norm
from bench.metrics import curvature
from bench.mixture import columns
from bench.request import parse
from bench.search import Session
from searchers import _drop_path, _proxies, _relax
from searchers._relax import loss, softmax
from searchers.base import Batch, ForwardInputs
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
SPACES = ("s1", "nb201")
NARROW = torch.bfloat16


def stack(space: str, chosen: str, method: str = "darts") -> Any:
    words = f"--space {space} --methods {method} --epochs 1 --benchmark embedded --device cpu --table none --seeds 0:2"
    bench = setup.prepare(parse([*words.split(), "--precision", chosen, "--train-size", "80", "--batch-size", "20"]))
    return setup.stack(bench, METHODS[method], variants.specs(bench, METHODS[method]))


def seen(network: nn.Module) -> dict[str, set[torch.dtype]]:
    """Return, filled by later passes, the types of the maps that convolutions and normalisations receive."""
    types: dict[str, set[torch.dtype]] = {"conv": set(), "norm": set()}
    for module in network.modules():
        if isinstance(module, Conv | ConvNorm | Norm):
            name = "norm" if isinstance(module, Norm) else "conv"
            module.register_forward_pre_hook(lambda _m, inputs, name=name: types[name].add(inputs[0].dtype))
    return types


@pytest.mark.parametrize("space", SPACES)
def test_only_the_images_of_steps_are_narrow(space: str) -> None:
    lab = stack(space, "bf16").lab
    (first, *_) = lab.feed.epoch(METHODS["darts"].policy(METHODS["darts"].settings()), 0, 1)
    assert {batch.images.dtype for batch in (*first.train, *first.val)} == {NARROW}
    others = [*lab.feed.evaluation("val"), lab.feed.probe(20), lab.feed.legacy_probe(0, 1)]
    assert {batch.images.dtype for batch in others} == {torch.float32}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("inputs", [ForwardInputs(), ForwardInputs(twice=True), ForwardInputs(exact=True)])
def test_maps_have_the_type_of_the_images_unless_exactness_is_asked_for(space: str, inputs: ForwardInputs) -> None:
    searcher = labs.start(METHODS["darts"], labs.make(space))
    network = searcher.supernet.float()
    types = seen(network)
    images = torch.randn(2, 4, 3, 8, 8, generator=labs.rng(0)).to(NARROW)
    logits = {name: value.float().requires_grad_() for name, value in searcher.logits().items()}
    scores = network(images, softmax(logits), inputs)
    expected = torch.float32 if inputs.twice or inputs.exact else NARROW
    assert types == {"conv": {expected}, "norm": {expected}}
    assert scores.dtype == torch.float32
    gradients = torch.autograd.grad(scores.sum(), [*logits.values(), *network.parameters()], allow_unused=True)
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}


@pytest.mark.parametrize("space", SPACES)
def test_a_narrow_pass_is_the_wide_one_up_to_rounding(space: str) -> None:
    searcher = labs.start(METHODS["darts"], labs.make(space))
    network = searcher.supernet.float()
    images = torch.randn(2, 16, 3, 8, 8, generator=labs.rng(0)).to(NARROW)
    labels = torch.arange(16).repeat(2, 1) % labs.CLASSES
    found: dict[torch.dtype, tuple[Tensor, list[Tensor]]] = {}
    for kind in (torch.float32, NARROW):
        logits = {name: value.float().requires_grad_() for name, value in searcher.logits().items()}
        losses = loss(network, Batch(images.to(kind), labels), softmax(logits))
        found[kind] = losses.detach(), list(torch.autograd.grad(losses.sum(), list(logits.values())))
    (wide, of_wide), (narrow, of_narrow) = found.values()
    assert not torch.equal(wide, narrow)
    torch.testing.assert_close(narrow, wide, rtol=0.02, atol=0)
    for a, b in zip(of_narrow, of_wide, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.95


def test_mixing_weights_are_not_rounded() -> None:
    """1/3 and 1/3 + 1/1000 are one number in bfloat16; their difference is what a search begins with."""
    maps = [torch.full((1, 2, 1, 1), 64.0, dtype=NARROW), torch.full((1, 2, 1, 1), -64.0, dtype=NARROW)]
    weights = torch.tensor([[1 / 3 + 1e-3, 1 / 3]])
    assert ONCE.mixture(columns(weights, 2), maps).flatten().tolist() == pytest.approx([0.064] * 2, rel=0.01)


def test_drop_path_keeps_the_mean_of_narrow_maps() -> None:
    network = labs.start(METHODS["darts"], labs.make("s1")).supernet
    images = torch.zeros(2, 4, 3, 8, 8, dtype=NARROW)
    inputs = _drop_path.drop_path(network, lambda: labs.make("s1").stream("drop_path", 0), 0.1, images)
    assert inputs.keep is not None
    assert {value for table in inputs.keep.values() for value in table.unique().tolist()} <= {
        0.0,
        torch.tensor(1 / 0.9).item(),
    }


@pytest.mark.parametrize("name", ["darts_2nd", "idarts", "lambda_darts", "ms_darts"])
def test_differences_of_passes_are_taken_between_wide_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    plain = _relax.loss

    def noting(network: Any, batch: Batch, choices: Any, weights: Any = None, inputs: Any = ForwardInputs()) -> Tensor:
        asked.append(inputs.exact)
        return plain(network, batch, choices, weights, inputs)

    monkeypatch.setattr(_relax, "loss", noting)
    lab = labs.make("toy")
    searcher = labs.start(METHODS[name], lab)
    labs.drive(searcher, lab, 0, 2)
    assert sum(asked) >= 2


@pytest.mark.parametrize("name", benches.EVERY)
def test_every_method_takes_steps_in_bfloat16(name: str) -> None:
    method = METHODS[name]
    words = f"--space toy --methods {name} --benchmark embedded --device cpu --table none --seeds 0:2 --epochs 2"
    bench = setup.prepare(parse([*words.split(), "--precision", "bf16", "--train-size", "80", "--batch-size", "10"]))
    made = setup.stack(bench, method, variants.specs(bench, method))
    searcher = method.build(made.spec.settings, made.lab)
    for epoch in range(made.spec.epochs):
        searcher.begin_epoch(epoch)
        for batches in made.lab.feed.epoch(searcher.policy, epoch, made.spec.epochs):
            losses = searcher.step(batches)
            assert losses.train.dtype == torch.float32
            assert losses.train.isfinite().all()
        searcher.end_epoch(epoch)
    searcher.finish()
    held = [*searcher.logits().values(), *(value for _, value in searcher.supernet.named_parameters())]
    assert {value.dtype for value in held} <= {torch.float32}
    assert all(value.isfinite().all() for value in held)


@pytest.mark.parametrize("space", SPACES)
def test_lambda_is_the_same_whatever_steps_are_taken_in(space: str) -> None:
    found = []
    for chosen in ("fp32", "bf16"):
        made = stack(space, chosen)
        searcher = METHODS["darts"].build(made.spec.settings, made.lab)
        probes = curvature.Probes(made.lab.feed.probe(20))
        noise = made.lab.stream("curvature", 0)
        found.append(curvature.measure(searcher, probes, None, noise, made.spec.curvature, False).records)
    assert found[0] == found[1]


def test_precision_names_a_run_only_where_it_is_not_the_usual() -> None:
    plain, said, narrow = (stack("toy", chosen).spec for chosen in ("fp32", "fp32", "bf16"))
    assert plain.name == said.name != narrow.name
    assert "precision" not in plain.resolved()
    assert narrow.resolved()["precision"] == "bf16"


def test_the_flags_of_a_gpu_are_set_for_the_search_and_restored() -> None:
    owners = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [owner.allow_tf32 for owner in owners]
    for name, allowed in (("tf32", True), ("bf16", False), (None, False)):
        with precision.arithmetic(name):
            assert [owner.allow_tf32 for owner in owners] == [allowed] * 2
        assert [owner.allow_tf32 for owner in owners] == before


def test_steps_are_taken_under_the_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run asked for in TF32 takes its steps where it is allowed; this machine need not have it."""
    monkeypatch.setattr(precision, "check", lambda _name, _device: None)
    allowed = []
    plain, measuring = Session._steps, Session.record

    def noting(self: Session, clock: Any) -> Any:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return plain(self, clock)

    def measured(self: Session, *arguments: Any) -> None:
        assert not torch.backends.cudnn.allow_tf32
        measuring(self, *arguments)

    monkeypatch.setattr(Session, "_steps", noting)
    monkeypatch.setattr(Session, "record", measured)
    words = "--space toy --methods darts --benchmark embedded --device cpu --table none --seeds 0 --epochs 1"
    for name in ("tf32", "fp32"):
        assert run.main([*words.split(), "--precision", name, "--results", str(tmp_path)]) == 0
    assert allowed == [True, False]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tf32", "expected --precision fp32 or bf16 on cpu, got tf32, which GPUs have since Ampere"),
        ("fp16", "expected precision out of fp32, tf32, bf16, got 'fp16'"),
    ],
)
def test_what_cannot_be_had_is_refused(value: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    assert run.main(["--space", "toy", "--methods", "darts", "--device", "cpu", "--precision", value]) == 2
    assert message in caplog.text


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_only_gpus_since_ampere_have_tf32(
    capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    if has:
        precision.check("tf32", torch.device("cuda"))
    else:
        with pytest.raises(ValueError, match="since Ampere"):
            precision.check("tf32", torch.device("cuda"))


def test_images_that_cells_are_scored_on_are_widened() -> None:
    made = stack("toy", "bf16", "zero_cost_pt")
    searcher = METHODS["zero_cost_pt"].build(made.spec.settings, made.lab)
    assert {batch.images.dtype for batch in itertools.islice(searcher._batches(), 2)} == {torch.float32}


def test_signs_are_counted_exactly_in_narrow_maps() -> None:
    maps = torch.randn(1, 3, 16, 8, 8, generator=labs.rng(4))
    assert torch.equal(_proxies._agreement(maps.to(NARROW)), _proxies._agreement(maps.to(NARROW).float()))
    assert _proxies._agreement(maps.to(NARROW)).diagonal(dim1=1, dim2=2).unique().tolist() == [1024]
