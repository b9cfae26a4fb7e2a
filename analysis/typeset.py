"""A table of statements as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Cell:
    """Text with the numbers behind it.

    Attributes:
        text: as printed.
        numbers: name to value, for CSV; empty where the cell is a label.
        bold: the best of its column, beyond its interval.
    """

    text: str
    numbers: tuple[tuple[str, float], ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table with a caption that carries its protocol."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str


def markdown(sheet: Sheet) -> str:
    """Return the table as Markdown."""
    lines = [sheet.header, ["---"] * len(sheet.header)]
    lines += [[f"**{cell.text}**" if cell.bold else cell.text for cell in row] for row in sheet.rows]
    body = "\n".join(f"| {' | '.join(part.replace('|', chr(92) + '|') for part in line)} |" for line in lines)
    return f"### {sheet.title}\n\n{body}\n\n{sheet.caption}\n"


def latex(sheet: Sheet) -> str:
    """Return the table as a LaTeX float in the style of booktabs."""
    lines = [" & ".join(_escaped(name) for name in sheet.header) + r" \\", r"\midrule"]
    for row in sheet.rows:
        texts = [_escaped(cell.text) for cell in row]
        pairs = zip(row, texts, strict=True)
        lines.append(" & ".join(rf"\textbf{{{text}}}" if cell.bold else text for cell, text in pairs) + r" \\")
    columns = "l" + "r" * (len(sheet.header) - 1)
    body = "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"])
    caption = _escaped(f"{sheet.title}. {sheet.caption}")
    return f"\\begin{{table}}\n\\centering\n{body}\n\\caption{{{caption}}}\n\\end{{table}}\n"


def comma_separated(sheet: Sheet) -> str:
    """Return the numbers as CSV, one column a number, missing ones empty; labels keep their column's name.

    Shares are fractions here: the per cent sign of a column's name belongs to its text.
    """
    numeric = [any(cell.numbers for cell in column) for column in zip(*sheet.rows, strict=True)]
    records = []
    for row in sheet.rows:
        record: dict[str, str] = {}
        for name, cell, numbers in zip(sheet.header, row, numeric, strict=True):
            fields = cell.numbers if numbers else (("", cell.text),)
            column = name.removesuffix(" %") if numbers else name
            record |= {f"{column} {part}".strip(): _plain(value) for part, value in fields}
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Sheet], str]]] = {
    "markdown": (".md", markdown),
    "latex": (".tex", latex),
    "csv": (".csv", comma_separated),
}


def save(sheet: Sheet, stem: Path, name: str) -> Path:
    """Write a table in one of the formats and return its path."""
    suffix, written = FORMATS[name]
    path = stem.with_name(stem.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written(sheet), encoding="utf-8")
    return path


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "λ": r"$\lambda$",
    "α": r"$\alpha$", "≤": r"$\le$", "‖": r"$\Vert$", "ε": r"$\varepsilon$", "†": r"$\dagger$", "×": r"$\times$",
    "β": r"$\beta$", "Λ": r"$\Lambda$",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _plain(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else repr(float(value))


def statement(values: Sequence[float], digits: Callable[[float], str], bold: bool = False) -> Cell:
    """Return mean ± standard deviation over seeds; one seed alone has no deviation, none at all is a dash."""
    known = np.asarray([value for value in values if np.isfinite(value)], dtype=np.float64)
    if not len(known):
        return Cell("–", (("mean", np.nan), ("std", np.nan), ("n", 0.0)))
    mean, std = float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else np.nan
    text = digits(mean) if np.isnan(std) else f"{digits(mean)} ± {digits(std)}"
    return Cell(text, (("mean", mean), ("std", std), ("n", float(len(known)))), bold)


def spread(values: Sequence[float], digits: Callable[[float], str]) -> Cell:
    """Return the least and the greatest value over seeds; none at all is a dash."""
    known = [float(value) for value in values if np.isfinite(value)]
    if not known:
        return Cell("–", (("min", np.nan), ("max", np.nan)))
    return Cell(f"{digits(min(known))}–{digits(max(known))}", (("min", min(known)), ("max", max(known))))
