"""A network of a common size, as users run it: geosod against SAHI, whole processes on larger and larger scenes.

The network is an FCOS on a ResNet-18 with random weights, which finds nothing at its threshold.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.options import Options, say
from benchmarks.peers.compare import PLAIN, Program
from benchmarks.peers.environments import python_of
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from geosod.detectors.bundle import open_bundle, write_bundle
from geosod.detectors.zoo.members import build

PARAMETERS = {"backbone": "resnet18", "channels": 128, "tower": 2}
TILE = 512


def run(options: Options) -> list[Table]:
    python_of("sahi")
    model = _model(options)
    programs = [
        Program("geosod"),
        Program("SAHI", "sahi", "sahi_slices", PLAIN, {"postprocessing": "default"}),
    ]
    rows = [_compared(programs, model, size, options) for size in options.pick((4096, 8192, 16384), (1024,))]
    title = "An FCOS on a ResNet-18, seconds of the whole process, as users run it: geosod's choice, SAHI in fp32"
    return [Table.of("resnet18", title, rows)]


def _model(options: Options) -> str:
    torch.manual_seed(0)
    network = build("fcos", bands=3, classes=3, **PARAMETERS)
    card = replace(
        open_bundle("demo-harbour").card, name="resnet18", architecture="fcos", parameters=PARAMETERS, tile=TILE,
        threshold=0.9, weights_digest="",
    )  # fmt: skip
    return str(write_bundle(options.folder / "model", card, network.state_dict()).folder)


def _compared(programs: list[Program], model: str, size: int, options: Options) -> Row:
    """One run each: a large scene takes SAHI ten minutes."""
    say(f"{size} x {size} pixels")
    scene = demo_scene(options, size)
    seconds = {program.name: program.run(scene, model, options.folder / "out").seconds for program in programs}
    return {
        "scene": f"{size} × {size}", "Mpx": round(size**2 / 1e6), **seconds,
        "SAHI, relative to geosod": seconds["SAHI"] / seconds["geosod"],
    }  # fmt: skip
