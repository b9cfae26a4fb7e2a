"""Identity of a NAS-Bench-101 cell: the published graph hash, implemented from its description.

Source: Ying et al. (2019), NAS-Bench-101: Towards Reproducible Neural Architecture Search,
https://arxiv.org/abs/1902.09635, section 2 (graph hashing after Ying, 2019).
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

LABELS = {"conv3x3-bn-relu": 0, "conv1x1-bn-relu": 1, "maxpool3x3": 2, "input": -1, "output": -2}

Matrix = Sequence[Sequence[int]]


def prune(matrix: Matrix, labels: Sequence[int]) -> tuple[list[list[int]], list[int]] | None:
    """Keep the vertices on a path from the first to the last vertex; None when there is no such path."""
    size = len(matrix)
    forward = _reach(0, lambda v: [u for u in range(size) if matrix[v][u]])
    backward = _reach(size - 1, lambda v: [u for u in range(size) if matrix[u][v]])
    kept = sorted(forward & backward)
    if 0 not in kept or size - 1 not in kept:
        return None
    return [[int(matrix[i][j]) for j in kept] for i in kept], [int(labels[i]) for i in kept]


def _reach(start: int, neighbours: Callable[[int], Iterable[int]]) -> set[int]:
    seen, frontier = {start}, [start]
    while frontier:
        for vertex in neighbours(frontier.pop()):
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
    size = len(kept)
    into = [[i for i in range(size) if adjacency[i][j]] for j in range(size)]
    out = [[j for j in range(size) if adjacency[i][j]] for i in range(size)]
    hashes = [_md5(str((len(out[v]), len(into[v]), kept[v]))) for v in range(size)]
    for _ in range(size):
        hashes = [
            _md5(
                "".join(sorted(hashes[u] for u in into[v]))
                + "|"
                + "".join(sorted(hashes[u] for u in out[v]))
                + "|"
                + hashes[v]
            )
            for v in range(size)
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
