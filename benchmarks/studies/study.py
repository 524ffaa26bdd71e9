"""What a study is: a YAML file with the trainings to compare and the rows of its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

FOLDER = Path(__file__).with_name("set_ups")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """A row of the table.

    Attributes:
        training: which of the trainings.
        classifier: the training whose classifier looks at each detection again, for staged detection.
        detect: settings of detection, besides those of the study.
    """

    training: str
    classifier: str | None = None
    detect: dict[str, Any] = {}

    @property
    def trainings(self) -> tuple[str, ...]:
        """All that it needs."""
        return (self.training,) if self.classifier is None else (self.training, self.classifier)


class Study(_Strict):
    """A comparison.

    Attributes:
        name: of its file.
        title: what it shows.
        track: folder of the data, with train.json and val.json.
        same_ground: names of images that show the same ground, and stay in one fold.
        rename_classes: class → new name, or None for classes that are left out.
        folds: every image is tested once, by a model that was trained on the other folds.
        scales: factors by which images and labels are resampled; the table has a part for each.
        train: settings of `geosod train` for all trainings.
        trainings: name → settings of its own.
        starts_from: training → the training of the same fold and seed whose weights it starts from.
        inputs: training → fields of `geosod.detectors.network_input.NetworkInput`, to which its images are brought.
        seeds: training → number of seeds; 1 for those that are not named.
        detect: settings of `geosod detect` for all rows.
        rows: name → row.
    """

    name: str
    title: str
    track: str
    same_ground: tuple[tuple[str, ...], ...] = ()
    rename_classes: dict[str, str | None] = {}
    folds: int = Field(2, ge=2)
    scales: tuple[float, ...] = (1.0,)
    train: dict[str, Any]
    trainings: dict[str, dict[str, Any]]
    starts_from: dict[str, str] = {}
    inputs: dict[str, dict[str, Any]] = {}
    seeds: dict[str, int] = {}
    detect: dict[str, Any] = {}
    rows: dict[str, Row]

    def table(self, scale: float) -> str:
        """The name of the table of a scale."""
        return f"study-{self.name}" if len(self.scales) == 1 else f"study-{self.name}-{scale:g}"

    @model_validator(mode="after")
    def _known(self) -> Study:
        named = {name for row in self.rows.values() for name in row.trainings} | set(self.seeds) | set(self.inputs)
        named |= set(self.starts_from) | set(self.starts_from.values())
        if set(self.starts_from) & set(self.starts_from.values()):
            raise ValueError(f"{self.name}: a training of starts_from starts from one that is no such training itself")
        if unknown := named - set(self.trainings):
            raise ValueError(f"{self.name}: unknown training {', '.join(sorted(unknown))}")
        return self


def read_study(name: str) -> Study:
    """A study by its name."""
    return Study(name=name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
