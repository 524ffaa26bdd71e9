"""Nothing that a user's file holds or names is executed unless it is trusted."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geosod
from geosod.detectors import open_bundle, write_bundle
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.detectors.packing.pickled import modules_named
from geosod.detectors.packing.ultralytics import is_ultralytics
from geosod.errors import GeosodError, ModelError
from geosod.testing import fake_card


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path, protocol: int = 2, module: str = "") -> bytes:
    """A pickle that makes `mark`, and that also names a class of `module`."""
    content = pickle.dumps([Evil(mark)], protocol)
    # GLOBAL and POP, between the protocol and the rest.
    return content[:2] + f"c{module}\nThing\n0".encode() + content[2:] if module else content


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def checkpoint(path: Path, mark: Path) -> Path:
    """What looks like a checkpoint of Ultralytics."""
    content = pickled(mark, module="ultralytics.nn.tasks")
    return as_zip(path, {"best/data.pkl": content, "best/version": b"3\n", "best/byteorder": b"little"})


def old_checkpoint(path: Path, mark: Path) -> Path:
    path.write_bytes(pickled(mark, module="ultralytics.nn.tasks"))
    return path


def yolov5(path: Path, mark: Path) -> Path:
    return as_zip(path, {"best/data.pkl": pickled(mark, module="models.yolo"), "best/version": b"3\n"})


def program(path: Path, mark: Path) -> Path:
    """A program of torch.export whose constants are a pickle."""
    import torch

    made = torch.export.export(torch.nn.Conv2d(3, 3, 1), (torch.rand(2, 3, 64, 64),))
    torch.export.save(made, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    evil = io.BytesIO()
    torch.save([Evil(mark)], evil)
    return as_zip(path, {name: evil.getvalue() if name.endswith("model.pt") else data for name, data in files.items()})


FILES: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "ultralytics": ("best.pt", checkpoint),
    "ultralytics, another suffix": ("best.PTH", checkpoint),
    "a bare pickle": ("best.pt", old_checkpoint),
    "yolov5": ("best.pt", yolov5),
    "pt2": ("net.pt2", program),
    "a pickle as a program": ("net.pt2", old_checkpoint),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_not_executed(kind, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path / "cache"))
    name, make = FILES[kind]
    mark = tmp_path / "executed"
    path = make(tmp_path / name, mark)
    for attempt in (
        lambda: pack(path, tmp_path / "b", PackOptions(classes=("a",))),
        lambda: geosod.load_model(path),
        lambda: geosod.detect(np.zeros((3, 64, 64), np.uint8), model=path),
    ):
        with pytest.raises(GeosodError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not mark.exists() and not (tmp_path / "b").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["pt2", "a pickle as a program"])
def test_the_marks_are_made_where_a_file_is_trusted(kind, tmp_path) -> None:
    """Or the test above would show nothing."""
    name, make = FILES[kind]
    mark = tmp_path / "executed"
    path = make(tmp_path / name, mark)
    if kind == "pt2":
        with pytest.raises(ModelError):
            pack(path, tmp_path / "b", PackOptions(classes=("a",), trust=True))
    else:
        pickle.loads(path.read_bytes().replace(b"cultralytics.nn.tasks\nThing\n0", b""))
    assert mark.exists()


def test_trust_is_asked_for(tmp_path) -> None:
    mark = tmp_path / "executed"
    with pytest.raises(ModelError, match=r"a checkpoint of Ultralytics executes code .* add --trust \(trust=True\)"):
        pack(checkpoint(tmp_path / "a.pt", mark), tmp_path / "b")
    with pytest.raises(ModelError, match=r"may execute code that it holds; add --trust \(trust=True\)"):
        pack(program(tmp_path / "a.pt2", mark), tmp_path / "b")
    with pytest.raises(ModelError, match=r"YOLOv5 or YOLOv7 repository.* export it there"):
        pack(yolov5(tmp_path / "c.pt", mark), tmp_path / "b", PackOptions(trust=True))
    assert not mark.exists()


def test_a_bundle_with_a_program_asks_for_trust(tmp_path) -> None:
    """Whatever its card says, and before anything is loaded."""
    mark = tmp_path / "executed"
    content = program(tmp_path / "a.pt2", mark).read_bytes()
    card = fake_card(adapter="pt2", weights_file="net.pt2", license="MIT", parameters={"layout": "yolov8"})
    made = write_bundle(tmp_path / "b", card, content)
    for attempt in (open_bundle, geosod.load_model):
        with pytest.raises(ModelError, match="loading its weights file may execute code that it holds; add --trust"):
            attempt(tmp_path / "b")
    assert not mark.exists()
    from dataclasses import replace

    from geosod.detectors.adapters.pt2 import load
    from geosod.detectors.detector import IN_PROCESS

    with pytest.raises(ModelError, match="add --trust"):
        load(replace(made, trusted=False), IN_PROCESS, threshold=0.5)
    assert not mark.exists()
    with pytest.raises(ModelError):
        geosod.load_model(tmp_path / "b", trust=True)
    assert mark.exists(), "it would not show"


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    """What importing the module `evil` makes."""
    folder = tmp_path / "code"
    folder.mkdir()
    mark = tmp_path / "executed"
    (folder / "evil.py").write_text(
        f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n"
        "from geosod.testing import BrightSpots, fake_detector\n\n\n"
        "def make(execution):\n    return fake_detector(execution)\n\n\n"
        "def load(bundle, execution, *, threshold):\n    return BrightSpots()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "evil", raising=False)
    return mark


def test_a_function_is_not_imported(module) -> None:
    image = np.zeros((64, 64), np.uint8)
    for attempt in (lambda: geosod.load_model("evil:make"), lambda: geosod.detect(image, model="evil:make")):
        with pytest.raises(ModelError, match="'evil:make': is Python code; add --trust"):
            attempt()
    assert not module.exists()
    assert geosod.detect(image, model="evil:make", trust=True).exit_code == 0 and module.exists()


def test_a_function_that_a_card_names_is_not_imported(module, tmp_path) -> None:
    write_bundle(tmp_path / "b", fake_card(adapter="evil:load", weights_file="w", license="MIT"), b"x")
    image = np.zeros((64, 64), np.uint8)
    for attempt in (
        lambda: open_bundle(tmp_path / "b"),
        lambda: geosod.load_model(tmp_path / "b"),
        lambda: geosod.detect(image, model=tmp_path / "b"),
    ):
        with pytest.raises(ModelError, match="asks to run the code evil:load; add --trust"):
            attempt()
    open_bundle(tmp_path / "b", trust=True)
    assert not module.exists(), "opening a bundle reads its card alone"
    assert geosod.detect(image, model=tmp_path / "b", trust=True).exit_code == 0 and module.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_modules_are_read_from_pickles_of_every_protocol(protocol, tmp_path) -> None:
    content = pickle.dumps([Evil(tmp_path), io.BytesIO, PackOptions], protocol)
    path = as_zip(tmp_path / "a.pt", {"archive/data.pkl": content})
    assert {"geosod.detectors.packing.options"} < modules_named(path)
    assert not is_ultralytics(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing at all", b"\x80\x02]q\x00(K\x01"])
def test_files_that_are_no_archives(content, tmp_path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert modules_named(tmp_path / "a.pt") == frozenset() and not is_ultralytics(tmp_path / "a.pt")
    broken = as_zip(tmp_path / "b.pt", {"a/data.pkl": content})
    assert not is_ultralytics(broken)
    (tmp_path / "c.pt").mkdir()
    assert not is_ultralytics(tmp_path / "c.pt") and not is_ultralytics(tmp_path / "gone.pt")


def test_modules_before_a_pickle_breaks_off(tmp_path) -> None:
    whole = pickled(tmp_path / "x", module="ultralytics.nn.tasks")
    path = as_zip(tmp_path / "a.pt", {"a/data.pkl": whole[:-8]})
    assert is_ultralytics(path)
