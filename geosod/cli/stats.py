"""`geosod stats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.dataset_options import problem_values, read, with_label_options
from geosod.cli.display import display
from geosod.cli.printing import Json, print_json
from geosod.cli.streams import print_error
from geosod.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from geosod.datasets.priors import Pyramid
    from geosod.datasets.statistics import PriorSet, Statistics


@with_label_options
def stats_command(
    labels: Annotated[Path, typer.Argument(help="File or folder of labels.", show_default=False)],
    tile: Annotated[
        str | None,
        typer.Option("--tile", help="Tiles of training, as 640 or 640x512. Default: as suggested.", show_default=False),
    ] = None,
    overlap: Annotated[
        str | None, typer.Option("--overlap", help="Their overlap. Default: as suggested.", show_default=False)
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Pixels of the network's input for one of a tile.")] = 1.0,
    priors: Annotated[int, typer.Option("--priors", min=1, max=30, help="Largest number of prior shapes to try.")] = 9,
    budget: Annotated[
        int, typer.Option("--budget", min=1, help="Prior boxes in a tile: about 10,000; on edge devices 500.")
    ] = 10_000,
    anchors: Annotated[
        str, typer.Option("--anchors", help="Sides of the boxes on strides 4 to 64 that S-alpha is counted with.")
    ] = "8,16,32,64,128",
    ratios: Annotated[str, typer.Option("--ratios", help="Their height / width.")] = "0.5,1,2",
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="Draw the best prior box of every object on some tiles.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture.")] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Sizes of labelled objects, and tiles, levels and prior boxes that fit them.

    Example: geosod stats train.json --picture priors.png

    Exit codes: 0 done; 3 done, but entries were left out (--invalid skip); 2 bad usage or input; 1 a bug.
    """
    with display(quiet=True):
        from geosod.datasets.priors import retina_pyramid
        from geosod.datasets.statistics import describe

        pyramid = retina_pyramid(_numbers("anchors", anchors), _numbers("ratios", ratios))
        _check(picture, overwrite=overwrite)
        reading = read(labels, options)
        found = describe(
            reading.labels, tile=tile, overlap=overlap, scale=scale, max_priors=priors, budget=budget, pyramid=pyramid
        )
        if picture is not None:
            _draw(reading.labels, found, pyramid, picture, scale=scale)
    if json:
        from dataclasses import asdict

        print_json(asdict(found) | problem_values(reading.problems))
    else:
        print("\n".join(_lines(found)))
    if picture is not None:
        print_error(f"{picture}: written")
    raise typer.Exit(3 if reading.problems.count else 0)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{name} {text!r}: give numbers, such as 8,16,32") from None


def _check(picture: Path | None, *, overwrite: bool) -> None:
    if picture is None:
        return
    if picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OutputError(f"{picture}: give a picture a name that ends with .png or .jpg")
    if picture.exists() and not overwrite:
        raise OutputError(f"{picture}: exists; use --overwrite, or give another name")


def _draw(labels: Any, found: Statistics, pyramid: Pyramid, path: Path, *, scale: float) -> None:
    from geosod.datasets.prior_picture import draw_priors
    from geosod.datasets.slice import Slicing
    from geosod.datasets.write import staged

    slicing = Slicing(found.tile, found.overlap, negatives=0.0)
    drawn = draw_priors(labels, pyramid, slicing, scale=scale)
    with staged(path, folder=False, overwrite=True) as stage:
        drawn.save(stage)


def _lines(found: Statistics) -> list[str]:
    lines = [f"{found.objects:,} objects in {found.images:,} images", "", "√area, from the 5th to the 95th percentile:"]
    for name, one in sorted(found.classes.items(), key=lambda pair: -pair[1]["count"]):
        size = ""
        for key, unit in (("side_px", "px"), ("side_m", "m")):
            if key in one:
                size += f"   {one[key]['p5']:g} … {one[key]['p50']:g} … {one[key]['p95']:g} {unit}"
        lines.append(f"  {one['count']:>9,}  {name}{size}")
    scale = found.histograms["relative_scale"]
    lines.append(
        f"  relative scale: largest and smallest tenth differ by a factor of {scale['factor_of_outer_tenths']:g}"
    )
    lines += ["", "suggested for geosod detect:"]
    lines += [f"  --{one.setting} {one.value}: {one.reason}" for one in found.suggestions]
    lines += [
        "",
        f"on {found.tiles:,} tiles of {found.tile[0]} x {found.tile[1]} px with {found.tile_objects:,} objects:",
    ]
    lines.append("  shapes  boxes a tile  mean IoU  best possible  IoU ≥ 0.5  IoU ≥ 0.7")
    lines += [_row(str(one.count), one) for one in found.priors]
    lines += [
        _row("anchors", found.anchors),
        f"  suggested {found.suggested_priors.value}: {found.suggested_priors.reason}",
    ]
    chosen = next(one for one in found.priors if str(one.count) == found.suggested_priors.value)
    shapes = ", ".join(f"{w:g}x{h:g} at stride {s}" for (w, h), s in zip(chosen.shapes, chosen.levels, strict=True))
    lines += [f"  {shapes}", "", _fusion(found)]
    return lines


def _row(name: str, one: PriorSet) -> str:
    recall = one.recall
    return (
        f"  {name:>7} {one.boxes:>12,}  {one.mean_iou:>8.3f}  {one.best_possible_recall:>13.1%}  {recall['0.5']:>9.1%}"
        f"  {recall['0.7']:>9.1%}"
    )


def _fusion(found: Statistics) -> str:
    factors = found.fusion
    counts = ", ".join(f"{n:,}" for n in factors.counts)
    alphas = [
        f"{name} {'undefined' if value is None else format(value, '.3g')}"
        for name, value in (("2-3", factors.alpha_2_3), ("3-4", factors.alpha_3_4), ("4-5", factors.alpha_4_5))
    ]
    return f"S-alpha: {', '.join(alphas)} (objects on levels 2 to 6: {counts})"
