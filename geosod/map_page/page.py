"""The HTML of a page: everything is in it, and its policy allows nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from geosod.map_page.columns import Column
from geosod.map_page.library import LICENCE, deck_gl
from geosod.version import __version__

#: Own scripts, in the order in which they are run.
_SCRIPTS = ("columns.js", "boxes.js", "layers.js", "panel.js", "page.js")


def page_html(title: str, values: dict[str, Any], columns: Sequence[Column]) -> str:
    """The page.

    Args:
        title: of the page.
        values: what the scripts get as JSON.
        columns: what they get as arrays.

    Raises:
        ConfigError: the map library is not installed.
    """
    scripts = [deck_gl(), "\n".join(_asset(name) for name in _SCRIPTS)]
    style = _asset("page.css")
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    described = [{"name": one.name, "kind": one.kind} for one in columns]
    values = values | {"columns": described, "version": __version__, "library": LICENCE}
    parts = _asset("page.html").split("{}")
    filled = (
        html.escape(policy),
        html.escape(title),
        style,
        html.escape(title),
        _json(values),
        "\n".join(f'<script type="text/plain" id="column-{k}">{one.text}</script>' for k, one in enumerate(columns)),
        *scripts,
    )
    return "".join(text for pair in zip(parts, (*filled, ""), strict=True) for text in pair)


def _asset(name: str) -> str:
    return files("geosod.map_page").joinpath("assets", name).read_text("utf-8")


def _digest(text: str) -> str:
    """How a content security policy names an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(values: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
