"""Which scenes a user's inputs name, with safe and unique identifiers.

Inputs are paths, folders, globs, addresses, bucket prefixes, STAC documents, lists of all these, and mappings of bands
to files. Remote files are queried by several threads.
"""

from __future__ import annotations

import codecs
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

from geosod.errors import ConfigError, GeosodError, SceneError, identity, printable
from geosod.results import Failure
from geosod.scene import SceneRef
from geosod.scenes import stac
from geosod.scenes.expand import expand, is_pattern, scene_of_mapping
from geosod.storage.files import probe
from geosod.storage.uris import DOCUMENTS, SUFFIXES, is_remote, is_web, stem, suffix
from geosod.storage.versions import version

#: Concurrent requests.
THREADS = 16

_Input = str | Mapping[str, Any]
#: A scene, the address of a linked STAC item, or the failure to find either.
_Found = SceneRef | str | Failure
_T = TypeVar("_T")


def find_scenes(
    inputs: Sequence[_Input],
    *,
    datetime: dt.datetime | None = None,
    bands: Sequence[str] | Mapping[str, str] | None = None,
    asset: str | None = None,
    lines: Iterable[str] | None = None,
) -> tuple[tuple[SceneRef, ...], tuple[Failure, ...]]:
    """Find the scenes that `inputs` name, each once, in order; those of a folder, glob or prefix are sorted.

    Args:
        inputs: local paths, folders (searched recursively) and globs; ``https://`` files; ``s3://bucket/key`` and
            ``s3://bucket/prefix/``; STAC items and collections (``.json``); ``@FILE`` and ``-`` for lists of all
            these, one per line; mappings ``{"id", "datetime", "bands": {name: uri or [uri, number]}}``, which lists
            may contain as JSON.
        datetime: acquisition time of every scene, instead of the one in its metadata.
        bands: where this maps bands to file name patterns, a folder is one scene made of the matching files.
        asset: asset of STAC items to read, by name or role.
        lines: the lines that ``-`` reads; None is standard input.

    Returns:
        The scenes, of which several may have the same identifier (see `with_unique_ids`), and one failure for each
        input that names no scene.

    Raises:
        ConfigError: `inputs` is empty.
    """
    if not inputs:
        raise ConfigError("no scene given: name at least one GeoTIFF, VRT or STAC item, a folder of them, or a glob")
    patterns = {n: p for n, p in bands.items() if is_pattern(p)} if isinstance(bands, Mapping) else {}
    search = _Search(patterns, asset)
    with ThreadPoolExecutor(THREADS) as pool:
        entries = search.entries(inputs, lines)
        found = search.mapped(pool, search.scenes, entries)
        linked = search.mapped(pool, search.linked, ((one if isinstance(one, str) else one.uri, one) for one in found))
        refs = [replace(ref, id=safe_id(ref.id), datetime=datetime or ref.datetime) for ref in linked]
        versions = _versions(pool, refs)
    return search.distinct(refs, versions), tuple(search.failures)


