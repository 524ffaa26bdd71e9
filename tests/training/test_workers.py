"""Two workers that share a batch compute the gradients that one computes with all of it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from geosod.detectors.zoo.retinanet import RetinaNet
from geosod.training.criteria import criterion_of
from geosod.training.criterion import distributed_normaliser
from geosod.training.targets import Targets


def batch(*, idle: bool) -> tuple[torch.Tensor, list[Targets]]:
    """Four images, whose numbers of objects differ; where one worker is `idle`, it has none."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    boxes = [[[4, 4, 14, 14], [30, 30, 44, 40]], [[10, 20, 22, 30]], [], [[40, 8, 50, 20]]]
    if idle:
        boxes[1] = boxes[3] = []
    made = []
    for rows in boxes:
        corners = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
        made.append(
            Targets(corners, torch.zeros(len(rows), dtype=torch.int64), torch.zeros(len(rows), dtype=torch.bool))
        )
    return images, made


def criterion() -> Any:
    torch.manual_seed(0)
    return criterion_of(
        RetinaNet(bands=3, classes=2, backbone="slim", width=8, channels=16, tower=1, norm="group")
    ).double()


def work(rank: int, port: int, folder: str, idle: bool) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    made = criterion()
    made.normaliser = distributed_normaliser
    module = torch.nn.parallel.DistributedDataParallel(made, find_unused_parameters=True)
    images, targets = batch(idle=idle)
    sum(module(images[rank::2].double(), targets[rank::2]).values()).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in made.named_parameters()}, Path(folder) / "gradients.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("idle", [False, True])
def test_gradients_of_two_workers_are_those_of_one_with_the_whole_batch(tmp_path: Path, idle: bool) -> None:
    """To within 1e-5 of the largest gradient: losses are computed in float32.

    A worker without objects must not keep the others waiting (mmdetection#2193, RT-DETR#672, ultralytics#26012).
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path), idle), nprocs=2)
    made = criterion()
    images, targets = batch(idle=idle)
    sum(made(images.double(), targets).values()).backward()
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        assert torch.allclose(parameter.grad, shared[name], atol=1e-5 * max(scale, 1e-3)), name
