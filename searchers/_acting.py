"""A searcher made of several, one of which is at work at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor

from searchers.base import Choices, DataPolicy, Logits, Searcher, Steady, StepBatches, StepLosses, Supernet

Stage = TypeVar("Stage", bound=Searcher)


class Acting(ABC, Generic[Stage]):
    """Passes on to the searcher at work what does not depend on how searchers take over from each other."""

    @property
    @abstractmethod
    def stage(self) -> Stage:
        """Return the searcher that is at work."""

    @property
    def policy(self) -> DataPolicy:
        return self.stage.policy

    @property
    def supernet(self) -> Supernet:
        return self.stage.supernet

    @property
    def hessian_of(self) -> str | None:
        return self.stage.hessian_of

    @property
    def no_curvature(self) -> str | None:
        return self.stage.no_curvature

    @property
    def shift_invariant(self) -> tuple[str, ...]:
        return self.stage.shift_invariant

    def logits(self) -> Logits:
        return self.stage.logits()

    def relax(self, logits: Logits) -> Choices:
        return self.stage.relax(logits)

    def selected(self) -> Logits | None:
        return self.stage.selected()

    def diagnostics(self) -> Mapping[str, Tensor]:
        return self.stage.diagnostics()

    def step(self, batches: StepBatches) -> StepLosses:
        return self.stage.step(batches)

    def skip(self) -> None:
        assert isinstance(self.stage, Steady)
        self.stage.skip()
