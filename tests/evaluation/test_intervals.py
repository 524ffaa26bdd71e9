"""The bootstrap covers the truth at its stated rate, and resampled AP is the AP of the drawn images."""

from __future__ import annotations

import numpy as np
import pytest

from geosod.datasets.labels import Labels
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import COCO_THRESHOLDS, average_precision
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.intervals import bootstrap, mean_average_precision, ratio
from geosod.evaluation.overlaps import overlaps_of

from .test_coco import images, random_comparison


def _drawn(comparison: Comparison, weights: np.ndarray) -> Comparison:
    """Every image as often as its weight says."""
    picks = np.repeat(np.arange(len(weights)), weights.astype(int))
    truth = [np.flatnonzero(comparison.truth.image == i) for i in picks]
    found = [np.flatnonzero(comparison.image == i) for i in picks]
    labels = comparison.truth[np.concatenate(truth)].with_columns(
        images=images(len(picks)), image=np.repeat(np.arange(len(picks)), [len(t) for t in truth])
    )
    return Comparison(
        labels, comparison.found[np.concatenate(found)], np.repeat(np.arange(len(picks)), [len(f) for f in found])
    )


@pytest.mark.parametrize("seed", range(8))
def test_resampled_ap_is_that_of_the_drawn_images(seed: int) -> None:
    made = random_comparison(seed, truths=60, found=200, exact=True)
    # Scores without ties, whose order depends on that of the images.
    scores = np.random.default_rng(seed).permutation(200) / 200
    made = Comparison(
        made.truth, Detections(boxes=made.found.boxes, scores=scores, labels=made.found.labels), made.image
    )
    statistic = mean_average_precision(
        made, overlaps_of(made), thresholds=COCO_THRESHOLDS, groups=np.arange(6), max_detections=20
    )
    for weights in ([1, 1, 1, 1, 1, 1], [3, 0, 1, 0, 2, 0]):
        drawn = _drawn(made, np.array(weights))
        expected = average_precision(drawn, overlaps_of(drawn), max_detections=20).mean()
        assert statistic(np.array(weights, float)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_the_interval_of_an_f_score_covers_the_truth_at_its_rate() -> None:
    """Images differ in how many objects they show and in how well these are found; 400 studies of 40 images each."""
    rng = np.random.default_rng(0)

    def images_of(count: int) -> tuple[np.ndarray, np.ndarray]:
        objects = rng.negative_binomial(2, 0.05, count)
        hits = rng.binomial(objects, rng.beta(8, 3, count))
        return 2 * hits, objects + hits + rng.poisson(0.3 * objects)

    above, below = images_of(400_000)
    expected = above.sum() / below.sum()
    for level in (0.8, 0.95):
        covered = 0
        for study in range(400):
            low, high = bootstrap(ratio(*images_of(40)), 40, level=level, resamples=400, seed=study)
            covered += low <= expected <= high
        # Two standard errors of a share of 400 studies, and two points for the size of the samples.
        assert covered / 400 == pytest.approx(level, abs=2 * (level * (1 - level) / 400) ** 0.5 + 0.02), level


@pytest.mark.slow
def test_the_interval_of_ap_covers_the_truth_at_its_rate() -> None:
    """One population of 2,000 images, whose AP is known, and 200 studies of 40 of them."""
    rng = np.random.default_rng(1)
    count, studies, size = 2000, 200, 40
    quality = rng.beta(8, 3, count)
    image = np.repeat(np.arange(count), rng.poisson(6, count) + 1)
    place = np.arange(len(image)) * 100.0 % 10_000
    boxes = np.column_stack([place, place * 0, place + 10, place * 0 + 10])
    hit = rng.random(len(image)) < quality[image]
    truth = Labels(images=images(count), classes=["a"], image=image, boxes=boxes, labels=image * 0)
    scores = np.clip(rng.normal(np.where(hit, 0.65, 0.35), 0.2), 0, 1)
    found = Detections(boxes=boxes + np.where(hit, 0, 50)[:, None], scores=scores, labels=image * 0)
    population = Comparison(truth, found, image)
    ap = mean_average_precision(population, overlaps_of(population), thresholds=(0.5,), groups=np.arange(count))
    expected, covered = ap(np.ones(count)), 0
    for study in range(studies):
        chosen = rng.choice(count, size)

        def statistic(weights: np.ndarray, chosen: np.ndarray = chosen) -> float:
            return ap(np.bincount(chosen, weights, minlength=count))

        low, high = bootstrap(statistic, size, level=0.9, resamples=200, seed=study)
        covered += low <= expected <= high
    assert covered / studies == pytest.approx(0.9, abs=2 * (0.9 * 0.1 / studies) ** 0.5 + 0.02)


def test_no_interval_without_enough_groups() -> None:
    assert bootstrap(ratio(np.ones(4), np.ones(4)), 4) is None
    assert bootstrap(ratio(np.zeros(9), np.zeros(9)), 9) is None
    assert bootstrap(ratio(np.ones(9), np.ones(9)), 9) == (1.0, 1.0)
    with pytest.raises(ConfigError, match="level=95"):
        bootstrap(ratio(np.ones(9), np.ones(9)), 9, level=95)
