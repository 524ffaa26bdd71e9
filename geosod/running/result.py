"""The result of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from geosod.errors import ConfigError, GeosodError
from geosod.html_repr import MAX_ROWS, card, grid
from geosod.results import Failure, SceneResult

if TYPE_CHECKING:
    import geopandas

    from geosod.map_page.run import MapPage
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

    def _repr_html_(self) -> str:
        rows = [
            (
                one.scene_id,
                one.status,
                f"{one.detections:,}",
                f"{one.megapixels:,.1f}",
                "" if one.inspected_km2 is None else f"{one.inspected_km2:.3g}",
                one.failures[0].message if one.failures else "",
            )
            for one in self.scenes[:MAX_ROWS]
        ]
        header = ("scene", "status", "boxes", "Mpx", "inspected km²", "first failure")
        where = "in memory" if self.out is None else f"in {self.out}"
        title = f"{self.detections:,} boxes of {len(self.scenes):,} scenes {where}, {self.seconds:.1f} s"
        first = next(iter(self.outputs.values()), None)
        drawing = "" if first is None else first._repr_html_()
        return card(title, grid(header, rows, more=max(0, len(self.scenes) - MAX_ROWS))) + drawing

    def plot(self, scene_id: str | None = None, *, max_side: int = 1024) -> Any:
        """A picture of a scene with its boxes and a legend; of results that were returned, not written.

        Args:
            scene_id: the scene; None takes the first.
            max_side: longest side of the picture in pixels, without the legend.

        Returns:
            A PIL image, which a notebook shows. A scene that cannot be read any more, such as an array, is dark.

        Raises:
            ConfigError: there is no such scene, or the results were written.
        """
        import numpy as np

        from geosod.scenes.visible import read_visible
        from geosod.viewing.pictures import draw_overview

        if scene_id is None and not self.outputs:
            raise ConfigError(f"the results were written to {self.out}; use explore(), or detect with out=None")
        one = self[next(iter(self.outputs)) if scene_id is None else scene_id]
        scene, found = one.scene, one.detections
        scale = min(1.0, max_side / max(scene.width, scene.height))
        try:
            pixels = read_visible(scene, max_side)[..., :3]
        except GeosodError:
            shape = max(1, round(scene.height * scale)), max(1, round(scene.width * scale))
            pixels = np.full((*shape, 3), 35, np.uint8)
        title = f"{scene.id}: {len(found):,} boxes"
        names, boxes = one.provenance.classes, found.boxes * scale
        return draw_overview(pixels, boxes, found.labels, class_names=names, title=title, max_side=max_side)

    def explore(self, **settings: Any) -> MapPage:
        """A map of all scenes, which a notebook shows; see `geosod.view` for the settings.

        Raises:
            UsageError: there is nothing to show, or a setting is invalid.
        """
        from tempfile import TemporaryDirectory

        from geosod.map_page.run import view
        from geosod.output.commit import commit_outputs
        from geosod.output.folder import open_output

        if self.out is not None:
            return view(self.out, **settings)
        if not self.outputs:
            raise ConfigError("this result holds no scene: every scene failed")
        with TemporaryDirectory(prefix="geosod-") as folder:
            for one in self.outputs.values():
                commit_outputs(open_output(folder), one)
            return view(folder, **({"title": ", ".join(list(self.outputs)[:3])} | settings))

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
