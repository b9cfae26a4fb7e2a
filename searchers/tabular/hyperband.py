"""Hyperband.

Source: Li, Jamieson, DeSalvo, Rostamizadeh, Talwalkar (2018), Hyperband: A Novel Bandit-Based Approach to
Hyperparameter Optimization, https://arxiv.org/abs/1603.06560, algorithm 1.

One query: the next cell of the bracket under way (`_halving` says which): a uniform one on its lowest rung, one of the
fittest of the rung below on the others. The incumbent is the best fitness at the largest budget seen. Sure: brackets
and promotions. Our reading: the budgets are those of the table that stand in the ratio eta; a promoted cell is paid in
full.
"""

from dataclasses import dataclass

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding, Genes
from searchers.tabular._halving import Halving, too_few
from searchers.tabular.base import TableResources


@dataclass(frozen=True)
class Settings:
    """Default of the paper.

    Attributes:
        eta: one in so many cells goes on to so many times the budget.
    """

    eta: int = 3

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"expected eta of at least 2, got {self.eta}")


def build(settings: Settings, resources: TableResources) -> Halving:
    encoding = Encoding(resources.groups)

    def propose(number: int) -> Genes:
        return encoding.decode(resources.uniform("cell", number, encoding.genes))

    return Halving(encoding, resources.budgets, settings.eta, propose, lambda *_observed: None)


METHOD = TableMethod(
    "hyperband",
    Settings,
    build,
    "Li et al. (2018), Hyperband",
    budgets=True,
    unfit=lambda settings, budgets: too_few(budgets, settings.eta),
)
