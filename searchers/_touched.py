"""Which parameters a step moves: those of options that are computed and reach the output."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool

from searchers.base import Active, Choices, Supernet


class _Places:
    """Where the options stand that parameters belong to: one entry for every option or decision of a parameter."""

    def __init__(self, network: Supernet, names: Sequence[str]) -> None:
        self.names, self.groups = tuple(names), {group.name: len(group.options) for group in network.groups}
        entries: dict[str, list[tuple[int, int, int, int]]] = {}
        self.always = np.ones(len(names), bool)
        for column, name in enumerate(names):
            address = network.address(name)
            if address is not None:
                self.always[column] = False
                # Any option stands after the last one.
                option = self.groups[address.group] if address.option is None else address.option
                for decision in np.atleast_1d(address.decision):
                    entries.setdefault(address.group, []).append((column, address.cell, int(decision), option))
        self.entries = {group: np.array(found).T for group, found in entries.items()}

    def used(self, live: Active, replicas: int) -> Bool[np.ndarray, "replicas names"]:
        used = np.repeat(self.always[:, None], replicas, 1)
        for group, (columns, cells, decisions, options) in self.entries.items():
            mask = np.concatenate([live[group], live[group].any(-1, keepdims=True)], -1)
            np.logical_or.at(used, columns, mask[cells if len(mask) > 1 else 0, :, decisions, options])
        return used.T


_PLACES: WeakKeyDictionary[Supernet, _Places] = WeakKeyDictionary()


def touched(network: Supernet, choices: Choices, names: Sequence[str]) -> Bool[np.ndarray, "replicas names"]:
    """Return which parameters each replica used under these choices."""
    if choices.active is None:
        return np.ones((network.replicas, len(names)), bool)
    places = _PLACES.get(network)
    if places is None or places.names != tuple(names):
        places = _PLACES[network] = _Places(network, names)
    return places.used(network.live(choices.active), network.replicas)
