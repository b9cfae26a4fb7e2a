"""Supernet of NAS-Bench-1Shot1.

Source: Zela, Siems, Hutter (2020), NAS-Bench-1Shot1: Benchmarking and Dissecting One-shot Neural Architecture Search,
https://arxiv.org/abs/2001.10422, section 3. Three stacks of cells; before the second and third a max-pool of stride 2
with padding 1 (maps are 32, 17 and 9 wide on CIFAR-10, as in the authors' network) and twice the channels. In a cell
with input x, node j sums its parents (t_0 = its own 1×1 projection of x) with the weights of row `in_j`, mixes
operations with row `op[j]`, and the output is out_0 · projection(x) + concat_j(out_j · t_j).
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench import layers, ops
from bench.kernels import ONCE
from bench.layout import Rows, first_part, innermost, per_channel, side_by_side, with_bypass
from bench.mixture import Branch, Factors, columns
from bench.supernet.common import CellChoices, NetworkSize, begin, width, with_auxiliary
from bench.weights import Layers, Packing
from searchers._hosted import constant
from searchers.base import Active, Address, Choices, ForwardInputs, Group, SupernetOptions

OPERATIONS = ("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu")


@dataclass(frozen=True)
class _Convolved:
    """What is positive of a normalised convolution."""

    module: layers.ConvNorm
    x: ops.Folded
    flow: ops.Flow

    def __call__(self, rows: Rows) -> ops.Folded:
        part = ops.pick(self.x, self.flow.replicas, rows)
        return self.flow.relu(self.module(part, self.flow, rows), rows)

    def branch(self) -> Branch:
        return layers.branch([self.module], self.x, self.flow, relu=True)


class Cell(nn.Module):
    """One cell with `nodes` choice blocks."""

    def __init__(self, replicas: int, nodes: int, into: int, channels: int, parts: int) -> None:
        super().__init__()
        self.nodes, self.channels, self.parts = nodes, channels, parts
        part = width(channels, parts)
        self.project = nn.ModuleList(_conv(replicas, channels, into, 1) for _ in range(nodes))
        self.project_out = _conv(replicas, nodes * channels, into, 1)
        self.conv3x3 = nn.ModuleList(_conv(replicas, part, part, 3) for _ in range(nodes))
        self.conv1x1 = nn.ModuleList(_conv(replicas, part, part, 1) for _ in range(nodes))

    def forward(self, x: ops.Folded, replicas: int, choices: CellChoices) -> ops.Folded:
        *projected, out = self._projections(x, replicas, choices)
        flow = choices.flow
        states: list[ops.Folded] = []
        for node in range(1, self.nodes + 1):
            terms: list[ops.Term] = [projected[node - 1], *(ops.Given(state, replicas) for state in states)]
            z = self._sum(node, terms, choices, flow)
            states.append(self._operation(node, self._empty(x, replicas) if z is None else z, replicas, choices))
        return self._output(out, states, replicas, choices)

    def computed_as_one(self, sizes_join: bool) -> list[Layers]:
        """Return the modules of a pass that leaves nothing out, in groups that are computed as one each."""
        pairs = list(zip(self.conv3x3, self.conv1x1, strict=True))
        nodes = pairs if sizes_join else [(module,) for pair in pairs for module in pair]
        return cast(list[Layers], [(*self.project, self.project_out), *nodes])

    def _projections(self, x: ops.Folded, replicas: int, choices: CellChoices) -> list[ops.Term]:
        """Return the projections of the cell's input for every node and the output; as one those of all replicas."""
        modules, flow = [*self.project, self.project_out], choices.flow
        whole = [module for index, module in enumerate(modules) if self._projected(index, choices)]
        parts = layers.apart(whole, layers.rectified(whole, x, flow), replicas) if whole else []
        given = {module: ops.Given(part, replicas) for module, part in zip(whole, parts, strict=True)}
        return [given[module] if module in given else _Convolved(module, x, flow) for module in modules]

    def _projected(self, index: int, choices: CellChoices) -> bool:
        """Return whether a projection is computed for every replica: that of a node, or the last, of the output."""
        group = f"in_{index + 1}" if index < self.nodes else "out"
        chosen = group in choices.choices.weights
        active = choices.active(group if chosen else "op")
        if active is None:
            return True
        return bool((active[:, 0, 0] if chosen else active[:, index].any(-1)).all())

    def _sum(self, node: int, terms: list[ops.Term], choices: CellChoices, flow: ops.Flow) -> ops.Folded | None:
        """Return the sum of a node's parents; without a choice every parent counts 1, if the node is used."""
        group = f"in_{node}"
        if group in choices.choices.weights:
            return ops.mix(terms, choices.row(group, 0), flow)
        options = choices.used("op")
        used = None if options is None else options[:, node - 1].any(-1, keepdims=True).repeat(node, -1)
        if used is None or used.all():
            return innermost(ops.total([term(None) for term in terms]))
        return ops.mix(terms, ops.Row(choices.weights("op").new_ones(used.shape), used), flow)

    def _operation(self, node: int, z: ops.Folded, replicas: int, choices: CellChoices) -> ops.Folded:
        part = first_part(z, replicas, self.parts)
        flow = choices.flow
        terms: list[ops.Term] = [
            lambda rows: ops.max_pool(ops.pick(part, replicas, rows)),
            *self._convolved(node, part, choices, flow),
        ]
        mixed = ops.mix(terms, choices.row("op", node - 1), flow)
        mixed = torch.zeros_like(part) if mixed is None else mixed
        keep, shift = choices.keep("op", node - 1), choices.shift("op", node - 1)
        mixed = mixed if keep is None else ops.mask(mixed, keep)
        mixed = mixed if shift is None else ops.shifted(mixed, shift)
        mixed = mixed if self.parts == 1 else with_bypass(mixed, z, replicas, self.parts)
        return with_auxiliary(mixed, z, choices)

    def _convolved(self, node: int, part: ops.Folded, choices: CellChoices, flow: ops.Flow) -> list[ops.Term]:
        """Return the convolutions of a node, computed as one where that is faster."""
        modules = [cast(layers.ConvNorm, every[node - 1]) for every in (self.conv3x3, self.conv1x1)]
        active = choices.active("op")
        if not flow.sizes_join or (active is not None and not active[:, node - 1, 1:].all()):
            return [_Convolved(module, part, flow) for module in modules]
        joined = layers.rectified(modules, part, flow)
        return [ops.Given(maps, flow.replicas) for maps in layers.apart(modules, joined, flow.replicas)]

    def _output(self, project: ops.Term, states: list[ops.Folded], replicas: int, choices: CellChoices) -> ops.Folded:
        active = choices.active("out")
        joined, flow = side_by_side(states, replicas), choices.flow
        if active is None or active.all():
            factors = choices.once("out", ("output", self.channels), lambda weights: self._factors(weights[:, 0]))
            return flow.kernels.mixture(factors, [project(None), joined])
        weights = choices.weights("out")[:, 0]
        weights = torch.where(constant(active[:, 0], weights.device), weights, 0)
        projected = ops.computed(project, active[:, 0, 0], weights.device)
        if projected is None:
            return ops.scale(joined, weights[:, 1:].flatten())  # every state counts as a replica of its own
        return flow.kernels.mixture(self._factors(weights), [projected, joined])

    def _factors(self, weights: Float[Tensor, "replicas options"]) -> list[Factors]:
        """Return the factors of the projection and of the states side by side."""
        projected = columns(weights[:, :1], len(weights) * self.nodes * self.channels)
        return [*projected, per_channel(weights[:, 1:].flatten(), weights[:, 1:].numel() * self.channels)]

    def _empty(self, x: ops.Folded, replicas: int) -> ops.Folded:
        return x.new_zeros(x.shape[0], replicas * self.channels, *x.shape[2:])


