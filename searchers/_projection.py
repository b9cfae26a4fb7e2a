"""Deciding the rows of a network one after another by what the removal of each option does to it.

Source: Wang, Cheng, Chen, Tang, Hsieh (2021), Rethinking Architecture Selection in Differentiable NAS,
https://arxiv.org/abs/2108.04392, algorithm 1; the network may be trained (DARTS-PT) or not (Zero-Cost-PT).

Every replica decides its rows in an order of its own, a random one unless told otherwise. One decision, about the next
row of each replica:
  1. each option of the row is removed alone: its weight is 0, the others are not renormalised, and it is not computed.
     A scorer rates what is left, for all replicas at once; what cannot be rated (NaN) is the worst.
  2. a row that keeps one option keeps the one without which the score is lowest.
     A row that keeps k > 1 drops the one without which the score is highest, and is asked again until k are left.
  3. what is kept has weight 1 from then on, and the rest of the row is not computed.
Options that are not computed anyway, have a weight of zero in every cell (as `none` where the search leaves it out), or
are excluded by name are not asked about. Where scores are equal, the first option stays. Scores are read on the host:
they decide what is computed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from searchers._freeze import Frozen
from searchers._hosted import constant
from searchers.base import Choices, Group

Scorer = Callable[[Choices], Float[Tensor, " replicas"]]
"""Rates a network under these choices; lower is worse."""

Row = tuple[str, int]
"""A group's name and one of its decisions."""

Order = Callable[[Sequence[Group], torch.Generator], list[Row]]
"""Groups and one replica's stream to the order of its rows."""

Options = Int[np.ndarray, " _options"]
"""Columns of one row that are left."""


def in_sequence(groups: Sequence[Group], _stream: torch.Generator) -> list[Row]:
    """Return the rows in the order of the space."""
    return [(group.name, decision) for group in groups for decision in range(group.decisions)]


def reverse(groups: Sequence[Group], stream: torch.Generator) -> list[Row]:
    """Return the rows in the order of the space, the last one first."""
    return in_sequence(groups, stream)[::-1]


def at_random(groups: Sequence[Group], stream: torch.Generator) -> list[Row]:
    """Return the rows in a random order."""
    rows = in_sequence(groups, stream)
    return [rows[i] for i in torch.randperm(len(rows), generator=stream)]


def operations_first(groups: Sequence[Group], stream: torch.Generator) -> list[Row]:
    """Return the operations in a random order, then the inputs of blocks and output in the order of the space."""
    kinds = {kind: [group for group in groups if group.kind == kind] for kind in ("op", "edge")}
    return at_random(kinds["op"], stream) + in_sequence(kinds["edge"], stream)


def without(choices: Choices, rest: Mapping[str, Bool[np.ndarray, "replicas decisions options"]]) -> Choices:
    """Return the choices with only `rest` computed; the weights of what is left stay as they are."""
    weights, active = {}, {}
    for name, value in choices.weights.items():
        weights[name] = torch.where(constant(rest[name], value.device), value, 0.0)
        before = True if choices.active is None else choices.active[name]
        active[name] = np.broadcast_to(rest[name] & before, tuple(value.shape)).copy()
    return Choices(weights, active)


def computed(choices: Choices, replica: int, row: Row, keep: int) -> Options:
    """Return the options of a row that some cell weighs and computes; all where these are fewer than are to be kept."""
    (group, decision), active = row, choices.active
    weighed = (choices.weights[group][:, replica, decision] != 0).cpu().numpy()
    every = np.arange(weighed.shape[-1])
    found = np.flatnonzero((weighed if active is None else weighed & active[group][:, replica, decision]).any(0))
    return found if len(found) >= keep else every


def survivors(left: Options, scores: Float[np.ndarray, " _options"], keep: int) -> Options:
    """Return what one round leaves of a row, given the score without each of its options."""
    if len(left) <= keep:
        return left
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    return np.sort(left[order[:1] if keep == 1 else order[:-1]])


def removals(groups: Sequence[Group]) -> int:
    """Return how many removals are scored until all rows are decided, where no option is left out before."""
    return sum(group.decisions * sum(_rounds(len(group.options), group.keep)) for group in groups)


def _rounds(options: int, keep: int) -> range:
    """Return the sizes of a row in the rounds it is asked in: one where it keeps one option."""
    return range(options, options - 1 if keep == 1 else keep, -1)


class Projection:
    """Which rows each replica has decided, what they keep, and which row is next."""

    def __init__(
        self,
        groups: Sequence[Group],
        streams: Sequence[torch.Generator],
        carried: Sequence[Group] = (),
        order: Order = at_random,
        excluded: Collection[str] = (),
    ) -> None:
        """Draw the orders; rows of `carried` groups, which a network has besides, are never decided.

        Options named in `excluded` are not asked about: they do not stay, and nothing is learnt from their removal.
        """
        self.groups, self.excluded = {group.name: group for group in groups}, frozenset(excluded)
        self.frozen = Frozen((*groups, *carried), len(streams))
        self.orders = [order(groups, stream) for stream in streams]

    @property
    def rows(self) -> int:
        """Return how many rows each replica has."""
        return len(self.orders[0])

    @property
    def made(self) -> int:
        """Return how many rows each replica has decided."""
        return sum(int(mask[0].sum()) for mask in self.frozen.rows.values())

    def decide(self, choices: Choices, score: Scorer) -> None:
        """Decide the next row of every replica; `choices` are the mixing weights of the rows that are open."""
        mixed, turn = self.frozen.over(choices), self.made
        rows = [order[turn] for order in self.orders]
        keep = [self.groups[group].keep for group, _ in rows]
        left = [self._asked(mixed, replica, row) for replica, row in enumerate(rows)]
        while any(len(options) > k for options, k in zip(left, keep, strict=True)):
            scores = self._removals(mixed, rows, left, score)
            left = [survivors(*each) for each in zip(left, scores, keep, strict=True)]
        for replica, ((group, decision), options) in enumerate(zip(rows, left, strict=True)):
            self.frozen.decide(replica, group, decision, options.tolist())

    def _asked(self, mixed: Choices, replica: int, row: Row) -> Options:
        """Return the options of a row that are asked about; excluded ones only where the others are too few."""
        group = self.groups[row[0]]
        found = computed(mixed, replica, row, group.keep)
        allowed = found[[group.options[option] not in self.excluded for option in found]]
        return allowed if len(allowed) >= group.keep else found

    def _removals(
        self, mixed: Choices, rows: Sequence[Row], left: Sequence[Options], score: Scorer
    ) -> list[Float[np.ndarray, " _options"]]:
        """Return each replica's scores without each of the options that are left of its row."""
        columns = []
        for place in range(max(len(options) for options in left)):
            rest = {name: np.ones_like(kept) for name, kept in self.frozen.kept.items()}
            for replica, ((group, decision), options) in enumerate(zip(rows, left, strict=True)):
                rest[group][replica, decision] = False
                rest[group][replica, decision, np.delete(options, slice(place, place + 1))] = True
            columns.append(score(without(mixed, rest)).detach().double().cpu().numpy())
        table = np.stack(columns, 1)
        return [row[: len(options)] for row, options in zip(table, left, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return self.frozen.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.frozen.load_state_dict(state)
