"""Fits the tree model to points on NAIP images: ``python -m geosod.training.trees --data FOLDER --out DIR``."""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from geosod.arrays import FloatArray
from geosod.detectors.execution import keep_freed_memory
from geosod.detectors.zoo.unet import CentreUNet, centre_loss, peaks
from geosod.training.points import PointImage, augment, draw, heat_map, hold_out, meet, read_split
from geosod.training.protocol import PointScore, assign, score_points
from geosod.training.schedule import ahead, follow, one_cycle

BANDS, GSD, SIDE = ("red", "green", "blue", "nir"), 0.6, 12.0
#: The validation image of the documentation's picture.
FIGURE = "claremont_2020_9.tif"
_CROP, _BATCH, _SIGMA, _EVERY = 192, 8, 3.0, 8
_PEAK_RATE, _DECAY, _EMA = 3e-3, 1e-2, 0.998
_WINDOWS, _DISTANCES = (3, 5, 7, 9), (0, 1, 2)
_THRESHOLDS = np.arange(0.10, 0.70, 0.01)

_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class _Run:
    """A training run, as it goes on from a checkpoint."""

    model: CentreUNet
    mean: CentreUNet
    optimiser: torch.optim.AdamW
    steps: int = 0
    elapsed: float = 0.0

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        state = {name: getattr(self, name).state_dict() for name in ("model", "mean", "optimiser")}
        torch.save(state | {"steps": self.steps, "elapsed": self.elapsed}, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name in ("model", "mean", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.steps, self.elapsed = state["steps"], state["elapsed"]


def _batch(images: list[PointImage], rng: np.random.Generator) -> _Batch:
    chosen = [images[i] for i in rng.integers(0, len(images), _BATCH)]
    squares = [augment(image, rng, side=_CROP) for image in chosen]
    maps = [heat_map(points, side=_CROP, sigma=_SIGMA) for _, points in squares]
    x = torch.from_numpy(np.stack([pixels for pixels, _ in squares])).contiguous(memory_format=torch.channels_last)
    heat, positive = (torch.from_numpy(np.stack(part)[:, None]) for part in zip(*maps, strict=True))
    return x, heat, positive


@torch.inference_mode()
def heats(model: CentreUNet, images: list[PointImage]) -> list[torch.Tensor]:
    """The network's logits (1, classes, H, W) of whole images, float32 throughout."""
    net = model.fused().float().to(memory_format=torch.channels_last)
    return [net(torch.from_numpy(image.pixels[None]).float() / 255) for image in images]


def choose(model: CentreUNet, images: list[PointImage]) -> dict[str, Any]:
    """The window and distance of peaks and the threshold that give the best F-score, and what they give.

    Of distances, which hardly bear on the F-score, the one with the least RMSE is taken.
    """
    maps, best = heats(model, images), []
    for window in _WINDOWS:
        points = _points(maps, window, 0)
        score, threshold = max(
            ((_score(points, images, t), float(t)) for t in _THRESHOLDS), key=lambda pair: pair[0].f_score
        )
        best.append((score.f_score, window, threshold))
    _, window, threshold = max(best)
    scored = [(_score(_points(maps, window, d), images, threshold), d) for d in _DISTANCES]
    score, refine = min(scored, key=lambda pair: pair[0].rmse)
    return {"window": window, "refine": refine, "threshold": round(threshold, 3), **score.figures()}


def evaluate(model: CentreUNet, images: list[PointImage], *, window: int, refine: int, threshold: float) -> PointScore:
    """The protocol's figures on images at a given threshold."""
    return _score(_points(heats(model, images), window, refine), images, threshold)


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


def _record(run: _Run, learned: list[PointImage], apart: list[PointImage], seed: int) -> dict[str, Any]:
    """What the run is and, from the images set apart, how peaks are best read."""
    return {
        "network": "geosod.detectors.zoo.unet.CentreUNet",
        "arguments": run.mean.arguments(),
        "parameters": sum(p.numel() for p in run.mean.parameters()),
        "bands": list(BANDS),
        "input": "uint8 divided by 255, invalid pixels 0",
        "seed": seed,
        "steps": run.steps,
        "batch": _BATCH,
        "crop_px": _CROP,
        "minutes": round(run.elapsed / 60, 1),
        "images": len(learned),
        "trees": sum(len(image.points) for image in learned),
        "held_out": [image.name for image in apart],
        "method": (
            f"Gaussian heat map of sigma {_SIGMA:g} px at stride 1 with penalty-reduced focal loss (Zhou et al. 2019), "
            "NDVI as a further channel, AdamW, one cycle, exponential moving average of the weights; crops, flips, "
            "turns, scaling by up to a sixth, brightness jitter"
        ),
        "torch": torch.__version__,
        "chosen": choose(run.mean, apart),
    }


def _save(out: Path, model: CentreUNet, record: dict[str, Any]) -> None:
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    partial = out / "model.safetensors.partial"
    save_file(weights, partial)
    partial.replace(out / "model.safetensors")
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def _start(out: Path, *, seed: int, width: int) -> _Run:
    torch.manual_seed(seed)
    model = CentreUNet(bands=len(BANDS), classes=1, width=width, ndvi=(0, 3), side=SIDE)
    model = model.to(memory_format=torch.channels_last)
    run = _Run(model, copy.deepcopy(model), torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_DECAY))
    if (out / "checkpoint.pt").exists():
        run.load(out / "checkpoint.pt")
    return run


def _learn(run: _Run, batch: _Batch, progress: float) -> float:
    """One step; its loss."""
    for group in run.optimiser.param_groups:
        group["lr"] = one_cycle(progress, peak=_PEAK_RATE)
    x, heat, positive = batch
    with torch.autocast("cpu", torch.bfloat16):
        raw = run.model(x)
    loss = centre_loss(raw, heat, positives=positive)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 10.0)
    run.optimiser.step()
    run.steps += 1
    follow(run.mean, run.model, min(_EMA, run.steps / (run.steps + 20)))
    return float(loss.item())


