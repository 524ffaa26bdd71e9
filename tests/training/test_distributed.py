"""Two processes with half of a batch each compute the gradients of one with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from geosod.training.criteria import criterion_of
from geosod.training.criterion import distributed_normaliser
from tests.training.samples import NETWORKS, drawn, targets

#: Networks, and options without random numbers.
SETUPS = {"fcos": {}, "retinanet": {}, "centre": {}, "faster-rcnn": {"rpn_batch": 10**6, "sampler": "ohem"}}


def batch():
    images, labelled = drawn(count=2)
    labelled[1] = targets(labelled[1].boxes[:1].tolist(), [0])
    return images, labelled


def criterion(name: str):
    torch.manual_seed(0)
    return criterion_of(NETWORKS[name](norm="group"), **SETUPS[name])


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, labelled = batch()
    found = {}
    for name in SETUPS:
        one = criterion(name)
        one.normaliser = distributed_normaliser
        # Every parameter must have a gradient, or this waits for it.
        wrapped = DistributedDataParallel(one)
        sum(wrapped(images[rank : rank + 1], labelled[rank : rank + 1]).values()).backward()
        found[name] = [p.grad for p in one.parameters()]
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name in SETUPS:
        one = criterion(name)
        sum(one(*batch()).values()).backward()
        for got, parameter in zip(found[name], one.parameters(), strict=True):
            torch.testing.assert_close(
                got, parameter.grad, rtol=2e-3, atol=2e-5, msg=lambda text, of=name: f"{of}: {text}"
            )
