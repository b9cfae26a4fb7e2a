"""What a measurement gives back: one table of plain numbers, and how to read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.setup import Bench
from searchers.entry import Method

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column: the rows' field, its heading with the unit, and how numbers are written."""

    field: str
    title: str
    form: str = ""

    def text(self, row: Mapping[str, Value]) -> str:
        value = row[self.field]
        if value is None:
            return "–"
        return value if isinstance(value, str) else format(value, self.form)


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        about: what the rows are and how they were measured, in a few sentences.
        rows: of one measurement; every field that a column names, and others that only the JSON file has.
    """

    title: str
    about: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Value]]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: measured rounds; one before them warms up.
        most: widest stack.
        spectrum: whether the whole spectrum is measured too, which takes minutes at the papers' width.
    """

    rounds: int = 5
    most: int = 16
    spectrum: bool = True

    def widths(self, *wanted: int) -> list[int]:
        """Return those of the wanted widths that are not too wide."""
        return [width for width in wanted if width <= self.most]


Part = Callable[[Bench, Sequence[Method], Plan], list[Section]]
"""One measurement; the methods are those asked for, and all but the last part measure the first of them."""
