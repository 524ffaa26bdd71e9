"""All that training needs, made from its settings: the same in every process that has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from geosod.config import digest
from geosod.datasets.check import about_turned
from geosod.datasets.labels import Labels
from geosod.detectors.card import ModelCard
from geosod.errors import ConfigError
from geosod.scenes.open import shown_turned
from geosod.training.augment import Augmentation
from geosod.training.batches import BatchMaker
from geosod.training.classifiers import batch_card
from geosod.training.config import TrainConfig
from geosod.training.criteria import criterion_of
from geosod.training.criterion import Criterion
from geosod.training.data import RunLabels, read_run_labels
from geosod.training.donors import object_donor
from geosod.training.fit import Plan
from geosod.training.networks import new_network
from geosod.training.new_card import first_card
from geosod.training.pixels import PixelReader
from geosod.training.pyramid import PyramidSampler
from geosod.training.samples import Sample, Sampler, SliceSampler
from geosod.training.seeds import torch_seed
from geosod.training.training_set import TrainingSet, open_set
from geosod.version import __version__

#: Validations in the course of a run whose settings do not say, and steps between two of them, at least.
_VALIDATIONS, _APART = 5, 25


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that training needs.

    Attributes:
        config: the settings.
        labels: read.
        data, val_data: images to train on, and to validate on.
        card: of the model to be.
        criterion: with the network, started from the weights that were asked for.
        digest: of settings and labels.
        notes: what a user should know.
    """

    config: TrainConfig
    labels: RunLabels
    data: TrainingSet
    val_data: TrainingSet
    card: ModelCard
    criterion: Criterion
    digest: str
    notes: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        """How long the run is."""
        return plan_of(self.data, self.config)


def prepare(config: TrainConfig) -> Prepared:
    """Read labels, open images, and make the network.

    Raises:
        UsageError: a setting, the labels, the images or the initial weights are unusable.
    """
    labels = read_run_labels(config)
    torch.manual_seed(torch_seed(config.seed))
    made = new_network(labels.train, config, lambda **spec: first_card(labels.train, config, **spec))
    card = batch_card(made.card)
    data = open_set(labels.train, card, config, labels.problems)
    if not len(data.objects):
        raise ConfigError("the labels hold no object to learn; check them with geosod dataset check")
    val = open_set(labels.val, card, config, labels.problems)
    labels = replace(labels, val=val.labels)
    criterion = criterion_of(made.network, **made.loss | config.loss)
    settings = digest({"settings": config.options(), "labels": labels.digest, "version": __version__})
    ready = Prepared(config, labels, data, val, made.card, criterion, settings, (*labels.notes, *made.notes))
    return replace(ready, notes=(*ready.notes, *_notes(ready)))


def _notes(ready: Prepared) -> Iterator[str]:
    """What a user should know of labels and settings that do not fit."""
    config, steps, outside = ready.config, ready.plan.steps, ready.data.outside
    if outside:
        yield f"{outside:,} objects lie outside their images and are left out"
    if empty := ready.data.empty:
        yield f"{empty:,} objects have no area and are left out; geosod dataset check names them"
    scenes = (*ready.data.scenes, *ready.val_data.scenes)
    if turned := {scene.ref.uri for scene in scenes if shown_turned(scene)}:
        yield about_turned(len(turned))
    if not len(ready.val_data.objects):
        yield (
            "the validation images hold no object: all figures are 0, and the threshold stays "
            f"{ready.card.threshold:g}; --val names others"
        )
    if config.ray_workers is not None and config.validate_every is not None:
        yield "validate-every: a run on Ray is validated once, at its end"
    if config.warmup >= steps:
        yield (
            f"a warm-up of {config.warmup:g} steps does not fit into a run of {steps}: it takes a tenth of them; "
            "--warmup gives another"
        )


def left_out(ready: Prepared) -> tuple[str, ...]:
    """Labels and images that could not be used, in words."""
    problems = ready.labels.problems
    more = problems.count - len(problems.found)
    return (*map(str, problems.found), *((f"{more:,} more",) if more else ()))


def batch_maker(ready: Prepared, config: TrainConfig, *, rank: int = 0, workers: int = 1) -> BatchMaker:
    """What makes the batches of a run, or a worker's share of each."""
    reader = PixelReader(ready.data, cache_mb=config.cache_mb)
    sampler = sampler_of(ready.data, config)
    donor = object_donor(ready.data, reader, config) if config.copy_paste else None
    augmentation = Augmentation.of(config, donor=donor, fill=ready.data.card.input.fill)
    skip = config.on_error == "skip"

    def choose(step: int) -> list[Sample]:
        return sampler.batch(step)[rank::workers]

    return BatchMaker(ready.data, reader, choose, augmentation, min_visible=config.min_visible, skip=skip)


def sampler_of(data: TrainingSet, config: TrainConfig) -> Sampler:
    """What chooses the samples."""
    return SliceSampler(data, config) if config.levels is None else PyramidSampler(data, config)


def plan_of(data: TrainingSet, config: TrainConfig) -> Plan:
    """The number of steps: of an epoch, as many slices as cover all images once, and of the run."""
    tiles = tiles_of(data.labels, config.tile)
    epoch = max(1.0, tiles / config.batch)
    steps = config.steps or max(1, round(config.epochs * epoch))
    return Plan(steps, epoch, config.validate_every or max(_APART, math.ceil(steps / (_VALIDATIONS + 1))))


def tiles_of(labels: Labels, tile: tuple[int, int]) -> int:
    """Number of tiles without overlap that cover all images."""
    return sum(math.ceil(image.width / tile[0]) * math.ceil(image.height / tile[1]) for image in labels.images)
