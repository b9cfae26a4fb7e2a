"""Supernet of NAS-Bench-201.

Source: Dong and Yang (2020), NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search,
https://arxiv.org/abs/2001.00326, section 2. Stem, three stages of N cells with a residual block of stride 2 between
them, and a head. A cell has nodes 0..3 and six edges; a node is the sum over its incoming edges of their mixed
operations. Convolutions have a bias because their normalisation is not affine (the authors' search mode).
"""

from collections.abc import Hashable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bench import layers, ops
from bench.kernels import ONCE
from bench.layout import first_part, with_bypass
from bench.mixture import Branch
from bench.supernet.common import CellChoices, NetworkSize, begin, width, with_auxiliary
from bench.weights import Layer, Layers, Packing
from searchers.base import Active, Address, Choices, ForwardInputs, Group, SupernetOptions

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NONE, SKIP, CONV1X1, CONV3X3, POOL = range(5)
NODES = (1, 2, 3)
SOURCES = (0, 1, 2)


class Cell(nn.Module):
    """Four nodes, six edges, five operations an edge."""

    def __init__(self, replicas: int, channels: int, options: SupernetOptions) -> None:
        super().__init__()
        self.parts, self.weighted, self.shared = options.partial_channels, options.edge_weights, options.shared_features
        part = width(channels, self.parts)
        places = SOURCES if self.shared else EDGES
        self.conv1x1 = nn.ModuleList(_conv(replicas, part, 1) for _ in places)
        self.conv3x3 = nn.ModuleList(_conv(replicas, part, 3) for _ in places)

    def forward(self, x: ops.Folded, replicas: int, choices: CellChoices) -> ops.Folded:
        nodes: list[ops.Folded] = [x]
        mixed: dict[int, ops.Folded] = {}
        for target in NODES:
            mixed |= self._leaving(target - 1, nodes[target - 1], replicas, choices)
            outputs = [
                self._edge(edge, nodes[EDGES[edge][0]], mixed[edge], replicas, choices) for edge in _incoming(target)
            ]
            nodes.append(self._sum(outputs, target, replicas, choices))
        return nodes[3]

    def computed_as_one(self, sizes_join: bool) -> list[Layers]:
        """Return the modules of a pass that leaves nothing out, in groups that are computed as one each."""
        kinds = (self.conv1x1, self.conv3x3)
        if self.shared:
            return [(cast(layers.ConvNorm, module),) for every in kinds for module in every]
        groups = [[tuple(_convolutions(every, _outgoing(source))) for every in kinds] for source in SOURCES]
        return [kind for pair in groups for kind in ([pair[0] + pair[1]] if sizes_join else pair)]

    def _leaving(self, source: int, x: ops.Folded, replicas: int, choices: CellChoices) -> dict[int, ops.Folded]:
        """Return the mixed operations of every edge out of a node, which act on a part of its channels."""
        flow, edges, part = choices.flow, _outgoing(source), first_part(x, replicas, self.parts)
        active = choices.active("op")
        if self.shared:
            terms = dict.fromkeys(edges, self._shared_operations(source, part, flow, choices))
        elif flow.observe is None and (active is None or active[:, edges, SKIP:].all()):
            return self._all_mixed(edges, part, choices, flow)
        else:
            terms = {edge: self._operations(edge, part, flow) for edge in edges}
            if flow.observe is None and active is not None:
                terms = self._with_given(terms, part, active, flow)
        return {edge: self._mixed(edge, terms[edge], part, choices) for edge in edges}

    def _all_mixed(
        self, edges: list[int], part: ops.Folded, choices: CellChoices, flow: ops.Flow
    ) -> dict[int, ops.Folded]:
        """Return the mixtures of all operations: each kind of convolution as one, skip and pooling once."""
        positive, maps = F.relu(part), [part, ops.average_pool(part)]
        kinds = [_convolutions(every, edges) for every in (self.conv1x1, self.conv3x3)]
        if flow.kernels.mixed is not None:
            branches = [layers.branch(modules, positive, flow, wide=True) for modules in kinds]
            every = choices.factors("op", part.shape[1])
            rows = [every[edge][SKIP:] for edge in edges]
            found = flow.kernels.mixed(rows, [Branch(maps[0]), *branches, Branch(maps[1])], flow.replicas)
            return dict(zip(edges, found, strict=True))
        channels = part.shape[1] // flow.replicas
        scales = choices.once("op", (edges[0], channels), lambda weights: _scales(weights, edges, channels))
        if flow.sizes_join:
            whole = layers.scaled_together([*kinds[0], *kinds[1]], positive, torch.cat(scales), flow)
            heavy = list(whole.chunk(2, 1))  # of one replica
        else:
            heavy = [
                layers.scaled_together(modules, positive, scale, flow)
                for modules, scale in zip(kinds, scales, strict=True)
            ]
        factors = choices.factors("op", part.shape[1])
        convolved = layers.apart(kinds[0], heavy[0] + heavy[1], flow.replicas)
        return {
            edge: flow.kernels.mixture(factors[edge][SKIP :: POOL - SKIP], maps) + convolved[i]
            for i, edge in enumerate(edges)
        }

    def _operations(self, place: int, part: ops.Folded, flow: ops.Flow) -> list[ops.Term]:
        """Return the operations, with the weights of a place: an edge, or a node where edges share them."""
        replicas = flow.replicas

        def conv(module: nn.Module) -> ops.Term:
            return lambda rows: module(flow.relu(ops.pick(part, replicas, rows), rows), flow, rows)

        return [
            ops.Given(part, replicas),
            conv(self.conv1x1[place]),
            conv(self.conv3x3[place]),
            lambda rows: ops.average_pool(ops.pick(part, replicas, rows)),
        ]

    def _with_given(
        self, own: dict[int, list[ops.Term]], part: ops.Folded, active: np.ndarray, flow: ops.Flow
    ) -> dict[int, list[ops.Term]]:
        """Return the operations of the edges out of a node, where those computed for all replicas are there already.

        Each kind of convolution is computed as one, pooling once.
        """
        whole = {option: [edge for edge in own if active[:, edge, option].all()] for option in (CONV1X1, CONV3X3, POOL)}
        given: dict[int, list[ops.Folded]] = {POOL: [ops.average_pool(part)] * len(whole[POOL])} if whole[POOL] else {}
        if whole[CONV1X1] or whole[CONV3X3]:
            positive = F.relu(part)
            for option, every in ((CONV1X1, self.conv1x1), (CONV3X3, self.conv3x3)):
                modules = _convolutions(every, whole[option])
                joined = layers.together(modules, positive, flow) if modules else None
                given[option] = [] if joined is None else layers.apart(modules, joined, flow.replicas)
        terms = {edge: list(operations) for edge, operations in own.items()}
        for option, found in given.items():
            for edge, maps in zip(whole[option], found, strict=True):
                terms[edge][option - SKIP] = ops.Given(maps, flow.replicas)
        return terms

    def _shared_operations(self, source: int, part: ops.Folded, flow: ops.Flow, choices: CellChoices) -> list[ops.Term]:
        """Return the operations on a node, each computed once for all edges out of it."""
        active, used = choices.active("op"), np.ones((flow.replicas, len(OPERATIONS)), bool)
        if active is not None:
            used &= active[:, _outgoing(source)].any(1)
        terms = self._operations(source, part, flow)
        return [ops.once(term, used[:, option], part.device) for option, term in enumerate(terms, start=SKIP)]

    def _sum(self, outputs: list[ops.Folded], target: int, replicas: int, choices: CellChoices) -> ops.Folded:
        if not self.weighted:
            return ops.total(outputs)
        terms = [ops.Given(output, replicas) for output in outputs]
        total = ops.mix(terms, choices.row(f"in_{target}", 0), choices.flow)
        return torch.zeros_like(outputs[0]) if total is None else total

    def _mixed(self, edge: int, terms: list[ops.Term], part: ops.Folded, choices: CellChoices) -> ops.Folded:
        # "none" multiplies by zero whatever its weight: both its output and its gradient are zero.
        row = choices.row("op", edge).after(SKIP)
        mixed = ops.mix(terms, row, choices.flow)
        return torch.zeros_like(part) if mixed is None else mixed

    def _edge(self, edge: int, x: ops.Folded, mixed: ops.Folded, replicas: int, choices: CellChoices) -> ops.Folded:
        """Return what an edge adds to its target, given the mixture of its operations on x."""
        keep, shift = choices.keep("op", edge), choices.shift("op", edge)
        mixed = mixed if keep is None else ops.mask(mixed, keep)
        mixed = mixed if shift is None else ops.shifted(mixed, shift)
        mixed = mixed if self.parts == 1 else with_bypass(mixed, x, replicas, self.parts)
        return with_auxiliary(mixed, x, choices)


