"""A recurrent controller that draws cells, one decision after the other, for every replica on its own.

It lives on the host in double precision: what it draws decides what is computed. Replicas are the first axis of every
parameter, samples the second axis of every state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from searchers._ranking import KHot
from searchers.base import Group

Weights = dict[str, Tensor]
Row = Float[Tensor, "replicas samples _"]
Kept = Int[Tensor, "replicas samples _"]
PerSample = Float[Tensor, "replicas samples"]


@dataclass(frozen=True)
class ControllerSettings:
    """The controller of NAS-Bench-1Shot1's scripts.

    Attributes:
        temperature: the logits of a decision are divided by it.
        tanh, tanh_op: then bounded to ±this by tanh, for inputs and for operations.
        joint: log-probability of several kept options. "mean": mean of their separate ones, as the scripts have it;
            "sequential": of drawing them in that order without replacement, which is the true one.
        off_by_one: true draws the operation of a node after the inputs of the next one, as the scripts' index does.
        spread: weights start uniform in ±this.
    """

    hidden: int = 64
    layers: int = 1
    temperature: float = 5.0
    tanh: float = 2.5
    tanh_op: float = 0.5
    joint: Literal["mean", "sequential"] = "mean"
    off_by_one: bool = True
    spread: float = 0.1

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers) < 1 or min(self.temperature, self.tanh, self.tanh_op) <= 0:
            raise ValueError(f"expected sizes of at least 1, and a temperature and bounds above 0, got {self}")


class Walk(NamedTuple):
    """Cells and what the controller thinks of them.

    Attributes:
        kept: options in the order in which they were drawn, by decision in the order of the walk.
        log_prob, entropy: summed over decisions, nats.
    """

    kept: tuple[Kept, ...]
    log_prob: PerSample
    entropy: PerSample


class Controller:
    """LSTM whose input is the embedding of the last choice, with one linear head a group of decisions."""

    def __init__(
        self, settings: ControllerSettings, groups: Sequence[Group], streams: Sequence[torch.Generator]
    ) -> None:
        self.settings, self.groups, self.replicas = settings, tuple(groups), len(streams)
        self.order = walk_order(groups, settings.off_by_one)
        h = settings.hidden
        shapes: dict[str, tuple[int, ...]] = {"start": (h,)}
        for layer in range(settings.layers):
            shapes |= {f"{layer}.input": (h, 4 * h), f"{layer}.state": (h, 4 * h), f"{layer}.bias": (4 * h,)}
        for group in groups:
            options = len(group.options)
            shapes |= {f"{group.name}.embed": (options, h), f"{group.name}.head": (h, options)}
        drawn = [[torch.rand(shape, generator=s, dtype=torch.float64) for shape in shapes.values()] for s in streams]
        stacked = (settings.spread * (2 * torch.stack(values) - 1) for values in zip(*drawn, strict=True))
        self.parameters: Weights = dict(zip(shapes, stacked, strict=True))

    def draw(self, weights: Weights, streams: Sequence[torch.Generator], samples: int) -> Walk:
        """Draw cells; options of the largest logits plus Gumbel noise are draws without replacement."""

        def pick(group: Group, logits: Row) -> Kept:
            shape = (samples, len(group.options))
            points = torch.stack([torch.rand(shape, generator=s, dtype=torch.float64) for s in streams])
            noisy = logits.detach() - points.clamp_min(torch.finfo(torch.float64).tiny).log().neg().log()
            return noisy.argsort(-1, descending=True)[..., : group.keep]

        return self._walk(weights, samples, pick)

    def replay(self, weights: Weights, kept: Sequence[Kept]) -> Walk:
        """Return what the controller thinks of given cells."""
        rest = iter(kept)
        return self._walk(weights, kept[0].shape[1], lambda _group, _logits: next(rest))

    def _walk(self, weights: Weights, samples: int, pick: Callable[[Group, Row], Kept]) -> Walk:
        x = weights["start"][:, None].expand(-1, samples, -1)
        zero = torch.zeros_like(x)
        state = [(zero, zero)] * self.settings.layers
        kept, log_prob, entropy = [], zero[..., 0], zero[..., 0]
        for group, _ in self.order:
            x, state = self._lstm(weights, x, state)
            bound = self.settings.tanh_op if group.kind == "op" else self.settings.tanh
            logits = bound * (x @ weights[f"{group.name}.head"] / self.settings.temperature).tanh()
            kept.append(pick(group, logits))
            log_prob = log_prob + JOINT[self.settings.joint](logits, kept[-1])
            entropy = entropy - (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
            rows = kept[-1].flatten(1)[..., None].expand(-1, -1, x.shape[-1])
            x = weights[f"{group.name}.embed"].gather(1, rows).unflatten(1, (samples, group.keep)).mean(2)
        return Walk(tuple(kept), log_prob, entropy)

    def _lstm(
        self, weights: Weights, x: Tensor, state: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        after = []
        for layer, (hidden, memory) in enumerate(state):
            gates = x @ weights[f"{layer}.input"] + hidden @ weights[f"{layer}.state"]
            enter, forget, new, leave = (gates + weights[f"{layer}.bias"][:, None]).chunk(4, -1)
            memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()  # noqa: PLW2901
            x = leave.sigmoid() * memory.tanh()
            after.append((x, memory))
        return x, after

    def cells(self, walk: Walk, sample: int) -> KHot:
        """Return one sample of every replica as k-hot cells."""
        hot = {g.name: torch.zeros(1, self.replicas, *g.shape, dtype=torch.float64) for g in self.groups}
        for (group, decision), kept in zip(self.order, walk.kept, strict=True):
            hot[group.name][0, :, decision].scatter_(-1, kept[:, sample], 1.0)
        return {name: values.numpy() for name, values in hot.items()}


def walk_order(groups: Sequence[Group], off_by_one: bool) -> list[tuple[Group, int]]:
    """Return the decisions node by node, a node's inputs before its operation.

    Inputs of node j are chosen among j nodes; operation i belongs to node i + 1, where operations are on nodes.
    """
    lag = 1 if off_by_one else 0
    places = [(group, decision) for group in groups for decision in range(group.decisions)]

    def moment(place: tuple[Group, int]) -> tuple[int, bool]:
        group, decision = place
        return (decision + 1 + lag, True) if group.kind == "op" else (len(group.options), False)

    return sorted(places, key=moment)


def mean(logits: Row, kept: Kept) -> PerSample:
    """Return the mean of the separate log-probabilities."""
    return logits.log_softmax(-1).gather(-1, kept).mean(-1)


def sequential(logits: Row, kept: Kept) -> PerSample:
    """Return the log-probability of drawing these options in this order without replacement."""
    total = torch.zeros_like(logits[..., 0])
    for place in range(kept.shape[-1]):
        one = kept[..., place : place + 1]
        total = total + logits.log_softmax(-1).gather(-1, one)[..., 0]
        logits = logits.scatter(-1, one, -torch.inf)
    return total


JOINT: dict[str, Callable[[Row, Kept], PerSample]] = {"mean": mean, "sequential": sequential}
