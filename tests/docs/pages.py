"""The pages, and the code in their fences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
#: Languages whose code is run.
RUN = {"sh", "console", "python", "sql", "r"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<note>[^\n]*)\n(?P<text>.*?)^ *```$", re.M | re.S)
_MARK = re.compile(r" no-run: (?P<reason>.{5,})")


@dataclass(frozen=True)
class Block:
    """Code in a fence.

    Attributes:
        page: file of the page.
        line: of the fence, from 1.
        language: as the fence says.
        reason: why it is not run; None where it is.
        text: the code, without the indent of the fence.
    """

    page: str
    line: int
    language: str
    reason: str | None
    text: str

    def commands(self) -> list[str]:
        """The lines of a shell, continued lines as one; of a console those behind a prompt."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip()]


def blocks(page: str) -> list[Block]:
    """The code of a page, in order."""
    text, found = PAGES[page].read_text("utf-8"), []
    for match in _FENCE.finditer(text):
        note, indent = match["note"], len(match["indent"])
        mark = _MARK.fullmatch(note)
        assert mark or not note.strip(), f"{page}: ```{match['language']}{note}: write no-run: REASON, or nothing"
        code = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, match["language"], mark["reason"] if mark else None, code))
    return found
