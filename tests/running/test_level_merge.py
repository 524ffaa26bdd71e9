"""Boxes of different levels: every method between levels after every method inside them, against plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geosod
from geosod.config import make_config
from geosod.detections import Detections
from geosod.merging.rule import MergeRule
from geosod.running import assemble
from geosod.running.detect import make_job
from geosod.running.planning import ScenePlan, plan_scene
from geosod.scene import SceneRef
from tests.merging.oracles import plain_merge
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import detect, files, tables

LEVELS = "1:0-200,0.5:0-200"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    return random_bundle(folder, bands=("red", "green", "blue"), top_k=40, merge_threshold=0.1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_tif(tmp_path_factory.mktemp("scenes") / "s.tif", noise(3, 240, 260))


def in_scene(plan: ScenePlan, found: Detections) -> Detections:
    """The boxes of sizes that their level may report, in the frame of the scene, one box at a time."""
    rows, boxes = [], []
    for i, box in enumerate(found.boxes.tolist()):
        level = next(one for one in plan.levels if np.float32(one.scale) == found.level[i])
        x, y = plan.frame(level)
        side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        if level.sizes[0] <= side <= level.sizes[1]:
            rows.append(i)
            boxes.append([box[0] / x, box[1] / y, box[2] / x, box[3] / y])
    return found[rows].with_columns(boxes=boxes)


@pytest.mark.parametrize("between", ["nms", "soft_nms", "nmm", "greedy_nmm", "wbf"])
@pytest.mark.parametrize("inside", ["nms", "soft_nms", "wbf"])
def test_each_method_between_levels_after_each_inside(scene, bundle, inside, between, monkeypatch) -> None:
    merged: list[tuple[ScenePlan, Detections, MergeRule, Detections]] = []

    def merge_levels(plan: ScenePlan, found: Detections, rule: MergeRule) -> Detections:
        merged.append((plan, found, rule, original(plan, found, rule)))
        return merged[-1][3]

    original = assemble.merge_levels
    monkeypatch.setattr(assemble, "merge_levels", merge_levels)
    settings: dict[str, Any] = {"merge_method": inside, "level_merge": between, "levels": LEVELS, "engine": "serial"}
    geosod.detect(scene, model=bundle, precision="fp32", backend="eager", **settings)
    ((plan, found, rule, result),) = merged
    assert (rule.method, rule.threshold, rule.across_levels) == (between, 0.1, True)
    assert len(np.unique(found.level)) == 2
    both = in_scene(plan, found)
    assert result.to_arrow().equals(plain_merge(both, rule).to_arrow())
    # Not the boxes of one level only: each method does something.
    assert len(result) < len(both) - 10 or between == "soft_nms"


def test_scores_inside_a_level_are_those_of_its_method(scene, bundle, monkeypatch) -> None:
    """SNIP: NMS inside levels leaves scores as they are, and soft-NMS lowers them once, between levels."""
    found: list[Detections] = []
    original = assemble.merge_levels
    monkeypatch.setattr(assemble, "merge_levels", lambda *args: (found.append(args[1]), original(*args))[1])
    run: dict[str, Any] = {"levels": LEVELS, "precision": "fp32", "backend": "eager", "engine": "serial"}
    hard = geosod.detect(scene, model=bundle, **run)["s"].detections
    soft = geosod.detect(scene, model=bundle, **run, level_merge="soft_nms")["s"].detections
    assert found[0].to_arrow().equals(found[1].to_arrow())
    assert len(soft) > len(hard)
    scores = {tuple(box): score for box, score in zip(soft.boxes.tolist(), soft.scores.tolist(), strict=True)}
    kept = zip(hard.boxes.tolist(), hard.scores.tolist(), strict=True)
    lowered = [scores[tuple(box)] < score for box, score in kept]
    # Gaussian decay acts on overlaps that do not match, too; the best box of all is lowered by none.
    assert any(lowered) and not all(lowered)


def test_nms_between_levels_leaves_what_soft_nms_kept_inside_one(scene, bundle) -> None:
    job = make_job(bundle, levels=LEVELS, merge_method="soft_nms", level_merge="nms")
    plan = plan_scene(job, SceneRef(str(scene), "s"))
    boxes = [[0, 0, 20, 20], [2, 0, 22, 20], [50, 50, 60, 60], [25, 25, 30, 30]]
    found = Detections(boxes=boxes, scores=[0.9, 0.3, 0.5, 0.4], labels=[0] * 4, level=[1, 1, 1, 0.5])
    merged = assemble.merge_levels(plan, found, job.level_rule)
    # The second box matches the first, of its own level; the last, in the coarse level's pixels, is the third again.
    assert sorted(merged.scores.tolist()) == pytest.approx([0.3, 0.5, 0.9])


def test_the_method_between_levels_is_that_inside_unless_given(bundle) -> None:
    rules = [make_job(bundle, merge_method=m).level_rule.method for m in ("nms", "soft_nms", "wbf")]
    assert rules == ["nms", "soft_nms", "wbf"]
    assert make_job(bundle, merge_method="nms", level_merge="wbf").level_rule.method == "wbf"
    one, other = make_job(bundle, merge_method="wbf"), make_job(bundle, merge_method="wbf", level_merge="wbf")
    assert (
        one.config_digest
        == other.config_digest
        != make_job(bundle, merge_method="wbf", level_merge="nms").config_digest
    )
    with pytest.raises(geosod.GeosodError, match="level_merge = 'best'"):
        make_config(level_merge="best")


@pytest.mark.parametrize("between", ["soft_nms", "wbf"])
@pytest.mark.parametrize(("engine", "unit"), [("serial", (1, 1)), ("local", (2, 1)), ("ray", (1, 2))])
def test_neither_units_nor_engines_matter(scene, bundle, tmp_path, between, engine, unit, request) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    shape = {"levels": f"{LEVELS},0.25", "level_merge": between}
    assert detect(scene, bundle, tmp_path / "whole", unit=(0, 0), **shape).exit_code == 0
    assert detect(scene, bundle, tmp_path / "units", unit=unit, engine=engine, **shape).exit_code == 0
    assert files(tmp_path / "whole") and tables(tmp_path / "whole") == tables(tmp_path / "units")
