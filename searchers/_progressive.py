"""A search in stages: each is a two-level search of its own, which takes over from the last one what its plan says."""

from typing import Any, Protocol, final, runtime_checkable

from searchers._acting import Acting
from searchers._bilevel import Bilevel
from searchers._descent import ArchOptimiser
from searchers._optim import SGD


@runtime_checkable
class Plan(Protocol):
    """What the stages of a search are."""

    def stage(self, epoch: int) -> int:
        """Return the number of the stage an epoch belongs to; it does not fall from epoch to epoch."""
        ...

    def searcher(self, stage: int, first: int, /) -> Bilevel:
        """Return the search of a stage that begins with epoch `first`, as it is before anything is taken over."""
        ...

    def enter(self, stage: int, new: Bilevel, old: Bilevel | None, /) -> None:
        """Decide what the stage searches, and take over from the last one; None: there was none."""
        ...


@final
class Progressive(Acting[Bilevel]):
    """The stages of a plan, one after the other; networks, logits, optimisers and schedules are those of the stage."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.first = plan, 0
        self.number = plan.stage(0)
        self.acting = plan.searcher(self.number, 0)
        plan.enter(self.number, self.stage, None)

    @property
    def stage(self) -> Bilevel:
        return self.acting

    @property
    def excluded(self) -> tuple[str, ...]:
        return self.stage.excluded

    @property
    def weights(self) -> SGD:
        return self.stage.weights

    @property
    def arch(self) -> ArchOptimiser:
        return self.stage.arch

    @property
    def arch_lr(self) -> float:
        return self.stage.arch_lr

    def begin_epoch(self, epoch: int) -> None:
        """Go on to the stage of the epoch: records of the epoch before are those of the last stage, whole."""
        number = self.plan.stage(epoch)
        if number != self.number:
            old, self.number, self.first = self.stage, number, epoch
            self.acting = self.plan.searcher(number, epoch)
            self.plan.enter(number, self.stage, old)
        self.stage.begin_epoch(epoch - self.first)

    def end_epoch(self, epoch: int) -> None:
        self.stage.end_epoch(epoch - self.first)

    def finish(self) -> None:
        self.stage.finish()

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number, "first": self.first, "stage": self.stage.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number, self.first = state["number"], state["first"]
        self.acting = self.plan.searcher(self.number, self.first)
        self.stage.load_state_dict(state["stage"])
