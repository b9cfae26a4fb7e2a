"""Tree-structured Parzen estimator, by optuna's sampler.

Source: Bergstra, Bardenet, Bengio, Kégl (2011), Algorithms for Hyper-Parameter Optimization,
https://papers.nips.cc/paper/4443; the sampler is optuna's (Akiba et al. 2019, https://arxiv.org/abs/1907.10902).

One query: optuna suggests every decision as a categorical parameter; `startup` uniform cells come first. The best
fitness seen is the result. Every repetition is a study of its own with the sampler's own generator, seeded from the
repetition's stream; that generator is optuna's and is not a function of the step. A cell that is not in the table is
told as worse than any accuracy; told as a failed trial, which the sampler forgets, it would be asked for again and
again. One query of one repetition takes milliseconds, hence the few
repetitions. Our reading: decisions are independent (`multivariate` false), as in the published baselines.
"""

from dataclasses import dataclass
from importlib import util

import numpy as np
from jaxtyping import Float

from searchers.entry import TableMethod
from searchers.tabular._encoding import Encoding
from searchers.tabular.base import Query, TableResources

MISS = -1.0


@dataclass(frozen=True)
class Settings:
    """Defaults of optuna's sampler.

    Attributes:
        startup: uniform cells before the model is used.
        candidates: cells of which the one with the highest ratio of densities is asked for.
    """

    startup: int = 10
    candidates: int = 24
    multivariate: bool = False

    def __post_init__(self) -> None:
        if self.startup < 0 or self.candidates < 1:
            raise ValueError(f"expected startup of at least 0 and candidates of at least 1, got {self}")


class TPE:
    """One study a repetition."""

    def __init__(self, settings: Settings, resources: TableResources) -> None:
        import optuna

        self.resources, self.encoding = resources, Encoding(resources.groups)
        space = {
            str(gene): optuna.distributions.CategoricalDistribution(range(size))
            for gene, size in enumerate(self.encoding.sizes.tolist())
        }
        self.space: dict[str, optuna.distributions.BaseDistribution] = {**space}
        self.studies = [
            optuna.create_study(
                direction="maximize",
                sampler=optuna.samplers.TPESampler(
                    n_startup_trials=settings.startup,
                    n_ei_candidates=settings.candidates,
                    multivariate=settings.multivariate,
                    seed=seed,
                ),
            )
            for seed in (resources.uniform("sampler", 0, 1)[:, 0] * 2**31).astype(int).tolist()
        ]
        self.trials: list[optuna.Trial] = []

    def ask(self) -> Query:
        self.trials = [study.ask(self.space) for study in self.studies]
        cells = np.array([[trial.params[name] for name in self.space] for trial in self.trials])
        return Query(self.encoding.scores(cells), self.resources.budgets[-1])

    def tell(self, fitness: Float[np.ndarray, " replicas"], _cost_s: Float[np.ndarray, " replicas"], /) -> None:
        values = np.where(np.isnan(fitness), MISS, fitness)
        for study, trial, value in zip(self.studies, self.trials, values.tolist(), strict=True):
            study.tell(trial, value)


def unfit(_settings: Settings, _budgets: tuple[int, ...]) -> str | None:
    """Return how to install optuna where it is not there."""
    return None if util.find_spec("optuna") else "it needs optuna: python -m pip install 'nas-stability[tabular]'"


METHOD = TableMethod(
    "tpe",
    Settings,
    TPE,
    "Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization; sampler of optuna",
    repetitions=10,
    unfit=unfit,
)
