"""One HTML file with the figures, plots and examples of an evaluation, which loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from geosod.evaluation.examples import Example, draw_examples
from geosod.evaluation.figures import Evaluation
from geosod.evaluation.plots import draw_plots
from geosod.evaluation.tables import Table, tables_of
from geosod.version import __version__

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; margin: .8em 0 }
th, td { padding: .2em .9em .2em 0; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.plots, .examples { display: flex; flex-wrap: wrap; gap: 1em }
figure { margin: 0; width: 256px } figure img { width: 256px } figcaption { font-size: .8em; overflow-wrap: anywhere }
.note { color: #8a4b00 }
"""
_KINDS = {
    "hit": "Hits (drawn at random)",
    "false alarm": "False alarms (highest scores)",
    "miss": "Misses (drawn at random)",
}


def report(result: Evaluation) -> str:
    """The report of an evaluation: tables, plots and crops. Labels are drawn dashed, detections solid.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>geosod evaluate</title>",
        f"<style>{_STYLE}</style></head><body><h1>Detections compared with labels</h1>",
        f"<p>{escape(summary(result))}</p>",
        *(f"<p class='note'>{escape(note)}</p>" for note in result.notes),
        *map(_table, tables_of(result)),
    ]
    if result.boxes is not None:
        plots = draw_plots(result.boxes)
        parts.append("<div class='plots'>")
        parts += [f"<div><h2>{escape(title)}</h2>{svg}</div>" for title, svg in plots.items()]
        parts.append("</div>")
    if result.matches is not None:
        parts += _examples(draw_examples(result.comparison, result.matches))
    parts.append(f"<p>geosod {escape(__version__)}</p></body></html>")
    return "\n".join(parts)


def summary(result: Evaluation) -> str:
    """One line about what was compared."""
    ignored = f", {result.ignored:,} more that count neither way" if result.ignored else ""
    return f"{result.images:,} images, {result.objects:,} objects{ignored}, {result.detections:,} detections"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"


def _examples(examples: Iterable[Example]) -> Sequence[str]:
    parts = []
    for kind, group in groupby(examples, key=lambda example: example.kind):
        parts.append(f"<h2>{escape(_KINDS[kind])}</h2><div class='examples'>")
        for example in group:
            picture = f"<img src='{example.picture}' alt=''>" if example.picture else ""
            parts.append(f"<figure>{picture}<figcaption>{escape(example.caption)}</figcaption></figure>")
        parts.append("</div>")
    return parts
