"""The units of systemd: checked by systemd itself where it is installed, and their commands by geosod."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geosod.cli.main import app

UNITS = sorted((Path(__file__).parents[2] / "cluster" / "systemd").iterdir())


def verified(folder: Path, units: list[Path]) -> str:
    """What systemd-analyze says of units, whose program is one that exists here."""
    for unit in units:
        (folder / unit.name).write_text(unit.read_text().replace("/usr/local/bin/geosod", "/bin/true"))
    command = ["systemd-analyze", "verify", *(str(folder / unit.name) for unit in units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "geosod" in line)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units_and_finds_a_typo(tmp_path: Path) -> None:
    assert verified(tmp_path, UNITS) == ""
    (tmp_path / "wrong").mkdir()
    wrong = tmp_path / "wrong" / "geosod-wrong.service"
    wrong.write_text(UNITS[1].read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "NoNewPrivilege" in verified(tmp_path, [wrong])


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda unit: unit.name)
def test_commands_of_units_exist(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    words = shlex.split(parser["Service"]["ExecStart"])[1:]
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*words[:2], "--help"]).output
    options = [word for word in words if re.match("--", word)]
    assert options and all(word in shown for word in options)
