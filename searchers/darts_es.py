"""DARTS with early stopping: the architecture of the epoch before the dominant eigenvalue rose.

Source: Zela, Elsken, Saikia, Marrakchi, Brox, Hutter (2020), Understanding and Robustifying Differentiable Architecture
Search, https://arxiv.org/abs/1909.09656, section 4.3; the rules stand in `searchers._early_stop`.

One step: as DARTS, first order (the paper's code is second order: setting `order`).
After an epoch: λ on the probe where the rule wants it; a replica whose rule says stop selects its logits of the epoch
that the rule returns, for good. This reads λ on the host: the rule is a decision about a number. The search itself goes
on, for all replicas and as DARTS to the bit, so that records show what would have come.
Discretise: the highest logits of each row, of the selected epoch or, while nothing has stopped, of the present.
"""

from dataclasses import dataclass, field
from typing import Any

from searchers._bilevel import Bilevel, Recipe
from searchers._early_stop import Rule, StopSettings, chosen, eigenvalue, of_each
from searchers._hypergradient import Order, of_order
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Logits, Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Settings of DARTS, and when to stop.

    Attributes:
        order: of the architecture's gradient; the paper's code is second order.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    order: Order = "first"


class Watch:
    """Remembers λ and the logits of all epochs, and at which epoch each replica stopped."""

    def __init__(self, rule: Rule, replicas: int) -> None:
        self.rule = rule
        self.values: list[list[float]] = [[] for _ in range(replicas)]
        self.history: list[Logits] = []
        self.returned: list[int | None] = [None] * replicas
        self.decided: list[int | None] = [None] * replicas

    def end_epoch(self, searcher: Bilevel, epoch: int) -> None:
        """Keep the logits; measure λ while a replica has not stopped, and ask the rule."""
        self.history.append({name: value.clone() for name, value in searcher.logits().items()})
        if epoch % self.rule.every or None not in self.returned:
            return
        for replica, value in enumerate(eigenvalue(searcher, epoch)):
            if self.returned[replica] is None:
                self.values[replica].append(value)
                index = self.rule.stop(self.values[replica])
                if index is not None:
                    self.returned[replica], self.decided[replica] = index * self.rule.every, epoch

    def select(self, logits: Logits) -> Logits:
        """Return the logits of each replica's own epoch."""
        tables = [logits if epoch is None else self.history[epoch] for epoch in self.returned]
        return of_each([{n: v[replica] for n, v in table.items()} for replica, table in enumerate(tables)], logits)

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": [list(values) for values in self.values],
            "history": list(self.history),
            "returned": list(self.returned),
            "decided": list(self.decided),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = [list(values) for values in state["values"]]
        self.history, self.returned, self.decided = (list(state[n]) for n in ("history", "returned", "decided"))


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    watch = Watch(chosen(settings.stop), resources.replicas)
    gradient = of_order(settings.order)
    recipe = Recipe(arch_gradient=gradient, end_epoch=watch.end_epoch, select=watch.select, memory=watch)
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "darts_es",
    Settings,
    build,
    "Zela et al. (2020), DARTS with early stopping",
    passes_per_step=2.0,
    published=Published(50, "the authors' code"),
    steady=True,
    probes=True,
)
