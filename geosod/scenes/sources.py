"""From what a user names to scene references with safe, unique identifiers.

Names are paths, folders, globs, addresses, buckets, STAC documents, lists of all these, and scenes whose bands are
named one by one. What is on the network is asked for by a few threads.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from geosod.errors import ConfigError, GeosodError, SceneError, identity
from geosod.results import Failure
from geosod.scene import SceneRef
from geosod.scenes import stac
from geosod.scenes.expand import Place, is_pattern, listed_scene, named_scene, places
from geosod.storage.files import probe, version
from geosod.storage.uris import DOCUMENTS, SUFFIXES, is_remote, is_web, stem, suffix

__all__ = ["SUFFIXES", "failed_id", "find_scenes", "hashed_id", "safe_id", "with_own_ids"]

#: Requests under way at a time.
THREADS = 16

_Input = str | Mapping[str, Any]
_T = TypeVar("_T")
_R = TypeVar("_R")


def find_scenes(
    inputs: Sequence[_Input],
    *,
    datetime: dt.datetime | None = None,
    bands: Sequence[str] | Mapping[str, str] | None = None,
    asset: str | None = None,
    lines: Iterable[str] | None = None,
) -> tuple[tuple[SceneRef, ...], tuple[Failure, ...]]:
    """Find the scenes that `inputs` name, each once, in their order; those of a folder, glob or bucket in sorted order.

    Args:
        inputs: local paths, folders (searched recursively) and globs; ``https://`` files; ``s3://bucket/key`` and
            ``s3://bucket/prefix/``; STAC items and collections (``.json``); ``@FILE`` and ``-`` for lists of all
            these, a line each; mappings ``{"id", "datetime", "bands": {name: uri or [uri, number]}}``, which lists
            may hold as JSON.
        datetime: acquisition time given to every scene, whatever else is said of it.
        bands: where this maps bands to patterns of file names, a folder is one scene made of the files they match.
        asset: asset of STAC items to read, by name or role.
        lines: what ``-`` stands for; standard input.

    Returns:
        The scenes, of which several may have one identifier (see `with_own_ids`), and one failure for each input that
        names nothing.

    Raises:
        ConfigError: `inputs` is empty.
    """
    if not inputs:
        raise ConfigError("no scene given: name at least one GeoTIFF, VRT or STAC item, a folder of them, or a glob")
    patterns = {n: p for n, p in bands.items() if is_pattern(p)} if isinstance(bands, Mapping) else {}
    search = _Search(patterns, asset)
    with ThreadPoolExecutor(THREADS) as pool:
        entries = search.entries(inputs, sys.stdin if lines is None else lines)
        expanded = search.mapped(pool, search.places, entries)
        loaded: list[SceneRef | Place] = search.mapped(pool, search.loaded, ((place.uri, place) for place in expanded))
        linked = search.mapped(pool, search.linked, ((one.uri, one) for one in loaded))
        refs = [replace(ref, id=safe_id(ref.id), datetime=datetime or ref.datetime) for ref in linked]
        known = {place.uri: place.version for place in expanded if place.version}
        versions = _versions(pool, refs, known)
    return search.distinct(refs, versions), tuple(search.failures)


@dataclass(slots=True)
class _Search:
    """One call of `find_scenes`, and what it could not find."""

    patterns: Mapping[str, str]
    asset: str | None
    failures: list[Failure] = field(default_factory=list)

    def entries(self, inputs: Iterable[_Input], lines: Iterable[str]) -> Iterator[tuple[str, _Input]]:
        """Inputs with lists resolved, each with what it is called in messages."""
        for name in inputs:
            if name == "-":
                yield from self._lines("standard input", lines)
            elif isinstance(name, str) and name.startswith("@") and not Path(name).exists():
                try:
                    text = Path(name[1:]).expanduser().read_text("utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    self.fail(name, SceneError(f"{name[:200]}: this list cannot be read: {error}"))
                    continue
                yield from self._lines(name[1:], text.splitlines())
            else:
                yield (name if isinstance(name, str) else str(name.get("id", "a scene without id"))), name

    def _lines(self, source: str, lines: Iterable[str]) -> Iterator[tuple[str, _Input]]:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if not text.startswith("{"):
                yield text, text
                continue
            called = f"line {number} of {source}"
            try:
                yield called, json.loads(text)
            except ValueError as error:
                self.fail(called, SceneError(f"{called}: is not JSON: {error}"))

    def places(self, entry: _Input) -> list[Place]:
        """Where the scenes or documents are that an input names."""
        if isinstance(entry, Mapping):
            ref = named_scene(entry)
            return [Place(ref.uri, scene=ref)]
        found = places(entry, products=bool(self.patterns))
        return [self._product(p) if p.folder is not None else p for p in found]

    def _product(self, place: Place) -> Place:
        return replace(place, scene=listed_scene(place, self.patterns))

    def loaded(self, place: Place) -> list[SceneRef | Place | Failure]:
        """The scenes at a place, and where items are that a document there links to."""
        if place.scene is not None:
            return [place.scene]
        if not _is_document(place.uri):
            return [SceneRef(place.uri, stem(place.uri))]
        found = stac.load(place.uri)
        own = found["type"] == "Feature"
        more = SceneError(f"{place.uri}: is the first of several pages; name the others, too")
        told: list[SceneRef | Place | Failure] = [_failure(place.uri, more)] if stac.further_pages(found) else []
        for item in stac.items(place.uri, found):
            if isinstance(item, str):
                told.append(Place(item))
            else:
                scene = partial(stac.scene_of, place.uri, item, asset=self.asset, own=own)
                told += _attempt(place.uri, lambda scene=scene: [scene()])  # type: ignore[misc]
        return told

    def linked(self, one: SceneRef | Place) -> list[SceneRef]:
        """The scene of an item that a collection links to; what is a scene already stays as it is."""
        if isinstance(one, SceneRef):
            return [one]
        item = stac.load(one.uri)
        if item["type"] != "Feature":
            raise SceneError(f"{one.uri}: is of type {str(item['type'])[:60]!r}, expected a STAC item")
        return [stac.scene_of(one.uri, item, asset=self.asset)]

    def mapped(
        self,
        pool: ThreadPoolExecutor,
        action: Callable[[_T], Sequence[_R | Failure]],
        entries: Iterable[tuple[str, _T]],
    ) -> list[_R]:
        """What `action` makes of all entries, in order; what fails is put on record."""
        parts = pool.map(lambda entry: _attempt(entry[0], lambda: action(entry[1])), entries)
        found: list[_R] = []
        for part in chain.from_iterable(parts):
            if isinstance(part, Failure):
                self.failures.append(part)
            else:
                found.append(part)
        return found

    def fail(self, called: str, error: Exception) -> None:
        """Put on record that an input names nothing."""
        self.failures.append(_failure(called, error))

    def distinct(self, refs: Sequence[SceneRef], versions: Mapping[str, str | Exception]) -> tuple[SceneRef, ...]:
        """Each scene once and with its version; two whose addresses differ in the query alone cannot be told apart."""
        kept: dict[tuple[str, ...], SceneRef] = {}
        for ref in refs:
            key = (identity(ref.uri), *(f"{identity(f.uri)} {f.band} {f.name}" for f in ref.files))
            try:
                versioned = _with_version(ref, versions)
            except (GeosodError, OSError) as error:
                self.fail(ref.uri, error)
                continue
            first = kept.setdefault(key, versioned)
            if first.uri != ref.uri and first.version != versioned.version:
                told = f"{ref.uri}: differs from another scene in its query alone, by which scenes are not told apart"
                self.fail(ref.uri, SceneError(f"{told}; run them into two output folders"))
        return tuple(kept.values())


def _attempt(called: str, action: Callable[[], Sequence[_R | Failure]]) -> Sequence[_R | Failure]:
    """What `action` returns, or the failure it comes to: whatever a document makes a library raise, others go on."""
    try:
        return action()
    except Exception as error:
        return [_failure(called, error)]


def _failure(called: str, error: Exception) -> Failure:
    ours = isinstance(error, GeosodError)
    message = str(error) if ours else f"{called[:200]}: cannot be looked up: {type(error).__name__}: {error}"
    return Failure(failed_id(called), called, None, "open", "SceneError", " ".join(message.split()))


def _is_document(uri: str) -> bool:
    ending = suffix(uri)
    if ending in DOCUMENTS:
        return True
    if ending in SUFFIXES or not is_web(uri):
        return False
    return probe(uri).head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _versions(
    pool: ThreadPoolExecutor, refs: Iterable[SceneRef], known: Mapping[str, str]
) -> dict[str, str | Exception]:
    """The version of every file of every scene, or why there is none."""
    files = {f.uri: f.version for ref in refs for f in ref.files} | {ref.uri: None for ref in refs if not ref.files}

    def look_up(uri: str) -> str | Exception:
        try:
            return files[uri] or known.get(uri) or version(uri)
        except (GeosodError, OSError) as error:
            return error

    return dict(zip(files, pool.map(look_up, files), strict=True))


def _with_version(ref: SceneRef, versions: Mapping[str, str | Exception]) -> SceneRef:
    def of(uri: str) -> str:
        found = versions[uri]
        if isinstance(found, Exception):
            raise found
        return found

    if not ref.files:
        return replace(ref, version=of(ref.uri))
    files = tuple(replace(file, version=of(file.uri)) for file in ref.files)
    text = "\n".join(sorted(f"{identity(file.uri)} {file.version}" for file in files))
    return replace(ref, version=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), files=files)


def safe_id(name: str) -> str:
    """`name` as a file name without separators, leading dots or anything a shell or a path could mistake."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[:120]
    return cleaned or "scene"


