"""Puts tables into the documentation, between the lines that mark their places.

A table called ``startup`` replaces what is between ``<!-- table: startup -->`` and the next ``<!-- end -->``, in
whichever file these are; the text around them is written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.machine import described
from benchmarks.runner import Results
from benchmarks.table import Table

#: The documentation.
DOCS = Path(__file__).parents[1] / "docs"
_PLACE = re.compile(r"(?P<begin><!-- table: (?P<name>[\w.-]+) -->\n)(?P<old>.*?)(?P<end><!-- end -->)", re.DOTALL)


def update_docs(folder: Path, results: Results) -> None:
    """Replace the tables that were measured, in every Markdown file of a folder; prints what has no place."""
    tables = {table.name: table for found in results.tables.values() for table in found}
    placed: set[str] = set()
    for path in sorted(folder.glob("*.md")):
        before = path.read_text()
        after, names = placed_tables(before, tables, described(results.machine))
        placed |= names
        if after != before:
            path.write_text(after)
            print(f"updated {path}")
    for name in sorted(set(tables) - placed):
        print(f"no file of {folder} has the line <!-- table: {name} -->")


def placed_tables(text: str, tables: dict[str, Table], measured_on: str) -> tuple[str, set[str]]:
    """A text with new tables in their places, and the names of these; other places stay as they are."""
    names: set[str] = set()

    def replace(place: re.Match[str]) -> str:
        table = tables.get(place["name"])
        if table is None:
            return place[0]
        names.add(table.name)
        return f"{place['begin']}\n{table.as_markdown()}\n\n*{measured_on}*\n{place['end']}"

    return _PLACE.sub(replace, text), names
