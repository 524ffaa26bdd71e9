"""Ranges of levels: by hand, as a property, and as a setting of a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.config import make_config
from geosod.errors import ConfigError, OutputError
from geosod.evaluation.files import as_config, check_new
from geosod.evaluation.fit_levels import fit_levels, ranges_of

from .scenes import found_scene, labels_of


def test_ranges_by_hand() -> None:
    limits = np.array([0, 10, 20, 40, np.inf])
    ap = np.array([[0.8, 0.7, 0.5, 0.1], [0.1, 0.65, 0.6, 0.5], [0.0, 0.1, 0.3, 0.4]])
    # The first level is within a tenth of the best in the first two bins; the second in the last three.
    assert ranges_of(ap, limits) == ((0.0, 20.0), (10.0, None), None)
    assert ranges_of(np.full((2, 4), np.nan), limits) == ((0.0, None), None)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 999))
def test_ranges_cover_all_sizes(levels: int, bins: int, seed: int) -> None:
    ap = np.random.default_rng(seed).random((levels, bins)).round(1)
    limits = np.append(np.arange(bins) * 10.0, np.inf)
    kept = [r for r in ranges_of(ap, limits) if r is not None]
    for size in limits[:-1]:
        assert any(low <= size and (high is None or size < high) for low, high in kept)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    side = np.exp(rng.uniform(np.log(6), np.log(60), count))
    corner = np.column_stack([np.arange(count) % 4, np.arange(count) // 4]) * 90.0 + 5
    return np.concatenate([corner, corner + side[:, None]], axis=1)


def test_each_level_gets_the_sizes_that_it_finds() -> None:
    """Full resolution finds objects below 25 px, half resolution those from 18 px on."""
    rng = np.random.default_rng(0)
    truth = {f"s{i}": _boxes(rng, 16) for i in range(20)}
    fine, coarse = [], []
    for name, boxes in truth.items():
        side = boxes[:, 2] - boxes[:, 0]
        fine.append(found_scene(name, boxes[side < 25]))
        coarse.append(found_scene(name, boxes[side > 18]))
    fitted = fit_levels(labels_of(truth), {1.0: fine, 0.5: coarse})
    (_, high), (low, none) = fitted.ranges
    assert fitted.ranges[0][0] == 0 and none is None and 18 <= high <= 32 and 13 <= low <= 25 and low <= high
    assert fitted.objects.sum() == 320
    levels = make_config(levels=fitted.setting()).levels
    assert [level.scale for level in levels] == [1.0, 0.5] and levels[1].sizes == (low, None)
    with pytest.raises(ConfigError, match="two levels or more"):
        fit_levels(labels_of(truth), {1.0: fine})
    with pytest.raises(ConfigError, match="16 labels are too few"):
        fit_levels(labels_of({"s0": truth["s0"]}), {1.0: fine[:1], 0.5: coarse[:1]})


def test_a_written_file_is_a_configuration(tmp_path) -> None:
    path, levels = tmp_path / "levels.yaml", [{"scale": 1.0, "sizes": [0, 20]}, {"scale": "full", "sizes": [12, None]}]
    path.write_text(as_config({"levels": levels}, "Why"))
    assert make_config(path).levels[1].sizes == (12, None) and path.read_text().startswith("# Why\n")


def test_files_are_not_replaced_unasked(tmp_path) -> None:
    (tmp_path / "there").touch()
    for name, message in (("there", "exists; use --overwrite"), ("", "is a folder"), ("no/x", "there is no folder")):
        with pytest.raises(OutputError, match=message):
            check_new([None, tmp_path / name], overwrite=False)
    check_new([tmp_path / "there"], overwrite=True)
