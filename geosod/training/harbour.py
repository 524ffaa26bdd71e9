"""Trains the demo's network on rendered harbours: ``python -m geosod.training.harbour --out DIR``."""

from __future__ import annotations

import argparse
import copy
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from geosod.datasets.labels import LabelledImage, Labels
from geosod.demo.layout import CLASSES, make_layout
from geosod.detections import Detections
from geosod.detectors.zoo.fpn import SmallFPN, decode, describe, loss
from geosod.evaluation.comparison import Comparison
from geosod.scene import Window
from geosod.training.chips import Chip, augment, random_chips, render_chip, targets
from geosod.training.measure import measure
from geosod.training.record import save_run
from geosod.training.schedule import one_cycle, prefetch, update_average

#: First seed of the training scenes, and of the validation scenes that the threshold is chosen on; the demo scene
#: (seed 7) is in neither.
TRAIN, VALIDATE = 1000, 2000

_SCENE, _CHIP, _CROP = 3072, 320, 192
_BATCH, _POOL = 12, 4000
_PEAK_RATE, _DECAY, _EMA = 4e-3, 1e-3, 0.998


class _Pool:
    """Training chips; threads keep rendering new ones while the network is trained."""

    def __init__(self, seed: int, threads: int) -> None:
        self.chips: list[Chip] = []
        self.scenes = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._seed = seed
        self._workers = ThreadPoolExecutor(threads)
        self._jobs = [self._workers.submit(self._work) for _ in range(threads)]

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number, self.scenes = self.scenes, self.scenes + 1
            seed = TRAIN + number % (VALIDATE - TRAIN)
            rng = np.random.default_rng([self._seed, number])
            fresh = random_chips(seed, rng, scene=_SCENE, side=_CHIP)
            with self._lock:
                self.chips = (self.chips + fresh)[-_POOL:]
            if len(self.chips) >= _POOL:
                self._stop.wait(6.0)

    def draw(self, rng: np.random.Generator, count: int) -> list[Chip]:
        while len(self.chips) < 8 * count:
            for job in self._jobs:
                if job.done():
                    job.result()
            time.sleep(0.1)
        chips = self.chips
        return [augment(chips[i], rng, side=_CROP) for i in rng.integers(0, len(chips), count)]

    def close(self) -> None:
        self._stop.set()
        self._workers.shutdown()


