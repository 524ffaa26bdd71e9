"""Outputs in object stores, through a real S3 API: the same files, committed so that readers never see a part."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import geosod
from geosod.errors import OutputError
from geosod.output.folder import open_output, read_items
from geosod.storage.object_place import ObjectPlace
from geosod.storage.place import open_place
from tests.rasters import noise, write_tif
from tests.running.helpers import RAY, detect, tables
from tests.running.test_resume import Interrupting

SETTINGS: dict[str, Any] = {"unit": (2, 3), "merge_threshold": 0.3}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    return [write_tif(folder / f"s{i}.tif", noise(3, 300, 420, seed=i), block=64) for i in range(2)]


@pytest.fixture(scope="module")
def expected(scenes, rgb_bundle, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    assert detect(scenes, rgb_bundle, out, **SETTINGS).exit_code == 0
    return tables(out)


def objects(s3: Any, bucket: str = "images") -> dict[str, bytes]:
    """Every object of a bucket."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def below(found: dict[str, bytes], prefix: str) -> dict[str, bytes]:
    return {key.removeprefix(f"{prefix}/"): body for key, body in found.items() if key.startswith(f"{prefix}/")}


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_a_bucket_gets_the_files_that_a_folder_gets(engine, s3, scenes, rgb_bundle, expected) -> None:
    result = detect(scenes, rgb_bundle, "s3://images/a b/out", engine=engine, **SETTINGS)
    assert result.exit_code == 0 and result.out == "s3://images/a b/out"
    found = below(objects(s3), "a b/out")
    assert {key: body for key, body in found.items() if key.endswith(".parquet")} == expected
    assert {key for key in found if not key.endswith(".parquet")} == {"items/s0.json", "items/s1.json"}
    assert result.scenes[0].paths[2] == "s3://images/a b/out/items/s0.json"
    again = detect(scenes, rgb_bundle, "s3://images/a b/out", engine=engine, **SETTINGS)
    assert [scene.status for scene in again.scenes] == ["skipped"] * 2 and again.total == result.total


def test_several_processes_read_from_a_bucket_and_write_to_it(s3, scenes, rgb_bundle, expected) -> None:
    for path in scenes:
        s3.upload_file(str(path), "images", f"scenes/{path.name}")
    many = {"engine": "local", "processes": 2, **SETTINGS, "unit": (0, 0)}
    result = detect(["s3://images/scenes/"], rgb_bundle, "s3://images/out", **many)
    assert [scene.status for scene in result.scenes] == ["done"] * 2
    found = below(objects(s3), "out")
    boxes = {key: pq.read_table(pa.BufferReader(found[key]))["geometry"] for key in found if key.startswith("det")}
    assert boxes == {key: pq.read_table(pa.BufferReader(expected[key]))["geometry"] for key in boxes}
    assert len(boxes) == 2


@pytest.mark.slow
def test_ray_workers_write_by_themselves(s3, scenes, rgb_bundle, expected) -> None:
    import ray

    # Workers have the environment that Ray was started in.
    ray.init(**RAY)
    try:
        interrupt = Interrupting(3)
        with pytest.raises(KeyboardInterrupt):
            detect(scenes, rgb_bundle, "s3://images/out", engine="ray", on_event=interrupt, **SETTINGS)
        assert sum(key.endswith(".arrow") for key in objects(s3)) >= 3
        again = Interrupting()
        result = detect(scenes, rgb_bundle, "s3://images/out", engine="ray", on_event=again, **SETTINGS)
    finally:
        ray.shutdown()
    assert result.exit_code == 0 and again.settled[True] >= 3
    found = below(objects(s3), "out")
    assert {key: body for key, body in found.items() if key.endswith(".parquet")} == expected
    assert len(found) == len(expected) + 2


