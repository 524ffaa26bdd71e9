"""The arithmetic of `benchmarks.scale`, by cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scale import GPU_GROUP, REMEDIES, fleets_of
from benchmarks.scale_model import (
    Costs,
    Fleet,
    capacities,
    first_limit,
    in_flight_bytes,
    predicted_seconds,
    scaled,
    straggler_seconds,
)

COSTS = Costs(
    read=0.02, detect=0.1, settle=0.0, merge=0.0, commit=2.0, driver=0.004, tile_bytes=3e6, pending_bytes=1e3,
    final_bytes=1e6, unit_tiles=64, scene_tiles=1000,
)  # fmt: skip
FLEET = Fleet(readers=10, reader_cores=16, detectors=40, per_node=16, network=1.25e9, commits=2, group=4)


def test_each_stage_alone() -> None:
    assert capacities(COSTS, FLEET) == pytest.approx(
        {
            "reading": 8000, "detecting": 6400, "network of detector nodes": 16666.67, "driver": 1000,
            "committing": 1000, "network of the driver's node": 1.25e6,
        }
    )  # fmt: skip
    assert capacities(COSTS, FLEET).keys() == REMEDIES.keys(), "there is an answer to each limit"


def test_the_first_limit_is_the_slowest_stage() -> None:
    assert first_limit(replace(COSTS, driver=0.01), FLEET) == ("driver", pytest.approx(400))
    assert first_limit(replace(COSTS, driver=1e-6, commit=0.01), FLEET) == ("detecting", pytest.approx(6400))
    assert first_limit(replace(COSTS, driver=1e-6, commit=0.01), replace(FLEET, readers=1))[0] == "reading"


def test_loads_and_tail() -> None:
    assert in_flight_bytes(COSTS, FLEET, in_flight=3, ahead=2) == (16 * 3 * 4 * 3e6, 16 * 2 * 4 * 3e6)
    assert straggler_seconds(COSTS, column=4, group=4, in_flight=3) == pytest.approx(4 * 64 * 0.02 + 3 * 4 * 0.1)


def test_costs_of_scenes_lie_on_a_line() -> None:
    small, large = replace(COSTS, scene_tiles=100, commit=0.5), replace(COSTS, scene_tiles=300, commit=0.7)
    assert scaled(small, large, 1300).commit == pytest.approx(1.7) and scaled(small, large, 1300).scene_tiles == 1300
    assert scaled(small, replace(large, commit=0.4), 1300).commit == pytest.approx(0.4), "never less than measured"


def test_runs_on_more_nodes_take_less_until_the_cores_are_full() -> None:
    shared = {"tiles": 80, "cores": 2, "group": 4, "column": 1, "busy": False}
    costs = replace(COSTS, detect=0.4, commit=0.0, driver=0.0, unit_tiles=8)
    found = [predicted_seconds(costs, detectors=n, **shared) for n in (1, 2, 4, 1000)]
    assert found[:3] == pytest.approx([20 * 1.6, 10 * 1.6, 5 * 1.6]), "rounds of groups"
    assert found[3] == pytest.approx(1.6), "one group cannot be divided"
    slow = predicted_seconds(replace(costs, read=0.2), detectors=1000, **shared)
    assert slow == pytest.approx((80 - 8) * 0.2 / 2), "where reading takes longer, on two cores"


def test_fleets_are_balanced() -> None:
    for costs, fleet in fleets_of(COSTS, 4).values():
        found = capacities(costs, fleet)
        assert fleet.nodes == 1000 and found["reading"] == pytest.approx(found["detecting"], rel=0.02)
    assert fleet.group == GPU_GROUP
