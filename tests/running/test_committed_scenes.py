"""What a run finds of earlier ones: every item is read once, and what it comes to is what reading all again gives."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from geosod.errors import OutputError
from geosod.output.folder import open_output, parse_item, read_items
from geosod.running.committed_scenes import CommittedScenes
from geosod.running.events import SceneFinished
from geosod.storage.local_place import LocalPlace
from tests.rasters import noise, write_tif
from tests.running.helpers import detect

SETTINGS: dict[str, Any] = {"unit": (0, 0)}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each item is read."""
    found: Counter[str] = Counter()
    for name in ("read", "open"):
        operation = getattr(LocalPlace, name)

        def counted(self: LocalPlace, path: str, *, operation: Any = operation) -> Any:
            if path.endswith(".json") and (self.root / path).exists():
                found[path] += 1
            return operation(self, path)

        monkeypatch.setattr(LocalPlace, name, counted)
    return found


def scenes(folder: Path, numbers: range) -> list[Path]:
    return [write_tif(folder / f"s{i}.tif", noise(3, 100, 100, seed=i)) for i in numbers]


def rows(out: Path) -> int:
    return sum(item["properties"]["geosod:detections"] for item in read_items(open_output(out)))


def test_no_run_reads_an_item_twice(reads, rgb_bundle, tmp_path) -> None:
    first, more, out = scenes(tmp_path, range(6)), scenes(tmp_path, range(6, 9)), tmp_path / "out"
    detect(first, rgb_bundle, out, **SETTINGS)
    assert not reads, "what a run commits it need not read"
    runs = ((more, {}, 3), (first + more, {}, 0), (first[:2], {"overwrite": True}, 2))
    for some, settings, worked_on in runs:
        reads.clear()
        result = detect(some, rgb_bundle, out, **(SETTINGS | settings))
        there = dict(reads)
        assert sum(scene.status == "done" for scene in result.scenes) == worked_on
        # Where an item is replaced, the commit itself reads it again.
        replaced = {f"items/{path.stem}.json" for path in some} if settings else set()
        assert all(count == 1 for path, count in there.items() if path not in replaced) and len(there) >= 6
        assert result.total == rows(out)


def test_scenes_that_another_run_commits_meanwhile_are_skipped_and_counted(reads, rgb_bundle, tmp_path) -> None:
    some, out, done = scenes(tmp_path, range(6)), tmp_path / "out", []
    foreign = scenes(tmp_path / "more", range(20, 22)) if (tmp_path / "more").mkdir() is None else []

    def other(event: object) -> None:
        if isinstance(event, SceneFinished) and not done:
            done.append(event)
            detect([some[-1], *foreign], rgb_bundle, out, **SETTINGS)
            reads.clear()

    result = detect(some, rgb_bundle, out, on_event=other, **SETTINGS)
    assert {scene.scene_id: scene.status for scene in result.scenes}["s5"] == "skipped"
    assert max(reads.values()) == 1 and result.total == rows(out)


def test_items_that_lack_something_are_as_if_they_were_not_there(rgb_bundle, tmp_path) -> None:
    some, out = scenes(tmp_path, range(3)), tmp_path / "out"
    before = detect(some, rgb_bundle, out, **SETTINGS).total
    for name, spoil in (("s0", lambda item: item["properties"].pop("geosod:execution")), ("s1", dict.clear)):
        item = json.loads((out / f"items/{name}.json").read_text())
        spoil(item)
        (out / f"items/{name}.json").write_text(json.dumps(item))
    result = detect(some, rgb_bundle, out, **SETTINGS)
    assert {scene.scene_id: scene.status for scene in result.scenes}["s2"] == "skipped"
    assert result.exit_code == 3 or result.total == before
    assert {scene.scene_id: scene.status for scene in result.scenes}["s0"] == "done"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"null",
        b'{"properties": null}',
        b'{"properties": 7}',
        b'{"properties": []}',
    ],
    ids=["empty", "torn", "deep", "no text", "null", "none", "number", "list"],
)
def test_items_that_are_none_stop_nothing(content, rgb_bundle, tmp_path) -> None:
    """What a crash, a full disk or another program leaves among items."""
    (scene,) = scenes(tmp_path, range(1))
    (tmp_path / "out/items").mkdir(parents=True)
    for name in ("s0", "other"):
        (tmp_path / f"out/items/{name}.json").write_bytes(content)
    result = detect(scene, rgb_bundle, tmp_path / "out", **SETTINGS)
    assert parse_item(content) is None and result.total == 0
    # A file that geosod did not write is not replaced.
    assert [failure.message for failure in result.failures if "move it away and run again" in failure.message]
    (tmp_path / "out/items/s0.json").unlink()
    assert detect(scene, rgb_bundle, tmp_path / "out", **SETTINGS).scenes[0].status == "done"


def test_items_that_cannot_be_listed_refuse_a_run(rgb_bundle, tmp_path, monkeypatch) -> None:
    (scene,) = scenes(tmp_path, range(1))
    names = LocalPlace.names

    def failing(self: LocalPlace, folder: str = "") -> Any:
        if folder == "items":
            raise OSError(5, "Input/output error")
        return names(self, folder)

    monkeypatch.setattr(LocalPlace, "names", failing)
    with pytest.raises(OutputError, match=r"out: its scenes cannot be listed \(.*Input/output error"):
        detect(scene, rgb_bundle, tmp_path / "out", **SETTINGS)


def test_little_is_held_of_each_scene(rgb_bundle, tmp_path) -> None:
    """As memory of an output of 100,000 scenes: a hundred bytes or so of those that are not asked for."""
    import tracemalloc

    detect(scenes(tmp_path, range(1)), rgb_bundle, tmp_path / "out", **SETTINGS)
    item = (tmp_path / "out/items/s0.json").read_text()
    count = 3000
    for i in range(count):
        (tmp_path / f"out/items/t{i}.json").write_text(item.replace('"s0"', f'"t{i}"').replace("s0.", f"t{i}."))
    found = CommittedScenes(open_output(tmp_path / "out"))
    tracemalloc.start()
    known = found.read(())
    assert len(known) == count + 1 and sys.getsizeof(known)
    known.clear()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / count < 350
