"""Identity of a NAS-Bench-101 cell: the published graph hash, implemented from its description.

Source: Ying et al. (2019), NAS-Bench-101: Towards Reproducible Neural Architecture Search,
https://arxiv.org/abs/1902.09635, section 2 (graph hashing after Ying, 2019).
"""

import hashlib
from collections.abc import Sequence

LABELS = {"conv3x3-bn-relu": 0, "conv1x1-bn-relu": 1, "maxpool3x3": 2, "input": -1, "output": -2}

Matrix = Sequence[Sequence[int]]


def prune(matrix: Matrix, labels: Sequence[int]) -> tuple[list[list[int]], list[int]] | None:
    """Keep the vertices on a path from the first to the last vertex; None when there is no such path."""
    into, out = _neighbours(matrix)
    kept = sorted(_reach(0, out) & _reach(len(matrix) - 1, into))
    if 0 not in kept or len(matrix) - 1 not in kept:
        return None
    return [[int(matrix[i][j]) for j in kept] for i in kept], [int(labels[i]) for i in kept]


def _neighbours(matrix: Matrix) -> tuple[list[list[int]], list[list[int]]]:
    """Return the sources and the targets of every vertex."""
    vertices = range(len(matrix))
    into = [[i for i in vertices if matrix[i][j]] for j in vertices]
    return into, [[j for j in vertices if row[j]] for row in matrix]


def _reach(start: int, neighbours: Sequence[Sequence[int]]) -> set[int]:
    seen, frontier = {start}, [start]
    while frontier:
        for vertex in neighbours[frontier.pop()]:
            if vertex not in seen:
                seen.add(vertex)
                frontier.append(vertex)
    return seen


def graph_hash(matrix: Matrix, labels: Sequence[int]) -> str:
    """Return the 32-digit hash of a cell after pruning.

    Raises:
        ValueError: no path leads from the first to the last vertex.
    """
    pruned = prune(matrix, labels)
    if pruned is None:
        raise ValueError("expected a cell whose output is connected to its input, got one that is not")
    adjacency, kept = pruned
    into, out = _neighbours(adjacency)
    hashes = [_md5(str((len(o), len(i), label))) for i, o, label in zip(into, out, kept, strict=True)]
    for _ in kept:
        hashes = [
            _md5(f"{''.join(sorted([hashes[u] for u in i]))}|{''.join(sorted([hashes[u] for u in o]))}|{own}")
            for i, o, own in zip(into, out, hashes, strict=True)
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
