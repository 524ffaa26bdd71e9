"""Other tools on the same scene, with the same weights and tiles; each has an environment of its own.

``python -m benchmarks peers --setup`` makes the environments. Programs of peers import from here, so this imports
nothing before it is asked to measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.table import Table


def run(options: Options) -> list[Table]:
    from benchmarks.peers.compare import compare

    return compare(options)
