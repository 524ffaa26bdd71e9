"""The report: one file that loads nothing from elsewhere, with plots and crops; and the figures as JSON."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from geosod.datasets.read import read_labels
from geosod.evaluation.as_json import as_json
from geosod.evaluation.evaluate import evaluate
from geosod.evaluation.figures import EvaluationSettings
from geosod.evaluation.report import report
from geosod.evaluation.tables import tables_of

from .scenes import draw, found_scene, grid_of_spots, labels_of, write_coco


def _result(tmp_path, name: str = "spot"):
    boxes = {f"s{i}": grid_of_spots(20 + i) for i in range(6)}
    for key, rows in boxes.items():
        draw(tmp_path / f"{key}.tif", rows)
    labels = read_labels(write_coco(tmp_path / "a.json", {f"{k}.tif": v for k, v in boxes.items()}, name=name)).labels
    scenes = [
        found_scene(key, rows[3:] + np.where(np.arange(len(rows) - 3) < 4, 40, 0)[:, None], classes=(name,))
        for key, rows in boxes.items()
    ]
    return evaluate(labels, scenes, EvaluationSettings(radius=5, groups=r"s[0-2]|s", resamples=50))


def test_the_report_stands_alone_and_shows_hits_and_misses(tmp_path) -> None:
    text = report(_result(tmp_path, name="<script>alert(1)</script> & $x$"))
    assert "<script" not in text and "&lt;script&gt;" in text
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*['\"]?([^'\")\s>]+)", text)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "Hits" in text and "False alarms" in text and "Misses" in text and text.count("<svg") == 5
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 24
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    assert first.shape == (256, 256, 3) and first.max() > 180


def test_a_report_without_the_images_says_so() -> None:
    boxes = {f"s{i}": grid_of_spots(8) for i in range(2)}
    text = report(evaluate(labels_of(boxes), [found_scene(name, rows) for name, rows in boxes.items()]))
    assert "no picture:" in text and "data:image" not in text


def test_json_and_tables_say_the_same(tmp_path) -> None:
    result = _result(tmp_path)
    values = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert values["objects"] == sum(range(20, 26)) and values["images"] == 6
    assert values["boxes"]["at_iou"]["recall"] == result.boxes.at_iou.recall < 1
    assert values["boxes"]["intervals"]["AP50"][0] <= values["boxes"]["AP50"] <= values["boxes"]["intervals"]["AP50"][1]
    assert set(values["groups"]) == {"s0", "s1", "s2", "s"} and values["points"]["by_group"]["s0"]["truth"] == 20
    cells = {row[0]: row[1] for table in tables_of(result) for row in table.rows}
    assert cells["AP50"] == f"{values['boxes']['AP50']:.3f}"
    assert values["boxes"]["curves"]["spot"]["recall"][-1] == values["boxes"]["at_iou"]["recall"]
