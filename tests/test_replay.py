"""Steps that are recorded and played are the steps that are taken."""

import contextlib
import dataclasses
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import labs
import pytest
import torch
from tape import Tapes
from torch import Tensor

from bench.lab import Lab
from bench.replay import CudaGraphs, Recorder, Replayed, stepper
from searchers import registry
from searchers._hosted import constant, hosted
from searchers.base import Batch, Evaluation, Searcher, StepBatches
from searchers.entry import Method

pytestmark = pytest.mark.usefixtures("unchecked")
OWN = {"da2s": {"arch_every": 2}}
"""Settings that show why the steps of a method differ, where those of quick tests do not."""
STEADY = [method.name for method in registry.METHODS.values() if method.steady]
KINDS = {
    "darts",
    "pc_darts",
    "sdarts_rs",
    "ms_darts",
    "rdarts_dp",
    "darts_es",
    "single_darts",
    "sgas",
    "pdarts",
    "darts_pt",
}
AT_ONCE = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in STEADY]
"""One method of every kind at once, all in the long suite."""


def searched(
    method: Method, recorder: Recorder | None, space: str, epochs: int, device: torch.device = labs.CPU
) -> Iterator[dict[str, Any]]:
    """All that can be seen of a search, epoch by epoch."""
    lab = labs.make(space, device=device)
    searcher = method.build(dataclasses.replace(labs.quick(method), **OWN.get(method.name, {})), lab)
    for epoch in range(epochs):
        searcher.begin_epoch(epoch)
        step = stepper(searcher, recorder)
        losses = [step(batches) for batches in served(lab, searcher, epoch)]
        searcher.end_epoch(epoch)
        yield seen(searcher) | labs.outcome(searcher, losses)
    searcher.finish()
    yield seen(searcher)


def served(lab: Lab, searcher: Searcher, epoch: int) -> Iterator[StepBatches]:
    """An epoch's batches and one more, so that two steps are played, and a short last one, which is not."""
    batches = list(lab.feed.epoch(searcher.policy, epoch, labs.EPOCHS))
    yield from (*batches, batches[0])
    train, val = (tuple(Batch(b.images[:, :6], b.labels[:, :6]) for b in kind) for kind in batches[0])
    yield StepBatches(train, val)


def seen(searcher: Searcher) -> dict[str, Any]:
    return labs.leaves({"state": searcher.state_dict(), "diagnostics": dict(searcher.diagnostics())})


@contextlib.contextmanager
def steady(name: str) -> Iterator[None]:
    """What goes wrong inside is told to the author of the method."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"expected steps of {name} that can be recorded and played, as its entry says (steady=True), got "
            f"{type(error).__name__}: {error}; leave steady out of its METHOD, or write its step by "
            "docs/cuda_graphs.md, 'What a steady step may do'"
        ) from error


def compare(name: str, space: str, epochs: int = labs.EPOCHS) -> None:
    with steady(name):
        play(name, space, epochs)


def play(name: str, space: str, epochs: int) -> None:
    method, tapes = registry.METHODS[name], Tapes()
    for played, taken in zip(
        searched(method, tapes, space, epochs), searched(method, None, space, epochs), strict=True
    ):
        labs.same(played, taken)
    assert tapes.played >= epochs


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_search_of_played_steps_is_the_search(name: str) -> None:
    compare(name, "toy")


@pytest.mark.slow
@pytest.mark.parametrize("space", ["s1", "nb201"])
@pytest.mark.parametrize("name", STEADY)
def test_a_search_of_played_steps_is_the_search_on_real_spaces(name: str, space: str) -> None:
    """What is left out after the first epoch is left out by the same functions in all spaces."""
    compare(name, space, epochs=3 if name in {"sgas", "pdarts", "da_nas_policy"} else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in registry.METHODS if name not in STEADY])
def test_steps_of_other_methods_cannot_be_played(name: str) -> None:
    check_unsteady(name)


def check_unsteady(name: str) -> None:
    try:
        play(name, "toy", labs.EPOCHS)
    except (AssertionError, RuntimeError):
        return
    pytest.fail(
        f"expected steps of {name} that cannot be played, as its entry says, got the search to the bit: put "
        "steady=True into its METHOD, or into OWN here the settings that make its steps differ"
    )


def test_a_method_that_is_declared_otherwise_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, declared in (("darts", False), ("gdas", True)):
        monkeypatch.setitem(registry.METHODS, name, dataclasses.replace(registry.METHODS[name], steady=declared))
    with pytest.raises(pytest.fail.Exception, match=r"expected steps of darts that cannot be played.*put steady=True"):
        check_unsteady("darts")
    with pytest.raises(AssertionError, match=r"steps of gdas that can be .* got RuntimeError: .*leave steady out of"):
        compare("gdas", "toy")


@pytest.mark.parametrize("name", STEADY)
def test_a_steady_step_does_not_wait_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values: whatever the host reads there raises."""
    monkeypatch.setattr(Lab, "evaluate", lambda *_: Evaluation(torch.zeros(2), torch.zeros(2)))  # no part of a step
    lab = labs.make(device=torch.device("meta"))
    searcher = labs.start(registry.METHODS[name], lab)
    searcher.begin_epoch(0)
    with steady(name):
        for batches in labs.steps(lab, searcher.policy, 2):
            searcher.step(batches)


