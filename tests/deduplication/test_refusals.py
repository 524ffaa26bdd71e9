"""What is refused, what is skipped, and that no partial result is ever left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from affine import Affine

from geosod import deduplicate
from geosod.deduplication.run import Step
from geosod.errors import ConfigError, OutputError, UsageError
from geosod.output.failures import failures_of
from geosod.results import Failure
from tests.deduplication.outputs import commit, rows_of, utm_scene
from tests.output.samples import CRS84, make_scene, random_detections


@pytest.fixture
def outs(tmp_path: Path) -> list[Path]:
    """Three scenes with the same boxes in three outputs."""
    for name in "abc":
        commit(tmp_path / name, utm_scene(name), random_detections(1, 200))
    return [tmp_path / name for name in "abc"]


def table(out: Path) -> Path:
    [path] = out.glob("detections/*/*.parquet")
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_paths_that_are_not_outputs(outs, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_text("no table")
    for bad, line in (("missing", "no such output"), ("empty", "no scene that geosod"), ("x.parquet", "no scene that")):
        with pytest.raises(OutputError, match=line):
            deduplicate([*outs, tmp_path / bad], out=tmp_path / "new")
    with pytest.raises(OutputError, match="no output is given"):
        deduplicate([], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_scene_in_two_outputs(outs, tmp_path) -> None:
    with pytest.raises(OutputError, match="given twice, as the same output"):
        deduplicate([*outs, outs[0]], out=tmp_path / "new")
    shutil.copytree(outs[0], tmp_path / "copy")
    with pytest.raises(OutputError, match="given twice, as the same output"):
        deduplicate([*outs, tmp_path / "copy"], out=tmp_path / "new")
    commit(tmp_path / "other", utm_scene("a"), random_detections(2, 10))
    with pytest.raises(OutputError, match=r"two outputs, .*a/items/a.json and .*other/items/a.json"):
        deduplicate([*outs, tmp_path / "other"], out=tmp_path / "new")


def test_a_deduplicated_output_is_refused(outs, tmp_path) -> None:
    deduplicate(outs[:2], out=tmp_path / "new")
    with pytest.raises(OutputError, match="is deduplicated already"):
        deduplicate([tmp_path / "new", outs[2]], out=tmp_path / "next")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prefer": "best"}, "prefer = 'best'"),
        ({"metric": "giou"}, "metric = 'giou'"),
        ({"threshold": 0.0}, "threshold 0.0"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"crs": "EPSG:1"}, "EPSG:1"),
        ({"crs": "EPSG:5773"}, "gives no position on the ground"),
        ({"crs": "IAU_2015:49900"}, "a CRS of Mars"),
    ],
)
def test_settings(outs, tmp_path, settings, line) -> None:
    with pytest.raises(ConfigError, match=line):
        deduplicate(outs, out=tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_bodies_are_not_mixed(outs, tmp_path) -> None:
    mars = make_scene("m", crs="IAU_2015:49900", transform=Affine(1e-5, 0, 10, 0, -1e-5, 10))
    commit(tmp_path / "m", mars, random_detections(1, 20), crs="IAU_2015:49900")
    with pytest.raises(ConfigError, match=r"lies on the Earth, scene 'm' .* on Mars"):
        deduplicate([*outs, tmp_path / "m"], out=tmp_path / "new")
    assert deduplicate(tmp_path / "m", out=tmp_path / "new").rows_out == 20


def test_where_it_goes(outs, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    for bad, line in (
        (outs[0], "is the same folder as"), (outs[0] / "in", "inside it"), (tmp_path, "around it"),
        (tmp_path / "file", "is a file"), (tmp_path / "new.parquet", "the result is a folder"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=line):
            deduplicate(outs, out=bad, overwrite=True)
    assert left(tmp_path) == {"a", "b", "c", "file"}


def test_overwriting(outs, tmp_path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    first = deduplicate(outs[:2], out=new)
    with pytest.raises(OutputError, match="--overwrite"):
        deduplicate(outs, out=new)
    second = deduplicate(outs, out=new, overwrite=True)
    assert (first.scenes, second.scenes) == (2, 3) and len(list(new.glob("items/*"))) == 3
    (new / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.txt: was not written by geosod"):
        deduplicate(outs, out=new, overwrite=True)
    assert (new / "notes.txt").exists() and left(tmp_path) == {"a", "b", "c", "new"}


def test_uncommitted_scenes_are_skipped(outs, tmp_path) -> None:
    (outs[0] / "items" / "a.json").unlink()
    (outs[1] / "coverage" / "b.parquet").unlink()
    events: list[Step | Failure] = []
    result = deduplicate(outs, out=tmp_path / "new", on_event=events.append)
    assert result.exit_code == 3 and result.scenes == 1 and result.rows_out == 200
    assert [e for e in events if isinstance(e, Failure)] == list(result.skipped)
    messages = {f.scene_id: f.message for f in failures_of(tmp_path / "new" / "failures.parquet")}
    assert "is not committed" in messages["a"]
    assert "its coverage file ../coverage/b.parquet is missing" in messages["b"]
    (outs[2] / "items" / "c.json").unlink()
    with pytest.raises(OutputError, match="no scene can be used"):
        deduplicate(outs, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("column", ["geometry", "detection_id", "px_xmin"])
def test_only_the_scene_of_a_corrupt_file_is_skipped(outs, tmp_path, column) -> None:
    """The footer is intact, a page is not. Boxes of other scenes that the scene had suppressed are kept again."""
    path = table(outs[0])
    footer = pq.read_metadata(path).row_group(0)
    [chunk] = [footer.column(i) for i in range(footer.num_columns) if footer.column(i).path_in_schema == column]
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)
    result = deduplicate(outs, out=tmp_path / "new")
    assert [f.scene_id for f in result.skipped] == ["a"] and result.exit_code == 3
    alone = deduplicate(outs[1:], out=tmp_path / "alone")
    assert result.rows_out == alone.rows_out == 200
    assert table_bytes(tmp_path / "new") == table_bytes(tmp_path / "alone")
    assert left(tmp_path) == {"a", "b", "c", "new", "alone"}


def table_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("detections/*/*.parquet")}


def test_a_broken_footer_and_a_foreign_table(outs, tmp_path) -> None:
    table(outs[0]).write_bytes(b"PAR1")
    path = table(outs[1])
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(rows.drop_columns(["truncated"]).replace_schema_metadata(rows.schema.metadata), path)
    result = deduplicate(outs, out=tmp_path / "new")
    assert {f.scene_id for f in result.skipped} == {"a", "b"} and result.rows_out == 200


def test_a_scene_that_cannot_be_reprojected_is_skipped(outs, tmp_path) -> None:
    """An orthographic map centred on one scene does not show the other side of the Earth."""
    view = "+proj=ortho +lat_0=52 +lon_0=7 +datum=WGS84"
    behind = make_scene("far", crs="EPSG:32701", transform=Affine(0.5, 0, 500_000, 0, -0.5, 4_200_000))
    commit(tmp_path / "far", behind, random_detections(1, 20))
    result = deduplicate([*outs, tmp_path / "far"], out=tmp_path / "new", crs=view)
    assert [f.scene_id for f in result.skipped] == ["far"] and "cannot be represented in" in result.skipped[0].message
    assert result.rows_out == 200 and left(tmp_path) == {"a", "b", "c", "far", "new"}


def test_a_full_disk_is_reported_and_leaves_nothing(outs, tmp_path) -> None:
    """No scene causes it, so none is skipped."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000));"
        "from geosod.cli.main import run; run()"
    )
    command = [sys.executable, "-B", "-c", script, "deduplicate", *map(str, outs), "-o", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "skipped" not in done.stderr and "Traceback" not in done.stderr
    assert left(tmp_path) == {"a", "b", "c"}


def test_nothing_is_left_after_a_failure(outs, tmp_path) -> None:
    (outs[1] / "failures.parquet").write_text("no table")
    with pytest.raises(UsageError, match="not readable as a failures file"):
        deduplicate(outs, out=tmp_path / "new")
    assert left(tmp_path) == {"a", "b", "c"}


def test_an_item_may_not_point_out_of_its_output(outs, tmp_path) -> None:
    path = outs[0] / "items" / "a.json"
    item = json.loads(path.read_text())
    item["assets"]["detections"]["href"] = os.path.relpath(table(outs[1]), path.parent)
    path.write_text(json.dumps(item))
    result = deduplicate(outs, out=tmp_path / "new")
    assert "a" in {f.scene_id for f in result.skipped} and result.scenes == 2


def test_empty_scenes(tmp_path) -> None:
    for name in "ab":
        commit(tmp_path / name, utm_scene(name), random_detections(1, 0))
    result = deduplicate([tmp_path / "a", tmp_path / "b"], out=tmp_path / "new")
    assert (result.rows_in, result.rows_out, result.exit_code) == (0, 0, 0)
    assert rows_of(tmp_path / "new").empty and rows_of(tmp_path / "new").crs == CRS84


def geosod(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from geosod.cli.main import run; run()", "deduplicate", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})


def test_the_command(outs, tmp_path) -> None:
    done = geosod(*outs, "-o", tmp_path / "new", "--json", "--prefer", "newest", "--metric", "ios")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["rows_in"] == 600 and summary["rows_in"] - summary["merged"] == summary["rows_out"] == 200
    assert "from 600 detections in 3 scenes" in done.stderr and "400 duplicates removed" in done.stderr
    again = geosod(*outs, "-o", tmp_path / "new")
    assert again.returncode == 2 and "use --overwrite" in again.stderr and "Traceback" not in again.stderr
    (outs[0] / "items" / "a.json").unlink()
    partly = geosod(*outs, "-o", tmp_path / "new", "--overwrite", "-q")
    assert partly.returncode == 3 and partly.stdout == ""
    assert partly.stderr.startswith("skipped: ") and len(partly.stderr.splitlines()) == 1
