"""The progress of `geosod.detect` in a notebook or a script."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from rich.live import Live

from geosod.cli.progress import RunProgress
from geosod.cli.timing import Clock
from geosod.running.events import Emit, Event

#: Seconds between drawings in a notebook.
_REDRAW_EVERY = 0.25


@contextmanager
def progress() -> Iterator[Emit]:
    """Show how far a run is, in a notebook or on a terminal; nothing is left of it at the end.

        with geosod.progress() as on_event:
            result = geosod.detect("scenes", model="demo-harbour", on_event=on_event)

    Returns:
        What `geosod.detect` takes as `on_event`.
    """
    run, clock = RunProgress(Clock().now), Clock()
    with _drawn(clock) as redraw:

        def on_event(event: Event) -> None:
            run.add(event)
            clock.update(run.status())
            redraw()

        yield on_event


@contextmanager
def _drawn(clock: Clock) -> Iterator[Callable[[], None]]:
    """The function that draws the status of a clock, and draws it from time to time only."""
    if not _in_notebook():
        with Live(get_renderable=clock.moment, refresh_per_second=4, transient=True):
            yield lambda: None  # it draws by itself
        return
    handle, drawn = _display(_as_html(clock)), clock.now()

    def redraw() -> None:
        nonlocal drawn
        if clock.now() - drawn >= _REDRAW_EVERY:
            drawn = clock.now()
            handle.update(_html(_as_html(clock)))

    try:
        yield redraw
    finally:
        handle.update(_html(""))


def _in_notebook() -> bool:
    """Whether output goes to a notebook. rich would need ipywidgets there."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _as_html(clock: Clock) -> str:
    moment = clock.moment()
    fraction = moment.status.fraction
    value = "" if fraction is None else f' value="{fraction:.3f}"'
    return f'<progress max="1"{value} style="width:16em"></progress> {escape(moment.in_words())}'


def _display(text: str) -> Any:
    from IPython.display import display

    return display(_html(text), display_id=True)  # type: ignore[no-untyped-call]


def _html(text: str) -> Any:
    from IPython.display import HTML

    return HTML(text)  # type: ignore[no-untyped-call]
