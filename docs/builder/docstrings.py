"""Google-style docstrings as Markdown."""

from __future__ import annotations

import inspect
import re

_SECTIONS = {"Args", "Attributes", "Returns", "Yields", "Raises"}
#: Sections of one text, which need no list.
_TEXTS = {"Returns", "Yields"}
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: (?P<text>.*)", re.S)


def as_markdown(docstring: str) -> str:
    """A docstring with its sections as lists, and its indented code as such."""
    parts, lines = [], inspect.cleandoc(docstring).split("\n")
    while lines:
        line = lines.pop(0)
        title = line.removesuffix(":")
        if title != line and title in _SECTIONS:
            body = []
            while lines and (lines[0].startswith("    ") or (not lines[0] and _goes_on(lines))):
                body.append(lines.pop(0)[4:])
            parts.append(_section(title, body))
        else:
            parts.append(line)
    return _single_ticks("\n".join(parts))


def _goes_on(lines: list[str]) -> bool:
    rest = [line for line in lines if line]
    return bool(rest) and rest[0].startswith("    ")


def _section(title: str, body: list[str]) -> str:
    if title in _TEXTS:
        return f"**{title}:** {' '.join(' '.join(body).split())}\n"
    entries: list[list[str]] = []
    for line in body:
        if line and not line.startswith(" "):
            entries.append([line])
        elif entries:
            entries[-1].append(line.strip())
    return f"**{title}:**\n\n" + "\n".join(map(_entry, entries)) + "\n"


def _entry(lines: list[str]) -> str:
    text = " ".join(" ".join(lines).split())
    match = _ENTRY.fullmatch(text)
    return f"- {text}" if match is None else f"- `{match['names']}`: {match['text']}"


def _single_ticks(text: str) -> str:
    """``code`` as `code`, but where it holds a tick."""
    return re.sub(r"``([^`\n]+)``", r"`\1`", text)