def _batch(chips: list[Chip]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    pixels = np.stack([c.pixels for c in chips]).astype(np.float32) / 255
    heat, shape, weight = (torch.from_numpy(a) for a in targets(chips, side=_CROP, stride=SmallFPN.stride))
    x = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
    return x, {"heat": heat, "shape": shape, "weight": weight}


@torch.inference_mode()
def validate(model: SmallFPN, *, scenes: int, size: int = 2048) -> dict[str, Any]:
    """Metrics on whole validation scenes, compressed like the demo scene."""
    layouts, found = [make_layout(size, VALIDATE + k) for k in range(scenes)], {}
    net = model.fused().to(memory_format=torch.channels_last)
    for k, layout in enumerate(layouts):
        chip = render_chip(layout, Window(0, 0, size, size), quality=85)
        x = torch.from_numpy(chip.pixels[None].astype(np.float32) / 255).contiguous(memory_format=torch.channels_last)
        boxes, scores, labels = (column[0].numpy() for column in decode(net(x), threshold=0.05, topk=4000))
        found[str(k)] = Detections(boxes=boxes, scores=scores, labels=labels)[np.flatnonzero(np.isfinite(scores))]
    truth = Labels(
        images=[LabelledImage(str(k), "", size, size) for k in range(scenes)],
        classes=CLASSES,
        image=np.repeat(np.arange(scenes), [len(layout.boxes) for layout in layouts]),
        boxes=np.concatenate([layout.boxes for layout in layouts]),
        labels=np.concatenate([layout.labels for layout in layouts]),
    )
    return measure(Comparison.of_images(truth, found))


def _record(model: SmallFPN, *, seed: int, steps: int, seconds: float, scenes: int) -> dict[str, Any]:
    return {
        "network": "geosod.detectors.zoo.fpn.SmallFPN",
        "arguments": describe(model),
        "classes": list(CLASSES),
        "input": "RGB uint8 divided by 255, invalid pixels 0",
        "seed": seed,
        "steps": steps,
        "batch": _BATCH,
        "crop_px": _CROP,
        "minutes": round(seconds / 60, 1),
        "data": (
            f"crops of {_CROP} px from {scenes} rendered scenes of {_SCENE} px (geosod.demo, seeds from {TRAIN} on), "
            "JPEG quality 78 to 95 with 4:2:0 chroma, flips, rotations by 90°, brightness and contrast jitter; "
            f"the demo scene (seed 7) and the validation scenes (seeds from {VALIDATE} on) are not among them"
        ),
        "method": (
            "centre heat map with penalty-reduced focal loss (Zhou et al. 2019), GIoU and L1 box loss, AdamW, "
            "one cycle, exponential moving average of the weights"
        ),
        "torch": torch.__version__,
    }


def _train_step(
    model: SmallFPN, optimiser: torch.optim.Optimizer, x: torch.Tensor, target: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One optimiser step; returns the losses."""
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(x)
    losses = loss(raw, target)
    optimiser.zero_grad(set_to_none=True)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimiser.step()
    return losses


def train(
    out: Path,
    *,
    minutes: float,
    seed: int,
    width: int,
    threads: int,
    start_from: Path | None = None,
    validation_scenes: int = 12,
) -> None:
    """Train for `minutes` of wall time; writes ``model.safetensors`` and ``training.json`` to `out`.

    With `start_from`, the folder of an earlier run, training starts from its weights with a quarter of the usual
    learning rate.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    model = SmallFPN(bands=3, classes=len(CLASSES), width=width).to(memory_format=torch.channels_last)
    earlier = None
    if start_from is not None:
        model.load_state_dict(load_file(start_from / "model.safetensors"))
        earlier = json.loads((start_from / "training.json").read_text())
    mean = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_DECAY)
    pool, start, steps, saved = _Pool(seed, 1), time.monotonic(), 0, 0.0
    rng = np.random.default_rng(seed)
    batches = prefetch(lambda: _batch(pool.draw(rng, _BATCH)))
    while (elapsed := time.monotonic() - start) < 60 * minutes:
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(elapsed / (60 * minutes), peak=_PEAK_RATE) * (0.25 if earlier else 1.0)
        x, target = next(batches)
        losses = _train_step(model, optimiser, x, target)
        steps += 1
        update_average(mean, model, min(_EMA, (steps + 400 * bool(earlier)) / (steps + 20 + 400 * bool(earlier))))
        if steps % 100 == 0:
            parts = " ".join(f"{k} {v.item():.3f}" for k, v in losses.items())
            print(f"{elapsed:6.0f} s  step {steps}  {parts}  scenes {pool.scenes}", flush=True)
        if elapsed - saved > 240:
            saved = elapsed
            record = _record(mean, seed=seed, steps=steps, seconds=elapsed, scenes=pool.scenes)
            record["validation"] = validate(mean, scenes=2)
            print(record["validation"], flush=True)
            save_run(out, mean, record)
    pool.close()
    record = _record(mean, seed=seed, steps=steps, seconds=elapsed, scenes=pool.scenes)
    record["started_from"] = earlier
    record["validation"] = validate(mean, scenes=validation_scenes)
    print(record["validation"], flush=True)
    save_run(out, mean, record)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors and training.json")
    parser.add_argument("--minutes", type=float, default=25.0, help="wall time to train for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=24, help="channels at stride 4")
    parser.add_argument("--start", type=Path, default=None, help="folder of an earlier run to start from")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; more than 1 only helps on idle cores")
    args = parser.parse_args()
    train(
        args.out,
        minutes=args.minutes,
        seed=args.seed,
        width=args.width,
        threads=args.threads,
        start_from=args.start,
    )


if __name__ == "__main__":
    main()
