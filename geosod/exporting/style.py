"""A QGIS style (.qml): outlines in a colour for each class. QGIS applies it when it lies beside the layer's file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from xml.etree import ElementTree as ET

#: Colours that people with any colour vision can tell apart (Okabe and Ito 2008), red, green, blue.
_COLOURS = (
    (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66),
)  # fmt: skip
#: Status of ground → colour.
_GROUND = {
    "inspected": (0, 158, 115), "nodata": (150, 150, 150), "outside_aoi": (86, 180, 233),
    "masked": (230, 159, 0), "failed": (213, 94, 0),
}  # fmt: skip
#: Characters that XML cannot hold.
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_STYLES = """CREATE TABLE IF NOT EXISTS layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
    f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN,
    description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT CURRENT_TIMESTAMP)"""

Colour = tuple[int, int, int]


def detections_style(classes: Sequence[str]) -> str:
    """The style of detections: outlines, hardly filled, in a colour for each class."""
    return _categorized("label", {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(classes)}, fill=30)


def coverage_style() -> str:
    """The style of a coverage: filled in a colour for each status."""
    return _categorized("status", _GROUND, fill=60)


def categories_style(column: str, colours: dict[str, Colour]) -> str:
    """The style of polygons by the values of a column; the colour of each is red, green, blue."""
    return _categorized(column, colours, fill=60)


def _categorized(column: str, colours: dict[str, Colour], *, fill: int) -> str:
    """A style by the values of a column; `fill` is the opacity inside, 0 to 255."""
    root = ET.Element("qgis", version="3.28.0", styleCategories="Symbology")
    kind = {"type": "categorizedSymbol", "attr": column, "symbollevels": "0", "forceraster": "0"}
    renderer = ET.SubElement(root, "renderer-v2", kind)
    categories, symbols = ET.SubElement(renderer, "categories"), ET.SubElement(renderer, "symbols")
    for number, (name, colour) in enumerate(colours.items()):
        value = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", name)
        ET.SubElement(
            categories, "category", value=value, symbol=str(number), label=value, render="true", type="string"
        )
        look = {"type": "fill", "name": str(number), "alpha": "1", "clip_to_extent": "1", "force_rhr": "0"}
        symbol = ET.SubElement(symbols, "symbol", look)
        layer = ET.SubElement(symbol, "layer", attrib={"class": "SimpleFill"}, enabled="1", locked="0")
        settings = ET.SubElement(layer, "Option", type="Map")
        values = {"color": _rgba(colour, fill), "style": "solid", "outline_color": _rgba(colour, 255)}
        values |= {"outline_style": "solid", "outline_width": "0.46", "outline_width_unit": "MM"}
        for key, text in values.items():
            ET.SubElement(settings, "Option", type="QString", name=key, value=text)
    ET.indent(root)
    return _HEAD + ET.tostring(root, encoding="unicode") + "\n"


def _rgba(colour: Colour, alpha: int) -> str:
    return ",".join(map(str, (*colour, alpha)))


def add_styles(path: Path, styles: dict[str, str]) -> None:
    """Put styles into a GeoPackage, in the table in which QGIS keeps them.

    Args:
        path: the GeoPackage.
        styles: name of a layer → its style.
    """
    with closing(connect(path)) as file, file:
        file.execute(_STYLES)
        file.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
        )
        file.executemany(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner) VALUES ('', '', ?, ?, 'geosod', ?, '', 1, '', '')",
            [(layer, "geometry", text) for layer, text in styles.items()],
        )