def test_an_interrupted_run_goes_on_in_a_bucket(s3, scenes, rgb_bundle, expected) -> None:
    with pytest.raises(KeyboardInterrupt):
        detect(scenes, rgb_bundle, "s3://images/out", on_event=Interrupting(3), **SETTINGS)
    assert [key.rpartition(".")[2] for key in objects(s3)] == ["arrow"] * 3
    again = Interrupting()
    detect(scenes, rgb_bundle, "s3://images/out", on_event=again, **SETTINGS)
    assert again.settled[True] == 3
    found = below(objects(s3), "out")
    assert {key: body for key, body in found.items() if key.endswith(".parquet")} == expected
    assert len(found) == len(expected) + 2


def test_one_file(s3, scenes, rgb_bundle) -> None:
    detect(scenes[0], rgb_bundle, "s3://images/ships.parquet", unit=(0, 0))
    assert set(objects(s3)) == {"ships.parquet", "ships.coverage.parquet", "ships.json"}
    s3.put_object(Bucket="images", Key="mine.parquet", Body=b"x")
    with pytest.raises(OutputError, match=r"s3://images/mine\.parquet: exists and was not written by geosod"):
        detect(scenes[0], rgb_bundle, "s3://images/mine.parquet")


def test_failures_come_and_go(s3, rgb_bundle, scenes, tmp_path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0not a tiff")
    result = detect([scenes[0], bad], rgb_bundle, "s3://images/out", **SETTINGS)
    assert result.exit_code == 3
    body = objects(s3)["out/failures.parquet"]
    (tmp_path / "f.parquet").write_bytes(body)
    assert pq.read_table(tmp_path / "f.parquet")["scene_id"].to_pylist() == ["bad"]
    bad.unlink()
    write_tif(bad, noise(3, 200, 200))
    assert detect([scenes[0], bad], rgb_bundle, "s3://images/out", **SETTINGS).exit_code == 0
    assert "out/failures.parquet" not in objects(s3)


class Killed(BaseException):
    """Not an error that anything handles, as a process that is killed."""


WRITES = ("put", "create", "change", "remove", "remove_folder")


def counted(monkeypatch: pytest.MonkeyPatch, at: int | None, *, after: bool) -> Iterator[int]:
    """Kill before or after the write number `at`; counts writes."""
    count = itertools.count()

    def wrapped(write: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            here = next(count) == at
            if here and not after:
                raise Killed
            result = write(*args, **more)
            if here:
                raise Killed
            return result

        return call

    for name in WRITES:
        monkeypatch.setattr(ObjectPlace, name, wrapped(getattr(ObjectPlace, name)))
    return count


def whole_scenes(s3: Any, prefix: str, expected: dict[str, bytes]) -> int:
    """Check that every item's files are there and are those expected; the number of items."""
    found = below(objects(s3), prefix)
    items = [json.loads(body) for key, body in found.items() if key.startswith("items/")]
    for item in items:
        for asset in item["assets"].values():
            path = asset["href"].removeprefix("../")
            assert found[path] == expected[path]
    return len(items)


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_a_run_that_is_killed_at_any_write_leaves_whole_scenes(before, s3, scenes, rgb_bundle, expected) -> None:
    """Every write in turn is the last one; readers that go by items see whole scenes, and a rerun completes."""
    settings = SETTINGS | {"overwrite": before}
    with pytest.MonkeyPatch.context() as patch:
        count = counted(patch, None, after=False)
        out = open_output("s3://images/count")
        if before:
            detect(scenes, rgb_bundle, "s3://images/count", **SETTINGS)
        start = next(count)
        detect(scenes, rgb_bundle, "s3://images/count", **settings)
        writes = next(count) - start - 1
    assert writes > 12 and len(list(read_items(out))) == 2
    for at in range(writes):
        prefix = f"at{at}"
        if before:
            detect(scenes, rgb_bundle, f"s3://images/{prefix}", **SETTINGS)
        with pytest.MonkeyPatch.context() as patch:
            counted(patch, at, after=at % 2 == 1)
            with pytest.raises(Killed):
                detect(scenes, rgb_bundle, f"s3://images/{prefix}", **settings)
        whole_scenes(s3, prefix, expected)
        assert detect(scenes, rgb_bundle, f"s3://images/{prefix}", **settings).exit_code == 0
        # A file that only tries whether the bucket can be written to may be left.
        found = {key: body for key, body in below(objects(s3), prefix).items() if not key.startswith(".probe-")}
        assert {key: body for key, body in found.items() if key.endswith(".parquet")} == expected
        assert whole_scenes(s3, prefix, expected) == 2 and len(found) == len(expected) + 2


def test_two_runs_at_once_commit_each_scene_once(s3, scenes, rgb_bundle, expected) -> None:
    """The other run commits between this run's look at the bucket and its own commit."""
    done = []

    def other(event: object) -> None:
        if not done:
            done.append(event)
            detect(scenes, rgb_bundle, "s3://images/out", **SETTINGS)

    assert detect(scenes, rgb_bundle, "s3://images/out", on_event=other, **SETTINGS).exit_code == 0
    assert whole_scenes(s3, "out", expected) == 2


def test_another_run_with_other_settings_at_once_is_told(s3, scenes, rgb_bundle, monkeypatch) -> None:
    place, create = open_place("s3://images/out"), ObjectPlace.create

    def late(self: ObjectPlace, path: str, content: bytes | Path) -> bool:
        if path == "items/s0.json":
            assert isinstance(content, Path)
            item = json.loads(content.read_bytes())
            item["properties"]["geosod:config_digest"] = "another"
            create(self, path, json.dumps(item).encode())
        return create(self, path, content)

    monkeypatch.setattr(ObjectPlace, "create", late)
    result = detect(scenes[0], rgb_bundle, place.address, unit=(0, 0))
    assert result.exit_code == 3 and "another run has just written this scene" in result.failures[0].message


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("s3://nobucket/out", "there is no such bucket"),
        ("ftp://host/out", "give a local folder, or one of s3://"),
        ("s3://images/../up", "object stores do not resolve"),
        ("/vsis3/images/out", "cannot be written there"),
        ("s3://images/out?x=1", "cannot be written there"),
    ],
)
def test_unusable_addresses(out, message, s3, scenes, rgb_bundle) -> None:
    with pytest.raises(OutputError, match=message):
        detect(scenes[0], rgb_bundle, out)
    assert not objects(s3)