@dataclass(slots=True)
class _Search:
    """One call of `find_scenes`, with the failures so far."""

    patterns: Mapping[str, str]
    asset: str | None
    failures: list[Failure] = field(default_factory=list)

    def entries(self, inputs: Iterable[_Input], lines: Iterable[str] | None) -> Iterator[tuple[str, _Input]]:
        """The inputs, and the entries of lists among them, each with its name in messages."""
        for name in inputs:
            if name == "-":
                yield from self._lines("standard input", stdin_lines() if lines is None else lines)
            elif isinstance(name, str) and name.startswith("@") and not Path(name).exists():
                try:
                    content = Path(name[1:]).expanduser().read_bytes()
                except OSError as error:
                    self._fail(name, SceneError(f"{name[:200]}: this list cannot be read: {error}"))
                    continue
                yield from self._lines(name[1:], _decoded(content).splitlines())
            else:
                yield (name if isinstance(name, str) else str(name.get("id", "a scene without id"))), name

    def _lines(self, source: str, lines: Iterable[str]) -> Iterator[tuple[str, _Input]]:
        empty = True
        for number, line in enumerate(lines, 1):
            text = line.strip().lstrip("\ufeff")  # a byte order mark
            if not text or text.startswith("#"):
                continue
            empty = False
            if not text.startswith("{"):
                yield text, text
                continue
            name = f"line {number} of {source}"
            try:
                yield name, json.loads(text)
            except ValueError as error:
                self._fail(name, SceneError(f"{name}: is not JSON: {error}"))
        if empty:
            self._fail(source, SceneError(f"{source}: this list is empty; check what was to write it"))

    def scenes(self, entry: _Input) -> list[_Found]:
        """The scenes that an input names, and the addresses of linked items."""
        if isinstance(entry, Mapping):
            return [scene_of_mapping(entry)]
        refs = expand(entry, self.patterns)
        return list(chain.from_iterable(_attempt(ref.uri, partial(self._loaded, ref)) for ref in refs))

    def _loaded(self, ref: SceneRef) -> Sequence[_Found]:
        """The file itself, or where it is a STAC document, its scenes and the addresses of linked items."""
        for uri in (ref.uri, *(file.uri for file in ref.files)):
            if printable(uri) != uri:
                raise SceneError(f"{uri}: this name is not UTF-8, so outputs cannot record it; rename the file")
        if ref.files or not _is_document(ref.uri):
            return [ref]
        document = stac.load(ref.uri)
        more = SceneError(f"{ref.uri}: is the first of several pages; give the address of each page")
        found: list[_Found] = [_failure(ref.uri, more)] if stac.has_more_pages(document) else []
        scene = partial(stac.scene_of, ref.uri, asset=self.asset, alone=document["type"] == "Feature")
        for item in stac.items(ref.uri, document):
            found += [item] if isinstance(item, str) else _attempt(ref.uri, lambda item=item: [scene(item)])  # type: ignore[misc]
        return found

    def linked(self, one: SceneRef | str) -> list[_Found]:
        """The scene of an item that a collection links to; scenes are returned as they are."""
        if isinstance(one, SceneRef):
            return [one]
        item = stac.load(one)
        if item["type"] != "Feature":
            raise SceneError(f"{one}: is of type {str(item['type'])[:60]!r}, expected a STAC item")
        return [stac.scene_of(one, item, asset=self.asset)]

    def mapped(
        self, pool: ThreadPoolExecutor, action: Callable[[_T], Sequence[_Found]], entries: Iterable[tuple[str, _T]]
    ) -> list[Any]:
        """The results of `action` for all named entries, in order; failures are recorded."""
        results = pool.map(lambda entry: _attempt(entry[0], lambda: action(entry[1])), entries)
        found = list(chain.from_iterable(results))
        self.failures += [one for one in found if isinstance(one, Failure)]
        return [one for one in found if not isinstance(one, Failure)]

    def _fail(self, name: str, error: Exception) -> None:
        self.failures.append(_failure(name, error))

    def distinct(self, refs: Sequence[SceneRef], versions: Mapping[str, str | Exception]) -> tuple[SceneRef, ...]:
        """Each scene once, with its version; different scenes whose addresses differ only in the query fail."""
        kept: dict[tuple[str, ...], SceneRef] = {}
        for ref in refs:
            key = (identity(ref.uri), *(f"{identity(f.uri)} {f.band} {f.name}" for f in ref.files))
            try:
                versioned = _with_version(ref, versions)
            except (GeosodError, OSError) as error:
                self._fail(ref.uri, error)
                continue
            first = kept.setdefault(key, versioned)
            if first.uri != ref.uri and first.version != versioned.version:
                message = f"{ref.uri}: differs from another scene only in the query, which does not identify a scene"
                self._fail(ref.uri, SceneError(f"{message}; use separate output folders"))
        return tuple(kept.values())


