"""Functions of tensors that are recorded once and played again, without their Python and their launches.

A step of a search starts some thousands of small kernels, each from Python: on a GPU that takes longer than computing
them. A CUDA graph holds all of a step: both levels, derivatives, optimisers. It is recorded anew in every epoch, so
that rates, temperatures and whatever else changes between epochs need not lie on the device; of an epoch's steps the
first is taken as always, which warms up what is made at first use, the second is recorded, and all that follow are
played. Only methods whose steps differ in their data and draws alone can be recorded (`Method.steady`).

Tried instead: rates and temperatures as tensors and one graph a search: every method would have to be written so, to
save two steps of several hundred. A graph of draws, too: they are made on the CPU, one stream a replica and purpose, so
that a seed's run does not depend on what it is stacked with.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from searchers._hosted import Draws
from searchers.base import Batch, Searcher, Steady, StepBatches, StepLosses

Function = Callable[..., Sequence[Tensor]]
"""Of tensors; what else it reads and writes are tensors that stay where they are."""
Step = Callable[[StepBatches], StepLosses]


@runtime_checkable
class Recorder(Protocol):
    """Something that records what a device is asked to do."""

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """Do the work once; return what it has returned, and what does it again, from and into the same memory."""
        ...


class CudaGraphs:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        gc.collect()  # the memory of a graph that nobody plays any more is free then
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream()), _uncollected():
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=torch.cuda.Stream(self.device)):
                    found = work()
            except RuntimeError as error:  # of what went wrong, and then of the capture that it has ended
                raise error.__context__ if isinstance(error.__context__, RuntimeError) else error from None
            graph.replay()  # what is recorded has not been done
        return found, graph.replay


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage inside: an older graph must not be freed while another is recorded."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def check(asked: bool, device: torch.device) -> None:
    """Raise where CUDA graphs are asked of a device that has none.

    Raises:
        ValueError: it is no GPU.
    """
    if asked and device.type != "cuda":
        raise ValueError(f"expected a GPU for --cuda-graphs, got {device}: leave it out there")


class Replayed:
    """A function: called as it is the first time, recorded the second, played from then on.

    Tensors of other shapes than those of the first call go to the function itself: the short last batch of an epoch.

    Attributes:
        played: whether the last call was played, so that nothing of the function's Python was run.
    """

    def __init__(self, function: Function, recorder: Recorder) -> None:
        self.function, self.recorder, self.played = function, recorder, False
        self._draws = Draws()
        self._shapes: list[torch.Size] | None = None
        self._given: list[Tensor] = []
        self._found: Sequence[Tensor] = ()
        self._play: Callable[[], None] | None = None

    def __call__(self, *given: Tensor) -> list[Tensor]:
        shapes, self.played = [tensor.shape for tensor in given], False
        if self._shapes is None:
            self._shapes = shapes
            with self._draws.noted():
                return list(self.function(*given))
        if shapes != self._shapes:
            return list(self.function(*given))
        self._draws.renew()
        if self._play is None:
            self._record(given)
        else:
            torch._foreach_copy_(self._given, list(given))
            self._play()
            self.played = True
        return [tensor.clone() for tensor in self._found]

    def _record(self, given: Sequence[Tensor]) -> None:
        self._given = [tensor.clone() for tensor in given]
        with self._draws.given():
            self._found, self._play = self.recorder.record(lambda: self.function(*self._given))


def played(function: Function, recorder: Recorder | None) -> Function:
    """Return what does the same as a function, from its third call on by what was recorded of it."""
    return function if recorder is None else Replayed(function, recorder)


class Steps:
    """Takes the steps of one epoch of a searcher whose steps can be recorded; its graph goes when it goes."""

    def __init__(self, searcher: Steady, train_batches: int, recorder: Recorder) -> None:
        self.searcher, self._steps = searcher, Replayed(partial(_step, searcher, train_batches), recorder)

    def __call__(self, batches: StepBatches) -> StepLosses:
        losses = self._steps(*(tensor for batch in (*batches.train, *batches.val) for tensor in batch))
        if self._steps.played:
            self.searcher.skip()
        return StepLosses(losses[0], losses[1] if len(losses) > 1 else None)


def _step(searcher: Steady, train_batches: int, *tensors: Tensor) -> list[Tensor]:
    batches = tuple(Batch(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True))
    losses = searcher.step(StepBatches(batches[:train_batches], batches[train_batches:]))
    return [loss for loss in losses if loss is not None]


def stepper(searcher: Searcher, recorder: Recorder | None) -> Step:
    """Return what takes the steps of one epoch: the searcher itself, or a recorder that its steps are steady for."""
    if recorder is None:
        return searcher.step
    assert isinstance(searcher, Steady)
    return Steps(searcher, searcher.policy.train_batches, recorder)
