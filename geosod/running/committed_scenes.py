"""Which scenes an output holds already, found by reading each of its items once."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from geosod.errors import OutputError
from geosod.output.commit import committed
from geosod.output.folder import OutputFolder, asset_paths, item_paths, read_paths
from geosod.output.stac_item import source_of


@dataclass(frozen=True, slots=True)
class CommittedScene:
    """What a run needs to know of a scene that is committed.

    Attributes:
        source: the link to its file, as `geosod.output.stac_item.source_href` writes it.
        status: "done" or "partial".
        detections: number of its rows.
        version: of its file; None where that was not known.
        model, model_digest, config_digest: what it was found with.
        execution: how the detector ran.
        paths: its files below the root of the output, detections first.
    """

    source: str | None
    status: str
    detections: int
    version: str | None
    model: str
    model_digest: str
    config_digest: str
    execution: Mapping[str, Any]
    paths: tuple[str, ...]


@dataclass(slots=True)
class CommittedScenes:
    """The committed scenes of an output; no item is read twice.

    What is kept of most of them is their number of detections; more only of those that a run may skip, until it has
    asked for them.

    Attributes:
        folder: the output.
        executions: how detectors ran, by the digest of the model; of the first scene of each by name.
    """

    folder: OutputFolder
    executions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _scenes: dict[str, CommittedScene] = field(default_factory=dict)
    #: Path of each item that was read, or written by this run → number of detections.
    _detections: dict[str, int] = field(default_factory=dict)

    def read(self, sources: Collection[str]) -> dict[str, str]:
        """Read all items; the identifiers of their scenes, by the link to the source.

        Args:
            sources: links to those of which everything is kept for `take`.

        Raises:
            OutputError: they cannot be listed.
        """
        known: dict[str, str] = {}
        place = self.folder.place
        try:
            for path, item in read_paths(self.folder, item_paths(self.folder)):
                scene = self._remember(path, item)
                if scene is None or item is None:
                    continue
                ran = self.executions.setdefault(scene.model_digest, scene.execution)
                if scene.source is not None:
                    known[scene.source] = str(item["id"])
                    if scene.source in sources:
                        # Held once where it is the same, as a rule.
                        same = ran if ran == scene.execution else scene.execution
                        self._scenes[str(item["id"])] = replace(scene, execution=same)
        except OSError as error:
            raise OutputError(
                f"{place.address}: its scenes cannot be listed ({error}), so what is done already is not known; "
                f"{place.remedy}"
            ) from error
        return known

    def take(self, scene_id: str) -> CommittedScene | None:
        """A scene that is committed, with all its files in place; else None.

        One that was not there in the beginning may have been committed by another run meanwhile.
        """
        scene = self._scenes.pop(scene_id, None)
        if scene is not None:
            return scene if all(self.folder.place.exists(path) for path in scene.paths) else None
        item = committed(self.folder, scene_id)
        return None if item is None else self._remember(self.folder.item(scene_id), item)

    def add(self, scene_id: str, detections: int) -> None:
        """Note that this run has committed a scene."""
        self._detections[self.folder.item(scene_id)] = detections

    def total(self) -> int:
        """Number of detections of the whole output, with the scenes that other runs have committed meanwhile.

        Raises:
            OSError: the items cannot be listed.
        """
        there = item_paths(self.folder)
        for path, item in read_paths(self.folder, [path for path in there if path not in self._detections]):
            self._remember(path, item)
        return sum(self._detections[path] for path in there)

    def _remember(self, path: str, item: Mapping[str, Any] | None) -> CommittedScene | None:
        """What is to be known of an item; None where it is none, or lacks something, as if it were not there."""
        scene = None if item is None else scene_of(self.folder, item)
        self._detections[path] = 0 if scene is None else scene.detections
        return scene


def scene_of(folder: OutputFolder, item: Mapping[str, Any]) -> CommittedScene | None:
    """What a run needs to know of an item; None where the item lacks some of it, as if it were not there."""
    try:
        return _scene(folder, item)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _scene(folder: OutputFolder, item: Mapping[str, Any]) -> CommittedScene:
    p = item["properties"]
    # Most scenes have the same; a text that they share is held once.
    paths = tuple(asset_paths(folder, item))
    if not paths:
        raise ValueError("no files")
    model, digest, config = (sys.intern(str(p[f"geosod:{k}"])) for k in ("model", "model_digest", "config_digest"))
    return CommittedScene(
        source_of(item),
        sys.intern(str(p["geosod:status"])),
        int(p["geosod:detections"]),
        p.get("geosod:source_version"),
        model,
        digest,
        config,
        dict(p["geosod:execution"]),
        paths,
    )
