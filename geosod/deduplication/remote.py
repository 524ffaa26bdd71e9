"""Outputs in object stores: copied to a temporary folder, deduplicated there, and the result uploaded.

Detections are small beside scenes, and matching reads them several times.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from geosod.errors import GeosodError, OutputError
from geosod.output.folder import output_at, read_item
from geosod.results import Failure
from geosod.storage.place import Place, is_address

#: Files that are copied at once.
_COPIES = 16
_PARTS = ("items", "detections", "pixel", "coverage")
_OURS = re.compile(
    r"(items/[^/]+\.json|(detections/[^/]+|pixel|coverage)/[^/]+\.parquet|[a-z]+\.parquet|\.units/.+|\.probe-[0-9a-f]+)"
)


@dataclass(frozen=True, slots=True)
class Copies:
    """Local copies of outputs, and the place of the new one.

    Attributes:
        outputs: local paths, those that were copied among them.
        out: the new folder, a local one that is uploaded if the result goes to an object store.
        addresses: (local folder, address that it stands for) of what was copied or will be uploaded.
    """

    outputs: tuple[Path, ...]
    out: Path
    addresses: tuple[tuple[str, str], ...] = ()

    def named(self, text: str) -> str:
        """A text with addresses in place of temporary paths."""
        for folder, address in self.addresses:
            text = text.replace(folder, address)
        return text

    def failure(self, one: Failure) -> Failure:
        """A failure with addresses in place of temporary paths."""
        return replace(one, uri=self.named(one.uri), message=self.named(one.message))


@contextmanager
def copied(outputs: Sequence[str | Path], out: str | Path, *, overwrite: bool) -> Iterator[Copies]:
    """Local copies of those outputs that are in object stores; at the end the new folder is uploaded, if it is to be.

    Errors that are raised meanwhile name addresses, not the copies.

    Args:
        outputs: as the user gave them.
        out: likewise.
        overwrite: whether a dataset of geosod may be replaced.

    Raises:
        OutputError: an output cannot be read, or `out` cannot be used or written.
    """
    if not any(map(is_address, [out, *outputs])):
        yield Copies(tuple(map(Path, outputs)), Path(out))
        return
    scratch = Path(tempfile.mkdtemp(prefix="geosod-")).resolve()
    try:
        target = _checked(out, outputs, overwrite=overwrite) if is_address(out) else None
        addresses = [(str(scratch / "out"), target.address)] if target else []
        local = []
        for index, output in enumerate(outputs):
            if is_address(output):
                local.append(_fetch(str(output), scratch / str(index)))
                addresses.append((str(scratch / str(index)), output_at(output).place.address))
            else:
                local.append(Path(output))
        copies = Copies(tuple(local), scratch / "out" if target else Path(out), tuple(addresses))
        try:
            yield copies
        except GeosodError as error:
            if not addresses:
                raise
            raise type(error)(copies.named(str(error))) from error
        if target is not None:
            _upload(copies.out, target)
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be read or written ({error}); check the credentials and the network"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(output: str, folder: Path) -> Path:
    """A local copy of an output; the path of its folder or file."""
    source = output_at(output)
    place, stem = source.place, source.name
    if stem is not None:
        ends = (".parquet", ".coverage.parquet", ".json", ".failures.parquet")
        names, result = [f"{stem}{end}" for end in ends if place.exists(f"{stem}{end}")], folder / f"{stem}.parquet"
    else:
        names, result = [path for part in _PARTS for path in place.names(part)], folder
        names += [source.failures] if place.exists(source.failures) else []
    if not names:
        raise OutputError(f"{output}: no such output; name a folder, or a NAME.parquet, that geosod detect wrote")
    folder.mkdir(parents=True, exist_ok=True)

    def copy(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with place.open(name) as source, target.open("wb") as copied_to:
            shutil.copyfileobj(source, copied_to, 1 << 20)

    with ThreadPoolExecutor(_COPIES) as threads:
        list(threads.map(copy, names))
    return result


def _checked(out: str | Path, outputs: Sequence[str | Path], *, overwrite: bool) -> Place:
    """The place for the result, where nothing is that geosod did not write.

    Raises:
        OutputError: it cannot be used.
    """
    target = output_at(out)
    if target.name is not None:
        raise OutputError(f"{out}: is a file name, but the result is a folder; give -o a folder")
    place = target.place
    for output in outputs:
        one, other = f"{place.address}/", f"{str(output).rstrip('/')}/"
        if one.startswith(other) or other.startswith(one):
            raise OutputError(f"{out}: is the same folder as {output}, inside it or around it; give -o another folder")
    place.check()
    for name in place.names():
        if not overwrite:
            raise OutputError(f"{out}: is not empty; use --overwrite, or give -o another folder")
        item = name.startswith("items/")
        if not _OURS.fullmatch(name) or (item and read_item(target, name) is None):
            where = place.at(name)
            raise OutputError(f"{where}: was not written by geosod and would be lost; give -o another folder")
    return place


def _upload(folder: Path, place: Place) -> None:
    """Replace what is at a place by a folder; the items come last, and are the commits of their scenes."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    items = [name for name in names if name.startswith("items/")]
    before = list(place.names())
    place.remove(*(name for name in before if name.startswith("items/")))
    place.remove(*(name for name in before if name not in names))
    with ThreadPoolExecutor(_COPIES) as threads:
        for group in ([name for name in names if name not in items], items):
            list(threads.map(lambda name: place.put({folder / name: name}), group))
