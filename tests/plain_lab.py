"""Resources whose networks are plain ones: a loop over seeds, and what is used worked out path by path."""

from collections.abc import Iterator
from dataclasses import dataclass

import labs
import numpy as np
import plain_nets
import torch
from torch import Tensor, nn

from bench.lab import Lab
from searchers.base import (
    Active,
    Address,
    Batch,
    Choices,
    DataPolicy,
    Evaluation,
    ForwardInputs,
    Group,
    Horizon,
    StepBatches,
    Supernet,
    SupernetOptions,
)

PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""The ways from a NAS-Bench-201 cell's input to its output, as numbers of edges."""


class PlainSupernet(labs.Network):
    """The function of a fast network, with its parameters, computed by `plain_nets`."""

    def __init__(self, fast: Supernet, options: SupernetOptions) -> None:
        super().__init__()
        for path, value in fast.named_parameters():
            _hold(self, path.split("."), value)
        self.groups, self.cells, self.replicas, self.options = fast.groups, fast.cells, fast.replicas, options
        self.read = {group.name for group in fast.groups} - {group.name for group in options.groups}
        self.one_shot = "out" in self.read

    def compute(self, images: Tensor, choices: Choices, inputs: ForwardInputs) -> Tensor:
        parameters = {name: value.unbind() for name, value in self.named_parameters()}
        network = plain_nets.one_shot if self.one_shot else plain_nets.nb201
        scores = []
        for replica, own in enumerate(images):
            mine = {name: values[replica] for name, values in parameters.items()}
            rows = [plain_nets.rows_of(choices, inputs, cell, replica) for cell in range(self.cells)]
            scores.append(network(plain_nets.Pass(mine, self.options, inputs, replica), own, rows))
        return torch.stack(scores)

    def address(self, name: str) -> Address | None:
        first, *rest = name.split(".")
        if first != "cell":
            return None
        cell, kind, place = int(rest[0]), rest[1], rest[2]
        if kind == "project_out":
            return Address(cell, "out", 0, 0)
        if kind == "project":
            group = f"in_{int(place) + 1}"
            chosen = any(each.name == group for each in self.groups)
            return Address(cell, group, 0, 0) if chosen else Address(cell, "op", int(place), None)
        option = {"conv1x1": 2, "conv3x3": 1 if self.one_shot else 3}[kind]
        leaving = tuple(e for e, label in enumerate(plain_nets.EDGES) if label[-1] == place)
        shared = self.options.shared_features and not self.one_shot
        return Address(cell, "op", leaving if shared else int(place), option)

    def live(self, active: Active) -> Active:
        found = {name: mask.copy() for name, mask in active.items()}
        for cell, replica in np.ndindex(active["op"].shape[:2]):
            own = {name: mask[cell, replica] for name, mask in found.items() if name in self.read}
            (_one_shot if self.one_shot else self._nb201)(own)
        return found

    def _nb201(self, own: dict[str, np.ndarray]) -> None:
        """Leave only options on a way from the input to the output, in place; `none` is on no way."""
        own["op"][:, 0] = False
        passes = own["op"].any(1)
        if self.options.partial_channels > 1 or self.options.auxiliary_skip:
            passes[:] = True
        gates = [own[f"in_{node}"] for node in (1, 2, 3)] if self.options.edge_weights else []
        if gates:
            passes &= np.concatenate(gates, 1)[0]
        open_edges = {e for path in PATHS if passes[list(path)].all() for e in path}
        closed = [e for e in range(6) if e not in open_edges]
        own["op"][closed] = False
        for e in closed if gates else []:
            gates[(0, 1, 1, 2, 2, 2)[e]][0, (0, 0, 1, 0, 1, 2)[e]] = False


def _hold(module: nn.Module, path: list[str], value: Tensor) -> None:
    """Register a copy of a parameter under its path, through modules that do nothing."""
    first, *rest = path
    if not rest:
        module.register_parameter(first, nn.Parameter(value.detach().clone()))
        return
    if first not in module._modules:
        module.add_module(first, nn.Module())
    _hold(module.get_submodule(first), rest, value)


def _one_shot(own: dict[str, np.ndarray]) -> None:
    """Leave only options of nodes that the output reads, directly or through others, in place."""
    nodes = range(1, 1 + len(own["op"]))

    def reads(later: int, node: int) -> bool:
        group = f"in_{later}"
        return used(later) and bool(own[group][0, node] if group in own else own["op"][later - 1].any())

    def used(node: int) -> bool:
        return bool(own["out"][0, node]) or any(reads(later, node) for later in nodes if later > node)

    for node in [node for node in nodes if not used(node)]:
        own["op"][node - 1] = False
        if f"in_{node}" in own:
            own[f"in_{node}"][:] = False


@dataclass(frozen=True)
class PlainLab:
    """A laboratory that builds plain networks with the weights of the fast ones."""

    lab: Lab

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.lab.groups

    @property
    def replicas(self) -> int:
        return self.lab.replicas

    @property
    def horizon(self) -> Horizon:
        return self.lab.horizon

    @property
    def device(self) -> torch.device:
        return self.lab.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lab.dtype

    @property
    def curvature_replicas(self) -> int | None:
        return self.lab.curvature_replicas

    def build(self, options: SupernetOptions) -> Supernet:
        return PlainSupernet(self.lab.build(options), options)

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        return self.lab.evaluate(network, choices, split, batches)

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        return self.lab.served(policy, epoch)

    def probe(self) -> Batch:
        return self.lab.probe()

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        return self.lab.stream(name, step)
