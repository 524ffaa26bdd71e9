"""Seeds of any size for torch."""

from __future__ import annotations


def torch_seed(seed: int) -> int:
    """A seed that torch takes: small ones as they are, others, such as dates with the time, reduced to 63 bits."""
    return seed % (1 << 63)