def test_without_permission(s3, scenes, rgb_bundle, monkeypatch) -> None:
    place = open_place("s3://images/out")
    monkeypatch.setattr(ObjectPlace, "create", lambda *_: (_ for _ in ()).throw(OSError("access is denied")))
    with pytest.raises(OutputError, match=r"access is denied.*credentials"):
        geosod.detect(scenes[0], model=rgb_bundle, out=place.address)


@pytest.mark.parametrize("name", ["a b.json", "ä#1%20?.json", "x+y&z=(1).json"])
def test_names_of_objects(name, s3) -> None:
    place = open_place("s3://images/pre fix")
    assert place.create(name, b"1") and not place.create(name, b"2") and place.exists(name)
    assert list(place.names()) == [name] and place.read(name) == b"1"
    assert place.open(name).read() == b"1" and place.at(name) == f"s3://images/pre fix/{name}"
    place.change(name, lambda old: (old or b"") + b"3")
    assert objects(s3) == {f"pre fix/{name}": b"13"}
    place.remove(name, "none")
    assert place.read(name) is None and not place.exists(name) and not objects(s3)


def test_changes_of_several_writers_are_all_kept(s3) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def add(i: int) -> None:
        open_place("s3://images/out").change("list", lambda old: (old or b"") + bytes([i]))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(12)))
    assert sorted(objects(s3)["out/list"]) == list(range(12))


