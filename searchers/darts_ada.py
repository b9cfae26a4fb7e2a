"""DARTS-ADA: where the dominant eigenvalue rises, go back and decay the weights more.

Source: Zela, Elsken, Saikia, Marrakchi, Brox, Hutter (2020), Understanding and Robustifying Differentiable Architecture
Search, https://arxiv.org/abs/1909.09656, section 5.3; the rules stand in `searchers._early_stop`.

One step: as DARTS, first order (the paper's code is second order: setting `order`), with a weight decay for each
replica.
After an epoch: λ on the probe where the rule wants it. A replica whose rule says stop, and whose weight decay times
`factor` is not over `most`, goes back to the epoch that the rule returns: weights, logits, both optimisers, and its
series of λ; its weight decay is multiplied by `factor`. Other replicas are left as they are. This reads λ on the host:
the rule is a decision about a number.
Discretise: the highest logits of each row.

Sure: the rule, factor and bound (10 and 0.03 in the authors' script, 3 and 0.0243 by default in their code: `CODE`).
Our reading: the budget counts the epochs that were thrown away, so data order and learning rate go on as if nothing had
happened, and a replica that went back 12 epochs ends 12 epochs of training short. A stop that would go back beyond the
epoch that the replica last went back to waits. At the bound it searches on.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from searchers._bilevel import Bilevel, Recipe
from searchers._early_stop import Rule, StopSettings, chosen, eigenvalue
from searchers._hypergradient import Order, of_order
from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Resources
from searchers.entry import Method, Published


@dataclass(frozen=True)
class Settings:
    """Settings of DARTS, and those of the authors' script.

    Attributes:
        factor: on the weight decay, whenever the search goes back.
        most: bound on the weight decay.
        order: of the architecture's gradient; the paper's code is second order.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    arch: ArchSettings = field(default_factory=ArchSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    factor: float = 10.0
    most: float = 0.03
    order: Order = "first"


CODE = Settings(factor=3.0, most=0.0243)
"""Defaults of the authors' code."""


class Rollback:
    """Remembers λ, and what each replica was at the epochs it may have to go back to."""

    def __init__(self, rule: Rule, settings: Settings, replicas: int) -> None:
        self.rule, self.settings = rule, settings
        self.values: list[list[float]] = [[] for _ in range(replicas)]
        self.snapshots: list[dict[int, dict[str, Tensor]]] = [{} for _ in range(replicas)]
        self.decay = [settings.weights.weight_decay] * replicas

    def end_epoch(self, searcher: Bilevel, epoch: int) -> None:
        """Measure λ on the rule's grid; send replicas back whose rule says so."""
        if epoch % self.rule.every:
            return
        for replica, value in enumerate(eigenvalue(searcher, epoch)):
            self._observe(searcher, replica, value)
            index = self.rule.stop(self.values[replica])
            raised = self.decay[replica] * self.settings.factor
            if index is not None and index in self.snapshots[replica] and raised <= self.settings.most * (1 + 1e-9):
                self._return(searcher, replica, index)
                self.decay[replica] = raised
        if any(decay != self.settings.weights.weight_decay for decay in self.decay):
            searcher.weights.weight_decay = searcher.weights.momentum.new_tensor(self.decay)

    def _observe(self, searcher: Bilevel, replica: int, value: float) -> None:
        """Append λ, keep a copy of the replica, and drop the copy that no stop reaches any more."""
        index = len(self.values[replica])
        self.values[replica].append(value)
        kept = {name: part[replica].clone() for name, part in parts(searcher).items()}
        self.snapshots[replica][index] = kept
        self.snapshots[replica].pop(index - self.rule.back - 1, None)

    def _return(self, searcher: Bilevel, replica: int, index: int) -> None:
        kept = self.snapshots[replica]
        for name, part in parts(searcher).items():
            part[replica].copy_(kept[index][name])
        self.values[replica] = self.values[replica][: index + 1]
        self.snapshots[replica] = {number: parts_ for number, parts_ in kept.items() if number <= index}

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": [list(values) for values in self.values],
            "snapshots": [dict(kept) for kept in self.snapshots],
            "decay": list(self.decay),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = [list(values) for values in state["values"]]
        self.snapshots = [dict(kept) for kept in state["snapshots"]]
        self.decay = list(state["decay"])


def parts(searcher: Bilevel) -> dict[str, Tensor]:
    """Return the tensors that training moves, not copies; replicas are their first axis."""
    networks = {f"parameters/{name}": value for name, value in searcher.frozen().items()}
    logits = {f"logits/{name}": value for name, value in searcher.logits().items()}
    optimiser = {f"arch/{name}": value for name, value in searcher.arch.state_dict().items()}
    return {**networks, **logits, **optimiser, "momentum": searcher.weights.momentum}


def build(settings: Settings, resources: Resources) -> Bilevel:
    """Return the searcher."""
    if settings.factor <= 1:
        raise ValueError(f"expected a factor over 1, got {settings.factor}")
    memory = Rollback(chosen(settings.stop), settings, resources.replicas)
    recipe = Recipe(arch_gradient=of_order(settings.order), end_epoch=memory.end_epoch, memory=memory)
    return Bilevel(recipe, settings.weights, settings.arch, resources)


METHOD = Method(
    "darts_ada",
    Settings,
    build,
    "Zela et al. (2020), DARTS-ADA, adaptive weight decay",
    passes_per_step=2.0,
    published=Published(50, "the authors' code"),
    steady=True,
    probes=True,
)
