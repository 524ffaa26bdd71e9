"""A table of plain values, and how the runner shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Value = str | int | float | bool | None
Row = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of a benchmark.

    Attributes:
        name: unique among all tables; marks its place in the documentation.
        title: what it shows.
        columns: their names, units included.
        rows: a value for each column; None where there is none.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    @classmethod
    def of(cls, name: str, title: str, rows: Sequence[Row]) -> Self:
        """A table of rows by column name; columns in the order in which they first occur."""
        columns = tuple(dict.fromkeys(column for row in rows for column in row))
        return cls(name, title, columns, tuple(tuple(row.get(column) for column in columns) for row in rows))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The table of which `dataclasses.asdict` was written as JSON."""
        rows = tuple(tuple(row) for row in values["rows"])
        return cls(values["name"], values["title"], tuple(values["columns"]), rows)

    def as_text(self) -> str:
        """The table for a terminal: text to the left, numbers to the right."""
        cells = [list(self.columns), *([shown(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numbers = [any(isinstance(row[i], int | float) for row in self.rows) for i in range(len(widths))]
        lines = []
        for row in cells:
            padded = [
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, numbers, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def as_markdown(self) -> str:
        """The table as Markdown."""
        rows = [_line(self.columns), f"|{'---|' * len(self.columns)}"]
        return "\n".join([*rows, *(_line([shown(value) for value in row]) for row in self.rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(value: Value) -> str:
    """A value for people: numbers with three digits, or all before the point."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return _three_digits(value)
    return f"{value:,}" if isinstance(value, int) else value


def _three_digits(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.0995:
        return f"{value:.2g}"
    return f"{value:,.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
