"""The runner of the benchmarks, at sizes that show only that it works; timings are never asserted."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.runner import NAMES
from benchmarks.studies.study import NAMES as STUDIES
from benchmarks.studies.study import read_study
from benchmarks.table import Table
from benchmarks.update_docs import placed_tables

ROOT = Path(__file__).parents[1]
#: Those that take seconds in a quick run.
CHEAP = ("read", "startup", "small", "borders", "gpu")


def bench(*words, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, words)], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The file of results of a quick run, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    file = folder / "results.json"
    return file, bench(*CHEAP, "--quick", "--work", folder, "--json", file).stdout


@pytest.mark.slow
def test_results_are_printed_and_written(quick):
    file, printed = quick
    results = json.loads(file.read_text())
    assert {"date", "processor", "cores", "memory_gib", "python", "versions", "commit"} <= set(results["machine"])
    assert results["failed"] == []
    done = set(results["tables"]) | set(results["unavailable"])
    assert done == set(CHEAP)
    for values in results["tables"].values():
        for table in map(Table.from_json, values):
            assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
            assert f"{table.title}\n{table.as_text()}" in printed
    for reason in results["unavailable"].values():
        assert f"\n{reason}\n" in printed


@pytest.mark.slow
def test_tables_of_the_documentation_are_replaced_and_nothing_else(quick, tmp_path):
    file, _ = quick
    page = tmp_path / "page.md"
    after = "<!-- end -->\n\nAfter.\n<!-- table: x -->\ny\n<!-- end -->\n"
    page.write_text(f"Before.\n\n<!-- table: small -->\nold\n{after}")
    bench("small", "--from", file, "--docs", tmp_path)
    once = page.read_text()
    bench("small", "--from", file, "--docs", tmp_path)
    assert page.read_text() == once
    assert once.startswith("Before.\n\n<!-- table: small -->\n\n| scenes |")
    assert once.endswith(after) and "old" not in once
    assert json.loads(file.read_text())["machine"]["commit"] in once


def test_unknown_names_are_refused_in_one_line():
    done = bench("small", "larger", "--quick", code=2)
    assert done.stderr.count("\n") == 1 and "unknown benchmark larger" in done.stderr and NAMES[0] in done.stderr
    assert not done.stdout


def test_a_quick_run_does_not_change_the_documentation():
    assert "leave out --quick or --docs" in bench("small", "--quick", "--docs", code=2).stderr


def test_every_place_in_the_documentation_has_a_table():
    places = {
        name for page in (ROOT / "docs").glob("*.md") for name in re.findall(r"<!-- table: (\S+) -->", page.read_text())
    }
    sources = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    studies = {study.table(scale) for study in map(read_study, STUDIES) for scale in study.scales}
    assert studies < places and all(f'"{name}"' in sources for name in places - studies)


def test_values_are_shown_with_three_digits():
    values = (1234567, 1234.5, 99.94, 9.994, 0.5, 0.0123, -12.34, 0.0, None, True, False, "a")
    table = Table("t", "T", tuple("abcdefghijkl"), (values,))
    cells = table.as_markdown().splitlines()[2].strip("| ").split(" | ")
    assert cells == ["1,234,567", "1,234", "99.9", "9.99", "0.50", "0.012", "-12.3", "0.00", "–", "yes", "", "a"]


def test_a_table_replaces_only_its_own_place():
    text = "<!-- table: a -->\n1\n<!-- end -->\n<!-- table: b -->\n2\n<!-- end -->\n"
    table = Table.of("b", "B", [{"x": 1}, {"x": 2, "y": 3}])
    placed, names = placed_tables(text, {"b": table}, "a machine")
    assert names == {"b"} and placed.startswith("<!-- table: a -->\n1\n<!-- end -->\n")
    assert "| x | y |\n|---|---|\n| 1 | – |\n| 2 | 3 |\n\n*a machine*\n<!-- end -->\n" in placed
