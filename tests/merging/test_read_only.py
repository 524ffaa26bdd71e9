"""Merging leaves its input unchanged, and accepts read-only columns without compiling its kernels again."""

import dataclasses
import importlib
import pkgutil

import numpy as np
import pytest
import shapely

import geosod.merging
from geosod.detections import Detections
from geosod.merging.components import merge_group, settle
from geosod.merging.merge import merge
from geosod.merging.methods import METHODS, method_of
from geosod.merging.polygons import merge_polygons
from geosod.merging.rule import MergeRule
from geosod.scene import Window
from tests.merging.oracles import columns, random_boxes

RULES = [
    *(MergeRule(method, threshold=0.3, margin=1.0, gap=1.0) for method in METHODS),
    MergeRule("soft_nms", decay="linear"),
    MergeRule("wbf", threshold=0.3, borders=False),
    *(MergeRule(method, threshold=0.3, across_levels=True) for method in METHODS),
]
CORE = Window(10, 10, 70, 70)


@pytest.fixture
def cloud() -> Detections:
    """Whole boxes, fragments, boxes in the edge margin and excluded ones; many equal scores, and a negative zero."""
    rng = np.random.default_rng(21)
    cloud = random_boxes(rng, 400, whole_numbers=True)
    cloud = cloud[np.flatnonzero((cloud.boxes[:, 2:] > cloud.boxes[:, :2]).all(axis=1))]
    return cloud.with_columns(boxes=np.where(cloud.boxes == 0, -0.0, cloud.boxes))


def freeze(d: Detections) -> Detections:
    for field in dataclasses.fields(d):
        getattr(d, field.name).flags.writeable = False
    return d


def results(d: Detections) -> list:
    """Every column that merging returns, by every method, for boxes and for polygons."""
    found = []
    for rule in RULES:
        part = settle(d, CORE, rule)
        found += [columns(part.final), columns(part.pending)]
        found.append(columns(merge_group([part.pending, d], CORE, rule, whole=True).final))
        found.append(columns(merge(d, method=rule.method, decay=rule.decay, borders=rule.borders, per_class={0: 0.4})))
        if method_of(rule).polygons is not None:
            kept, shapes = merge_polygons(d, shapely.box(*d.boxes.T), method=rule.method, decay=rule.decay)
            found.append((columns(kept), shapely.to_wkb(shapes).tolist()))
    return found


def compiled() -> dict[str, int]:
    """How many versions of each kernel are compiled."""
    names = [module.name for module in pkgutil.iter_modules(geosod.merging.__path__, "geosod.merging.")]
    items = [item for name in names for item in vars(importlib.import_module(name)).values()]
    return {str(item.py_func): len(item.signatures) for item in items if hasattr(item, "signatures")}


def test_the_input_is_not_changed(cloud):
    before = columns(cloud)
    results(cloud)
    assert columns(cloud) == before


def test_read_only_columns_give_the_same_result(cloud, monkeypatch):
    expected, kernels = results(cloud[np.arange(len(cloud))]), compiled()
    assert len(kernels) > 20
    build = Detections.__init__

    def build_frozen(self, **values):
        build(self, **values)
        freeze(self)

    # Detections that are made along the way are read-only, too.
    monkeypatch.setattr(Detections, "__init__", build_frozen)
    assert results(freeze(cloud)) == expected
    assert compiled() == kernels, "no kernel is compiled again for read-only columns"