class Residual(nn.Module):
    """The block between stages: two ReLU-conv-norm, shortcut of average pooling and a 1×1 convolution."""

    def __init__(self, replicas: int, into: int, out: int) -> None:
        super().__init__()
        self.first = layers.ConvNorm(layers.Conv(replicas, (out, into, 3), stride=2))
        self.second = layers.ConvNorm(layers.Conv(replicas, (out, out, 3)))
        self.shortcut = layers.Conv(replicas, (out, into, 1))

    def forward(self, x: ops.Folded, flow: ops.Flow) -> ops.Folded:
        shortcut = self.shortcut(F.avg_pool2d(x, 2, stride=2, ceil_mode=True, count_include_pad=False), flow)
        main = self.second(flow.relu(self.first(flow.relu(x), flow)), flow)
        return flow.show("convolution", shortcut) + main

    def convolutions(self) -> tuple[Layer, ...]:
        return self.first, self.second, self.shortcut


def _conv(replicas: int, channels: int, side: int) -> layers.ConvNorm:
    return layers.ConvNorm(layers.Conv(replicas, (channels, channels, side), bias=True), affine=False)


def _convolutions(modules: nn.ModuleList, edges: list[int]) -> list[layers.ConvNorm]:
    return [cast(layers.ConvNorm, modules[edge]) for edge in edges]


