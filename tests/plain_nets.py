"""Networks of one seed with all that a method may ask of its network, written with torch's own layers.

Cells are evaluated backwards from their output, option by option: what is inactive, or only feeds what is, is never
reached. Nothing of `bench.ops` is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.speed import plain
from searchers.base import Choices, ForwardInputs, Observation, SupernetOptions

EDGES = plain.EDGES
Operations = Mapping[int, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Pass:
    """A forward pass of one seed: its parameters, how its network is built, and who looks on."""

    parameters: Mapping[str, Tensor]
    options: SupernetOptions
    inputs: ForwardInputs
    replica: int

    def show(self, kind: Literal["relu", "convolution"], x: Tensor) -> Tensor:
        if self.inputs.observe is None:
            return x
        maps = x[None]
        self.inputs.observe(Observation(kind, maps, torch.tensor([self.replica])))
        return maps[0]

    def relu(self, x: Tensor) -> Tensor:
        return self.show("relu", x).relu()

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.show("convolution", plain.conv(x, self.parameters, name, stride))

    def norm(self, x: Tensor, name: str = "") -> Tensor:
        return plain.bn(x, self.parameters, name) if self.options.normalise else x

    def conv_norm(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.norm(self.conv(x, f"{name}.conv", stride), f"{name}.norm")

    def conv_norm_relu(self, x: Tensor, name: str) -> Tensor:
        return self.relu(self.conv_norm(x, name))


@dataclass(frozen=True)
class Rows:
    """What one cell of one seed receives: group to "decisions options", masks "n decisions", shifts "decisions"."""

    weights: Mapping[str, Tensor]
    active: Mapping[str, np.ndarray] | None
    keep: Mapping[str, Tensor] | None
    shift: Mapping[str, Tensor] | None

    def on(self, group: str, decision: int, option: int) -> bool:
        return self.active is None or bool(self.active[group][decision, option])

    def finished(self, mixed: Tensor, decision: int) -> Tensor:
        """Apply a decision's drop-path masks and its shift."""
        if self.keep is not None:
            mixed = mixed * self.keep["op"][:, decision, None, None, None]
        return mixed if self.shift is None else mixed + self.shift["op"][decision]


