"""The trainings and rows of a study. What a folder holds already is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geosod
from benchmarks.studies.fitted import fitted
from benchmarks.studies.folds import Fold, fold_of, labels_of, write_folds
from benchmarks.studies.settings import check_settings
from benchmarks.studies.study import Row, Study
from geosod.datasets.labels import Labels
from geosod.datasets.read import read_labels
from geosod.evaluation.evaluate import evaluate
from geosod.evaluation.figures import EvaluationSettings
from geosod.evaluation.found_scenes import read_outputs

#: Detections with lower scores take no part in AP.
LOWEST = 0.01
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Runner:
    """Measures a study.

    Attributes:
        study: what is measured.
        data: folder with the tracks.
        work: folder for label files, runs and results.
        device: for training and detection.
        effort: factor of the number of steps.
        say: takes a line about what is done.
    """

    study: Study
    data: Path
    work: Path
    device: str = "auto"
    effort: float = 1.0
    say: Say = print

    def rows(self, scale: float) -> list[dict[str, Any]]:
        """A row for each row of the study and seed, with its figures."""
        folder = self.work / self.study.name / f"scale-{scale:g}"
        labels = labels_of(self.study, self.data, scale, self.work)
        fold = fold_of(labels, self.study.same_ground, self.study.folds)
        as_they_are = labels, write_folds(labels, fold, folder / "folds")
        brought: dict[str, tuple[Labels, list[Fold]]] = {}
        for training, asked in self.study.inputs.items():
            shown = fitted(labels, folder / "images" / training, asked)
            brought[training] = shown, write_folds(shown, fold, folder / "folds" / training)
        found = []
        for name, row in self.study.rows.items():
            shown, folds = brought.get(row.training, as_they_are)
            for seed in range(self.study.seeds.get(row.training, 1)):
                figures = self._row(folder, shown, folds, name, row, seed)
                found.append({"set-up": name, "seed": seed, **figures})
        return found

    def _row(self, folder: Path, labels: Labels, folds: list[Fold], name: str, row: Row, seed: int) -> dict[str, Any]:
        result = folder / "results" / f"{name}-{seed}.json"
        made_with = result.with_suffix(".settings")
        of_result: dict[str, Any] = {
            "trainings": {training: self._training(training) for training in row.trainings},
            "row": row.model_dump(mode="json"),
            "detect": {"threshold": LOWEST, **self.study.detect, **row.detect},
            **self._common,
        }
        if result.exists():
            check_settings(made_with, of_result)
            return dict(json.loads(result.read_text()))
        outputs, minutes, seconds = [], 0.0, 0.0
        for k, fold in enumerate(folds):
            bundles = {}
            for training in row.trainings:
                bundles[training], trained = self.trained(folder, k, fold, training, seed)
                minutes += trained
            out = folder / "found" / f"{name}-{seed}-{k}"
            self.say(f"{name}, seed {seed}, fold {k}: detecting")
            images = [image.uri for image in read_labels(fold.test).labels.images]
            settings = {"device": self.device, **of_result["detect"]}
            if row.classifier is not None:
                settings["classifier"] = bundles[row.classifier]
            began = time.monotonic()
            geosod.detect(images, model=bundles[row.training], out=out, overwrite=True, **settings)
            seconds += time.monotonic() - began
            outputs.append(out)
        found = measured(labels, outputs)
        if row.training in self.study.inputs:
            del found["AP50 small"]  # of images that were stretched it is of other objects
        figures = {**found, "training min": minutes, "detection s": seconds}
        result.parent.mkdir(parents=True, exist_ok=True)
        made_with.write_text(json.dumps(of_result))
        result.write_text(json.dumps(figures))
        self.say(f"{name}, seed {seed}: {figures}")
        return figures

    def trained(self, folder: Path, k: int, fold: Fold, training: str, seed: int) -> tuple[Path, float]:
        """The bundle of a training on fold `k`, and the minutes that it took, with those of what it starts from."""
        run = folder / "runs" / f"{training}-{seed}-{k}"
        minutes, made_with = run / "minutes.json", run / "study.settings"
        settings, before = self._training(training), 0.0
        of_run = {"training": settings, **self._common}
        # Validated once, so that nothing chooses among the weights: the last ones are taken.
        asked = settings | {"validate_every": settings["steps"], "seed": seed, "device": self.device}
        if training in self.study.starts_from:
            asked["init"], before = self.trained(folder, k, fold, self.study.starts_from[training], seed)
        if minutes.exists():
            check_settings(made_with, of_run)
        else:
            self.say(f"{run.name}: training")
            began = time.monotonic()
            geosod.train(fold.train, val=fold.check, out=run, **asked)
            made_with.write_text(json.dumps(of_run))
            minutes.write_text(json.dumps((time.monotonic() - began) / 60))
        return run / "model", before + float(json.loads(minutes.read_text()))

    def _training(self, training: str) -> dict[str, Any]:
        """The settings of a training."""
        settings = {**self.study.train, **self.study.trainings[training]}
        return settings | {"steps": max(1, round(settings["steps"] * self.effort))}

    @property
    def _common(self) -> dict[str, Any]:
        """What all runs and results of the study depend on."""
        study = self.study
        common = {"effort": self.effort, "track": study.track, "folds": study.folds, "same_ground": study.same_ground}
        # Left out where they are empty, as in runs from before there were such settings.
        later = ("inputs", "rename_classes", "starts_from")
        return common | {name: value for name in later if (value := getattr(study, name))}


def measured(labels: Labels, outputs: list[Path]) -> dict[str, Any]:
    """AP50 with its interval, AP50 of small objects, and AP, over the images of all folds together."""
    boxes = evaluate(labels, read_outputs(outputs), EvaluationSettings(max_detections=None)).boxes
    assert boxes is not None
    interval = boxes.intervals["AP50"]
    return {
        "AP50": round(boxes.ap.mean(threshold=0.5), 4),
        "interval": None if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        "AP50 small": round(boxes.ap.mean(threshold=0.5, name="small"), 4),
        "AP": round(boxes.ap.mean(), 4),
    }
