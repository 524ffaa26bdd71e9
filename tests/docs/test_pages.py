"""What README and the pages of docs/ show is run where it can be, and counted where it cannot."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pytest
import shapely
import torch
from typer._click.exceptions import UsageError

import geosod
from geosod.cli.commands import COMMANDS, command_of
from geosod.cli.lazy import LazyGroup
from tests.cli.commands import geosod as run_geosod
from tests.docs.pages import PAGES, ROOT, RUN, Block, blocks

#: Pages whose code other tests run as it stands.
ELSEWHERE = {
    "adapters.md": "tests/detectors/test_contract.py",
    "ingestion.md": "tests/ingest/test_docs.py",
    "service.md": "tests/serving/test_clients.py",
}
#: Blocks that are marked `no-run`, over all pages. Raise it with care: what is not run goes out of date.
MOST_MARKED = 74
ALL = [block for page in PAGES for block in blocks(page)]
_SHELL = re.compile(r"[|<>&;$]|^\w+=")


def to_run(page: str) -> list[Block]:
    """The code of a page that this file runs."""
    return [one for one in blocks(page) if one.language in RUN and one.reason is None and page not in ELSEWHERE]


def test_code_that_is_not_run_says_why_and_is_counted() -> None:
    marked = [one for one in ALL if one.reason is not None]
    ran = sum(len(to_run(page)) for page in PAGES)
    print(f"{ran} blocks are run here, {len(marked)} are marked:")
    for reason, count in Counter(one.reason for one in marked).most_common():
        print(f"{count:4}  {reason}")
    assert all(one.language in RUN for one in marked), "only what would be run needs a mark"
    assert len(marked) <= MOST_MARKED and ran >= 50


def test_commands_are_fenced() -> None:
    """Indented code has no language, so it would be overlooked."""
    for page, path in PAGES.items():
        fenced = re.sub(r"^ *```.*?^ *```$", "", path.read_text("utf-8"), flags=re.M | re.S)
        assert not re.search(r"^ {4,}(\$ )?(geosod|pip|make|python) ", fenced, re.M), page


def commands(block: Block) -> list[list[str]]:
    """The words after `geosod` of every command in a block."""
    found = []
    for line in block.commands():
        parts = re.findall(r"(?:^|[|;&] |\w=\S* )geosod ([^|;&>]*)", line)
        found += [shlex.split(part.replace("…", "X"), comments=True) for part in parts]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    """Of all commands, those that are not run, too."""
    for block in (one for one in blocks(page) if one.language in ("sh", "console")):
        for words in commands(block):
            where = f"{page}:{block.line}: geosod {' '.join(words)}"
            if words[0].startswith("-"):
                continue
            group = COMMANDS.get(words[0])
            path = words[:2] if isinstance(group, LazyGroup) else words[:1]
            try:
                command_of(*path).make_context("geosod", words[len(path) :], resilient_parsing="--help" in words)
            except KeyError:
                pytest.fail(f"{where}: there is no such command")
            except UsageError as error:
                pytest.fail(f"{where}: {error.format_message()}")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
def test_the_page_is_true(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makes_out = any("-o out" in one.text for one in to_run(page))
    for entry in world.iterdir():
        if entry.name == "scenes" or (entry.name == "out" and not makes_out):
            shutil.copytree(entry, tmp_path / entry.name)
        elif entry.name != "out":
            (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{_bin(tmp_path)}:{os.environ['PATH']}")
    names, missing = _names(), []
    for block in to_run(page):
        where = f"{page}:{block.line}"
        if block.language in ("sh", "console"):
            missing += [name for line in block.commands() if (name := _run(line, where))]
        elif block.language == "sql":
            assert duckdb.sql(block.text).fetchall(), where
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif shutil.which("Rscript"):
            subprocess.run(["Rscript", "-e", block.text], check=True)
        else:
            missing.append("Rscript")
    print(f"{page}: not installed here: {missing or 'nothing'}")


def _bin(folder: Path) -> Path:
    """A folder with the command `geosod`, for lines that a shell has to run."""
    found = folder / ".bin"
    found.mkdir()
    (found / "geosod").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m geosod "$@"\n')
    (found / "geosod").chmod(0o755)
    return found


def _names() -> dict[str, Any]:
    """What the Python of the pages has at hand."""
    pixels = np.zeros((3, 128, 128), np.uint8)
    detections = geosod.Detections(boxes=[[0, 0, 9, 9], [1, 0, 9, 9]], scores=[0.9, 0.8], labels=[3, 3])
    batch = {"images": torch.rand(1, 4, 128, 128), "boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]])}
    batch |= {"labels": torch.tensor([1]), "ignored": torch.tensor([False])}
    return batch | {
        "geosod": geosod, "geopandas": geopandas, "duckdb": duckdb, "array": pixels, "detections": detections,
        "polygons": shapely.box([0, 1], [0, 0], [9, 9], [9, 9]), "transform": (0.5, 0, 5e5, 0, -0.5, 5.8e6),
    }  # fmt: skip


def _run(line: str, where: str) -> str | None:
    """Run a line of a shell; the program that is not installed, if one is not."""
    words = shlex.split(line, comments=True)
    if not words:
        return None
    if words[0] == "geosod" and not _SHELL.search(line.partition(" #")[0]):
        expanded = [
            name for word in words[1:] for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        done = run_geosod(*expanded)
        assert done.returncode == 0, f"{where}: {line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return None
    if shutil.which(words[0]) is None and "=" not in words[0]:
        return words[0]
    shell = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert shell.returncode == 0, f"{where}: {line}: {shell.returncode}\n{shell.stdout}{shell.stderr}"
    return None
