"""Fusion factors of a feature pyramid from the sizes of objects (S-α).

Gong et al. 2021, *Effective Fusion Factor in FPN for Tiny Object Detection*, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from geosod.arrays import IntArray


@dataclass(frozen=True, slots=True)
class FusionFactors:
    """The factors, and the counts that they come from.

    Attributes:
        counts: number of objects whose best prior box is on level 2, 3, 4, 5, 6.
        alpha_2_3: factor of level 3 where it is added to level 2, and so on; None where level 2 has no object.
        alpha_3_4: the same of level 4.
        alpha_4_5: the same of level 5, which carries level 6.
    """

    counts: tuple[int, ...]
    alpha_2_3: float | None
    alpha_3_4: float | None
    alpha_4_5: float | None


def fusion_factors(counts: IntArray) -> FusionFactors:
    """α from i + 1 to i is N(i+1) / N(i), where N(i) is the number of objects of level i; level 6 counts with level 5.

    Args:
        counts: (5,) int64, N of the levels 2 to 6.
    """
    n2, n3, n4, n5, n6 = (int(n) for n in counts)
    return FusionFactors((n2, n3, n4, n5, n6), _ratio(n3, n2), _ratio(n4, n3), _ratio(n5 + n6, n4))


def _ratio(above: int, below: int) -> float | None:
    return above / below if below else None
