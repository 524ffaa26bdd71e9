"""Rows in parts: in order, and a bounded number at a time."""

from __future__ import annotations

import threading
import time

import pytest

from geosod.output import parts
from geosod.output.parts import by_part


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    monkeypatch.setattr(parts, "usable_cpus", lambda: 3)


@pytest.mark.parametrize("rows", [0, 1, 10, 11, 95, 100])
def test_parts_are_the_rows_in_order(rows: int) -> None:
    def compute(part: slice) -> range:
        time.sleep(0.005 if part.start % 40 == 0 else 0)  # later parts end first
        return range(rows)[part]

    found = list(by_part(compute, rows))
    assert [row for part in found for row in part] == list(range(rows))
    assert all(0 < len(part) <= 10 for part in found)


def test_a_bounded_number_of_parts_is_made_ahead() -> None:
    lock, made = threading.Lock(), 0

    def compute(part: slice) -> int:
        nonlocal made
        with lock:
            made += 1
        return part.start

    taken, ahead = 0, 0
    for _ in by_part(compute, 1000):
        time.sleep(0.002)  # a slow writer
        ahead = max(ahead, made - taken)
        taken += 1
    assert made == taken == 100
    assert ahead <= parts.PARTS_AHEAD * 3 + 1


def test_nothing_is_made_after_an_error_or_when_nobody_reads_on() -> None:
    made: list[int] = []

    def compute(part: slice) -> int:
        made.append(part.start)
        if part.start == 30:
            raise ValueError("third")
        return part.start

    with pytest.raises(ValueError, match="third"):
        list(by_part(compute, 1000))
    assert len(made) < 20
    made.clear()
    reading = by_part(compute, 1000)
    next(reading)
    reading.close()
    assert len(made) < 20 and threading.active_count() < 20
