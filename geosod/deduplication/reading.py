"""Reading the files of a scene, where any problem makes that scene unreadable and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.deduplication.sources import SceneSource
from geosod.errors import SceneError, one_line

#: Rows that are read at a time.
_BATCH = 50_000


class UnreadableSceneError(SceneError):
    """A scene cannot be read. `geosod.deduplicate` catches it and processes the others without that scene."""

    def __init__(self, scene_id: str, message: str) -> None:
        super().__init__(message)
        self.scene_id = scene_id


@contextmanager
def reading(scene: SceneSource) -> Iterator[None]:
    """Turn any error with a scene's files inside the block into one that names the scene.

    Raises:
        UnreadableSceneError: a file of the scene is broken or cannot be read, or cannot be reprojected.
    """
    try:
        yield
    except UnreadableSceneError:
        raise
    except (OSError, pa.ArrowException, shapely.errors.ShapelyError, SceneError, ValueError, KeyError) as error:
        line = one_line(error)[:300]
        raise UnreadableSceneError(scene.id, f"scene {scene.id!r} in {scene.output}: {line}") from error


def read_batches(path: Path, scene: SceneSource) -> Iterator[pa.Table]:
    """The rows of a file of a scene, in tables of at most 50,000.

    Raises:
        UnreadableSceneError: they cannot be read.
    """
    # Errors of the code that consumes the tables are raised there, not inside this block.
    with reading(scene), pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_BATCH):
            yield pa.Table.from_batches([batch])


def fields_of(path: Path) -> list[pa.Field]:
    """The columns of a file, without metadata."""
    schema = pq.read_schema(path)
    return [schema.field(i).remove_metadata() for i in range(len(schema))]


def common_schema(files: Sequence[tuple[Path, SceneSource]]) -> pa.Schema:
    """The columns of all files; those that some of them lack may be null.

    Raises:
        UnreadableSceneError: a file cannot be read, or has a column of another type than the same column of the others.
    """
    fields: dict[str, pa.Field] = {}
    count: dict[str, int] = {}
    for path, scene in files:
        with reading(scene):
            for field in fields_of(path):
                known = fields.setdefault(field.name, field)
                if known.type != field.type:
                    raise ValueError(f"column {field.name} is {field.type}, but {known.type} in other scenes")
                fields[field.name] = known.with_nullable(known.nullable or field.nullable)
                count[field.name] = count.get(field.name, 0) + 1
    return pa.schema([f if count[name] == len(files) else f.with_nullable(True) for name, f in fields.items()])
