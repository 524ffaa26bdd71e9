"""Deduplication as plain loops over all pairs, without any code of the package."""

from __future__ import annotations

from typing import Any

import shapely


def measure(one: dict[str, Any], other: dict[str, Any], metric: str) -> float:
    shared = shapely.intersection(one["shape"], other["shape"]).area
    areas = one["shape"].area, other["shape"].area
    if one["truncated"] and not other["truncated"]:
        return shared / areas[0]
    if other["truncated"] and not one["truncated"]:
        return shared / areas[1]
    if metric == "ios" or (one["truncated"] and other["truncated"]):
        return shared / min(areas)
    return shared / (areas[0] + areas[1] - shared)


def rank(row: dict[str, Any], prefer: str) -> tuple[Any, ...]:
    newest = -row["date"] if row["date"] is not None else float("inf")
    values = (-row["score"], newest) if prefer == "score" else (newest, -row["score"])
    return row["truncated"], *values, row["scene"], row["id"]


def brute(
    rows: list[dict[str, Any]], *, prefer: str, metric: str, threshold: float, class_agnostic: bool
) -> dict[str, str]:
    """Id of every dropped box → id of the one it is merged into."""
    left = sorted(rows, key=lambda row: rank(row, prefer))
    found: dict[str, str] = {}
    while left:
        best = left.pop(0)
        matches: dict[str, list[tuple[bool, float, dict[str, Any]]]] = {}
        for row in left:
            if row["scene"] == best["scene"] or (row["label"] != best["label"] and not class_agnostic):
                continue
            pair = sorted((best, row), key=lambda r: r["scene"])
            value = measure(*pair, metric)
            if value > 0 and value >= threshold - 1e-6:
                matches.setdefault(row["scene"], []).append((row["truncated"], -value, row))
        for some in matches.values():
            some.sort(key=lambda match: match[:2])
            # The whole box that it overlaps best, or all fragments.
            all_fragments = some[0][0] and not best["truncated"]
            for _, _, row in some if all_fragments else some[:1]:
                found[row["id"]] = best["id"]
                left.remove(row)
    return found
