"""`geosod predict`: PaddleX's command line for a pipeline."""

from __future__ import annotations

import json as json_text
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.inputs import with_listed
from geosod.cli.interrupts import check_interrupts
from geosod.cli.options import with_settings
from geosod.cli.printing import Json, Quiet
from geosod.cli.streams import print_error, stdout_to_stderr

if TYPE_CHECKING:
    from geosod.predict.result import DetectionResult
    from geosod.running.events import Event

#: Seconds between lines about the progress of a large scene.
_LINE_EVERY = 10.0


@partial(with_settings, without=("overwrite", "batch", "threshold", "device", "engine", "ray_address"))
def predict_command(
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            help="small_object_detection, a shipped model's name, a pipeline's YAML file, or a bundle's folder.",
            show_default=False,
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="An image, a folder, a glob or an address; - for a list on standard input; may be given "
            "several times.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold", help="Minimum score, as 0.5, or 0.4,vessel=0.6. Default: the pipeline's.", show_default=False
        ),
    ] = None,
    save_path: Annotated[
        Path | None,
        typer.Option(
            "--save_path", "--save-path", help="Folder for a picture and a JSON file of each image.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="cpu, gpu:0, npu:0 and others. Default: a GPU if there is one.", show_default=False
        ),
    ] = None,
    use_hpip: Annotated[
        bool,
        typer.Option("--use_hpip", "--use-hpip", help="Run with the backend that is measured to be the fastest here."),
    ] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Save GeoParquet, too.")] = False,
    get_pipeline_config: Annotated[
        str | None,
        typer.Option(
            "--get_pipeline_config",
            "--get-pipeline-config",
            help="Write the YAML file of a pipeline by this name to --save_path, and do nothing else.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Detect objects in images as PaddleX's pipelines do: print each result, and save a picture and a JSON file.

    Example: geosod predict --pipeline small_object_detection --input harbour.jpg --threshold 0.5 --save_path ./output

    Exit codes: 0 done; 3 done, but images or parts of them failed; 2 bad usage or input; 1 a bug.
    """
    from geosod.errors import ConfigError

    if get_pipeline_config is not None:
        from geosod.predict.configuration import write_config

        print_error(f"{write_config(get_pipeline_config, save_path or Path())}: written")
        return
    if not input:
        raise ConfigError("no image is given: add --input FILE, a folder, a glob or an address")
    _check_folder(save_path)
    given = {name: value for name, value in settings.items() if value is not None}
    for result in _results(pipeline, with_listed(input), device, threshold, given, use_hpip=use_hpip, quiet=quiet):
        if json:
            print(json_text.dumps(result.json, ensure_ascii=False))  # one line for each image
        elif not quiet:
            result.print(format_json=False)
        if save_path is None:
            continue
        result.save_to_img(_folder(save_path))
        result.save_to_json(_folder(save_path))
        if parquet:
            result.save_to_parquet(_folder(save_path))


def _folder(path: Path) -> str:
    """The path, with a sign that it is a folder, whatever its suffix."""
    return f"{path}/"


def _check_folder(path: Path | None) -> None:
    from geosod.errors import OutputError

    if path is not None and path.expanduser().is_file():
        raise OutputError(f"{path}: is a file; give --save_path a folder")


def _results(
    pipeline: str | None,
    given: list[str],
    device: str | None,
    threshold: str | None,
    settings: Any,
    *,
    use_hpip: bool,
    quiet: bool,
) -> Iterator[DetectionResult]:
    """The results; while each is made, what libraries print goes to standard error."""
    with stdout_to_stderr():
        from geosod.predict.pipeline import create_pipeline

        if use_hpip and not quiet:
            print_error("choosing the fastest backend, which takes up to a minute where it was not measured before")
        made = create_pipeline(pipeline, device=device, use_hpip=use_hpip, **settings)
        results = made.predict(given, threshold=threshold, on_event=_Progress(quiet=quiet).add)  # type: ignore[arg-type]
    while True:
        with stdout_to_stderr():
            result = next(results, None)
        if result is None:
            return
        yield result


class _Progress:
    """Prints notes, and from time to time how far a large scene is."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._tiles = self._done = 0
        self._printed = time.monotonic()

    def add(self, event: Event) -> None:
        """Print a line, if the event is worth one."""
        from geosod.running.events import Failed, Note, ScenePlanned, TilesDetected

        check_interrupts()
        match event:
            case Note() if not self._quiet:
                print_error(f"note: {event.text}" if event.important else event.text)
            case Failed(failure=failure):
                print_error(f"failed ({failure.stage}): {failure.message}")
            case ScenePlanned(tiles=tiles):
                self._tiles, self._done = tiles, 0
            case TilesDetected() if not self._quiet and time.monotonic() - self._printed > _LINE_EVERY:
                self._done += event.tiles
                self._printed = time.monotonic()
                print_error(f"{next(iter(event.by_scene))}: {self._done:,} of {self._tiles:,} tiles")
            case TilesDetected():
                self._done += event.tiles
            case _:
                pass
