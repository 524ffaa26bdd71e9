"""Commits scenes to places without locks by one conditional write, which replaces an earlier commit.

The files of a commit have names of their own. The item, which names them, is written on the condition that it is still
what it was before the claim to the scene was checked. So a process that was suspended in between, for however long,
replaces nothing newer, and readers find the earlier commit whole until the new one is there. A note lists the files
first, for whoever commits the scene next after a process that died.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from geosod.errors import LeaseLostError, OutputError, reason
from geosod.output.failures import replace_failures
from geosod.output.folder import OutputFolder, SceneFiles, StagedFiles, asset_paths, parse_item
from geosod.results import Failure


class Claim(Protocol):
    """The right to a scene's identifier, whatever is committed under it."""

    def check(self, before: Mapping[str, Any] | None) -> None:
        """Raise where the scene must not be committed, given its earlier item; None without one."""
        ...

    def replacing(self) -> None:
        """Called before the files of an earlier commit are removed, by whatever names them from outside the items.

        Raises:
            OutputError: what names them cannot be changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What commits of a scene that did not end have left.

    Attributes:
        notes: paths of their notes.
        files: paths of files that they may have written, or were to remove.
    """

    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def remove(self, folder: OutputFolder, *, but: Sequence[str]) -> tuple[str, ...]:
        """Remove the files but for those of the commit that is there, then the notes; what cannot be, and why."""
        try:
            folder.place.remove(*(path for path in self.files if path not in but))
            folder.place.remove(*self.notes)
        except OSError as error:
            return (f"{folder.commits}: files that were replaced cannot be removed yet: {reason(error)}",)
        return ()


def leftovers(folder: OutputFolder, scene_id: str) -> Leftovers:
    """What is left of commits of a scene. To be asked for before a claim is checked, as later ones may be going on.

    Raises:
        OSError: it cannot be read.
    """
    notes = tuple(folder.place.names(_notes(folder, scene_id)))
    files = [path for note in notes for path in json.loads(folder.place.read(note) or b"[]")]
    return Leftovers(notes, tuple(dict.fromkeys(files)))


def replace_scene(
    folder: OutputFolder,
    scene_id: str,
    staged: StagedFiles,
    *,
    files: SceneFiles,
    claim: Claim,
    failures: Sequence[Failure],
) -> tuple[str, ...]:
    """Commit a scene; an earlier commit of it is replaced.

    Args:
        folder: from `open_output`, in a place that is shared.
        scene_id: identifier of the scene.
        staged: its files on this machine; the item names those of detections and coverage.
        files: where they go; names of detections and coverage are those of no other commit.
        claim: to the scene.
        failures: failures of this scene.

    Returns:
        What of earlier commits could not be removed, and why.

    Raises:
        LeaseLostError: the claim does not hold any more, or someone else has committed the scene meanwhile.
        OutputError: a file that geosod did not write is in the way.
        OSError: a file cannot be written.
    """
    place, ours = folder.place, (files.detections, files.coverage)
    left = leftovers(folder, scene_id)
    there = place.read(files.item)
    before = parse_item(there)
    if there is not None and before is None:
        raise OutputError(f"{place.at(files.item)}: geosod did not write this file; move it away and run again")
    claim.check(before)
    old = asset_paths(folder, before) if before is not None else []
    note = f"{_notes(folder, scene_id)}/{secrets.token_hex(8)}.json"
    place.create(note, json.dumps([*ours, *old]).encode())
    try:
        place.put(staged.data(files))
        if failures:  # before the item, so that no scene is committed in part without them
            replace_failures(folder, failures, scenes=(scene_id,))
    except OSError:
        Leftovers((note,), ours).remove(folder, but=())
        raise
    try:
        # After an OSError it may be there all the same, so its files stay.
        _swap(folder, files.item, there, staged.item.read_bytes())
    except LeaseLostError:
        Leftovers((note,), ours).remove(folder, but=())
        raise
    stale = Leftovers((*left.notes, note), (*left.files, *old))
    try:
        if stale.files:
            claim.replacing()
    except OutputError as error:
        return (f"{folder.commits}: files that were replaced are kept, as the index names them: {error}",)
    return stale.remove(folder, but=ours)


def _swap(folder: OutputFolder, path: str, before: bytes | None, after: bytes) -> None:
    """Write a file if it still is what it was."""

    def changed(now: bytes | None) -> bytes:
        if now not in (before, after):  # the latter where an answer was lost, and the request repeated
            raise LeaseLostError(f"{folder.place.at(path)}: another ingester has written this scene meanwhile")
        return after

    folder.place.change(path, changed)


def _notes(folder: OutputFolder, scene_id: str) -> str:
    return f"{folder.commits}/{scene_id}"
