"""Trains the tree model on points in NAIP images: ``python -m geosod.training.trees --data FOLDER --out DIR``."""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from geosod.arrays import FloatArray
from geosod.detectors.zoo.peaks import peaks
from geosod.detectors.zoo.unet import CentreUNet, centre_loss
from geosod.evaluation.points import PointScore, assign, score_points
from geosod.machine import keep_freed_memory
from geosod.training.points import PointImage, adjacent, augment, draw, heat_map, hold_out, read_split
from geosod.training.record import save_run
from geosod.training.schedule import one_cycle, update_average

BANDS, GSD, SIDE = ("red", "green", "blue", "nir"), 0.6, 12.0
#: The validation image that is shown in the documentation.
FIGURE = "claremont_2020_9.tif"
_CROP, _SIGMA, _EVERY = 192, 3.0, 8
_PEAK_RATE = 3e-3
_WINDOWS, _REFINEMENTS = (3, 5, 7, 9), (0, 1, 2)
_THRESHOLDS = np.arange(0.10, 0.70, 0.01)

_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is trained.

    Attributes:
        width: channels at stride 1.
        batch: crops in one step.
        rotated, stretch, jitter: as in `geosod.training.points.augment`.
        dropout: fraction of the deepest maps that are left out in a step.
        decay: weight decay.
        average: decay of the moving average of the weights.
    """

    width: int = 16
    batch: int = 8
    rotated: float = 0.35
    stretch: float = 0.16
    jitter: float = 1.0
    dropout: float = 0.0
    decay: float = 1e-2
    average: float = 0.998


class _Batches(Dataset[_Batch]):
    """The batch of each step, which depends on the seed and the step alone."""

    def __init__(self, images: list[PointImage], recipe: Recipe, seed: int) -> None:
        self._images, self._recipe, self._seed, self._side = images, recipe, seed, _CROP

    def __getitem__(self, step: int) -> _Batch:
        torch.set_num_threads(1)
        recipe, rng = self._recipe, np.random.default_rng([self._seed, step])
        chosen = [self._images[i] for i in rng.integers(0, len(self._images), recipe.batch)]
        look = {"rotated": recipe.rotated, "stretch": recipe.stretch, "jitter": recipe.jitter}
        squares = [augment(image, rng, side=self._side, **look) for image in chosen]
        maps = [heat_map(points, side=self._side, sigma=_SIGMA) for _, points in squares]
        x = torch.from_numpy(np.stack([pixels for pixels, _ in squares])).contiguous(memory_format=torch.channels_last)
        heat, positive = (torch.from_numpy(np.stack(part)[:, None]) for part in zip(*maps, strict=True))
        return x, heat, positive


def _batches(images: list[PointImage], recipe: Recipe, run: _Run, *, seed: int, workers: int) -> Iterator[_Batch]:
    """Endless batches on the network's device, made by other processes, from the run's next step on."""
    # Steps without end: a DataLoader takes any iterable as its sampler.
    steps: Any = count(run.steps)
    made = _Batches(images, recipe, seed)
    pinned = run.device.type == "cuda"
    for batch in DataLoader(made, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pinned):
        x, heat, positive = (part.to(run.device, non_blocking=True) for part in batch)
        yield x, heat, positive


@dataclass(slots=True)
class _Run:
    """State of a training run, which can be saved to and loaded from a checkpoint."""

    model: CentreUNet
    mean: CentreUNet
    optimiser: torch.optim.AdamW
    recipe: Recipe
    device: torch.device
    steps: int = 0
    elapsed: float = 0.0

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        state = {name: getattr(self, name).state_dict() for name in ("model", "mean", "optimiser")}
        torch.save(state | {"steps": self.steps, "elapsed": self.elapsed}, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name in ("model", "mean", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.steps, self.elapsed = state["steps"], state["elapsed"]


@torch.inference_mode()
def logits(model: CentreUNet, images: list[PointImage]) -> list[torch.Tensor]:
    """The network's logits (1, classes, H, W) for whole images, computed in float32 on the CPU."""
    net = model.fused().to("cpu", torch.float32).to(memory_format=torch.channels_last)
    return [net(torch.from_numpy(image.pixels[None]).float() / 255) for image in images]