def hashed_id(ref: SceneRef) -> SceneRef:
    """The same scene under an identifier that also tells its URI: the stem and 8 hexadecimal digits."""
    digest = hashlib.blake2b(identity(ref.uri).encode(), digest_size=4).hexdigest()
    return replace(ref, id=f"{ref.id}-{digest}")


def failed_id(name: str) -> str:
    """What an input that names no scene goes by; it must not be the name of a scene which is there."""
    known = identity(name)
    return hashed_id(SceneRef(known, safe_id(stem(known) if is_remote(known) else Path(known).stem))).id


def with_own_ids(refs: Iterable[SceneRef], known: Mapping[str, str]) -> tuple[SceneRef, ...]:
    """Scenes with identifiers of their own: the one a scene was known by, else its name, told apart by a hash.

    Args:
        refs: scenes, each URI once.
        known: identifiers that are in use already, by the URI of their scene.
    """
    kept = list(refs)
    # Compared without case: on some file systems a.parquet and A.parquet are one file.
    taken = {name.lower() for name in known.values()}
    times = Counter(ref.id.lower() for ref in kept if ref.uri not in known)

    def own(ref: SceneRef) -> SceneRef:
        if ref.uri in known:
            return replace(ref, id=known[ref.uri])
        clash = times[ref.id.lower()] > 1 or ref.id.lower() in taken
        return hashed_id(ref) if clash else ref

    return tuple(own(ref) for ref in kept)