def _decoded(content: bytes) -> str:
    """The text of a list; what PowerShell writes is UTF-16, and names on Linux need not be UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8", "surrogateescape")


def stdin_lines() -> list[str]:
    """The lines of standard input."""
    return _decoded(sys.stdin.buffer.read()).splitlines()


def _attempt(name: str, action: Callable[[], Sequence[_Found]]) -> Sequence[_Found]:
    """The result of `action`, or its failure: no document, whatever its content, affects the other inputs."""
    try:
        return action()
    except Exception as error:
        return [_failure(name, error)]


def _failure(name: str, error: Exception) -> Failure:
    ours = isinstance(error, GeosodError)
    message = str(error) if ours else f"{name[:200]}: cannot be looked up: {type(error).__name__}: {error}"
    return Failure(failed_id(name), name, None, "open", "SceneError", " ".join(message.split()))


def _is_document(uri: str) -> bool:
    ending = suffix(uri)
    if ending in DOCUMENTS:
        return True
    if ending in SUFFIXES or not is_web(uri):
        return False
    return probe(uri)[1].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _versions(pool: ThreadPoolExecutor, refs: Iterable[SceneRef]) -> dict[str, str | Exception]:
    """The version of every file of every scene, or the error where it has none."""
    known: dict[str, str | None] = {}
    for ref in refs:
        for file in ref.files or (ref,):
            known[file.uri] = file.version or known.get(file.uri)

    def look_up(uri: str) -> str | Exception:
        try:
            return known[uri] or version(uri)
        except (GeosodError, OSError) as error:
            return error

    return dict(zip(known, pool.map(look_up, known), strict=True))


def _with_version(ref: SceneRef, versions: Mapping[str, str | Exception]) -> SceneRef:
    for file in ref.files or (ref,):
        if isinstance(error := versions[file.uri], Exception):
            raise error
    if not ref.files:
        return replace(ref, version=str(versions[ref.uri]))
    files = tuple(replace(file, version=str(versions[file.uri])) for file in ref.files)
    text = "\n".join(sorted(f"{identity(file.uri)} {file.version}" for file in files))
    return replace(ref, version=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), files=files)


def versioned(ref: SceneRef) -> SceneRef:
    """A scene with the versions of its files.

    Raises:
        SceneError: a file does not exist or may not be read.
    """
    try:
        return _with_version(ref, {file.uri: file.version or version(file.uri) for file in ref.files or (ref,)})
    except OSError as error:
        raise SceneError(f"{ref.uri}: cannot be read: {error.strerror or error}") from error


def safe_id(name: str) -> str:
    """`name` as a safe file name: no separators, leading dots or special characters of a shell."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[:120]
    return cleaned or "scene"


def failed_id(name: str) -> str:
    """The identifier of an input that names no scene; it differs from those of all scenes."""
    known = identity(name)
    return SceneRef(known, safe_id(stem(known) if is_remote(known) else Path(known).stem)).hashed().id


def with_unique_ids(refs: Iterable[SceneRef], known: Mapping[str, str]) -> tuple[SceneRef, ...]:
    """Scenes with unique identifiers: the known one, else the scene's name, with a hash where that is taken.

    Args:
        refs: scenes, each URI once.
        known: identifiers that are already in use, by the URI of their scene.
    """
    kept = list(refs)
    # Compared without case: a.parquet and A.parquet are the same file on some file systems.
    taken = {name.lower() for name in known.values()}
    times = Counter(ref.id.lower() for ref in kept if ref.uri not in known)

    def unique(ref: SceneRef) -> SceneRef:
        if ref.uri in known:
            return replace(ref, id=known[ref.uri])
        clash = times[ref.id.lower()] > 1 or ref.id.lower() in taken
        return ref.hashed() if clash else ref

    return tuple(unique(ref) for ref in kept)
