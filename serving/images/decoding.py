"""Decodes image files to arrays, with limits on time and memory."""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# Registers the decoders we use. Without them, Pillow loads all of its decoders at the first file that is not an image.
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip

from serving.errors import InvalidImage
from serving.images.heic import is_heic, open_heic
from serving.images.transparency import background_of, flatten

Uint8Array = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 40_000_000
# How files begin that users take for images of a supported format.
_OTHER_FORMATS = {
    rb".{4}ftypavi[fs]": "AVIF",
    rb"%PDF-": "PDF",
    rb"\s*(<\?xml[^>]*>\s*)?<(!DOCTYPE )?svg": "SVG",
}

_GRAY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
# Pixels converted to gray or colour at a time, so that a large image needs little memory beyond its pixels.
_STRIP_PIXELS = 1 << 20
# Each scan of a progressive JPEG visits all pixels and can be as short as ten bytes. Usual files have about ten scans.
_MAX_SCANS = 64
_EXIF_ORIENTATION = 0x0112

# Pillow's warnings are about users' files, and we have our own limit on pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8 `[h, w, channels]`, upright.
        height: Height of the upright image in the file, in pixels; more than h if the image was reduced.
        width: Width of the upright image in the file, in pixels.
    """

    pixels: Uint8Array
    height: int
    width: int


def decode_image(
    content: bytes, *, channels: int | None = None, max_pixels: int = MAX_PIXELS, enough_pixels: int | None = None
) -> DecodedImage:
    """Decodes PNG, JPEG, WebP, BMP, TIFF, GIF or, with the extra `heic`, HEIC: the first frame, upright as EXIF says.

    What is transparent becomes white, or black if what is opaque is light; see `background_of`.

    Args:
        content: All bytes of a file.
        channels: 1 for gray, 3 for colour; by default gray for gray files, otherwise colour.
        max_pixels: Limit on the size in the header, checked before decoding; two fifths of it for WebP. It bounds the
            memory for decoding to about eight bytes per pixel of this limit.
        enough_pixels: An image with at least four times this many pixels is reduced by an integer factor while it is
            decoded, and keeps at least this many. By default no image is reduced.

    Raises:
        InvalidImage: The bytes are not an image in a supported format, damaged, or too large.
    """
    if not content:
        raise InvalidImage("no bytes")
    try:
        with _open(content, max_pixels) as image:
            _check(image, content, max_pixels)
            width, height = image.size
            enough = enough_pixels or width * height
            factor = max(1, math.isqrt(width * height // enough))
            image.draft(None, (width // factor, height // factor))  # JPEG decodes halves, quarters and eighths
            image.load()
            orientation = _orientation(image)
            if channels is None:
                channels = 1 if image.mode in _GRAY_MODES or image.mode.startswith("I;16") else 3
            factor = max(1, math.isqrt(image.width * image.height // enough))
            pixels = _upright(_pixels(image, channels, factor), orientation)
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        other = next((f"{name}, " for start, name in _OTHER_FORMATS.items() if re.match(start, content, re.DOTALL)), "")
        raise InvalidImage(f"{other}not an image in a supported format (PNG, JPEG, WebP, BMP, TIFF, GIF)") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"more than {max_pixels:,} pixels") from error
    except Exception as error:  # on a damaged file, Pillow's parsers raise almost anything
        raise InvalidImage("truncated or damaged image") from error
    if orientation >= 5:
        width, height = height, width
    return DecodedImage(pixels=pixels, height=height, width=width)


def load_image(path: Path, *, channels: int | None = None) -> Uint8Array:
    """Reads one image file of up to 40 million pixels; see `decode_image`.

    Args:
        path: An image file.
        channels: 1 for gray, 3 for colour; by default gray for gray files, otherwise colour.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        InvalidImage: The file can't be read or is not an image. The message names the file.
    """
    try:
        return decode_image(path.read_bytes(), channels=channels).pixels
    except OSError as error:
        raise InvalidImage(f"{path}: {error.strerror}") from error
    except InvalidImage as error:
        raise InvalidImage(f"{path}: {error}") from error


def _open(content: bytes, max_pixels: int) -> Image.Image:
    return open_heic(content, max_pixels) if is_heic(content) else Image.open(io.BytesIO(content), formats=FORMATS)


def _check(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Refuses, from its header, an image that is too costly to decode or can't be converted to gray or colour."""
    pixels = image.width * image.height
    limit = max_pixels * 2 // 5 if image.format == "WEBP" else max_pixels  # WebP's decoder takes 16 bytes per pixel
    if pixels > limit:
        raise InvalidImage(f"{image.width} x {image.height} pixels are more than {limit:,}")
    if image.mode not in (*_GRAY_MODES, *_COLOUR_MODES) and not image.mode.startswith("I;16"):
        raise InvalidImage("32 bits per channel or an unusual colour space; save it as plain gray or RGB")
    if image.format in ("JPEG", "MPO"):
        scans = content.count(b"\xff\xda")
        if scans > _MAX_SCANS or scans * pixels > 16 * max_pixels:
            raise InvalidImage(f"a JPEG with {scans} scans; save it without progressive scans")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8. For TIFF and HEIC it is 1, because they are already turned."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - the EXIF data may be damaged when the image is not
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: Uint8Array, orientation: int) -> Uint8Array:
    """Turns an array upright, given its EXIF orientation (EXIF 2.32, tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _pixels(image: Image.Image, channels: int, factor: int) -> Uint8Array:
    """Converts a decoded image to uint8 `[h, w, channels]`, reduced by an integer factor, strip by strip."""
    rows = max(1, _STRIP_PIXELS // image.width // factor) * factor
    background = background_of(image)
    strips = []
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(image.height, top + rows)))
        strip = flatten(part, channels, background)
        strips.append(np.asarray(strip.reduce(factor) if factor > 1 else strip, dtype=np.uint8))
    pixels = np.concatenate(strips)
    return pixels.reshape(*pixels.shape[:2], channels)
