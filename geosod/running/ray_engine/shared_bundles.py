"""Model bundles travel to the nodes with the run, so that a node need not reach the folder that the user named."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from geosod.detectors.bundle import CARD, Bundle, open_bundle
from geosod.detectors.cache import cache_folder
from geosod.detectors.models import BundleModel, Model, StagedModel
from geosod.errors import EngineError, GeosodError, ModelError
from geosod.running.job import Job

#: Digest of a bundle → reference to its files' contents, by name, in a list, which Ray does not resolve.
SharedBundles = dict[str, list[Any]]


def share_bundles(job: Job) -> SharedBundles:
    """Put the bundles of a run into the object store.

    Raises:
        ModelError: a bundle has changed since it was opened.
    """
    return {bundle.digest: [ray.put(_content(bundle))] for bundle in _bundles(job.model)}


def with_local_bundles(job: Job, shared: SharedBundles) -> Job:
    """The same job with bundles that this machine can read: where they were, else copies in its cache.

    Raises:
        ModelError: a copy is not what was shared.
        EngineError: it cannot be written.
    """
    return replace(job, model=_with_local(job.model, shared))


def _with_local(model: Model, shared: SharedBundles) -> Model:
    if isinstance(model, BundleModel):
        return replace(model, bundle=_local(model.bundle, shared))
    if isinstance(model, StagedModel):
        detector = _with_local(model.detector, shared)
        return replace(model, detector=detector, classifier=_local(model.classifier, shared))
    return model


def _bundles(model: Model) -> Iterator[Bundle]:
    if isinstance(model, BundleModel):
        yield model.bundle
    elif isinstance(model, StagedModel):
        yield from _bundles(model.detector)
        yield model.classifier


def _content(bundle: Bundle) -> dict[str, bytes]:
    try:
        return {CARD: (bundle.folder / CARD).read_bytes(), bundle.card.weights_file: bundle.read_weights()}
    except OSError as error:
        raise ModelError(f"model {bundle.card.name!r}: {bundle.folder} cannot be read: {error.strerror}") from error


def _local(bundle: Bundle, shared: SharedBundles) -> Bundle:
    """The bundle where it was opened, if that is on this machine, else a copy in the cache."""
    copy = cache_folder("bundles") / bundle.digest
    for folder in (bundle.folder, copy):
        found = _opened(folder, bundle)
        if found is not None:
            return found
    try:
        _write(copy, ray.get(shared[bundle.digest][0]))
    except OSError as error:
        raise EngineError(
            f"model {bundle.card.name!r}: {copy} cannot be written ({error.strerror}); free some space, or set "
            "GEOSOD_CACHE to another folder"
        ) from error
    found = _opened(copy, bundle)
    if found is None:
        raise ModelError(f"model {bundle.card.name!r}: the copy in {copy} is damaged; remove it and run again")
    return found


def _opened(folder: Path, bundle: Bundle) -> Bundle | None:
    """The bundle in a folder, if it is the one that was shared; its card says what was asked of it, too."""
    try:
        found = open_bundle(folder, trust=bundle.trusted) if folder.is_dir() else None
    except GeosodError:
        return None
    return replace(found, card=bundle.card) if found is not None and found.digest == bundle.digest else None


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder that appears at once; several processes may do so."""
    draft = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    draft.mkdir(parents=True)
    try:
        for name, content in files.items():
            (draft / name).write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)  # damaged
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
