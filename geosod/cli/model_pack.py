"""`geosod model pack`: a bundle from a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.streams import print_error


def _option(text: str, *flags: str, panel: str = "Card", metavar: str | None = None) -> Any:
    return typer.Option(*flags, help=text, show_default=False, rich_help_panel=panel, metavar=metavar)


_INPUT = "What the network expects"


def pack_command(
    source: Annotated[Path, typer.Argument(help="The model file, or the folder of one that consists of several.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.", show_default=False)],
    name: Annotated[str | None, _option("Name of the model. Default: that of the file.")] = None,
    classes: Annotated[
        str | None, _option("Names of the classes in the network's order: a,b,...; a file with one a line; or coco.")
    ] = None,
    bands: Annotated[str | None, _option("Names of the input bands, as red,green,blue,nir.")] = None,
    dtype: Annotated[str | None, _option("Pixel type of scenes. Default: uint8.")] = None,
    minimum: Annotated[str | None, _option("Pixel value that becomes 0, one or one for each band. Default: 0.")] = None,
    maximum: Annotated[
        str | None, _option("Pixel value that becomes 1, one or one for each band. Default: 255 for uint8.")
    ] = None,
    gsd: Annotated[float | None, _option("Metres a pixel that the model was trained at.")] = None,
    gsd_range: Annotated[
        str | None, _option("Minimum and maximum GSD of scenes, MIN,MAX. Default: two thirds to three halves.")
    ] = None,
    tile: Annotated[str | None, _option("Tile size in pixels, 640 or 640x512. Default: that of the input.")] = None,
    overlap: Annotated[str | None, _option("Overlap of tiles, a ratio below 1 or pixels. Default: 0.2.")] = None,
    threshold: Annotated[float | None, _option("Minimum score of a detection. Default: 0.25.")] = None,
    nms_iou: Annotated[float | None, _option("IoU of NMS inside a tile; 1 for none.")] = None,
    top_k: Annotated[int | None, _option("Maximum number of boxes in a tile. Default: 1000.")] = None,
    unreported: Annotated[
        str | None, _option("Classes that are not reported unless asked for, such as background.")
    ] = None,
    supercategories: Annotated[
        str | None, _option("Supercategory of each class, a,b,..., empty for none: as vehicle,vehicle,.")
    ] = None,
    context: Annotated[
        float | None,
        _option("Of a classifier: share of a box's sides that crops show beside it. Default: 0.25."),
    ] = None,
    license: Annotated[str | None, _option("SPDX identifier, or proprietary.")] = None,
    description: Annotated[str | None, _option("A sentence or two for people.")] = None,
    layout: Annotated[
        str | None, _option("What the outputs of an ONNX graph mean, as yolov8; see docs/model-files.md.", panel=_INPUT)
    ] = None,
    architecture: Annotated[
        str | None, _option("Name of the network, where the weights do not say it.", panel=_INPUT)
    ] = None,
    size: Annotated[str | None, _option("Input size in pixels, 640 or 640x512.", panel=_INPUT)] = None,
    upscale: Annotated[
        float | None, _option("Factor by which tiles are enlarged, where the size is free.", panel=_INPUT)
    ] = None,
    resize: Annotated[
        Literal["letterbox", "stretch"] | None, _option("How tiles are brought to the input size.", panel=_INPUT)
    ] = None,
    corner: Annotated[
        Literal["centre", "top-left"] | None, _option("Where a letterboxed tile is placed.", panel=_INPUT)
    ] = None,
    fill: Annotated[
        float | None, _option("Value of what is filled, from 0 to 1; 0.447 is YOLO's 114.", panel=_INPUT)
    ] = None,
    bgr: Annotated[
        bool | None, _option("The network wants its bands in reverse order.", "--bgr/--rgb", panel=_INPUT)
    ] = None,
    scale: Annotated[float | None, _option("255 where the network expects 0 to 255.", panel=_INPUT)] = None,
    mean: Annotated[str | None, _option("Subtracted after scaling, one or one for each band.", panel=_INPUT)] = None,
    std: Annotated[str | None, _option("Divided by after that, one or one for each band.", panel=_INPUT)] = None,
    trust: Annotated[bool, _option("The file may execute code.", panel="Model")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a bundle from a model file; what the file says of itself need not be said again.

    Example: geosod model pack yolox_nano.onnx -o yolox-nano --classes coco
    """
    from geosod.detectors.packing import pack
    from geosod.detectors.packing.options import parse_options

    texts = {
        key: value
        for key, value in locals().items()
        if key not in ("source", "out", "json", "quiet", "pack", "parse_options")
    }
    texts["reverse_bands"] = texts.pop("bgr")
    made = pack(source, out, parse_options(**texts))
    card = made.bundle.card
    if json:
        shape = {"classes": card.classes, "bands": card.bands, "tile": card.tile_size}
        print_json({"out": str(out), "name": card.name, **shape, "notes": list(made.notes)})
    if quiet or json:
        return
    for note in made.notes:
        print_error(note)
    print_error(
        f"{out}: {card.name}, {len(card.classes)} classes, bands {', '.join(card.bands)}, "
        f"tiles of {card.tile_size[0]} x {card.tile_size[1]} px; `geosod model try {out} IMAGE` shows what it finds"
    )
