"""Two tables row by row: keys, texts, runs, budgets and every number; where they come from is not compared."""

from collections.abc import Sequence

import numpy as np

from bench.tables.data import TableData, columns


def differences(one: TableData, other: TableData, tolerance: float = 0.0, examples: int = 3) -> list[str]:
    """Return what differs, a sentence each; nothing where the tables are equal.

    Args:
        one: called A.
        other: called B.
        tolerance: how far numbers may be apart; a missing number equals only a missing number.
        examples: rows named for each difference.
    """
    found = _fields(one, other)
    found += _missing("rows", one.keys, other.keys, examples)
    columns_a, columns_b = columns(one), columns(other)
    found += _missing("columns", list(columns_a), list(columns_b), examples)
    place = {key: row for row, key in enumerate(other.keys)}
    rows_a = [row for row, key in enumerate(one.keys) if key in place]
    rows_b = [place[one.keys[row]] for row in rows_a]
    keys = [one.keys[row] for row in rows_a]
    for name in sorted(columns_a.keys() & columns_b.keys()):
        found += _apart(name, keys, columns_a[name]()[rows_a], columns_b[name]()[rows_b], tolerance, examples)
    texts = [(key, one.cells[a], other.cells[b]) for key, a, b in zip(keys, rows_a, rows_b, strict=True)]
    wrong = [text for text in texts if text[1] != text[2]]
    return found + _listed("cell", len(texts), [f"{key}: A {a!r}, B {b!r}" for key, a, b in wrong], examples)


def _fields(one: TableData, other: TableData) -> list[str]:
    pairs = {
        name: (getattr(one, name), getattr(other, name))
        for name in ("space", "total_encodings")
        if getattr(one, name) != getattr(other, name)
    }
    return [f"{name}: A has {a!r}, B has {b!r}" for name, (a, b) in pairs.items()]


def _missing(what: str, one: Sequence[str], other: Sequence[str], examples: int) -> list[str]:
    found = []
    for has, lacks, name in ((one, other, "A"), (other, one, "B")):
        only = sorted(set(has) - set(lacks))
        if only:
            more = ", …" if len(only) > examples else ""
            found.append(f"{len(only)} of {len(has)} {what} only in {name}: {', '.join(only[:examples])}{more}")
    return found


def _apart(name: str, keys: Sequence[str], a: np.ndarray, b: np.ndarray, tolerance: float, examples: int) -> list[str]:
    both = ~np.isnan(a) & ~np.isnan(b)
    wrong = np.flatnonzero((np.isnan(a) != np.isnan(b)) | (both & (np.abs(a - b) > tolerance)))
    lines = [f"{keys[row]}: A {_spelt(float(a[row]))}, B {_spelt(float(b[row]))}" for row in wrong.tolist()]
    found = _listed(name, len(keys), lines, examples)
    apart = np.abs(a - b)[both]
    return [f"{line}; largest difference {apart.max():g}" if apart.size else line for line in found[:1]] + found[1:]


def _spelt(value: float) -> str:
    return "nothing" if np.isnan(value) else repr(value)


def _listed(name: str, rows: int, lines: Sequence[str], examples: int) -> list[str]:
    if not lines:
        return []
    return [f"{name}: {len(lines)} of {rows} common rows differ", *(f"    {line}" for line in lines[:examples])]
