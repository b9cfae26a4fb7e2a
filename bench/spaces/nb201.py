"""The space of NAS-Bench-201 (the topology space of NATS-Bench).

Source: Dong and Yang (2020), NAS-Bench-201, https://arxiv.org/abs/2001.00326, section 2; the equivalence string follows
the rule of their section on isomorphic cells. Keys are architecture strings: all 15,625 cells are in the table.
"""

import itertools
from collections.abc import Iterator

from bench.spaces.base import Genotype, NetworkSize
from bench.supernet.nb201 import EDGES, NONE, OPERATIONS, SKIP, NB201Supernet
from searchers.base import Group, SupernetOptions


class NB201Space:
    """Six edges with five operations each."""

    name = "nb201"
    published = NetworkSize(channels=16, cells=5)

    def __init__(self) -> None:
        parametric, targets = (False, False, True, True, False), tuple(target for _, target in EDGES)
        self.groups = (Group("op", len(EDGES), OPERATIONS, parametric=parametric, targets=targets),)

    def supernet(self, size: NetworkSize, replicas: int, options: SupernetOptions) -> NB201Supernet:
        return NB201Supernet(self.groups, replicas, size, options)

    def key(self, genotype: Genotype) -> str:
        nodes = []
        for target in (1, 2, 3):
            incoming = [(e, source) for e, (source, to) in enumerate(EDGES) if to == target]
            nodes.append("|".join(f"{OPERATIONS[genotype['op'][e][0]]}~{source}" for e, source in incoming))
        return "+".join(f"|{node}|" for node in nodes)

    def structure(self, genotype: Genotype) -> str:
        return unique_string(genotype)

    def describe(self, genotype: Genotype) -> str:
        return self.key(genotype)

    def cells(self) -> Iterator[Genotype]:
        for picks in itertools.product(range(len(OPERATIONS)), repeat=len(EDGES)):
            yield Genotype((("op", tuple((pick,) for pick in picks)),))

    def size(self) -> int:
        return len(OPERATIONS) ** len(EDGES)

    def multiplicities(self) -> dict[str, int]:
        return {self.key(genotype): 1 for genotype in self.cells()}


def unique_string(genotype: Genotype) -> str:
    """Return the string that cells of one structure share: zeros and skips removed, sums sorted.

    There are 6,466 of them. It is not full functional equality: a zero inside a sum stays.
    """
    strings = ["0"]
    for target in (1, 2, 3):
        terms = [_term(genotype["op"][e][0], strings[source]) for e, (source, to) in enumerate(EDGES) if to == target]
        strings.append("+".join(sorted(terms)))
    return strings[3]


def _term(option: int, source: str) -> str:
    if option == NONE or source == "#":
        return "#"
    return source if option == SKIP else f"({source})@{OPERATIONS[option]}"


def parse(text: str) -> Genotype:
    """Read an architecture string.

    Raises:
        ValueError: the string is not of the form "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|".
    """
    nodes = [node.strip("|").split("|") for node in text.split("+")]
    found: dict[tuple[int, int], int] = {}
    for target, node in enumerate(nodes, start=1):
        for term in node:
            name, _, source = term.partition("~")
            if name in OPERATIONS and source.isdecimal():
                found[int(source), target] = OPERATIONS.index(name)
    if set(found) != set(EDGES) or sum(map(len, nodes)) != len(EDGES):
        raise ValueError(f"expected '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|' with ops of {OPERATIONS}, got {text!r}")
    return Genotype((("op", tuple((found[edge],) for edge in EDGES)),))
