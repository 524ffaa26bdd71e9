"""Peak memory of a run by scene size: it must not grow with the scene.

Draws demo scenes of increasing size, runs `geosod detect` on each in a separate process, and prints the peak of the
sum of proportional set sizes (PSS) over all processes of the run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from geosod.demo.scene import write_scene

RUN = """
import json, sys
import geosod
from geosod.running.memory import peak_memory
with peak_memory(every=0.25) as peak:
    result = geosod.detect(sys.argv[1], model=sys.argv[2], out=sys.argv[3])
print(json.dumps({"peak": peak.pss_bytes, "seconds": result.seconds, "mpx": result.megapixels,
                  "detections": result.detections, "exit_code": result.exit_code}))
"""


def measure(scene: Path, model: str, out: Path) -> dict[str, float]:
    command = [sys.executable, "-c", RUN, str(scene), model, str(out)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    figures: dict[str, float] = json.loads(lines[-1])
    assert figures["exit_code"] == 0
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16384, 32768], help="sides of the scenes in pixels")
    parser.add_argument("--model", default="demo-harbour")
    args = parser.parse_args()
    peaks = []
    print(f"{'scene':>14} {'Gpx':>6} {'peak GiB':>9} {'of first':>9} {'seconds':>8} {'Mpx/s':>7} {'detections':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            scene = Path(folder) / f"{size}.tif"
            write_scene(scene, size=size, seed=7)
            m = measure(scene, args.model, Path(folder) / "out")
            peaks.append(m["peak"])
            speed, growth = m["mpx"] / m["seconds"], m["peak"] / peaks[0]
            row = f"{f'{size} x {size}':>14} {m['mpx'] / 1e3:>6.2f} {m['peak'] / 2**30:>9.2f} {growth:>9.1%}"
            print(f"{row} {m['seconds']:>8.1f} {speed:>7.1f} {m['detections']:>11,}", flush=True)
            scene.unlink()


if __name__ == "__main__":
    main()
