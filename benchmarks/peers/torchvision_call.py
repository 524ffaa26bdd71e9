"""How long a detector with a network of torchvision takes, against torchvision's own call on the same tiles.

python -m benchmarks.peers.torchvision_call [ARCHITECTURE] [--tile 512] [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

import geosod
from geosod.detectors.adapters.detection_networks import ARCHITECTURES, build
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", nargs="?", default="retinanet_resnet50_fpn", choices=ARCHITECTURES)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build(args.architecture, {"outputs": 6}, channels=3)
    pixels = np.random.default_rng(0).integers(0, 256, (3, args.tile, args.tile), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        weights, bundle = Path(folder) / "weights.pth", Path(folder) / "bundle"
        torch.save(model.state_dict(), weights)
        names = tuple("abcdef")[ARCHITECTURES[args.architecture].background :]
        options = PackOptions(classes=names, architecture=args.architecture, tile=(args.tile, args.tile))
        pack(weights, bundle, options)
        plain = {"device": "cpu", "backend": "eager", "batch": 1, "threads": 1}
        ours = {p: geosod.load_model(bundle, precision=p, **plain) for p in ("fp32", "bf16")}

    def torchvisions() -> None:
        with torch.inference_mode():
            model([torch.from_numpy(pixels).float() / 255])

    calls: dict[str, Callable[[], object]] = {"torchvision": torchvisions}
    calls |= {f"geosod, {name}": lambda one=one: one.detect(pixels) for name, one in ours.items()}
    report({name: times(call, args.rounds) for name, call in calls.items()})


def times(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Least seconds of the processor, and of the clock, that a call takes."""
    call()
    measured = []
    for _ in range(rounds):
        processor, clock = process_time(), perf_counter()
        call()
        measured.append((process_time() - processor, perf_counter() - clock))
    processors, clocks = zip(*measured, strict=True)
    return min(processors), min(clocks)


def report(measured: dict[str, tuple[float, float]]) -> None:
    base, _ = measured["torchvision"]
    for name, (processor, clock) in measured.items():
        ratio = processor / base
        print(f"{name:14} {processor * 1000:8.1f} ms of the processor ({clock * 1000:.1f} ms), {ratio:.2f} of it")


if __name__ == "__main__":
    main()
