"""Build the site: ``python -m docs.builder [FOLDER]``.

The pages of docs/ are copied, those of reference are generated beside them, and Zensical builds strictly: a broken link
is an error. Nothing is fetched.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from docs.builder.reference import commands_page, python_page, settings_page

ROOT = Path(__file__).parents[2]
_NAVIGATION = Path(__file__).with_name("zensical.toml")
#: Generated pages by file; the navigation in zensical.toml has them.
GENERATED = {"commands.md": commands_page, "settings.md": settings_page, "python.md": python_page}
_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")
_FENCE = re.compile(r"^( *```\w+) no-run: .*$", re.M)


def build(target: Path) -> None:
    """Build the site into a folder, which is replaced.

    Raises:
        CalledProcessError: a page has a broken link, or is missing in the navigation.
    """
    shutil.rmtree(target, ignore_errors=True)
    pages = target / "pages"
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("builder", "__*__*"))
    for page in sorted(pages.rglob("*.md")):
        page.write_text(_as_page(page.read_text("utf-8"), pages), "utf-8")
    (pages / "reference").mkdir()
    for name, make in GENERATED.items():
        (pages / "reference" / name).write_text(make(), "utf-8")
    shutil.copy(_NAVIGATION, target)
    missing = {page.relative_to(pages).as_posix() for page in pages.rglob("*.md")} - set(_listed(target))
    if missing:
        raise SystemExit(f"zensical.toml: the navigation lacks {', '.join(sorted(missing))}")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=target, check=True)


def _as_page(text: str, pages: Path) -> str:
    """A page without marks that are for the tests, with the files outside docs/ that it links to beside it."""

    def local(match: re.Match[str]) -> str:
        file = ROOT / match[1]
        copy = pages / "files" / f"{file.name}.txt"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
        return f"](files/{copy.name})"

    return _OUTSIDE.sub(local, _FENCE.sub(r"\1", text))


def _listed(folder: Path) -> list[str]:
    """The pages of the navigation."""

    def pages(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        values = entries.values() if isinstance(entries, dict) else entries
        return [page for value in values for page in pages(value)]  # type: ignore[attr-defined]

    return pages(tomllib.loads((folder / "zensical.toml").read_text())["project"]["nav"])


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else "site").absolute())
