"""Pieces of a self-contained HTML page: tables that can be sorted, figures as inline SVG, the page around them."""

import re
from collections.abc import Sequence
from html import escape
from importlib import resources

import numpy as np

from analysis.typeset import Cell, Sheet


def table(sheet: Sheet, name: str, row_spaces: Sequence[str] = ()) -> str:
    """Return a sortable table; rows below the methods (references, published) keep their place when it is sorted.

    Args:
        sheet: its caption is left to the caller.
        name: the table's id in the page.
        row_spaces: the space of every row, where they differ.
    """
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(title)}</button></th>'
        for title in sheet.header
    )
    spaces = row_spaces or [""] * len(sheet.rows)
    rows = "\n".join(_row(row, space) for row, space in zip(sheet.rows, spaces, strict=True))
    return (
        f'<div class="scroll"><table class="sortable" id="{escape(name)}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(row: Sequence[Cell], space: str) -> str:
    attributes = f' data-space="{escape(space)}"' if space else ""
    attributes += ' class="reference"' if row[1].text == "–" else ""
    cells = "".join(_cell(cell) for cell in row)
    return f"<tr{attributes}>{cells}</tr>"


def _cell(cell: Cell) -> str:
    text = f"<strong>{escape(cell.text)}</strong>" if cell.bold else escape(cell.text)
    kind = "" if cell.numbers or cell.text == "–" else ' class="text"'
    return f'<td{kind} data-value="{escape(_value(cell))}">{text}</td>'


def _value(cell: Cell) -> str:
    """Return what a cell is sorted by: its first number, else its text; empty where it is missing."""
    if not cell.numbers:
        return "" if cell.text == "–" else cell.text
    number = cell.numbers[0][1]
    return "" if np.isnan(number) else repr(float(number))


def inline(svg: str, label: str) -> str:
    """Return an SVG file as an element of a page: scalable, with a name, its ids those of no other figure."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->\s*", "", element, flags=re.DOTALL)
    head, rest = _numbered(_rounded(element), label).split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{rest}'


def _rounded(element: str) -> str:
    """Round coordinates to thousandths of a point: the layout's last digit differs from one drawing to the next."""

    def shorter(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith("scale") else f"{float(match[0]):.3f}"

    return re.sub(r"scale\([^)]*\)|\d+\.\d{4,}", shorter, element)


def _numbered(element: str, label: str) -> str:
    """Drop the ids that nothing refers to and number the others: matplotlib makes some from memory addresses."""
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', element))
    prefix = re.sub(r"\W+", "-", label)
    names = {old: f"{prefix}-{number}" for number, old in enumerate(used)}

    def renamed(match: re.Match[str]) -> str:
        new = names.get(match[2])
        return f"{match[1]}{new}{match[3]}" if new else ""

    element = re.sub(r'(\sid=")([^"]+)(")', renamed, element)
    return re.sub(r'((?:url\(|href=")#)([^")]+)(["\)])', renamed, element)


def page(title: str, body: str) -> str:
    """Return a whole page with its style and script inside; it loads nothing."""
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">\n"
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("analysis").joinpath("assets", name).read_text(encoding="utf-8")
