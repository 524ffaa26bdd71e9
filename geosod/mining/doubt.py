"""How unsure a model is of what it found: binary entropy of scores around its threshold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray

#: A detection counts where its relative score is at least this one; its entropy is 0.29 bits.
_LOWEST = 0.05
#: Scores and thresholds are clamped so far from 0 and 1 that their logits are finite.
_CLAMP = 1e-3
#: Bits of a crop that count: more doubtful detections than that do not make it more worth labelling.
MAX_BITS = 10.0


def relative_scores(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> FloatArray:
    """Scores as if the threshold were 0.5: sigmoid(logit(score) - logit(threshold)).

    Args:
        scores: (N,) 0 to 1.
        thresholds: (N,) or one, at which the model reports a detection.

    Returns:
        (N,) float64; 0.5 at the threshold, and above 0.5 where the detection is reported.
    """
    return 1 / (1 + np.exp(-(_logit(scores) - _logit(thresholds))))


def lowest_score(threshold: float) -> float:
    """The lowest score that counts for a model with a threshold."""
    offset = float(_logit(_LOWEST))
    return float(1 / (1 + np.exp(-(float(_logit(threshold)) + offset))))


def entropy(relative: FloatArray) -> FloatArray:
    """(N,) bits of the decision whether each detection is reported: 1 at the threshold, and 0 far from it.

    Args:
        relative: (N,) from `relative_scores`.
    """
    p = np.clip(relative, _CLAMP, 1 - _CLAMP)
    return np.asarray(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def _logit(values: npt.ArrayLike) -> FloatArray:
    p = np.clip(np.asarray(values, np.float64), _CLAMP, 1 - _CLAMP)
    return np.asarray(np.log(p / (1 - p)))
