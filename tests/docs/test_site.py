"""The site is built strictly, without the network, and what is generated or drawn is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import geosod
from docs.builder.__main__ import build
from docs.builder.docstrings import as_markdown
from docs.builder.drawings import DRAWINGS
from geosod.config import RunConfig
from geosod.training.config import TrainConfig
from tests.cli.test_commands import ALL
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    return folder / "html"


def test_nothing_is_fetched_by_a_page(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(https?:[^\" >]+)", text)
        loaded += re.findall(r"<link\b[^>]*rel=\"?(?:stylesheet|preconnect|icon)\b[^>]*href=\"?(https?:[^\" >]+)", text)
        assert not loaded, f"{page.name} loads {loaded}"
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?https?:", styles)


def test_marks_of_the_tests_are_not_shown(site: Path) -> None:
    assert not [page.name for page in site.rglob("*.html") if "no-run" in page.read_text("utf-8")]


def test_the_reference_has_everything(site: Path) -> None:
    commands = (site / "reference/commands.html").read_text("utf-8")
    assert all(f"geosod {' '.join(words)}" in commands for words in ALL)
    settings = (site / "reference/settings.html").read_text("utf-8")
    assert all(f"<code>{name}</code>" in settings for model in (RunConfig, TrainConfig) for name in model.model_fields)
    python = (site / "reference/python.html").read_text("utf-8")
    assert all(f'id="{name.lower()}"' in python for name in geosod.__all__ if not name.startswith("_"))


def test_a_broken_link_ends_the_build(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docs.builder import __main__ as builder

    monkeypatch.setitem(builder.GENERATED, "commands.md", lambda: "# Commands\n\n[nowhere](nowhere.md)\n")
    with pytest.raises(builder.subprocess.CalledProcessError):
        build(tmp_path / "site")


def test_a_page_that_the_navigation_lacks_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docs.builder import __main__ as builder

    monkeypatch.setitem(builder.GENERATED, "forgotten.md", lambda: "# Forgotten\n")
    with pytest.raises(SystemExit, match=r"the navigation lacks reference/forgotten\.md"):
        build(tmp_path / "site")


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_current(name: str) -> None:
    path = ROOT / f"docs/images/concept-{name}.svg"
    assert path.read_text("utf-8") == DRAWINGS[name]().svg(), "python -m docs.builder.drawings docs/images"


def test_docstrings_become_lists() -> None:
    def documented() -> None:
        """What it does, with ``code``.

            example = 1

        Args:
            a, b: two,
                on two lines.
            **more: others.

        Returns:
            A value.

        Raises:
            ConfigError: it is wrong.
        """

    assert as_markdown(documented.__doc__ or "") == (
        "What it does, with `code`.\n\n    example = 1\n\n"
        "**Args:**\n\n- `a, b`: two, on two lines.\n- `**more`: others.\n\n\n"
        "**Returns:** A value.\n\n\n**Raises:**\n\n- `ConfigError`: it is wrong.\n"
    )
