"""The simulated month of benchmarks/ingest.py, at a size that shows only that nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import ingest
from benchmarks.options import Options


@pytest.mark.slow
def test_nothing_is_lost_in_a_month_with_a_slow_disk_and_a_dead_node(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ingest, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(ingest, "MAX_DAY", 120)
    phases, total = ingest.run(Options(tmp_path, tmp_path / "scenes", quick=True))
    found: dict[str, Any] = dict(zip(total.columns, total.rows[0], strict=True))
    assert [found[name] for name in ("lost", "not removed", "committed twice")] == [0, 0, 0]
    assert found["items"] + found["marked as withdrawn"] == 50 and found["marked as withdrawn"] == 4
    assert found["requests, empty poll"] == 1
    lags = dict(zip(phases.columns, zip(*phases.rows, strict=True), strict=True))["longest lag, seconds"]
    assert len(lags) == 3 and lags[1] > 2, "what the dead one had leased waits until its lease ends"
