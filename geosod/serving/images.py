"""From the body of a request to an image for the model, and from what was found to the picture in the answer."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import PixelArray
from geosod.detections import Detections
from geosod.detectors.card import ModelCard
from geosod.serving.refused import RefusedError
from geosod.storage.uploads import UploadedImage
from geosod.viewing.jpeg import jpeg_bytes
from geosod.viewing.pictures import draw_crop

_WHITE = str.maketrans("", "", " \t\r\n")
#: Boxes that are drawn, those of the highest scores; all are in the answer.
MAX_DRAWN = 1000


def image_field(body: bytes) -> str:
    """The field `image` of a JSON document, whatever the request calls it.

    Raises:
        RefusedError: it is not JSON (400), or has no such field, or others (422).
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f'the body is not JSON ({_short(error)}); send {{"image": BASE64}}') from error
    if not isinstance(found, dict):
        raise RefusedError(422, f'the body is a JSON {_kind(found)}; send an object, {{"image": BASE64}}')
    if unknown := sorted(map(str, found.keys() - {"image"})):
        raise RefusedError(422, f"the body has the unknown field {ascii(unknown[0])[:80]}; send the field image alone")
    if "image" not in found:
        raise RefusedError(422, "the body has no field image; send the base64 of an image file, or its URL, as image")
    image = found["image"]
    if not isinstance(image, str) or not image.strip():
        what = f"a JSON {_kind(image)}" if not isinstance(image, str) else "empty"
        raise RefusedError(422, f"image is {what}; send the base64 of an image file, or its URL, as a string")
    return image.strip()


def from_base64(text: str) -> bytes:
    """The content of a file from its base64.

    Raises:
        RefusedError: it is not base64 (422).
    """
    try:
        return base64.b64decode(text.translate(_WHITE).encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise RefusedError(
            422, f"image is no base64 ({_short(error)}), and no URL; send the base64 of the file's content"
        ) from error


def for_model(image: UploadedImage, card: ModelCard) -> PixelArray:
    """(C, H, W) of the model's number of bands; a masked array where pixels are invalid.

    A grey image is repeated for a model of three bands.

    Raises:
        RefusedError: the image has another number of bands (422).
    """
    pixels, wanted = image.pixels, len(card.bands)
    if len(pixels) == 1 and wanted == 3:
        pixels = np.repeat(pixels, wanted, axis=0)
    if len(pixels) != wanted:
        raise RefusedError(
            422,
            f"the image has {len(pixels)} bands, but the model {card.name!r} takes {wanted}: {', '.join(card.bands)}; "
            "send an image of these",
        )
    if image.valid is None:
        return pixels
    return np.ma.masked_array(pixels, np.broadcast_to(~image.valid, pixels.shape))


def picture(pixels: PixelArray, card: ModelCard, found: Detections, names: tuple[str, ...]) -> bytes:
    """A JPEG of the image with its boxes, labels and scores."""
    best = found[np.argsort(-found.scores, kind="stable")[:MAX_DRAWN]]
    shown = draw_crop(visible(pixels, card), best.boxes, best.labels, best.scores, class_names=names, zoom=1)
    return jpeg_bytes(shown)


def visible(pixels: PixelArray, card: ModelCard) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 of an image (C, H, W): red, green and blue where the model has them, scaled as its card says."""
    bands = card.visible_bands
    chosen: Any = np.ma.filled(pixels, 0)[bands]
    if chosen.dtype != np.uint8:
        chosen = np.stack([_scaled(band, card, i) for band, i in zip(chosen, bands, strict=True)])
    return np.ascontiguousarray(chosen.transpose(1, 2, 0))


def objects(found: Detections) -> list[dict[str, Any]]:
    """The boxes as the answer lists them, highest score first."""
    order = np.argsort(-found.scores, kind="stable")
    rows = zip(found.boxes[order].tolist(), found.labels[order].tolist(), found.scores[order].tolist(), strict=True)
    return [{"bbox": box, "categoryId": label, "score": score} for box, label, score in rows]


def _scaled(band: npt.NDArray[Any], card: ModelCard, index: int) -> npt.NDArray[np.uint8]:
    values = np.nan_to_num(band.astype(np.float32), posinf=0, neginf=0)
    low, high = card.minimum[index], card.maximum[index]
    if card.scaling != "stored":
        low, high = (float(v) for v in np.percentile(values, (2, 98)))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _short(error: Exception) -> str:
    text = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return ascii(text)[1:-1][:120]
