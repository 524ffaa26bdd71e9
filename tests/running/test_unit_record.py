"""Finished units in serial form, and settling, which changes none of its arguments."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geosod
from geosod.detections import Detections
from geosod.errors import OutputError
from geosod.merging.components import Settled
from geosod.merging.rule import MergeRule
from geosod.results import Coverage, Failure
from geosod.running import unit_record
from geosod.running.assemble import assemble_scene
from geosod.running.detect import make_job
from geosod.running.events import UnitSettled
from geosod.running.job import load_fitting
from geosod.running.planning import Level, plan_scene
from geosod.running.serial import detect_unit
from geosod.running.stages import TileOutcome, UnitSummary, merge_units, settle_unit
from geosod.scene import SceneRef, Unit, Window
from geosod.scenes.open import open_scene
from geosod.scenes.read import ReadSummary
from tests.merging.oracles import random_boxes
from tests.rasters import noise, write_tif
from tests.running.helpers import PLAIN, tables


def same(a: Detections, b: Detections) -> bool:
    return bool(a.to_arrow().equals(b.to_arrow()))


windows = st.none() | st.builds(Window, *(st.integers(0, 99) for _ in range(4)))
failures = st.builds(
    Failure, st.text(max_size=9), st.just("a.tif"), windows, st.just("read"), st.just("ReadError"), st.text(max_size=30)
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 999), st.integers(0, 30), st.integers(0, 30), st.lists(failures, max_size=3), st.integers(1, 40))
def test_a_unit_comes_back_as_it_was(seed, final, pending, lost, side) -> None:
    rng = np.random.default_rng(seed)
    settled = Settled(_boxes(rng, final), _boxes(rng, pending))
    coverage = Coverage(32, 3, 5, rng.integers(0, 4, (side, 2 * side)).astype(np.uint8))
    summary = UnitSummary(9, 2, final + pending, pending, 1, 4, 3, coverage, tuple(lost))
    content = unit_record.to_bytes(settled, summary)
    again, also = unit_record.from_bytes(content)
    assert same(again.final, settled.final) and same(again.pending, settled.pending)
    assert np.array_equal(also.coverage.codes, coverage.codes) and also.failures == summary.failures
    counts = (also.tiles, also.empty, also.raw, also.pending, also.capped, also.degenerate, also.reduced)
    assert counts == (9, 2, final + pending, pending, 1, 4, 3)
    assert unit_record.to_bytes(again, also) == content, "equal units are equal bytes"


def _boxes(rng: np.random.Generator, count: int) -> Detections:
    low = rng.uniform(0, 900, (count, 2))
    return Detections(
        boxes=np.hstack([low, low + rng.uniform(1, 60, (count, 2))]),
        scores=rng.random(count),
        labels=rng.integers(0, 3, count),
        truncated=rng.random(count) < 0.2,
        fragment=rng.integers(0, 33, count),
        n_merged=rng.integers(1, 5, count),
        level=rng.choice([1.0, 0.5], count),
    )


def test_what_is_no_record_is_refused() -> None:
    record = unit_record.to_bytes(
        Settled(Detections.empty(), Detections.empty()),
        UnitSummary(1, 0, 0, 0, 0, 0, 0, Coverage(32, 0, 0, np.zeros((2, 2), np.uint8)), ()),
    )
    for wrong in (b"", b"PAR1", record[:100], record.replace(b'"form": 1', b'"form": 7')):
        with pytest.raises(OutputError, match="record of a unit"):
            unit_record.from_bytes(wrong)
    with pytest.raises(OutputError, match="record of a unit"):
        unit_record.from_arrow(pa.table({"pending": [True]}))


def test_settling_changes_none_of_its_arguments(tmp_path) -> None:
    scene = open_scene(SceneRef(str(write_tif(tmp_path / "s.tif", noise(1, 64, 64))), "s"))
    window = Window(0, 0, 64, 64)
    unit = Unit("u", "s", (0, 0), 1.0, (window,), window, Window(10, 10, 40, 40))
    codes = np.zeros((2, 2), np.uint8)
    codes.flags.writeable = False
    read = ReadSummary(1, 0, Coverage(32, 0, 0, codes), ())
    found = random_boxes(np.random.default_rng(0), 60)
    outcomes = [TileOutcome(found, failed=((Window(0, 0, 32, 32), "RuntimeError", "no"),))]
    before = copy.deepcopy((read, outcomes))
    settled, summary = settle_unit(MergeRule(), Level(1.0, scene, (2.0, 30.0)), unit, read, outcomes)
    assert summary.coverage.codes.tolist() == [[3, 0], [0, 0]] and not codes.any()
    assert same(outcomes[0].detections, before[1][0].detections) and read.failures == before[0].failures
    assert len(settled.final) and len(settled.pending)


def test_a_scene_resumes_from_its_units(tmp_path: Path, rgb_bundle) -> None:
    """Half of the units are read back from their records: the outputs are those of an undisturbed run."""
    scene = write_tif(tmp_path / "s.tif", noise(3, 500, 700))
    settings_ = PLAIN | {"unit": (1, 2), "merge_threshold": 0.3}
    geosod.detect(scene, model=rgb_bundle, out=tmp_path / "whole", engine="serial", **settings_)
    job = make_job(rgb_bundle, **settings_)
    plan = plan_scene(job, SceneRef(str(scene), "s"))
    detector, _ = load_fitting(job)
    events: list[UnitSettled] = []
    nodes, summaries = {}, []
    for i, unit in enumerate(plan.units):
        done = detect_unit(job, plan, unit, detector, events.append)
        settled, summary = unit_record.from_bytes(unit_record.to_bytes(*done)) if i % 2 else done
        nodes[unit.id] = settled
        summaries.append(summary)
    outputs = assemble_scene(job, plan, detector.execution, merge_units(plan, job.rule, nodes), summaries)
    from geosod.output.commit import commit_outputs, open_output

    commit_outputs(open_output(tmp_path / "resumed"), outputs)
    assert tables(tmp_path / "resumed") == tables(tmp_path / "whole")
    assert sum(summary.pending for summary in summaries) > 0


def test_damaged_records_are_refused_or_whole() -> None:
    """Whatever bytes change, the outcome is a record or an OutputError."""
    rng = np.random.default_rng(1)
    coverage = Coverage(32, 0, 0, rng.integers(0, 4, (5, 7)).astype(np.uint8))
    content = unit_record.to_bytes(
        Settled(_boxes(rng, 9), _boxes(rng, 4)), UnitSummary(9, 2, 13, 4, 1, 4, 0, coverage, ())
    )
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            unit_record.from_bytes(bytes(damaged[: rng.integers(len(content) // 2, len(content) + 1)]))
        except OutputError:
            continue
