"""HEIC, as iPhones save photos; needs the extra `heic`."""

from __future__ import annotations

import io
import re

from PIL import Image

from serving.errors import InvalidImage

# The size of a coded picture: ISO/IEC 23008-12, ImageSpatialExtentsProperty, version 0.
_CODED_SIZE = re.compile(rb"ispe\0...(.{4})(.{4})", re.DOTALL)
_START = re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)


def is_heic(content: bytes) -> bool:
    """Whether a file begins as HEIC does."""
    return _START.match(content) is not None


def open_heic(content: bytes, max_pixels: int) -> Image.Image:
    """Opens the main picture of a file, which is not decoded before it is loaded, and is upright then.

    Args:
        content: All bytes of a file.
        max_pixels: Limit on the coded size, of which the picture may be only a part. libheif decodes no more than the
            header states, with eight bytes per pixel.

    Raises:
        InvalidImage: The extra `heic` is not installed, or the picture is too large.
        SyntaxError: The file is damaged.
    """
    try:
        import pillow_heif
    except ModuleNotFoundError as error:
        raise InvalidImage(
            "HEIC, as iPhones save photos: read only where the extra heic is installed; save it as JPEG"
        ) from error
    for coded in _CODED_SIZE.finditer(content):
        width, height = (int.from_bytes(side) for side in coded.groups())
        if width * height > max_pixels:
            raise InvalidImage(f"{width} x {height} pixels are more than {max_pixels:,}")
    pillow_heif.options.DECODE_THREADS = 1  # other threads decode other images
    # Only the main picture is wanted.
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False
    image: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return image
