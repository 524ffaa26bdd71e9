"""Fixtures for tests of adapters: no network, and folders of models."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With several threads a library's own call rounds otherwise than ours, and ties are broken otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def attempts(monkeypatch) -> Iterator[list[Any]]:
    """Connections that were tried; none may be."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> None:
        tried.append(args)
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield tried
    assert tried == [], "something tried to reach the network"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a model of `hf_models.MODELS`, made once."""
    from tests.adapters import hf_models

    root = tmp_path_factory.mktemp("hf")
    return lambda name: root / name if (root / name).is_dir() else hf_models.save(name, root / name)


@pytest.fixture
def copy(folders, tmp_path) -> Callable[[str], Path]:
    """A copy of such a folder that a test may change."""
    return lambda name: Path(shutil.copytree(folders(name), tmp_path / "copy" / name))
