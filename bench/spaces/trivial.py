"""Cells of a simple rule: what a search must beat to have learned anything."""

from bench.spaces.base import Genotype, Space
from bench.supernet.nb201 import CONV3X3, EDGES, SKIP
from searchers.base import Group


def trivial_cells(space: Space) -> dict[str, Genotype]:
    """Return cells by the name of their rule."""
    return _nb201() if space.name == "nb201" else _one_shot(space)


def _nb201() -> dict[str, Genotype]:
    """Return 3×3 convolutions everywhere, with a skip from input to output, and skips alone (where DARTS ends)."""
    rules = {
        "all conv3x3": [CONV3X3] * len(EDGES),
        "conv3x3, skip 0→3": [SKIP if edge == (0, 3) else CONV3X3 for edge in EDGES],
        "all skip": [SKIP] * len(EDGES),
    }
    return {name: Genotype((("op", tuple((option,) for option in picks)),)) for name, picks in rules.items()}


def _one_shot(space: Space) -> dict[str, Genotype]:
    """Return 3×3 convolutions with the earliest parents (side by side) and with the latest (in a row)."""
    rules = {"conv3x3 side by side": slice(None), "conv3x3 in a row": slice(None, None, -1)}
    return {
        name: Genotype(tuple((group.name, (_kept(group, order),) * group.decisions) for group in space.groups))
        for name, order in rules.items()
    }


def _kept(group: Group, order: slice) -> tuple[int, ...]:
    if group.kind == "op":
        return (group.options.index("conv3x3-bn-relu"),)
    return tuple(sorted(range(len(group.options))[order][: group.keep]))
