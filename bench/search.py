"""The search: the only loop over epochs.

A stack of seeds is searched as one computation. After each epoch everything is measured at one instant, recorded, and
the state saved; a search that was killed goes on from its checkpoint to the same bits.

A run that diverges ends with the record that shows it. Its replica stays in the computation, whose bits depend on the
width of the stack; replicas are independent, so the others go on as if nothing had happened: to the same bits, or, of a
method that leaves out what no replica's logits ask for, to the same numbers up to rounding.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from bench import kernels, precision, replay
from bench.clock import Clock
from bench.divergence import divergence
from bench.instruments import Fields, Instruments
from bench.lab import Lab
from bench.metrics import cell
from bench.place import place
from bench.record import EpochRecord, Timing
from bench.replay import Recorder, stepper
from bench.spec import RunSpec
from bench.store import Store
from searchers.base import StepLosses
from searchers.entry import Method

log = logging.getLogger(__name__)

Observer = Callable[[list[EpochRecord], Timing], None]


@dataclass(frozen=True)
class Stack:
    """Runs that differ in their seed only, and what they are searched with."""

    specs: tuple[RunSpec, ...]
    method: Method
    lab: Lab
    truth: cell.Truth | None

    @property
    def spec(self) -> RunSpec:
        return self.specs[0]

    @property
    def recorder(self) -> Recorder | None:
        """Return what records steps, None where every step is taken."""
        return self.lab.recorder if self.method.steady else None


def search(stack: Stack, store: Store, observe: Observer) -> None:
    """Search a stack to its end, from its checkpoint if it has one."""
    precision.check(stack.spec.precision or "fp32", stack.lab.device)
    replay.check(stack.lab.recorder is not None, stack.lab.device)
    kernels.check(stack.lab.kernels.name, stack.lab.device)
    with precision.arithmetic(None):
        _search(Session(stack, store, observe))


def _search(session: "Session") -> None:
    stack = session.stack
    if not session.resume():
        session.record("search", Clock(stack.lab.device), session.no_losses)
    while session.epoch < stack.spec.epochs and session.goes_on:
        clock = Clock(stack.lab.device)
        losses = session.train(clock)
        session.record("search", clock, losses)
    if session.goes_on:
        clock = Clock(stack.lab.device)
        with precision.arithmetic(stack.spec.precision):
            session.searcher.finish()
        clock.searched()
        session.record("final", clock, session.no_losses)
    session.store.finish(session.diverged)


class Session:
    """One stack under way: the searcher, the epoch, and what measures them.

    Attributes:
        diverged: for each replica, in which epoch and why its run has ended, None where it goes on.
    """

    def __init__(self, stack: Stack, store: Store, observe: Observer) -> None:
        self.stack, self.store, self.observe = stack, store, observe
        self.searcher = stack.method.build(stack.spec.settings, stack.lab)
        self.instruments = Instruments(stack.spec, stack.lab, stack.truth, self.searcher)
        self.epoch = 0
        self.diverged: list[dict[str, Any] | None] = [None] * stack.lab.replicas
        self.no_losses: Fields = [{"train_loss": None, "val_loss": None}] * stack.lab.replicas

    @property
    def goes_on(self) -> bool:
        return not all(self.diverged)

    def resume(self) -> bool:
        """Go back to the checkpoint, note where and from when on it is searched; return whether there was one."""
        saved = self.store.resume()
        if saved is not None:
            self.searcher.load_state_dict(saved["searcher"])
            self.epoch, self.instruments.vectors = saved["epoch"], saved["vectors"]
            self.diverged = saved["diverged"]
        facts = {"from_epoch": None if saved is None else self.epoch, **place(self.stack.lab.device)}
        facts |= {"cuda_graphs": self.stack.lab.recorder is not None, "kernels": self.stack.lab.kernels.name}
        seeds = [spec.seed for spec in self.stack.specs]
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.store.attempt({**facts, "seeds": seeds, "threads": torch.get_num_threads(), "started": started})
        return saved is not None

    def train(self, clock: Clock) -> Fields:
        """Take the steps of an epoch; return the mean losses of every replica."""
        with precision.arithmetic(self.stack.spec.precision):
            steps = self._steps(clock)
        self.epoch += 1
        train = torch.stack([losses.train for losses in steps]).mean(0).tolist()
        val = [losses.val for losses in steps if losses.val is not None]
        means = torch.stack(val).mean(0).tolist() if val else [None] * len(train)
        clock.searched()
        return [{"train_loss": t, "val_loss": v} for t, v in zip(train, means, strict=True)]

    def _steps(self, clock: Clock) -> list[StepLosses]:
        self.searcher.begin_epoch(self.epoch)
        step, steps = stepper(self.searcher, self.stack.recorder), []
        for batches in self.stack.lab.feed.epoch(self.searcher.policy, self.epoch, self.stack.spec.epochs):
            steps.append(step(batches))
            clock.images += sum(batch.labels.numel() for batch in (*batches.train, *batches.val))
        self.searcher.end_epoch(self.epoch)
        return steps

    def record(self, stage: Literal["search", "final"], clock: Clock, losses: Fields) -> None:
        """Measure everything, append it to the records and save the state."""
        measured = self.instruments.everything if stage == "search" else self.instruments.cells
        records = []
        for parts in zip(losses, *measured(self.epoch, clock), strict=True):
            merged = {name: value for part in parts for name, value in part.items()}
            records.append(EpochRecord(epoch=self.epoch, stage=stage, **merged))
        timing = clock.timing(self.epoch, stage)
        going = [record if ended is None else None for record, ended in zip(records, self.diverged, strict=True)]
        self.store.append(going, timing)
        self._end_diverged(going)
        if stage == "search":
            state = {"searcher": self.searcher.state_dict(), "epoch": self.epoch, "vectors": self.instruments.vectors}
            self.store.save({**state, "diverged": self.diverged})
        self.observe([record for record in going if record is not None], timing)

    def _end_diverged(self, going: Sequence[EpochRecord | None]) -> None:
        for replica, record in enumerate(going):
            reason = None if record is None else divergence(record)
            if reason is not None:
                self.diverged[replica] = {"epoch": self.epoch, "reason": reason}
                log.warning("%s has diverged in epoch %d: %s", self.stack.specs[replica].name, self.epoch, reason)