def _conv(replicas: int, out: int, into: int, side: int) -> layers.ConvNorm:
    return layers.ConvNorm(layers.Conv(replicas, (out, into, side)))


class OneShotSupernet(nn.Module):
    """All cells of a NAS-Bench-1Shot1 space at once."""

    def __init__(
        self, groups: tuple[Group, ...], nodes: int, replicas: int, size: NetworkSize, options: SupernetOptions
    ) -> None:
        super().__init__()
        size = size.scaled(options.depth)
        self.groups, self.nodes, self.replicas = (*groups, *options.groups), nodes, replicas
        self.cells, self.auxiliary = 3 * size.cells, options.auxiliary_skip
        channels, into, cells = size.channels, size.channels, []
        self.stem = _conv(replicas, channels, size.image_channels, 3)
        for index in range(self.cells):
            if index and index % size.cells == 0:
                channels *= 2
            cells.append(Cell(replicas, nodes, into, channels, options.partial_channels))
            into = nodes * channels
        self.cell = nn.ModuleList(cells)
        self.head = layers.ConvNorm(layers.Conv(replicas, (channels, into, 1)), affine=False)
        self.classifier = layers.Linear(replicas, channels, size.classes)
        self._chosen = {group.name for group in groups}
        if not options.normalise:
            layers.without_normalisation(self)
        self.packing, self.once = Packing(), ONCE

    def forward(
        self, images: Float[Tensor, "replicas n c h w"], choices: Choices, inputs: ForwardInputs = ForwardInputs()
    ) -> Float[Tensor, "replicas n classes"]:
        replicas, made = images.shape[0], dict[Hashable, Any]()
        choices, live, flow = begin(self, images, choices, inputs)
        x = layers.rectified([self.stem], ops.entering(images, inputs, self.classifier.weight), flow)
        for index, cell in enumerate(self.cell):
            if index and index % (self.cells // 3) == 0:
                x = ops.max_pool(x, side=2, stride=2)
            x = cell(x, replicas, CellChoices(choices, inputs, flow, index, made, live))
        return self.classifier(ops.pooled(self.head(flow.relu(x), flow), replicas), flow)

    def computed_as_one(self, sizes_join: bool) -> list[Layers]:
        """Return the modules of a pass that leaves nothing out, in groups that are computed as one each."""
        cells = [group for cell in self.cell for group in cast(Cell, cell).computed_as_one(sizes_join)]
        return [(self.stem,), *cells, (self.head,), (self.classifier,)]

    def address(self, name: str) -> Address | None:
        parts = name.split(".")
        if parts[0] != "cell":
            return None
        cell, kind = int(parts[1]), parts[2]
        if kind == "project_out":
            return Address(cell, "out", 0, 0)
        node = int(parts[3]) + 1
        if kind == "project":
            chosen = f"in_{node}" in self._chosen
            return Address(cell, f"in_{node}", 0, 0) if chosen else Address(cell, "op", node - 1, None)
        return Address(cell, "op", node - 1, {"conv3x3": 1, "conv1x1": 2}[kind])

    def live(self, active: Active) -> Active:
        live = {name: mask.copy() for name, mask in active.items()}
        for node in range(self.nodes, 0, -1):
            used = live["out"][:, :, 0, node].copy()
            for later in range(node + 1, self.nodes + 1):
                group = f"in_{later}"
                used |= live[group][:, :, 0, node] if group in live else live["op"][:, :, later - 1].any(-1)
            live["op"][:, :, node - 1] &= used[..., None]
            if f"in_{node}" in live:
                live[f"in_{node}"] &= used[..., None, None]
        return live