def choose(model: CentreUNet, images: list[PointImage]) -> dict[str, Any]:
    """The peak window, refinement and threshold with the best F-score, and the metrics they give.

    The refinement hardly changes the F-score, so the one with the minimum RMSE is chosen.
    """
    maps, best = logits(model, images), []
    for window in _WINDOWS:
        points = _points(maps, window, 0)
        score, threshold = max(
            ((_score(points, images, t), float(t)) for t in _THRESHOLDS), key=lambda pair: pair[0].f_score
        )
        best.append((score.f_score, window, threshold))
    _, window, threshold = max(best)
    scored = [(_score(_points(maps, window, d), images, threshold), d) for d in _REFINEMENTS]
    score, refine = min(scored, key=lambda pair: pair[0].rmse)
    return {"window": window, "refine": refine, "threshold": round(threshold, 3), **figures(score)}


def evaluate(model: CentreUNet, images: list[PointImage], *, window: int, refine: int, threshold: float) -> PointScore:
    """The protocol's metrics on images at a given threshold."""
    return _score(_points(logits(model, images), window, refine), images, threshold)


def figures(score: PointScore) -> dict[str, float | int]:
    """All metrics and counts, rounded, for the record."""
    shares = {
        "precision": score.precision,
        "recall": score.recall,
        "f_score": score.f_score,
        "rmse_m": score.rmse,
    }
    counts = {"trees": score.truth, "predictions": score.found, "matched": score.matched}
    return {name: round(value, 4) for name, value in shares.items()} | counts


def _points(maps: list[torch.Tensor], window: int, refine: int) -> list[tuple[FloatArray, FloatArray]]:
    found = []
    for heat in maps:
        centres, scores, _ = peaks(heat, threshold=0.05, topk=2000, window=window, refine=refine)
        kept = torch.isfinite(scores[0])
        found.append((centres[0, kept].double().numpy(), scores[0, kept].double().numpy()))
    return found


def _score(points: list[tuple[FloatArray, FloatArray]], images: list[PointImage], threshold: float) -> PointScore:
    pairs = ((xy[scores >= threshold], image.points) for (xy, scores), image in zip(points, images, strict=True))
    return score_points(pairs, gsd=GSD)


def _record(run: _Run, training: list[PointImage], held_out: list[PointImage], seed: int) -> dict[str, Any]:
    """The record of the run, with the peak settings chosen on the held-out images."""
    return {
        "network": "geosod.detectors.zoo.unet.CentreUNet",
        "arguments": run.mean.arguments(),
        "parameters": sum(p.numel() for p in run.mean.parameters()),
        "bands": list(BANDS),
        "input": "uint8 divided by 255, invalid pixels 0",
        "seed": seed,
        "steps": run.steps,
        "recipe": asdict(run.recipe),
        "crop_px": _CROP,
        "minutes": round(run.elapsed / 60, 1),
        "images": len(training),
        "trees": sum(len(image.points) for image in training),
        "held_out": [image.name for image in held_out],
        "method": (
            f"Gaussian heat map of sigma {_SIGMA:g} px at stride 1 with penalty-reduced focal loss (Zhou et al. 2019), "
            "NDVI as a further channel, AdamW, one cycle, exponential moving average of the weights; crops, flips, "
            "rotations, scaling, brightness jitter"
        ),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU",
        "chosen": choose(run.mean, held_out),
    }


def _start(out: Path, recipe: Recipe, *, seed: int, device: str) -> _Run:
    torch.manual_seed(seed)
    model = CentreUNet(bands=len(BANDS), classes=1, width=recipe.width, ndvi=(0, 3), side=SIDE)
    model = model.to(device).to(memory_format=torch.channels_last)
    mean = copy.deepcopy(model)
    if recipe.dropout:
        model.bottom.register_forward_hook(lambda _, __, deep: F.dropout2d(deep, recipe.dropout))
    optimiser = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=recipe.decay)
    run = _Run(model, mean, optimiser, recipe, torch.device(device))
    if (out / "checkpoint.pt").exists():
        run.load(out / "checkpoint.pt")
    return run


def _train_step(run: _Run, batch: _Batch, progress: float) -> torch.Tensor:
    """One optimiser step; returns the loss."""
    for group in run.optimiser.param_groups:
        group["lr"] = one_cycle(progress, peak=_PEAK_RATE)
    x, heat, positive = batch
    with torch.autocast(run.device.type, torch.bfloat16):
        raw = run.model(x)
    loss = centre_loss(raw, heat, positives=positive)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 10.0)
    run.optimiser.step()
    run.steps += 1
    update_average(run.mean, run.model, min(run.recipe.average, run.steps / (run.steps + 20)))
    return loss.detach()


