"""Pictures as JPEG files in memory."""

from __future__ import annotations

import io

from PIL import Image

QUALITY = 90


def jpeg_bytes(picture: Image.Image) -> bytes:
    """An RGB picture as the content of a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
