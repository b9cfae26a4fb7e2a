"""The search: the only loop over epochs.

A stack of seeds is searched as one computation. After each epoch everything is measured at one instant, recorded, and
the state saved; a search that was killed goes on from its checkpoint to the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bench.clock import Clock
from bench.lab import Lab
from bench.metrics import cell, curvature, ranking
from bench.record import EpochRecord, Timing
from bench.spec import RunSpec
from bench.store import Store
from searchers.base import Method

Observer = Callable[[list[EpochRecord], Timing], None]
Fields = list[dict[str, Any]]


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
    """One stack under way: the searcher, the epoch, and the vectors curvature starts from."""

    def __init__(self, stack: Stack, store: Store, observe: Observer) -> None:
        self.stack, self.store, self.observe = stack, store, observe
        self.searcher = stack.method.build(stack.spec.settings, stack.lab)
        self.epoch = 0
        self.vectors: Float[Tensor, "replicas size"] | None = None
        self.no_losses: Fields = [{"train_loss": None, "val_loss": None}] * stack.lab.replicas

    def resume(self) -> bool:
        """Go back to the checkpoint; return whether there was one."""
        saved = self.store.resume()
        if saved is None:
            return False
        self.searcher.load_state_dict(saved["searcher"])
        self.epoch, self.vectors = saved["epoch"], saved["vectors"]
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
        fields = [losses, self._cells(), cell.choices(self.searcher, self.stack.lab.replicas)]
        measured = stage == "search"
        fields += [self._supernet(), self._curvature(clock), self._ranking()] if measured else [self._unmeasured(stage)]
        records = []
        for parts in zip(*fields, strict=True):
            merged = {name: value for part in parts for name, value in part.items()}
            records.append(EpochRecord(epoch=self.epoch, stage=stage, **merged))
        timing = clock.timing(self.epoch, stage)
        self.store.append(records, timing)
        if stage == "search":
            state = {"searcher": self.searcher.state_dict(), "epoch": self.epoch, "vectors": self.vectors}
            self.store.save(state)
        self.observe(records, timing)

    def _cells(self) -> Fields:
        return cell.cells(self.stack.lab.space, self.searcher.selected(), self.stack.lab.replicas, self.stack.truth)

    def _supernet(self) -> Fields:
        return [{"supernet": found} for found in cell.supernet(self.searcher, self.stack.lab)]

    def _unmeasured(self, stage: str) -> Fields:
        reason = f"not measured at stage {stage!r}: see the last epoch"
        nothing = {"supernet": None, "curvature": None, "no_curvature": reason, "ranking": None, "no_ranking": reason}
        return [nothing] * self.stack.lab.replicas

    def _curvature(self, clock: Clock) -> Fields:
        spec, lab = self.stack.spec, self.stack.lab
        reason = self._why_no_curvature()
        if reason is not None:
            return [{"curvature": None, "no_curvature": reason}] * lab.replicas
        whole = curvature.epoch_wants_spectrum(self.epoch, spec.epochs, spec.curvature)
        legacy = lab.feed.legacy_probe(max(self.epoch - 1, 0), spec.epochs) if whole else None
        probes = curvature.Probes(lab.feed.probe(spec.probe_size), legacy)
        noise = lab.stream("curvature", self.epoch)
        with clock.curvature():
            found = curvature.measure(self.searcher, probes, self.vectors, noise, spec.curvature, whole)
        self.vectors = found.vectors
        return [{"curvature": record, "no_curvature": None} for record in found.records]

    def _ranking(self) -> Fields:
        spec, lab, truth = self.stack.spec, self.stack.lab, self.stack.truth
        reason = self._why_no_ranking()
        if reason is not None or spec.ranking is None or truth is None:
            return [{"ranking": None, "no_ranking": reason}] * lab.replicas
        cells = ranking.sample(lab.space, spec.dataset, spec.ranking.cells)
        found = ranking.measure(self.searcher, lab, truth, cells, spec.ranking.top)
        return [{"ranking": record, "no_ranking": None} for record in found]

    def _why_no_ranking(self) -> str | None:
        spec = self.stack.spec
        if spec.ranking is None:
            return "not asked for: --metrics ranking"
        reason = ranking.undefined(self.searcher, self.stack.lab.space, self.stack.truth)
        if reason is None and not spec.ranking.due(self.epoch, spec.epochs):
            every = spec.ranking.every
            return "measured after the last epoch" if every is None else f"measured every {every} epochs"
        return reason

    def _why_no_curvature(self) -> str | None:
        spec = self.stack.spec
        if self.searcher.no_curvature is not None:
            return self.searcher.no_curvature
        if spec.curvature.mode == "off":
            return "curvature was switched off"
        if self.epoch % spec.curvature_every and self.epoch != spec.epochs:
            return f"curvature is measured every {spec.curvature_every} epochs"
        return None
