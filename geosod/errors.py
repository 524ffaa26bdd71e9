"""The exceptions geosod raises, in one tree.

    GeosodError
    ├── UsageError            the request cannot be carried out as written        (exit code 2)
    │   ├── ConfigError       an option, a config file or an AOI is wrong
    │   ├── ModelError        a bundle is missing, malformed or does not fit the scene
    │   └── OutputError       the output cannot be written or is not ours to replace
    ├── SceneError            one scene cannot be processed; the others go on    (exit code 3)
    │   └── ReadError         some pixels of a scene cannot be read
    └── EngineError           the machinery failed: an actor, a worker, the cluster

Every message says what was wrong, with the value seen, and how to mend it. Exceptions of rasterio,
pyarrow, pydantic and ray are mapped to these where they are caught, at the edge of each room.
"""

from __future__ import annotations


class GeosodError(Exception):
    """Base of every error geosod raises on purpose."""


class UsageError(GeosodError):
    """The request cannot be carried out as written."""


class ConfigError(UsageError):
    """An option, a config file, an AOI or an argument has an unusable value."""


class ModelError(UsageError):
    """A model bundle is missing, malformed, untrusted, or does not fit the scene's bands, dtype or GSD."""


class OutputError(UsageError):
    """The output place cannot be written, or holds something that must not be replaced."""


class SceneError(GeosodError):
    """One scene cannot be processed. Other scenes of the same call are unharmed."""


class ReadError(SceneError):
    """Pixels of a scene cannot be read."""


class EngineError(GeosodError):
    """The machinery that runs the stages failed."""
