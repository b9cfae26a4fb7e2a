"""Upper confidence bounds on the options of every row, and pruning of the option with the lowest.

Source of the bound: Auer, Cesa-Bianchi, Fischer (2002), Finite-time Analysis of the Multiarmed Bandit Problem,
https://doi.org/10.1023/A:1013689704352, figure 1 (UCB1, with its constant as a setting).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from searchers._exclude import Alive
from searchers._gumbel import gumbel
from searchers._ranking import KHot
from searchers.base import Group

Table = Float[np.ndarray, "replicas decisions options"]


class Bandit:
    """Which options are left, how good the cells with them were, and how often each was taken.

    Attributes:
        trials: cells rated since the last pruning.
        made: rounds of pruning so far.
        left: the round in which an option left, 0 while it is there.
    """

    def __init__(self, groups: Sequence[Group], replicas: int, exploration: float, temperature: float) -> None:
        self.groups, self.exploration, self.temperature = groups, exploration, temperature
        self.alive = Alive(groups, replicas)
        self.mean, self.count, self.left = _zeros(self.alive), _zeros(self.alive), _zeros(self.alive)
        self.trials, self.made = 0, 0

    def bounds(self, name: str) -> Table:
        """Return the upper bound of every option that is left, −∞ for the others."""
        count = self.count[name]
        reach = self.exploration * np.sqrt(2 * np.log(max(self.trials, 1)) / np.maximum(count, 1.0))
        return np.where(self.alive.masks[name], np.where(count > 0, self.mean[name] + reach, np.inf), -np.inf)

    def cell(self, streams: Sequence[torch.Generator]) -> KHot:
        """Return options drawn without replacement from softmax(bound/T) in every row; unseen ones come first."""
        rows = {name: torch.from_numpy(mean) for name, mean in self.mean.items()}
        hot = {}
        for group, (noise,) in zip(self.groups, gumbel(rows, streams, 1).values(), strict=True):
            own = noise.numpy()
            order = np.lexsort((own, self.bounds(group.name) + self.temperature * own), axis=-1)
            hot[group.name] = np.zeros((1, *order.shape))
            np.put_along_axis(hot[group.name][0], order[..., -group.keep :], 1.0, -1)
        return hot

    def see(self, hot: KHot, accuracy: Float[np.ndarray, " replicas"]) -> None:
        """Count the accuracy of a cell for all options it has."""
        self.trials += 1
        for name, (taken,) in hot.items():
            self.count[name] += taken
            gap = accuracy[:, None, None] - self.mean[name]
            self.mean[name] += taken * gap / np.maximum(self.count[name], 1.0)

    def prune_to(self, rounds: int) -> None:
        """Prune until so many rounds are made; then counts start anew, and a mean with the next cell."""
        if rounds > self.made:
            while self.made < rounds:
                self.made += 1
                for group in self.groups:
                    self._prune(group)
            self.trials, self.count = 0, _zeros(self.alive)

    def _prune(self, group: Group) -> None:
        mask = self.alive.masks[group.name]
        bound = np.where(mask, np.minimum(self.bounds(group.name), np.finfo(float).max), np.inf)
        for replica, row in np.argwhere(mask.sum(-1) > group.keep).tolist():
            worst = int(bound[replica, row].argmin())
            mask[replica, row, worst] = False
            self.left[group.name][replica, row, worst] = self.made

    def scores(self) -> dict[str, Table]:
        """Return means of what is left; what has left is below, the earlier the lower."""
        masks = self.alive.masks
        return {n: np.where(masks[n], mean, -1 / np.maximum(self.left[n], 1.0)) for n, mean in self.mean.items()}

    def state_dict(self) -> dict[str, Any]:
        tables = {"mean": self.mean, "count": self.count, "left": self.left}
        saved = {key: {n: torch.from_numpy(v.copy()) for n, v in table.items()} for key, table in tables.items()}
        return {**saved, "alive": self.alive.state_dict(), "trials": self.trials, "made": self.made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.count, self.left = (
            {name: value.cpu().numpy().copy() for name, value in state[key].items()}
            for key in ("mean", "count", "left")
        )
        self.alive.load_state_dict(state["alive"])
        self.trials, self.made = state["trials"], state["made"]


def _zeros(alive: Alive) -> dict[str, Table]:
    return {name: np.zeros(mask.shape) for name, mask in alive.masks.items()}
