"""The output folder: layout, atomic commits, many processes, failures."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest

from geosod.errors import ConfigError, OutputError
from geosod.output.commit import (
    OutputFolder,
    commit_scene,
    committed,
    open_output,
)
from geosod.output.coverage import area_km2, coverage_table
from geosod.output.dataset_crs import check_dataset_crs, dataset_crs
from geosod.output.failures import failures_of, write_failures
from geosod.output.geoparquet import file_metadata
from geosod.output.stac_item import scene_item
from geosod.output.table import detection_table
from geosod.results import INSPECTED, Coverage, Failure
from geosod.scene import Scene, Window
from geosod.storage import local_place
from tests.output.samples import CRS84, PROVENANCE, SCENES, make_scene, random_detections

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
MAY, JUNE = dt.datetime(2024, 5, 1, tzinfo=dt.UTC), dt.datetime(2024, 6, 1, tzinfo=dt.UTC)


def failure(scene_id: str, col: int = 0, **changes: Any) -> Failure:
    values = {"uri": "https://u:p@h/a.tif?sig=1", "window": Window(col, 0, 5, 6), "stage": "read", "error": "ReadError"}
    return Failure(scene_id, **(values | {"message": "GET https://h/a.tif?sig=1 failed", "attempts": 3} | changes))


def put(
    out: OutputFolder, scene: Scene, *, n: int = 20, crs: str = CRS84, failures: tuple[Failure, ...] = ()
) -> tuple[str, ...]:
    coverage = coverage_table(scene, Coverage(100, 0, 0, np.full((8, 10), INSPECTED, np.uint8)), crs=crs)
    item = scene_item(
        scene,
        PROVENANCE,
        hrefs=out.files(scene).hrefs(),
        detections=n,
        status="partial" if failures else "done",
        failures=len(failures),
        inspected_km2=area_km2(coverage),
        crs=crs,
        processed=NOW,
    )
    commit = commit_scene(
        out,
        scene,
        detections=detection_table(scene, random_detections(1, n), PROVENANCE, crs=crs),
        coverage=coverage,
        item=item,
        crs=crs,
        metadata=file_metadata(scene, PROVENANCE),
        failures=failures,
    )
    assert not commit.left_over
    return commit.paths


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {".lock"}


def test_layout(tmp_path: Path) -> None:
    out = open_output(tmp_path / "new" / "out", scenes=3)
    paths = put(out, make_scene("a", when=MAY))
    put(out, make_scene("b"))
    put(out, make_scene("c", crs=None, transform=None))
    root = tmp_path / "new" / "out"
    assert tree(root) == {
        "detections/acq_date=2024-05-01/a.parquet",
        "detections/acq_date=unknown/b.parquet",
        "pixel/c.parquet",
        *(f"coverage/{name}.parquet" for name in "abc"),
        *(f"items/{name}.json" for name in "abc"),
    }
    assert [Path(path).name for path in paths] == ["a.parquet", "a.parquet", "a.json"]
    assert not list(root.glob(".staging-*"))
    assert len(geopandas.read_parquet(root / "detections")) == 40
    rows = duckdb.sql(f"select acq_date::varchar, count(*) from '{root}/detections/*/*.parquet' group by 1 order by 1")
    assert rows.fetchall() == [("2024-05-01", 20), ("unknown", 20)]


def test_single_file(tmp_path: Path) -> None:
    out = open_output(tmp_path / "ships.parquet")
    put(out, make_scene("a", when=MAY))
    assert tree(tmp_path) == {"ships.parquet", "ships.coverage.parquet", "ships.json"}
    assert committed(out, "a") is not None
    assert committed(out, "b") is None
    again = open_output(tmp_path / "ships.parquet")
    put(again, make_scene("b"), failures=(failure("b"),))
    assert committed(again, "a") is None
    assert tree(tmp_path) == {"ships.parquet", "ships.coverage.parquet", "ships.json", "ships.failures.parquet"}


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign.parquet").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        open_output(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        open_output(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="there are 2"):
        open_output(tmp_path / "x.parquet", scenes=2)
    with pytest.raises(OutputError, match="not written by geosod"):
        open_output(tmp_path / "foreign.parquet")
    assert open_output(tmp_path / "foreign.parquet", overwrite=True).name == "foreign"
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(OutputError, match=r"notes\.json"):
        open_output(tmp_path / "notes.parquet")
    with pytest.raises(OutputError, match="cannot name a file"):
        open_output(tmp_path / "out").files(make_scene("../up"))


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "detections").mkdir()
    (tmp_path / "detections" / "README").write_text("mine")
    (tmp_path / ".staging-mine").mkdir()
    out = open_output(tmp_path)
    put(out, make_scene("a"))
    assert (tmp_path / "detections" / "README").read_text() == "mine"
    assert (tmp_path / ".staging-mine").is_dir()


def test_another_date_leaves_no_old_file(tmp_path: Path) -> None:
    out = open_output(tmp_path)
    put(out, make_scene("a", when=MAY))
    put(out, make_scene("ab", when=MAY))
    put(out, make_scene("a", when=JUNE))
    parquet = {path for path in tree(tmp_path) if path.startswith("detections")}
    assert parquet == {"detections/acq_date=2024-06-01/a.parquet", "detections/acq_date=2024-05-01/ab.parquet"}
    put(out, make_scene("a", crs=None, transform=None))
    assert "pixel/a.parquet" in tree(tmp_path)
    assert "detections/acq_date=2024-06-01/a.parquet" not in tree(tmp_path)


def test_committed_needs_every_file(tmp_path: Path) -> None:
    out = open_output(tmp_path)
    paths = put(out, make_scene("a"))
    item = committed(out, "a")
    assert item is not None
    assert item["properties"]["geosod:detections"] == 20
    for path in paths[:2]:
        saved = Path(path).read_bytes()
        Path(path).unlink()
        assert committed(out, "a") is None
        Path(path).write_bytes(saved)
    assert committed(out, "a") is not None
    Path(paths[2]).write_text("{broken")
    assert committed(out, "a") is None


@pytest.mark.parametrize(("before", "fail_at"), [(False, 0), (False, 1), (False, 2), *((True, i) for i in range(4))])
def test_a_crash_between_renames_leaves_nothing_committed(
    tmp_path: Path, monkeypatch, fail_at: int, before: bool
) -> None:
    out, scene = open_output(tmp_path), make_scene("a")
    if before:
        put(out, scene, n=7)
    calls, original = [], local_place.rename

    def rename(source: Path, target: Path) -> None:
        if len(calls) == fail_at:
            raise OSError("disk is gone")
        calls.append(target)
        original(source, target)

    monkeypatch.setattr(local_place, "rename", rename)
    with pytest.raises(OutputError, match="disk is gone"):
        put(out, scene)
    if before and fail_at == 0:  # the first rename only notes what is about to be replaced
        assert committed(out, "a")["properties"]["geosod:detections"] == 7
        return
    assert committed(out, "a") is None
    assert {path for path in tree(tmp_path) if not path.endswith("/withdrawn.json")} == set()
    assert not list(tmp_path.glob(".staging-*"))
    monkeypatch.undo()
    put(open_output(tmp_path), scene)
    assert committed(out, "a")["properties"]["geosod:detections"] == 20
    assert not [path for path in tree(tmp_path) if "withdrawn" in path]


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3])
def test_a_process_killed_between_renames_has_not_committed(tmp_path: Path, monkeypatch, fail_at: int) -> None:
    out, scene = open_output(tmp_path), make_scene("a")
    put(out, scene, n=7)
    calls, original = [], local_place.rename

    def rename(source: Path, target: Path) -> None:
        if len(calls) == fail_at:
            raise KeyboardInterrupt  # no handler cleans up, as after a kill
        calls.append(target)
        original(source, target)

    monkeypatch.setattr(local_place, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        put(out, scene)
    assert (committed(out, "a") is None) == (fail_at > 0)
    monkeypatch.undo()
    put(open_output(tmp_path), make_scene("a", when=MAY))
    assert [path for path in tree(tmp_path) if path.startswith("detections")] == [
        "detections/acq_date=2024-05-01/a.parquet"
    ]


def test_a_failed_write_leaves_the_earlier_commit(tmp_path: Path, monkeypatch) -> None:
    out, scene = open_output(tmp_path), make_scene("a")
    put(out, scene, n=7)
    before = {path: (tmp_path / path).read_bytes() for path in tree(tmp_path)}

    def full(*paths: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(local_place, "flush", full)
    with pytest.raises(OutputError, match="no space left"):
        put(out, scene)
    assert {path: (tmp_path / path).read_bytes() for path in tree(tmp_path)} == before


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        out = open_output(tmp_path / name)
        paths = put(out, make_scene("a"))
        digests.append([hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths[:2]])
    assert digests[0] == digests[1]


def test_dataset_has_one_crs(tmp_path: Path) -> None:
    out = open_output(tmp_path)
    assert dataset_crs(out) is None
    put(out, make_scene("p", crs=None, transform=None), crs="EPSG:32633")
    assert dataset_crs(out) is None
    put(out, make_scene("a"), crs="EPSG:32633")
    assert dataset_crs(out) == "EPSG:32633"
    with pytest.raises(OutputError, match=r"EPSG:32633, not OGC:CRS84.*--crs EPSG:32633"):
        put(out, make_scene("b"))
    assert committed(out, "b") is None
    assert not list(tmp_path.glob("detections/*/b.parquet"))
    put(out, make_scene("a"), crs=CRS84)  # the only scene may be written again in another CRS
    assert dataset_crs(out) == CRS84
    check_dataset_crs(out, "EPSG:4326")


def test_custom_crs_is_compared_by_content(tmp_path: Path) -> None:
    out, custom = open_output(tmp_path), "+proj=laea +lat_0=47 +lon_0=15 +ellps=GRS80 +type=crs"
    put(out, make_scene("a"), crs=custom)
    put(out, make_scene("b"), crs=custom)
    with pytest.raises(OutputError):
        check_dataset_crs(out, custom.replace("47", "48"))


def test_item_of_another_layout_is_refused(tmp_path: Path) -> None:
    out, scene = open_output(tmp_path), make_scene("a")
    paths = put(out, scene)
    item = json.loads(Path(paths[2]).read_text())
    item["assets"]["coverage"]["href"] = "elsewhere.parquet"
    table = pq.read_table(paths[0])
    with pytest.raises(ConfigError, match="asset links"):
        commit_scene(out, scene, detections=table, coverage=table, item=item, crs=CRS84, metadata={})


def test_failures_are_replaced_by_scene(tmp_path: Path) -> None:
    out = open_output(tmp_path)
    assert write_failures(out, []) is None
    path = write_failures(
        out, [failure("b", 7), failure("b", 3), failure("a"), failure("c", window=None, stage="open")]
    )
    assert path == str(tmp_path / "failures.parquet")
    assert [(f.scene_id, f.window.col if f.window else None) for f in failures_of(path)] == [
        ("a", 0),
        ("b", 3),
        ("b", 7),
        ("c", None),
    ]
    assert b"sig" not in Path(path).read_bytes()
    assert failures_of(path)[0] == failure("a", uri="https://h/a.tif", message="GET https://h/a.tif failed")
    write_failures(out, [failure("b", 9)])
    put(out, make_scene("a"))
    put(out, make_scene("c"), failures=(failure("c", 1),))
    assert [(f.scene_id, f.window.col) for f in failures_of(path) if f.window] == [("b", 9), ("c", 1)]
    assert write_failures(out, [], scenes=["b", "c"]) is None
    assert not Path(path).exists()


def test_a_foreign_failures_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "failures.parquet").write_text("x")
    with pytest.raises(OutputError, match="move it away"):
        write_failures(open_output(tmp_path), [failure("a")])


def test_staging_of_dead_runs_is_removed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    own = local_place._host()
    dead, alive = (
        tmp_path / f".staging-{own}-{process.pid}-00000000",
        tmp_path / f".staging-{own}-{os.getpid()}-00000000",
    )
    old, young = tmp_path / ".staging-00000000-1-00000000", tmp_path / ".staging-00000000-1-11111111"
    for path in (dead, alive, old, young):
        path.mkdir()
        (path / "x").touch()
    for path in (old, alive):
        os.utime(path, (time.time() - 90_000,) * 2)
    open_output(tmp_path)
    assert [path.exists() for path in (dead, alive, old, young)] == [False, True, False, True]


def _commit_some(root: str, start: int) -> None:
    out = open_output(root)
    for i in range(start, start + 6):
        put(out, make_scene(f"s{i}", when=MAY), failures=(failure(f"s{i}"),) if i % 2 else ())


def test_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_commit_some, args=(str(tmp_path), start)) for start in (0, 6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    out = open_output(tmp_path)
    assert all(committed(out, f"s{i}") for i in range(12))
    assert [f.scene_id for f in failures_of(tmp_path / out.failures)] == sorted(f"s{i}" for i in range(1, 12, 2))
    assert len(geopandas.read_parquet(tmp_path / "detections")) == 240


def test_threads_share_a_folder(tmp_path: Path) -> None:
    """They hold its lock together; scenes are committed, replaced and fail at the same time."""
    out = open_output(tmp_path)

    def commit(i: int) -> None:
        put(out, make_scene(f"s{i % 24}", when=MAY), failures=(failure(f"s{i % 24}"),) if i % 3 == 0 else ())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(commit, range(48)))
    assert all(committed(out, f"s{i}") for i in range(24))
    assert [f.scene_id for f in failures_of(tmp_path / out.failures)] == sorted(f"s{i}" for i in range(0, 24, 3))
    assert len(geopandas.read_parquet(tmp_path / "detections")) == 24 * 20
    assert not [name for name in tree(tmp_path) if ".staging" in name or ".units" in name]


def test_a_folder_that_others_remove_while_it_is_empty_is_made_again(tmp_path: Path) -> None:
    """A thread removes the folder of notes after the last one; another is just about to add one."""
    (tmp_path / "source").mkdir()
    ended = threading.Event()

    def remove() -> None:
        while not ended.is_set():
            with suppress(OSError):
                (tmp_path / "notes" / "scene").rmdir()
            with suppress(OSError):
                (tmp_path / "notes").rmdir()
            time.sleep(1e-4)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for i in range(500):
            (tmp_path / "source" / "a").touch()
            target = tmp_path / "notes" / "scene" / str(i)
            local_place.rename(tmp_path / "source" / "a", target)
            target.unlink()
    finally:
        ended.set()
        thread.join()
    with pytest.raises(FileNotFoundError):
        local_place.rename(tmp_path / "source" / "none", tmp_path / "target")


def test_failures_of_other_scenes_cost_a_commit_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scene rewrote the file, one after the other, as soon as one had failed."""
    out = open_output(tmp_path)
    write_failures(out, [failure("b")])
    monkeypatch.setattr(local_place.LocalPlace, "change", lambda *_: pytest.fail("rewritten"))
    put(out, make_scene("a"))
    write_failures(out, [], scenes=["c"])
    with pytest.raises(pytest.fail.Exception, match="rewritten"):
        write_failures(out, [], scenes=["b"])


def test_pixel_files_have_no_crs(tmp_path: Path) -> None:
    paths = put(open_output(tmp_path), SCENES["pixel"])
    for path in paths[:2]:
        assert geopandas.read_parquet(path).crs is None