def test_deduplication_reads_and_writes_buckets(s3, rgb_bundle, tmp_path) -> None:
    """The same scene under two names: one result per object, the same files as on a disk."""
    pixels = noise(3, 300, 420)
    for name in ("a", "b"):
        write_tif(tmp_path / f"{name}.tif", pixels)
    detect(tmp_path / "a.tif", rgb_bundle, tmp_path / "one", **SETTINGS)
    detect(tmp_path / "b.tif", rgb_bundle, tmp_path / "two.parquet", **SETTINGS)
    here = geosod.deduplicate([tmp_path / "one", tmp_path / "two.parquet"], out=tmp_path / "merged")
    detect(tmp_path / "a.tif", rgb_bundle, "s3://images/one", **SETTINGS)
    detect(tmp_path / "b.tif", rgb_bundle, "s3://images/sub/two.parquet", **SETTINGS)
    given = ["s3://images/one", "s3://images/sub/two.parquet"]
    order, put = [], ObjectPlace.put
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectPlace, "put", lambda self, files: (order.extend(files.values()), put(self, files)))
        there = geosod.deduplicate(given, out="s3://images/merged")
    assert [path.startswith("items/") for path in order] == [False] * (len(order) - 2) + [True] * 2
    assert (there.rows_out, there.merged) == (here.rows_out, here.merged) and there.merged > 0
    assert there.out == "s3://images/merged"
    found = below(objects(s3), "merged")
    assert {key: body for key, body in found.items() if key.endswith(".parquet")} == tables(tmp_path / "merged")
    links = json.loads(found["items/a.json"])["links"]
    assert links[-1]["href"] == "s3://images/one/items/a.json" and "/tmp" not in json.dumps(links[-1])
    mixed = geosod.deduplicate([tmp_path / "one", given[1]], out=tmp_path / "mixed")
    assert mixed.rows_out == here.rows_out and tables(tmp_path / "mixed") == tables(tmp_path / "merged")
    with pytest.raises(OutputError, match="s3://images/merged: is not empty"):
        geosod.deduplicate(given, out="s3://images/merged")
    s3.put_object(Bucket="images", Key="merged/notes.txt", Body=b"mine")
    with pytest.raises(OutputError, match=r"s3://images/merged/notes\.txt: was not written by geosod"):
        geosod.deduplicate(given, out="s3://images/merged", overwrite=True)
    s3.delete_object(Bucket="images", Key="merged/notes.txt")
    again = geosod.deduplicate(given, out="s3://images/merged", overwrite=True)
    assert again.rows_out == here.rows_out and below(objects(s3), "merged").keys() == found.keys()
    for refused in ("s3://images/one", "s3://images", "s3://images/one/below"):
        with pytest.raises(OutputError, match="is the same folder as"):
            geosod.deduplicate(given, out=refused)
    with pytest.raises(OutputError, match="s3://images/none: no such output"):
        geosod.deduplicate("s3://images/none", out=tmp_path / "none")
    s3.put_object(Bucket="images", Key="one/items/a.json", Body=b"{")
    with pytest.raises(OutputError) as caught:
        geosod.deduplicate("s3://images/one", out=tmp_path / "none")
    assert "s3://images/one/items/a.json" in str(caught.value) and "geosod-" not in str(caught.value)


def test_requests_do_not_grow_with_what_is_there(s3, rgb_bundle, tmp_path, monkeypatch) -> None:
    """A fixed number of listings a run, and of requests a scene, however many scenes the bucket holds."""
    counts: dict[str, int] = {}
    for name in ("names", "read", "exists", *WRITES):
        operation = getattr(ObjectPlace, name)

        def counted(*args: Any, operation: Any = operation, name: str = name, **more: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return operation(*args, **more)

        monkeypatch.setattr(ObjectPlace, name, counted)
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 150, 150, seed=i)) for i in range(12)]
    of_runs = []
    for some in (scenes[:4], scenes[4:8], scenes[8:]):
        counts.clear()
        assert detect(some, rgb_bundle, "s3://images/out", unit=(0, 0)).exit_code == 0
        # Each run reads the items of earlier ones once in all, for the names of their scenes and their number.
        of_runs.append({name: n for name, n in counts.items() if name != "read"})
    assert of_runs[1] == of_runs[2] and of_runs[1]["names"] <= 6 and sum(of_runs[1].values()) < 50


def test_a_service_that_ignores_conditions_is_refused(s3, scenes, rgb_bundle, monkeypatch) -> None:
    import obstore

    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, path, content, **_: put(store, path, content))
    with pytest.raises(OutputError, match="ignores If-None-Match"):
        detect(scenes[0], rgb_bundle, "s3://images/out")
    assert not objects(s3)
