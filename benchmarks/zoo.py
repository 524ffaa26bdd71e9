"""The members of the zoo: parameters, weights, operations and time of a tile, with random weights."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.options import Options, say
from benchmarks.table import Row, Table
from geosod.detectors.zoo.members import MEMBERS, Member, build


def run(options: Options) -> list[Table]:
    side = options.pick(512, 128)
    rows = [_measured(member, side, options.rounds) for member in MEMBERS.values()]
    threads = torch.get_num_threads()
    title = f"Members of the zoo, 3 bands, 3 classes, a tile of {side} px, fp32 in torch on {threads} threads"
    return [Table.of("zoo", title, rows)]


def _measured(member: Member, side: int, rounds: int) -> Row:
    say(member.name)
    torch.manual_seed(0)
    network = build(member.architecture, bands=3, classes=3, **member.parameters).eval()
    inner = round(side * member.upscale)
    images = torch.rand(1, 3, inner, inner)
    count = sum(p.numel() for p in network.parameters())
    lean = network.fused().to(memory_format=torch.channels_last)
    return {
        "member": member.name, "network": member.architecture, "backbone": member.parameters.get("backbone"),
        "input, px": inner, "parameters, M": count / 1e6, "fp32 weights, MB": 4 * count / 1e6,
        "GFLOP a tile": _operations(lean, images) / 1e9, "ms a tile": 1e3 * _seconds(lean, images, rounds),
    }  # fmt: skip


@torch.inference_mode()
def _operations(network: Any, images: torch.Tensor) -> int:
    """Multiplications and additions, each counted, of convolutions and products of matrices."""
    with FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


@torch.inference_mode()
def _seconds(network: Any, images: torch.Tensor, rounds: int) -> float:
    images = images.contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - start)
    return median(times[1:])
