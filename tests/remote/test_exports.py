"""Exports and summaries of outputs in object stores."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest

import geosod
from geosod.errors import OutputError
from geosod.storage.place import open_place
from tests.deduplication.outputs import ORIGIN, commit, lattice, seen, utm_scene


@pytest.fixture
def local(tmp_path: Path) -> Path:
    objects, rng, scene = lattice(ORIGIN, (44, 34), 20.0), np.random.default_rng(0), utm_scene("a")
    commit(tmp_path / "out", scene, seen(scene, objects, scores=rng.random(len(objects))))
    return tmp_path / "out"


def upload(folder: Path, address: str) -> None:
    place = open_place(address)
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            place.create(path.relative_to(folder).as_posix(), path.read_bytes())


def test_a_bucket_is_exported_to_a_bucket(s3: Any, local: Path, tmp_path: Path) -> None:
    upload(local, "s3://images/out")
    here = geosod.export(local, out=tmp_path / "x.parquet")
    there = geosod.export("s3://images/out", out="s3://images/maps/x.parquet")
    assert there.out == "s3://images/maps/x.parquet" and there.rows == here.rows
    body = open_place("s3://images/maps").read("x.parquet")
    style = open_place("s3://images/maps").read("x.qml")
    assert body is not None and style == (tmp_path / "x.qml").read_bytes()
    assert geopandas.read_parquet(io.BytesIO(body)).equals(geopandas.read_parquet(tmp_path / "x.parquet"))
    with pytest.raises(OutputError, match=r"s3://images/maps/x\.parquet: exists"):
        geosod.export("s3://images/out", out="s3://images/maps/x.parquet")
    geosod.export("s3://images/out", out="s3://images/maps/x.gpkg")
    assert sorted(open_place("s3://images/maps").names()) == ["x.gpkg", "x.parquet", "x.qml"]
    with pytest.raises(OutputError, match="no such output"):
        geosod.export("s3://images/none", out="s3://images/maps/y.gpkg")


def test_a_bucket_is_summarized(s3: Any, local: Path) -> None:
    upload(local, "s3://images/out")
    assert geosod.summarize("s3://images/out").table.equals(geosod.summarize(local).table)