def rows_of(choices: Choices, inputs: ForwardInputs, cell: int, replica: int) -> Rows:
    def own(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if values is None else {name: v[cell if len(v) > 1 else 0][replica] for name, v in values.items()}

    return Rows(own(choices.weights) or {}, own(choices.active), own(inputs.keep), own(inputs.shift))


def total(terms: Sequence[Tensor], nothing: Tensor) -> Tensor:
    return sum(terms[1:], start=terms[0]) if terms else nothing


def mixed(run: Pass, rows: Rows, decision: int, x: Tensor, operations: Operations) -> Tensor:
    """The output of a decision with input x: its operations on a part of the channels, the bypass, the extra skip."""

    def mix(part: Tensor) -> Tensor:
        row = rows.weights["op"][decision]
        terms = [row[k] * apply(part) for k, apply in operations.items() if rows.on("op", decision, k)]
        return rows.finished(total(terms, torch.zeros_like(part)), decision)

    out = plain.bypassed(x, run.options.partial_channels, mix)
    return out if run.inputs.auxiliary == 0 else out + run.inputs.auxiliary * x


def one_shot_cell(run: Pass, rows: Rows, x: Tensor, cell: str) -> Tensor:
    width = len(run.parameters[f"{cell}.project.0.conv.weight"])
    blank = x.new_zeros(len(x), width, *x.shape[2:])

    def parents(j: int) -> list[Tensor]:
        """The weighted inputs of node j."""
        group, chosen = f"in_{j}", f"in_{j}" in rows.weights
        wanted = [i for i in range(j) if not chosen or rows.on(group, 0, i)]
        maps = [state(i) if i else run.conv_norm_relu(x, f"{cell}.project.{j - 1}") for i in wanted]
        return [rows.weights[group][0, i] * m for i, m in zip(wanted, maps, strict=True)] if chosen else maps

    @cache
    def state(j: int) -> Tensor:
        operations = {
            0: lambda z: functional.max_pool2d(z, 3, 1, 1),
            1: lambda z: run.conv_norm_relu(z, f"{cell}.conv3x3.{j - 1}"),
            2: lambda z: run.conv_norm_relu(z, f"{cell}.conv1x1.{j - 1}"),
        }
        return mixed(run, rows, j - 1, total(parents(j), blank), operations)

    gates, nodes = rows.weights["out"][0], range(1, 1 + len(rows.weights["op"]))
    out = torch.cat([gates[j] * state(j) if rows.on("out", 0, j) else blank for j in nodes], 1)
    return out + gates[0] * run.conv_norm_relu(x, f"{cell}.project_out") if rows.on("out", 0, 0) else out


def one_shot(run: Pass, x: Tensor, cells: Sequence[Rows]) -> Tensor:
    """Return the scores of NAS-Bench-1Shot1's network, "n classes"."""
    x = run.conv_norm_relu(x, "stem")
    for index, rows in enumerate(cells):
        if index in {len(cells) // 3, 2 * len(cells) // 3}:
            x = functional.max_pool2d(x, 2, 2, 1)
        x = one_shot_cell(run, rows, x, f"cell.{index}")
    return plain.head(run.conv_norm(run.relu(x), "head"), run.parameters)


def nb201_cell(run: Pass, rows: Rows, x: Tensor, cell: str) -> Tensor:
    @cache
    def node(target: int) -> tuple[Tensor, bool]:
        """Its maps, and whether anything but zeros went in: no operation is made of nothing."""
        if target == 0:
            return x, True
        incoming = [e for e, label in enumerate(EDGES) if int(label[0]) == target]
        on = [(k, e) for k, e in enumerate(incoming) if not weighted or rows.on(f"in_{target}", 0, k)]
        found = [(k, *edge(e)) for k, e in on]
        terms = [rows.weights[f"in_{target}"][0, k] * maps if weighted else maps for k, maps, _ in found]
        return total(terms, torch.zeros_like(x)), any(some for _, _, some in found)

    def edge(e: int) -> tuple[Tensor, bool]:
        source, some = node(int(EDGES[e][-1]))
        operations = {k: partial(apply, e) for k, apply in applied.items()} if some else {}
        passes = always or any(rows.on("op", e, k) for k in range(1, 5))
        return mixed(run, rows, e, source, operations), some and passes

    def conv(kind: str, e: int, z: Tensor) -> Tensor:
        place = EDGES[e][-1] if run.options.shared_features else e
        return run.conv_norm(run.relu(z), f"{cell}.{kind}.{place}")

    applied = {
        0: lambda _e, z: 0 * z,
        1: lambda _e, z: z,
        2: partial(conv, "conv1x1"),
        3: partial(conv, "conv3x3"),
        4: lambda _e, z: functional.avg_pool2d(z, 3, 1, 1, count_include_pad=False),
    }
    weighted = run.options.edge_weights
    always = run.options.partial_channels > 1 or run.options.auxiliary_skip
    return node(3)[0]


def reduction(run: Pass, x: Tensor, name: str) -> Tensor:
    y = run.conv_norm(run.relu(x), f"{name}.first", 2)
    y = run.conv_norm(run.relu(y), f"{name}.second")
    halves = functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    return y + run.conv(halves, f"{name}.shortcut")


def nb201(run: Pass, x: Tensor, cells: Sequence[Rows]) -> Tensor:
    """Return the scores of NAS-Bench-201's network, "n classes"."""
    x, stages = run.conv_norm(x, "stem"), {len(cells) // 3: "reduce.0", 2 * len(cells) // 3: "reduce.1"}
    for index, rows in enumerate(cells):
        x = reduction(run, x, stages[index]) if index in stages else x
        x = nb201_cell(run, rows, x, f"cell.{index}")
    return plain.head(run.relu(run.norm(x)), run.parameters)
