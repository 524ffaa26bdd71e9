"""How unsure a model is of what it found: binary entropy of scores around its threshold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray

#: A detection counts where its relative score is at least this one; its entropy is 0.29 bits.
_LOWEST = 0.05
#: Factor of logits: networks that are trained with focal loss give what is clearly background scores not far below the
#: threshold, as 0.1 for one of 0.3, and there is much of it.
_SHARPNESS = 2.0
#: Scores and thresholds are clamped so far from 0 and 1 that their logits are finite.
_CLAMP = 1e-3
#: The most doubtful detections of a crop that count, so that a crop is not chosen for hundreds that are hardly so.
MOST = 10


def relative_scores(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> FloatArray:
    """Scores as if the threshold were 0.5: sigmoid(2 · (logit(score) - logit(threshold))).

    Args:
        scores: (N,) 0 to 1.
        thresholds: (N,) or one, at which the model reports a detection.

    Returns:
        (N,) float64; 0.5 at the threshold, and above 0.5 where the detection is reported.
    """
    return 1 / (1 + np.exp(-_SHARPNESS * (_logit(scores) - _logit(thresholds))))


def lowest_score(threshold: float) -> float:
    """The lowest score that counts for a model with a threshold."""
    offset = float(_logit(_LOWEST)) / _SHARPNESS
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