def train(
    data: Path,
    out: Path,
    *,
    minutes: float,
    recipe: Recipe = Recipe(),
    seed: int = 1,
    device: str = "cpu",
    threads: int = 1,
    workers: int = 1,
) -> dict[str, Any]:
    """Train for `minutes` of wall time, continuing from a checkpoint in `out` if there is one.

    Every eighth image of the training split, with those that touch it, is held out to choose the threshold and the
    peak window; images that overlap the validation split are not used. The validation split is evaluated once, at the
    end.

    Args:
        data: folder with ``train.json``, ``val.json`` and their images.
        out: folder for ``model.safetensors``, ``training.json`` and ``checkpoint.pt``.
        minutes: wall time to train for, including earlier parts of the run.
        seed: seed of weights and augmentation.
        recipe: how the network is trained.
        device: "cpu" or "cuda".
        threads: torch threads.
        workers: processes that make batches.

    Returns:
        The contents of ``training.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    validation = read_split(data, "val", bands=len(BANDS))
    images = read_split(data, "train", bands=len(BANDS))
    images = [image for image in images if not any(adjacent(image, other, overlap=True) for other in validation)]
    training, held_out = hold_out(images, every=_EVERY)
    run = _start(out, recipe, seed=seed, device=device)
    start, saved, losses = time.monotonic() - run.elapsed, run.elapsed, []
    for batch in _batches(training, recipe, run, seed=seed, workers=workers):
        run.elapsed = time.monotonic() - start
        if run.elapsed >= 60 * minutes:
            break
        losses.append(_train_step(run, batch, run.elapsed / (60 * minutes)))
        if run.steps % 100 == 0:
            print(f"{run.elapsed:6.0f} s  step {run.steps}  loss {torch.stack(losses).mean():.4f}", flush=True)
            losses = []
        if run.elapsed - saved > 240:
            saved = run.elapsed
            run.save(out / "checkpoint.pt")
            record = _record(run, training, held_out, seed)
            print(record["chosen"], flush=True)
            save_run(out, run.mean, record)
    run.save(out / "checkpoint.pt")
    record = _record(run, training, held_out, seed)
    settings = {name: record["chosen"][name] for name in ("window", "refine", "threshold")}
    record["validation"] = figures(evaluate(run.mean, validation, **settings))
    print(record["chosen"], record["validation"], flush=True)
    save_run(out, run.mean, record)
    return record


def figure(data: Path, run: Path, path: Path, *, name: str) -> PointScore:
    """Draw predictions of a finished run and true points on an image of the validation split.

    Args:
        data: as for `train`.
        run: the folder that `train` wrote.
        path: the JPEG file to write.
        name: file name of the image.

    Returns:
        The metrics of this image.
    """
    record = json.loads((run / "training.json").read_text())
    model = CentreUNet(**record["arguments"])
    model.load_state_dict(load_file(run / "model.safetensors"))
    images = [image for image in read_split(data, "val", bands=len(BANDS)) if image.name == name]
    chosen = record["chosen"]
    ((xy, scores),) = points = _points(logits(model, images), chosen["window"], chosen["refine"])
    kept = xy[scores >= chosen["threshold"]]
    draw(images[0], kept, np.isin(np.arange(len(kept)), assign(kept, images[0].points, limit=10.0)[:, 0]), path)
    return _score(points, images, chosen["threshold"])


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.json, val.json and their images")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors and training.json")
    parser.add_argument("--minutes", type=float, default=65.0, help="wall time to train for")
    parser.add_argument("--seed", type=int, default=1)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"see Recipe; default {value}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; more than 1 only helps on idle cores")
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches; a GPU needs several")
    parser.add_argument("--figure", type=Path, help="JPEG file with the results on a validation image")
    args = parser.parse_args()
    options = {name: getattr(args, name) for name in ("minutes", "seed", "device", "threads", "workers")}
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    train(args.data, args.out, recipe=recipe, **options)
    if args.figure:
        print(figures(figure(args.data, args.out, args.figure, name=FIGURE)))


if __name__ == "__main__":
    main()
