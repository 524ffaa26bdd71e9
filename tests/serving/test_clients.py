"""The clients in docs/service.md run as they stand there, but for the port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from geosod.cli.main import app
from tests.rasters import write_tif
from tests.serving.running import Running, drawn, file_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def client(served: Running, folder: Path, language: str, index: int = 0) -> str:
    """The text of a client, for a running service; its image lies in the folder."""
    (folder / "photo.jpg").write_bytes(file_of(drawn(), "JPEG"))
    texts = [text for name, text in BLOCKS if name == language]
    assert "localhost:8080" in texts[index]
    return texts[index].replace("localhost:8080", f"localhost:{served.port}")


def run(folder: Path, *command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python(served: Running, tmp_path: Path) -> None:
    out = run(tmp_path, sys.executable, "-c", client(served, tmp_path, "python"))
    assert len(out.splitlines()) > 5 and Image.open(tmp_path / "found.jpg").size == (120, 96)


def test_curl(served: Running, tmp_path: Path) -> None:
    run(tmp_path, "sh", "-ec", client(served, tmp_path, "sh"))
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["errorCode"] == 0 and len(answer["result"]["detectedObjects"]) > 5


def test_node(served: Running, tmp_path: Path) -> None:
    out = run(tmp_path, "node", "-e", client(served, tmp_path, "js"))
    assert len(out.splitlines()) > 5 and Image.open(tmp_path / "found.jpg").size == (120, 96)


def test_java(served: Running, tmp_path: Path) -> None:
    (tmp_path / "Detect.java").write_text(client(served, tmp_path, "java"))
    assert json.loads(run(tmp_path, "java", "Detect.java"))["errorMsg"] == "Success"


def test_cpp(served: Running, tmp_path: Path) -> None:
    (tmp_path / "detect.cpp").write_text(client(served, tmp_path, "cpp"))
    run(tmp_path, "c++", "-std=c++17", "-Wall", "-Werror", "detect.cpp", "-o", "detect")
    assert len(json.loads(run(tmp_path, str(tmp_path / "detect")))["result"]["detectedObjects"]) > 5


def test_go(served: Running, tmp_path: Path) -> None:
    (tmp_path / "detect.go").write_text(client(served, tmp_path, "go"))
    out = run(tmp_path, "go", "run", "detect.go")
    assert len(out.splitlines()) > 5 and Image.open(tmp_path / "found.jpg").size == (120, 96)


def test_csharp(served: Running, tmp_path: Path) -> None:
    run(tmp_path, "dotnet", "new", "console", "--name", "detect", "--output", ".")
    (tmp_path / "Program.cs").write_text(client(served, tmp_path, "csharp"))
    out = run(tmp_path, "dotnet", "run")
    assert len(out.splitlines()) > 5 and Image.open(tmp_path / "found.jpg").size == (120, 96)


def test_php(served: Running, tmp_path: Path) -> None:
    (tmp_path / "detect.php").write_text(client(served, tmp_path, "php"))
    out = run(tmp_path, "php", "detect.php")
    assert len(out.splitlines()) > 5 and Image.open(tmp_path / "found.jpg").size == (120, 96)


def test_curl_with_a_geotiff(served: Running, tmp_path: Path) -> None:
    text = client(served, tmp_path, "sh", 1)
    write_tif(tmp_path / "scene.tif", np.moveaxis(drawn(200, 200), 2, 0))
    run(tmp_path, "sh", "-ec", text)
    rows = geopandas.read_parquet(tmp_path / "found.parquet")
    high = geopandas.read_file(tmp_path / "found.geojson")
    assert 0 < len(high) < len(rows) and high["score"].min() >= 0.6 > rows["score"].min()


def test_curl_with_a_job(served: Running, tmp_path: Path) -> None:
    folder = served.service.options.scene_folders[0]
    write_tif(folder / "june.tif", np.moveaxis(drawn(), 2, 0))
    run(tmp_path, "sh", "-ec", client(served, tmp_path, "sh", 2).replace("/data/scenes", str(folder)))
    assert json.loads((tmp_path / "job.json").read_text())["status"] in ("queued", "running", "done")


def test_options_and_files_on_the_page_exist() -> None:
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["serve", "--help"]).output
    commands = " ".join(re.findall(r"^ *geosod serve.*", PAGE, re.MULTILINE))
    used = set(re.findall(r"`(--[a-z-]+)", PAGE)) | set(re.findall(r"--[a-z-]+", commands))
    assert {"--engine", "--replicas", "--allow-host", "--jobs"} <= used
    assert [option for option in used if option not in shown] == []
    named = set(re.findall(r"cluster/[\w./-]*\w", PAGE))
    assert len(named) == 2 and all((ROOT / name).exists() for name in named), named
