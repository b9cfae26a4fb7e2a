"""The spaces S1, S2 and S3 of NAS-Bench-1Shot1, and `toy`, a small one of the same build.

Source: Zela, Siems, Hutter (2020), NAS-Bench-1Shot1, https://arxiv.org/abs/2001.10422, section 3 and table 1. These are
not the spaces S1-S4 of RobustDARTS. Node 0 is the cell input, nodes 1..S are choice blocks, then the output. A
node's parents are a fixed number of earlier nodes; where that number equals all earlier nodes there is no choice.
Encodings have loose ends: nodes that do not reach the output are pruned before hashing, as NAS-Bench-101 does.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bench.spaces.base import Genotype, NetworkSize
from bench.spaces.graph101 import LABELS, graph_hash, prune
from bench.supernet.one_shot import OPERATIONS, OneShotSupernet
from searchers.base import Group, SupernetOptions


@dataclass(frozen=True)
class Topology:
    """How many parents each choice block keeps, in order, and the output."""

    parents: tuple[int, ...]
    out_parents: int

    @property
    def nodes(self) -> int:
        return len(self.parents)


S1 = Topology((1, 2, 2, 2), 2)
S2 = Topology((1, 1, 2, 2), 3)
S3 = Topology((1, 1, 1, 2, 2), 2)
TOY = Topology((1, 1), 2)


class OneShotSpace:
    """A space of NAS-Bench-1Shot1 given by its topology; keys are NAS-Bench-101 hashes."""

    published = NetworkSize(channels=16, cells=3)

    def __init__(self, name: str, topology: Topology) -> None:
        self.name, self.topology = name, topology
        self.groups = _groups(topology)

    def supernet(self, size: NetworkSize, replicas: int, options: SupernetOptions) -> OneShotSupernet:
        return OneShotSupernet(self.groups, self.topology.nodes, replicas, size, options)

    def matrix(self, genotype: Genotype) -> list[list[int]]:
        """Return the adjacency of input, choice blocks and output, loose ends included."""
        nodes = self.topology.nodes
        chosen = dict(genotype.picks)
        matrix = [[0] * (nodes + 2) for _ in range(nodes + 2)]
        for node in range(1, nodes + 1):
            for parent in chosen[f"in_{node}"][0] if f"in_{node}" in chosen else range(node):
                matrix[parent][node] = 1
        for parent in chosen["out"][0]:
            matrix[parent][nodes + 1] = 1
        return matrix

    def operations(self, genotype: Genotype) -> list[str]:
        return ["input", *(OPERATIONS[kept[0]] for kept in genotype["op"]), "output"]

    def key(self, genotype: Genotype) -> str:
        return graph_hash(self.matrix(genotype), [LABELS[name] for name in self.operations(genotype)])

    def structure(self, genotype: Genotype) -> str:
        return self.key(genotype)

    def describe(self, genotype: Genotype) -> str:
        """Return the pruned cell as "rows of the adjacency | operations | hash"."""
        names = self.operations(genotype)
        pruned = prune(self.matrix(genotype), list(range(len(names))))
        assert pruned is not None  # node 1's parent is the input and every node's parents precede it
        rows = "/".join("".join(map(str, row)) for row in pruned[0])
        return f"{rows} | {','.join(names[i] for i in pruned[1])} | {self.key(genotype)}"

    def cells(self) -> Iterator[Genotype]:
        tables = [list(itertools.product(itertools.combinations(range(g.shape[1]), g.keep), repeat=g.decisions))
                  for g in self.groups]  # fmt: skip
        for picks in itertools.product(*tables):
            yield Genotype(tuple((g.name, pick) for g, pick in zip(self.groups, picks, strict=True)))

    def size(self) -> int:
        return sum(self._wirings.values()) * len(OPERATIONS) ** self.topology.nodes

    def multiplicities(self) -> dict[str, int]:
        """Count encodings by pruned wiring first: the operations of pruned nodes do not matter."""
        counts: Counter[str] = Counter()
        options = [LABELS[name] for name in OPERATIONS]
        for (rows, kept), wirings in self._wirings.items():
            free = len(OPERATIONS) ** (self.topology.nodes - (len(kept) - 2))
            for labels in itertools.product(options, repeat=len(kept) - 2):
                counts[graph_hash(rows, [-1, *labels, -2])] += wirings * free
        return dict(counts)

    @cached_property
    def _wirings(self) -> Counter[tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]]:
        """Count the choices of parents by pruned adjacency and kept nodes."""
        edges = [g for g in self.groups if g.kind == "edge"]
        fixed = ("op", ((0,),) * self.topology.nodes)
        counts: Counter[tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = Counter()
        for picks in itertools.product(*(itertools.combinations(range(g.shape[1]), g.keep) for g in edges)):
            genotype = Genotype((fixed, *((g.name, (pick,)) for g, pick in zip(edges, picks, strict=True))))
            pruned = prune(self.matrix(genotype), list(range(self.topology.nodes + 2)))
            assert pruned is not None
            counts[tuple(map(tuple, pruned[0])), tuple(pruned[1])] += 1
        return counts


def _groups(topology: Topology) -> tuple[Group, ...]:
    groups = [Group("op", topology.nodes, OPERATIONS, parametric=(False, True, True))]
    for node, keep in enumerate(topology.parents, start=1):
        if keep < node:
            groups.append(Group(f"in_{node}", 1, _nodes(node), "edge", keep))
    groups.append(Group("out", 1, _nodes(topology.nodes + 1), "edge", topology.out_parents))
    return tuple(groups)


def _nodes(count: int) -> tuple[str, ...]:
    return ("input", *(f"node_{i}" for i in range(1, count)))
