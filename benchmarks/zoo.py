"""The members of the zoo: parameters, weights, operations and time of a tile, with random weights."""

from __future__ import annotations

import copy
import time
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.options import Options, say
from benchmarks.table import Row, Table
from geosod.detectors.zoo.members import MEMBERS, Member, build

#: Seconds from which on one pass is enough.
_LONG = 3.0


def run(options: Options) -> list[Table]:
    side = options.pick(512, 128)
    rows = [_measured(member, side, options.rounds) for member in MEMBERS.values()]
    torch.set_num_threads(1)
    title = f"Members of the zoo, 3 bands, 3 classes, a tile of {side} px, fp32 in torch on one core"
    return [Table.of("zoo", title, rows)]


def _measured(member: Member, side: int, rounds: int) -> Row:
    say(member.name)
    torch.manual_seed(0)
    network = build(member.architecture, bands=3, classes=3, **member.parameters).eval()
    inner = round(side * member.upscale)
    images = torch.rand(1, 3, inner, inner)
    count = sum(p.numel() for p in network.parameters())
    lean = network.fused().to(memory_format=torch.channels_last)
    # Without values it takes no time; proposals depend on values.
    plain = member.architecture != "faster-rcnn"
    operations = _operations(copy.deepcopy(lean).to("meta"), images.to("meta")) if plain else _operations(lean, images)
    return {
        "member": member.name, "network": member.architecture, "backbone": member.parameters.get("backbone"),
        "input, px": inner, "parameters, M": count / 1e6, "fp32 weights, MB": 4 * count / 1e6,
        "GFLOP a tile": operations / 1e9, "CPU ms a tile": 1e3 * _seconds(lean, images, rounds),
    }  # fmt: skip


@torch.inference_mode()
def _operations(network: Any, images: torch.Tensor) -> int:
    """Multiplications and additions, each counted, of convolutions and products of matrices."""
    with FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


@torch.inference_mode()
def _seconds(network: Any, images: torch.Tensor, rounds: int) -> float:
    """Processor time of a pass, the median after a first one; or that of the first, where it takes long."""
    images = images.contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    while len(times) <= rounds and not (times and times[0] > _LONG):
        start = time.process_time()
        network(images)
        times.append(time.process_time() - start)
    return median(times[1:] or times)
