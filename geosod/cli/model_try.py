"""`geosod model try`: what a model finds in an image, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geosod.cli.printing import Json, print_json
from geosod.cli.streams import print_error

#: Smaller pictures are enlarged to about this side, so that boxes and labels can be seen.
_SHOWN_SIDE = 1200


def try_command(
    model: Annotated[str, typer.Argument(help="A model's name, a bundle's folder, or a model file.")],
    image: Annotated[str, typer.Argument(help="An image; of a large one the middle is taken.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Picture to write. Default: NAME_try.png.", show_default=False)
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands for the model, by number or name.", show_default=False)
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Minimum score.", show_default=False)] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run Python code that the model names.")] = False,
    json: Json = False,
) -> None:
    """Show what a model finds in an image: a wrong order of bands or scale of values is silent otherwise.

    Example: geosod model try my-bundle/ photo.jpg
    """
    from geosod.running.trial import try_model

    settings: dict[str, Any] = {"bands": bands, "threshold": threshold, "trust": trust or None}
    trial = try_model(model, image, **{key: value for key, value in settings.items() if value is not None})
    found, names = trial.detections, trial.card.classes
    picture = _draw(trial)
    target = out or Path(f"{Path(image.partition('?')[0]).stem}_try.png")
    picture.save(target)
    counts = sorted(zip(*_counted(found.labels), strict=True), key=lambda pair: -pair[1])
    best = float(found.scores.max()) if len(found) else None
    if json:
        by_class = {names[label]: count for label, count in counts}
        print_json({"picture": str(target), "detections": by_class, "best_score": best, "notes": list(trial.notes)})
    else:
        kinds = ", ".join(f"{count} {names[label]}" for label, count in counts) or "nothing"
        print(f"{target}: {kinds}" + ("" if best is None else f"; best score {best:.2f}"))
    for note in trial.notes:
        print_error(note)


def _counted(labels: Any) -> tuple[list[int], list[int]]:
    import numpy as np

    values, counts = np.unique(labels, return_counts=True)
    return values.tolist(), counts.tolist()


def _draw(trial: Any) -> Any:
    from geosod.viewing.pictures import draw_crop

    zoom = max(1, _SHOWN_SIDE // max(trial.picture.shape[:2]))
    found = trial.detections
    return draw_crop(
        trial.picture, found.boxes, found.labels, found.scores, class_names=trial.card.classes, zoom=zoom, smooth=True
    )
