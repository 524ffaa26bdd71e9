"""Reads checkpoints of Ultralytics (.pt) by exporting them to ONNX with the user's own installation of ultralytics.

A checkpoint is a pickle of Python objects: it is read once, when it is packed and trusted, in a process of its own. The
bundle holds the ONNX graph, which executes no code and needs neither ultralytics nor trust.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from geosod.detectors.bundle import sha256_of
from geosod.detectors.packing.found import Found, safe_name
from geosod.detectors.packing.options import PackOptions
from geosod.detectors.packing.pickled import modules_named
from geosod.errors import ConfigError, ModelError

_REPORT = "report.json"


def is_ultralytics(path: Path) -> bool:
    """Whether a file is a checkpoint of Ultralytics, or of YOLOv5 before it; nothing of it is unpickled."""
    if path.suffix.lower() not in (".pt", ".pth") or not path.is_file():
        return False
    return any(_is_of(name, ("ultralytics", "models.yolo")) for name in modules_named(path))


def read(path: Path, options: PackOptions) -> Found:
    """What a checkpoint is, as an ONNX graph.

    Raises:
        ModelError: it is not trusted, is no detector of boxes, or cannot be exported.
        ConfigError: ultralytics or onnx is not installed.
    """
    if not any(_is_of(name, ("ultralytics",)) for name in modules_named(path)):
        raise ModelError(
            f"{path}: a checkpoint of the YOLOv5 or YOLOv7 repository, which only its own code can read; export it "
            "there with `python export.py --weights FILE --include onnx`, and pack the .onnx file"
        )
    if not options.trust:
        raise ModelError(
            f"{path}: a checkpoint of Ultralytics executes code when it is read; add --trust (trust=True) if you trust "
            "it, or export it to ONNX where you do"
        )
    for package in ("ultralytics", "onnx"):
        if find_spec(package) is None:
            raise ConfigError(
                f"{path}: reading a checkpoint of Ultralytics needs {package}, which is not installed; install it with "
                "`pip install ultralytics 'geosod[onnx]'` (ultralytics is licensed under AGPL-3.0), or export the file "
                "to ONNX elsewhere"
            )
    from geosod.detectors.packing.onnx import read as read_onnx

    with tempfile.TemporaryDirectory(prefix="geosod-ultralytics-") as folder:
        found = read_onnx(_exported(path, Path(folder), options), options)
    found.provenance["checkpoint_sha256"] = sha256_of(path)
    return found


def _exported(path: Path, folder: Path, options: PackOptions) -> Path:
    """The ONNX graph of a checkpoint, in a folder."""
    # The export is written beside its source, which may be read-only.
    source = folder / f"{safe_name(path.stem)}.pt"
    shutil.copyfile(path, source)
    arguments = {"size": options.input.get("size") or options.tile, "nms_free": options.layout == "yolov10"}
    command = [sys.executable, "-P", "-m", "geosod.detectors.packing.ultralytics_export", str(source)]
    command += [str(folder / _REPORT), json.dumps(arguments)]
    done = subprocess.run(
        command, env=_environment(folder), cwd=folder, check=False, capture_output=True, text=True, errors="replace"
    )
    report = json.loads((folder / _REPORT).read_text()) if (folder / _REPORT).is_file() else {}
    if "path" not in report:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(f"{path}: ultralytics cannot export it to ONNX: {report.get('error') or lines[-1][:300]}")
    return Path(report["path"])


def _environment(folder: Path) -> dict[str, str]:
    """That of this process, with which ultralytics reaches no network, installs nothing and keeps no settings."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_OFFLINE": "true",
        "YOLO_VERBOSE": "false",
    }


def _is_of(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
