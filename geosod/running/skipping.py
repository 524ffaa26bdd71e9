"""Whether a scene that is committed need not be done again."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from geosod.errors import UsageError
from geosod.output.stac_item import source_href
from geosod.results import SceneResult
from geosod.running.committed_scenes import CommittedScene
from geosod.running.job import EXECUTION, Job
from geosod.running.unit_store import UnitStore
from geosod.scene import SceneRef

#: Settings that are files → what they are called.
_FILES = {"aoi": "area of interest", "dem": "heights", "mask": "masks"}


def skipped_result(store: UnitStore, job: Job, ref: SceneRef, scene: CommittedScene) -> SceneResult | None:
    """The result of a scene that is committed, unless its file changed since or some of its ground failed.

    Args:
        store: of the output; what it still has of the scene is removed.
        job: of the run.
        ref: the scene.
        scene: as it is committed.

    Raises:
        UsageError: it was committed with another model or other settings.
    """
    if (scene.status, scene.version) != ("done", ref.version):
        return None
    if scene.source != source_href(ref.uri):
        return None  # another run has just given the identifier to another scene
    changed = _differences(store, job, scene)
    if changed:
        raise UsageError(
            f"{ref.uri}: is already in the output as {ref.id!r}, with other settings: {', '.join(changed)}; add "
            "--overwrite to redo it, or choose another output folder"
        )
    # A run was killed between the commit and this.
    left_over = store.remove(ref.id) if ref.id in store.begun else ()
    return SceneResult(ref.id, ref.uri, "skipped", scene.detections, left_over=left_over)


def _differences(store: UnitStore, job: Job, scene: CommittedScene) -> list[str]:
    """What of model and settings differs from those of a committed scene, a few words each."""
    ran = scene.execution
    asked = job.config.model_dump(include=set(EXECUTION))
    found = [f"{n} {ran[n]!r}, now {v!r}" for n, v in asked.items() if v not in (None, "auto", ran[n])]
    if scene.model_digest != job.model.digest:
        name = job.model.card.name
        found.append(f"model {scene.model!r}, now {name if name != scene.model else 'changed'!r}")
    if scene.config_digest == job.config_digest:
        return found
    noted = (store.folder.metadata(scene.paths[0]) or {}).get("options", {})
    now = json.loads(json.dumps(job.options))
    names = [n for n in sorted({*noted, *now}) if noted.get(n) != now.get(n)]
    return found + [_difference(n, noted.get(n), now.get(n)) for n in names] or [*found, "settings"]


def _difference(name: str, before: Any, now: Any) -> str:
    """How a setting differs, in a few words; files are recorded by their content."""
    if name in _FILES:
        words = ("none before" if not before else "none now") if not (before and now) else "another"
        return f"{_FILES[name]} ({words})"
    return f"{name} {reprlib.repr(before)}, now {reprlib.repr(now)}"