def test_waiting_for_the_device_raises_there() -> None:
    lab = labs.make(device=torch.device("meta"))
    searcher = labs.start(registry.METHODS["gdas"], lab)
    searcher.begin_epoch(0)
    with pytest.raises((RuntimeError, NotImplementedError)):
        searcher.step(next(labs.steps(lab, searcher.policy, 1)))


def test_what_is_drawn_is_drawn_anew() -> None:
    """The first call, the recorded one and those that are played have the numbers of one call after the other."""
    calls = 0

    def draw() -> list[Tensor]:
        return [torch.tensor([float(calls)])]

    def add(x: Tensor) -> list[Tensor]:
        return [x + hosted(draw, labs.CPU)[0], x * 2]

    function = Replayed(add, Tapes())
    for calls in range(5):
        total, double = function(torch.tensor([10.0 * calls]))
        assert (total.item(), double.item()) == (11.0 * calls, 20.0 * calls)
        assert function.played == (calls >= 2)


def test_other_shapes_are_not_played() -> None:
    tapes = Tapes()
    function = Replayed(lambda x: [x + 1], tapes)
    for size in (3, 3, 2, 3, 2):
        assert torch.equal(function(torch.zeros(size))[0], torch.ones(size))
    assert tapes.played == 1


@pytest.mark.parametrize("later", [0, 2])
def test_a_step_that_draws_otherwise_raises(later: int) -> None:
    counts = iter((1, later))
    function = Replayed(
        lambda x: [x + sum(hosted(lambda: [torch.ones(1)], labs.CPU)[0] for _ in range(next(counts)))], Tapes()
    )
    function(torch.zeros(1))
    with pytest.raises(RuntimeError, match="expected a step of 1 draws, as the one before, got"):
        function(torch.zeros(1))


def test_a_recording_goes_when_its_epoch_ends() -> None:
    """Nothing but the loop holds it: a graph that waits for the garbage collector holds its memory until then."""
    lab = labs.make()
    searcher = labs.start(registry.METHODS["darts"], lab)
    searcher.begin_epoch(0)
    step = stepper(searcher, Tapes())
    for batches in labs.steps(lab, searcher.policy, 3):
        step(batches)
    recorded = weakref.ref(step)
    gc.collect()
    gc.disable()
    try:
        del step
        assert recorded() is None
    finally:
        gc.enable()


def test_equal_constants_are_one_tensor() -> None:
    one, other = (constant([[True, False]], labs.CPU) for _ in range(2))
    assert one is other
    assert one.tolist() == [[True, False]]
    assert constant([[1, 0]], labs.CPU) is not one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", STEADY)
def test_cuda_graphs_of_steps_are_the_steps(name: str) -> None:
    method, device = registry.METHODS[name], torch.device("cuda")
    graphs = CudaGraphs(device)
    for played, taken in zip(
        searched(method, graphs, "s1", 1, device), searched(method, None, "s1", 1, device), strict=True
    ):
        for (path, one), other in zip(played.items(), taken.values(), strict=True):
            if isinstance(one, Tensor) and one.is_floating_point():
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9, msg=path)