def _scales(
    weights: Float[Tensor, "replicas decisions options"], edges: list[int], channels: int
) -> tuple[Float[Tensor, " replicas_edges_channels"], ...]:
    """Return the scales of the normalisations of either kind of convolution, each with so many channels a replica."""
    heavy = torch.stack([weights[:, edge, CONV1X1 : CONV3X3 + 1] for edge in edges], 1).permute(2, 0, 1)[..., None]
    return heavy.expand(-1, -1, -1, channels).flatten(1).unbind(0)


def _incoming(node: int) -> list[int]:
    return [edge for edge, (_, target) in enumerate(EDGES) if target == node]


def _outgoing(node: int) -> list[int]:
    return [edge for edge, (source, _) in enumerate(EDGES) if source == node]


def edge_groups() -> tuple[Group, ...]:
    """Return the weights of every node's incoming edges, one row a node; all edges are kept."""
    sources = ("input", *(f"node_{i}" for i in NODES))
    return tuple(Group(f"in_{node}", 1, sources[:node], "edge", keep=node) for node in NODES)


class NB201Supernet(nn.Module):
    """All cells of NAS-Bench-201 at once."""

    def __init__(self, groups: tuple[Group, ...], replicas: int, size: NetworkSize, options: SupernetOptions) -> None:
        super().__init__()
        size = size.scaled(options.depth)
        self.edges = edge_groups() if options.edge_weights else ()
        self.groups = (*groups, *self.edges, *options.groups)
        self.replicas, self.parts, self.shared = replicas, options.partial_channels, options.shared_features
        self.cells, self.auxiliary = 3 * size.cells, options.auxiliary_skip
        channels = size.channels
        self.stem = layers.ConvNorm(layers.Conv(replicas, (channels, size.image_channels, 3)))
        self.cell = nn.ModuleList(
            Cell(replicas, channels * 2 ** (index // size.cells), options) for index in range(self.cells)
        )
        self.reduce = nn.ModuleList(Residual(replicas, channels * k, channels * 2 * k) for k in (1, 2))
        self.head = layers.Norm(replicas, 4 * channels, affine=False)
        self.classifier = layers.Linear(replicas, 4 * channels, size.classes)
        if not options.normalise:
            layers.without_normalisation(self)
        self.packing, self.once = Packing(), ONCE

    def forward(
        self, images: Float[Tensor, "replicas n c h w"], choices: Choices, inputs: ForwardInputs = ForwardInputs()
    ) -> Float[Tensor, "replicas n classes"]:
        replicas, made = images.shape[0], dict[Hashable, Any]()
        choices, _, flow = begin(self, images, choices, inputs)
        x = self.stem(ops.entering(images, inputs, self.classifier.weight), flow)
        for index, cell in enumerate(self.cell):
            if index and index % (self.cells // 3) == 0:
                x = self.reduce[index // (self.cells // 3) - 1](x, flow)
            x = cell(x, replicas, CellChoices(choices, inputs, flow, index, made))
        return self.classifier(ops.pooled(flow.relu(self.head(x, flow.kernels)), replicas), flow)

    def computed_as_one(self, sizes_join: bool) -> list[Layers]:
        """Return the modules of a pass that leaves nothing out, in groups that are computed as one each."""
        cells = [group for cell in self.cell for group in cast(Cell, cell).computed_as_one(sizes_join)]
        blocks = [block for reduce in self.reduce for block in cast(Residual, reduce).convolutions()]
        return [(self.stem,), *cells, *((block,) for block in blocks), (self.classifier,)]

    def address(self, name: str) -> Address | None:
        parts = name.split(".")
        if parts[0] != "cell":
            return None
        place = int(parts[3])
        decision = tuple(_outgoing(place)) if self.shared else place
        return Address(int(parts[1]), "op", decision, {"conv1x1": CONV1X1, "conv3x3": CONV3X3}[parts[2]])

    def live(self, active: Active) -> Active:
        op = active["op"].copy()
        op[..., NONE] = False
        # Bypassed channels and auxiliary skips pass every edge, whatever its operation.
        everywhere = self.parts > 1 or self.auxiliary
        passes: np.ndarray = np.ones_like(op[..., 0]) if everywhere else np.asarray(op.any(-1))
        edges = {group.name: active[group.name] for group in self.edges}
        if edges:
            passes &= np.concatenate([edges[f"in_{node}"][..., 0, :] for node in NODES], -1)
        for node in (1, 2):
            passes[..., _outgoing(node)] &= passes[..., _incoming(node)].any(-1, keepdims=True)
        for node in (2, 1):
            passes[..., _incoming(node)] &= passes[..., _outgoing(node)].any(-1, keepdims=True)
        used = {f"in_{node}": passes[..., None, _incoming(node)] for node in NODES}
        return {"op": op & passes[..., None], **{name: mask & used[name] for name, mask in edges.items()}}
