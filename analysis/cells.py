"""Decoded cells as graphs: read from the text that records hold, counted over seeds.

A NAS-Bench-201 cell is `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` (operations on edges); a cell of the NAS-Bench-1Shot1
spaces is `rows of the adjacency matrix | operations | hash` (operations on nodes, unreachable ones left out).
"""

import re
from dataclasses import dataclass

import pandas as pd

SHORT = {
    "none": "none", "skip_connect": "skip", "nor_conv_1x1": "1×1", "nor_conv_3x3": "3×3", "avg_pool_3x3": "pool",
    "input": "in", "output": "out", "conv1x1-bn-relu": "1×1", "conv3x3-bn-relu": "3×3", "maxpool3x3": "pool",
}  # fmt: skip
"""Operations as figures name them; pooling is 3×3 throughout."""
ABSENT = "none"
TERM = re.compile(r"([^|~]+)~(\d+)")


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, and edges from an earlier to a later node.

    Attributes:
        nodes: short names; empty where operations are on edges, but for input and output.
        edges: (from, to) to the short name of the operation; empty where operations are on nodes.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]


def read(text: str) -> Graph:
    """Return the graph of a cell's text.

    Raises:
        ValueError: it is neither form.
    """
    on_nodes = [part.strip() for part in text.split(" | ")]
    if len(on_nodes) == 3:
        return _nodes(on_nodes[0].split("/"), on_nodes[1].split(","), text)
    if TERM.search(text):
        return _edges(text)
    raise ValueError(f"expected a cell as 'rows | operations | hash' or '|op~0|+|op~0|op~1|+…', got {text!r}")


def _nodes(rows: list[str], names: list[str], text: str) -> Graph:
    if len(rows) != len(names) or any(len(row) != len(rows) or set(row) - set("01") for row in rows):
        raise ValueError(f"expected a square matrix of 0 and 1 with one operation a row, got {text!r}")
    edges = [(i, j, "") for i, row in enumerate(rows) for j, cell in enumerate(row) if cell == "1"]
    if any(i >= j for i, j, _ in edges):
        raise ValueError(f"expected edges from earlier to later nodes, got {text!r}")
    return Graph(tuple(SHORT.get(name, name) for name in names), tuple(edges))


def _edges(text: str) -> Graph:
    nodes = text.split("+")
    edges = [
        (int(source), to, SHORT.get(name, name))
        for to, node in enumerate(nodes, start=1)
        for name, source in TERM.findall(node)
    ]
    if any(i >= j for i, j, _ in edges):
        raise ValueError(f"expected sources before their targets, got {text!r}")
    return Graph(("in", *[""] * (len(nodes) - 1), "out"), tuple(edges))


def selected(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a space, label and distinct cell that some seed selected at the end, most frequent first.

    Columns: `space`, `label`, `genotype`, `count`, `seeds` (with a cell), `error_test` (NaN where not tabulated). Of a
    run without a final record the last search epoch counts.
    """
    cells = frame.dropna(subset="genotype") if "genotype" in frame else frame.iloc[:0].assign(genotype=None)
    order = cells.assign(last=cells["stage"].eq("final")).sort_values(["last", "epoch"], kind="stable")
    final = order.groupby("run", sort=False).tail(1)
    columns = ["space", "label", "genotype"]
    found = final.groupby(columns, as_index=False).agg(count=("seed", "size"), error_test=("error_test", "first"))
    seeds = final.groupby(columns[:2])["seed"].nunique().rename("seeds").reset_index()
    found = found.merge(seeds, on=columns[:2])
    return found.sort_values(["space", "label", "count", "genotype"], ascending=[True, True, False, True])