def train(data: Path, out: Path, *, minutes: float, seed: int = 1, width: int = 16, threads: int = 1) -> dict[str, Any]:
    """Fit for `minutes` of wall time, going on from a checkpoint in `out` if there is one.

    Every eighth image of the training split, with those that touch it, is set apart to choose the threshold and the
    window of peaks on; images that share ground with the validation split are left out. The validation split is
    measured once, at the end.

    Args:
        data: folder with ``train.json``, ``val.json`` and their images.
        out: folder for ``model.safetensors``, ``training.json`` and ``checkpoint.pt``.
        minutes: wall time to train for, that of earlier parts of the run counted in.
        seed: of weights and augmentation.
        width: channels of the network at stride 1.
        threads: of torch.

    Returns:
        The record that ``training.json`` holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    validation = read_split(data, "val", bands=len(BANDS))
    known = read_split(data, "train", bands=len(BANDS))
    known = [image for image in known if not any(meet(image, other, share=True) for other in validation)]
    learned, apart = hold_out(known, every=_EVERY)
    run = _start(out, seed=seed, width=width)
    start, saved, losses = time.monotonic() - run.elapsed, run.elapsed, []
    rng = np.random.default_rng([seed, run.steps])
    for batch in ahead(lambda: _batch(learned, rng)):
        run.elapsed = time.monotonic() - start
        if run.elapsed >= 60 * minutes:
            break
        losses.append(_learn(run, batch, run.elapsed / (60 * minutes)))
        if run.steps % 100 == 0:
            print(f"{run.elapsed:6.0f} s  step {run.steps}  loss {np.mean(losses[-100:]):.4f}", flush=True)
        if run.elapsed - saved > 240:
            saved = run.elapsed
            run.save(out / "checkpoint.pt")
            record = _record(run, learned, apart, seed)
            print(record["chosen"], flush=True)
            _save(out, run.mean, record)
    run.save(out / "checkpoint.pt")
    record = _record(run, learned, apart, seed)
    settings = {name: record["chosen"][name] for name in ("window", "refine", "threshold")}
    record["validation"] = evaluate(run.mean, validation, **settings).figures()
    print(record["chosen"], record["validation"], flush=True)
    _save(out, run.mean, record)
    return record


def figure(data: Path, run: Path, path: Path, *, name: str) -> PointScore:
    """Draw what a finished run finds in an image of the validation split, beside its true points.

    Args:
        data: as in `train`.
        run: the folder that `train` wrote.
        path: the JPEG to write.
        name: file of the image.

    Returns:
        The figures of this image.
    """
    record = json.loads((run / "training.json").read_text())
    model = CentreUNet(**record["arguments"])
    model.load_state_dict(load_file(run / "model.safetensors"))
    images = [image for image in read_split(data, "val", bands=len(BANDS)) if image.name == name]
    chosen = record["chosen"]
    ((xy, scores),) = points = _points(heats(model, images), chosen["window"], chosen["refine"])
    kept = xy[scores >= chosen["threshold"]]
    draw(images[0], kept, np.isin(np.arange(len(kept)), assign(kept, images[0].points, limit=10.0)[:, 0]), path)
    return _score(points, images, chosen["threshold"])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.json, val.json and their images")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors and training.json")
    parser.add_argument("--minutes", type=float, default=65.0, help="wall time to train for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=16, help="channels at stride 1")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more help only on idle cores")
    parser.add_argument("--figure", type=Path, help="picture of a validation image to draw in the end")
    args = parser.parse_args()
    train(args.data, args.out, minutes=args.minutes, seed=args.seed, width=args.width, threads=args.threads)
    if args.figure:
        print(figure(args.data, args.out, args.figure, name=FIGURE).figures())


if __name__ == "__main__":
    main()
