"""The search: the only loop over epochs.

A stack of seeds is searched as one computation. After each epoch everything is measured at one instant, recorded, and
the state saved; a search that was killed goes on from its checkpoint to the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from bench.clock import Clock
from bench.instruments import Fields, Instruments
from bench.lab import Lab
from bench.metrics import cell
from bench.record import EpochRecord, Timing
from bench.spec import RunSpec
from bench.store import Store
from searchers.base import Method

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


def search(stack: Stack, store: Store, observe: Observer) -> None:
    """Search a stack to its end, from its checkpoint if it has one."""
    session = Session(stack, store, observe)
    if not session.resume():
        session.record("search", Clock(stack.lab.device), session.no_losses)
    while session.epoch < stack.spec.epochs:
        clock = Clock(stack.lab.device)
        losses = session.train(clock)
        session.record("search", clock, losses)
    clock = Clock(stack.lab.device)
    session.searcher.finish()
    clock.searched()
    session.record("final", clock, session.no_losses)
    store.finish()


class Session:
    """One stack under way: the searcher, the epoch, and what measures them."""

    def __init__(self, stack: Stack, store: Store, observe: Observer) -> None:
        self.stack, self.store, self.observe = stack, store, observe
        self.searcher = stack.method.build(stack.spec.settings, stack.lab)
        self.instruments = Instruments(stack.spec, stack.lab, stack.truth, self.searcher)
        self.epoch = 0
        self.no_losses: Fields = [{"train_loss": None, "val_loss": None}] * stack.lab.replicas

    def resume(self) -> bool:
        """Go back to the checkpoint; return whether there was one."""
        saved = self.store.resume()
        if saved is None:
            return False
        self.searcher.load_state_dict(saved["searcher"])
        self.epoch, self.instruments.vectors = saved["epoch"], saved["vectors"]
        return True

    def train(self, clock: Clock) -> Fields:
        """Take the steps of an epoch; return the mean losses of every replica."""
        self.searcher.begin_epoch(self.epoch)
        steps = []
        for batches in self.stack.lab.feed.epoch(self.searcher.policy, self.epoch, self.stack.spec.epochs):
            steps.append(self.searcher.step(batches))
            clock.images += sum(batch.labels.numel() for batch in (*batches.train, *batches.val))
        self.searcher.end_epoch(self.epoch)
        self.epoch += 1
        train = torch.stack([losses.train for losses in steps]).mean(0).tolist()
        val = [losses.val for losses in steps if losses.val is not None]
        means = torch.stack(val).mean(0).tolist() if val else [None] * len(train)
        clock.searched()
        return [{"train_loss": t, "val_loss": v} for t, v in zip(train, means, strict=True)]

    def record(self, stage: Literal["search", "final"], clock: Clock, losses: Fields) -> None:
        """Measure everything, append it to the records and save the state."""
        measured = self.instruments.everything if stage == "search" else self.instruments.cells
        records = []
        for parts in zip(losses, *measured(self.epoch, clock), strict=True):
            merged = {name: value for part in parts for name, value in part.items()}
            records.append(EpochRecord(epoch=self.epoch, stage=stage, **merged))
        timing = clock.timing(self.epoch, stage)
        self.store.append(records, timing)
        if stage == "search":
            state = {"searcher": self.searcher.state_dict(), "epoch": self.epoch, "vectors": self.instruments.vectors}
            self.store.save(state)
        self.observe(records, timing)
