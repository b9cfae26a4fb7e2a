"""DARTS on one seed as one writes it: torch's own layers and optimisers, one call for every operation of every edge.

Nothing of `bench.ops` is used: there is no replicas axis, maps have channels outermost, derivatives are
torch's. It is the reference of the supernets' tests and the slow side of `python -m bench.speed --parts plain`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from searchers._optim import ArchSettings, WeightSettings
from searchers.base import Batch

Parameters = Mapping[str, Tensor]
Row = Mapping[str, Tensor]
"""The mixing weights of one cell: group name to "decisions options"."""

Maps = Float[Tensor, "n _c _h _w"]
Network = Callable[[Parameters, Maps, Sequence[Row]], Float[Tensor, "n classes"]]
EDGES = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")


def bn(x: Maps, p: Parameters, name: str = "") -> Maps:
    """Normalise with batch statistics."""
    return functional.batch_norm(x, None, None, p.get(f"{name}.weight"), p.get(f"{name}.bias"), training=True)


def conv(x: Maps, p: Parameters, name: str, stride: int = 1) -> Maps:
    weight = p[f"{name}.weight"]
    return functional.conv2d(x, weight, p.get(f"{name}.bias"), stride, padding=(weight.shape[-1] - 1) // 2)


def conv_bn(x: Maps, p: Parameters, name: str, stride: int = 1) -> Maps:
    return bn(conv(x, p, f"{name}.conv", stride), p, f"{name}.norm")


def conv_bn_relu(x: Maps, p: Parameters, name: str) -> Maps:
    return conv_bn(x, p, name).relu()


def shuffled(x: Maps, groups: int) -> Maps:
    """Move channel i of group g to place i·groups + g."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def bypassed(x: Maps, parts: int, mix: Callable[[Maps], Maps]) -> Maps:
    """Mix the first 1/parts of the channels, keep the others, shuffle."""
    if parts == 1:
        return mix(x)
    width = x.shape[1] // parts
    return shuffled(torch.cat([mix(x[:, :width]), x[:, width:]], 1), parts)


def plain_one_shot(p: Parameters, x: Maps, weights: Sequence[Row], parts: int = 1) -> Float[Tensor, "n classes"]:
    """Return the scores of NAS-Bench-1Shot1's supernet."""

    def mixed(part: Tensor, row: Tensor, cell: str, j: int) -> Tensor:
        return (
            row[0] * functional.max_pool2d(part, 3, 1, 1)
            + row[1] * conv_bn_relu(part, p, f"{cell}.conv3x3.{j}")
            + row[2] * conv_bn_relu(part, p, f"{cell}.conv1x1.{j}")
        )

    x = conv_bn_relu(x, p, "stem")
    for index, w in enumerate(weights):
        if index in {len(weights) // 3, 2 * len(weights) // 3}:
            x = functional.max_pool2d(x, 2, 2, 1)
        cell = f"cell.{index}"
        states: list[Tensor] = []
        for j in range(len(w["op"])):
            sources = [conv_bn_relu(x, p, f"{cell}.project.{j}"), *states]
            z = _gated(w[f"in_{j + 1}"][0], sources) if f"in_{j + 1}" in w else torch.stack(sources).sum(0)
            states.append(bypassed(z, parts, partial(mixed, row=w["op"][j], cell=cell, j=j)))
        gates = w["out"][0]
        blocks = [gate * state for gate, state in zip(gates[1:], states, strict=True)]
        x = gates[0] * conv_bn_relu(x, p, f"{cell}.project_out") + torch.cat(blocks, 1)
    return head(conv_bn(x.relu(), p, "head"), p)


def plain_nb201(p: Parameters, x: Maps, weights: Sequence[Row], parts: int = 1) -> Float[Tensor, "n classes"]:
    """Return the scores of NAS-Bench-201's supernet."""

    def mixed(part: Tensor, row: Tensor, cell: str, edge: int) -> Tensor:
        return (
            row[0] * 0 * part
            + row[1] * part
            + row[2] * conv_bn(part.relu(), p, f"{cell}.conv1x1.{edge}")
            + row[3] * conv_bn(part.relu(), p, f"{cell}.conv3x3.{edge}")
            + row[4] * functional.avg_pool2d(part, 3, 1, 1, count_include_pad=False)
        )

    x = conv_bn(x, p, "stem")
    for index, w in enumerate(weights):
        x = reduction(x, p, index, len(weights))
        nodes = {"0": x}
        for target in "123":
            terms = [
                bypassed(
                    nodes[label[-1]],
                    parts,
                    partial(mixed, row=w["op"][edge], cell=f"cell.{index}", edge=edge),
                )
                for edge, label in enumerate(EDGES)
                if label[0] == target
            ]
            nodes[target] = sum(terms[1:], start=terms[0])
        x = nodes["3"]
    return head(bn(x, p).relu(), p)


def reduction(x: Maps, p: Parameters, index: int, cells: int) -> Maps:
    """Apply the residual block of NAS-Bench-201 where a stage begins."""
    stages = {cells // 3: "reduce.0", 2 * cells // 3: "reduce.1"}
    if index not in stages:
        return x
    name = stages[index]
    y = conv_bn(x.relu(), p, f"{name}.first", 2)
    y = conv_bn(y.relu(), p, f"{name}.second")
    halves = functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    return y + conv(halves, p, f"{name}.shortcut")


def head(x: Maps, p: Parameters) -> Float[Tensor, "n classes"]:
    return x.mean((2, 3)) @ p["classifier.weight"].T + p["classifier.bias"]


def network(space: str) -> Network:
    return plain_nb201 if space == "nb201" else plain_one_shot


def _gated(gates: Float[Tensor, " sources"], sources: Sequence[Maps]) -> Maps:
    terms = [gate * source for gate, source in zip(gates, sources, strict=True)]
    return sum(terms[1:], start=terms[0])


class PlainDarts:
    """First-order DARTS of one seed (Liu et al. 2019, algorithm 1 with ξ = 0), with torch's optimisers."""

    def __init__(
        self, space: str, parameters: Parameters, logits: Parameters, rates: tuple[WeightSettings, ArchSettings]
    ) -> None:
        weights, arch = rates
        self.network, self.clip = network(space), weights.clip
        self.parameters = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        self.logits = {name: value.clone().requires_grad_() for name, value in logits.items()}
        self.cells = 1 + max(int(name.split(".")[1]) for name in parameters if name.startswith("cell."))
        self.sgd = torch.optim.SGD(
            list(self.parameters.values()),
            weights.lr,
            weights.momentum,
            weight_decay=weights.weight_decay,
            nesterov=weights.nesterov,
        )
        self.adam = torch.optim.Adam(
            list(self.logits.values()), arch.lr, arch.betas, arch.eps, weight_decay=arch.weight_decay
        )

    def step(self, train: Batch, val: Batch, seed: int) -> None:
        """Move the logits, then the weights, on one seed's images of each batch."""
        self._move(self.adam, list(self.logits.values()), val, seed)
        parameters = list(self.parameters.values())
        self._move(self.sgd, parameters, train, seed)

    def _move(self, optimiser: torch.optim.Optimizer, leaves: list[Tensor], batch: Batch, seed: int) -> None:
        row = {name: value.softmax(-1) for name, value in self.logits.items()}
        scores = self.network(self.parameters, batch.images[seed], [row] * self.cells)
        loss = functional.cross_entropy(scores, batch.labels[seed])
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        if optimiser is self.sgd and self.clip is not None:
            torch.nn.utils.clip_grad_norm_(leaves, self.clip)
        optimiser.step()
