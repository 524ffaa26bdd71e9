"""Files of several row groups, whose rows and log entries are read in parts."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from affine import Affine

from geosod import deduplicate
from geosod.deduplication import merge_log
from geosod.detections import Detections
from geosod.output.geoparquet import ROW_GROUP_ROWS, read_metadata
from tests.deduplication.outputs import commit
from tests.output.samples import make_scene

UTM = "EPSG:32633"
SIDE = 360


@pytest.mark.slow
def test_files_of_several_row_groups(tmp_path, monkeypatch) -> None:
    """Two scenes of 129,600 boxes on a lattice, of which the second covers the right part of the first."""
    monkeypatch.setattr(merge_log, "ROWS_PER_FILE", 30_000)
    rng, shift = np.random.default_rng(0), 100
    x, y = np.meshgrid(np.arange(SIDE) * 10.0, np.arange(SIDE) * 10.0)
    corner = np.stack([x, y], axis=-1).reshape(-1, 2)
    boxes = np.hstack([corner, corner + 6])
    for k in range(2):
        place = Affine(0.5, 0, 500_000 + 5 * shift * k, 0, -0.5, 5_200_000)
        scene = make_scene(f"s{k}", crs=UTM, transform=place, size=(SIDE * 10, SIDE * 10), uri=f"/{k}.tif")
        d = Detections(boxes=boxes, scores=rng.random(len(boxes)), labels=np.zeros(len(boxes)))
        commit(tmp_path / "out", scene, d, crs=UTM)
    result = deduplicate(tmp_path / "out", out=tmp_path / "new", rows=20_000)
    common = (SIDE - shift) * SIDE
    assert (result.rows_in, result.merged, result.compared) == (2 * SIDE**2, common, 2 * common)
    gone = pq.read_table(tmp_path / "new" / "duplicates.parquet", columns=["detection_id", "kept_id", "bbox", "score"])
    where, kept = {}, 0
    for k in range(2):
        [path] = (tmp_path / "new").glob(f"detections/*/s{k}.parquet")
        table, footer = pq.read_table(path, partitioning=None), pq.read_metadata(path)
        sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        assert set(sizes[:-1]) <= {ROW_GROUP_ROWS} and 0 < sizes[-1] <= ROW_GROUP_ROWS
        [old] = (tmp_path / "out").glob(f"detections/*/s{k}.parquet")
        before = pq.read_table(old, columns=["detection_id"], partitioning=None)["detection_id"].to_pylist()
        kept_ids = set(table["detection_id"].to_pylist())
        assert table["detection_id"].to_pylist() == [name for name in before if name in kept_ids]
        geo = read_metadata(path, key="geo")
        bbox = table["bbox"].combine_chunks()
        assert geo is not None and geo["columns"]["geometry"]["bbox"] == [
            min(bbox.field("xmin").to_pylist()), min(bbox.field("ymin").to_pylist()),
            max(bbox.field("xmax").to_pylist()), max(bbox.field("ymax").to_pylist()),
        ]  # fmt: skip
        ids = table["merged_ids"].to_pylist()
        kept += sum(map(len, ids))
        assert [1 + len(names) for names in ids] == table["n_scenes"].to_pylist()
        for name, box, score, merged_ids in zip(
            table["detection_id"].to_pylist(), table["bbox"].to_pylist(), table["score"].to_pylist(), ids, strict=True
        ):
            where[name] = (box, score, merged_ids)
    assert kept == common
    for row in gone.to_pylist():
        box, score, merged_ids = where[row["kept_id"]]
        assert merged_ids == [row["detection_id"]] and box == row["bbox"] and score >= row["score"]
