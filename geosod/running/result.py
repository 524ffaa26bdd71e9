"""The result of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geosod.errors import ConfigError
from geosod.results import Failure, SceneResult

if TYPE_CHECKING:
    import geopandas

    from geosod.output.scene_outputs import SceneOutputs


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to.

    Attributes:
        scenes: how each scene ended, in the order they ended.
        failures: everything that failed, scenes that could not be opened included.
        out: the output folder or file; None where results were returned.
        seconds: wall time.
        total: number of detections in the output folder, those of earlier runs included; None without a folder.
        outputs: the results of each scene by its identifier, where they were returned; see `__getitem__`.
    """

    scenes: tuple[SceneResult, ...]
    failures: tuple[Failure, ...]
    out: str | None
    seconds: float
    total: int | None = None
    outputs: Mapping[str, SceneOutputs] = field(default_factory=dict, repr=False)

    def __getitem__(self, scene_id: str) -> SceneOutputs:
        """The outputs of a scene of a run with ``out=None``.

        Raises:
            ConfigError: there is none of that name.
        """
        if scene_id in self.outputs:
            return self.outputs[scene_id]
        named = next((scene for scene in self.scenes if scene.scene_id == scene_id), None)
        if named is None:
            known = ", ".join(scene.scene_id for scene in self.scenes) or "none"
            raise ConfigError(f"no scene {scene_id!r} in this result; there are: {known}")
        if named.status == "failed":
            raise ConfigError(f"scene {scene_id!r} failed: {named.failures[0].message}")
        where = named.paths[0] if named.paths else self.out
        raise ConfigError(f"scene {scene_id!r} was written to {where}; read it with geopandas.read_parquet")

    def __len__(self) -> int:
        """Number of scenes whose outputs were returned."""
        return len(self.outputs)

    def __iter__(self) -> Iterator[str]:
        """Identifiers of the scenes whose outputs were returned."""
        return iter(self.outputs)

    def __bool__(self) -> bool:
        return True

    def to_geopandas(self) -> geopandas.GeoDataFrame:
        """The detections of all scenes whose outputs were returned.

        Raises:
            ConfigError: there is none.
        """
        import pandas

        if not self.outputs:
            raise ConfigError(f"this result holds no outputs: they were written to {self.out}, or every scene failed")
        return pandas.concat([outputs.to_geopandas() for outputs in self.outputs.values()], ignore_index=True)

    @property
    def detections(self) -> int:
        """Number of detections of this run."""
        return sum(scene.detections for scene in self.scenes if scene.status != "skipped")

    @property
    def megapixels(self) -> float:
        """Size of the scenes this run worked on."""
        worked_on = [s for s in self.scenes if s.status in ("done", "partial") and s.counts.tiles]
        return sum(scene.megapixels for scene in worked_on)

    @property
    def exit_code(self) -> int:
        """0: all done. 3: some ground or scenes failed. 2: nothing could be started, the request is wrong."""
        if not self.failures:
            return 0
        started = any(scene.status != "failed" for scene in self.scenes)
        at_fault = all(failure.stage in ("open", "plan") for failure in self.failures)
        return 2 if at_fault and not started else 3
