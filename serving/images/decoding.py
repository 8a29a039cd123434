"""Image files to arrays."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# Registers the decoders that are used here. Pillow would else load all that it has, once something is no image.
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip

from serving.errors import InvalidImage

Uint8Array = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 40_000_000

_MODES = {1: "L", 3: "RGB"}
_GRAY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
# Pixels that are made gray or colour at a time, so that large images need little more memory than they have pixels.
_STRIP_PIXELS = 1 << 20
# Each scan of a progressive JPEG visits all of its pixels and may be ten bytes long; cameras and programs write ten.
_MAX_SCANS = 64
_EXIF_ORIENTATION = 0x0112

# What Pillow remarks on others' files is no news, and the limit on pixels is ours.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImage:
    """An image as an array.

    Attributes:
        pixels: uint8 `[h, w, channels]`, upright.
        height: Rows of the image as the file has it, upright, in pixels; more than h where it was reduced.
        width: Columns, likewise.
    """

    pixels: Uint8Array
    height: int
    width: int


def decode_image(
    content: bytes, *, channels: int | None = None, max_pixels: int = MAX_PIXELS, enough_pixels: int | None = None
) -> DecodedImage:
    """Decodes PNG, JPEG, WebP, BMP, TIFF or GIF: the first frame, upright as EXIF says, transparency on white.

    Args:
        content: All bytes of a file.
        channels: 1 for gray, 3 for colour; by default gray where the file is, else colour.
        max_pixels: An image of more is refused before it is decoded, on the word of its header; a WebP of more than
            two fifths. So decoding takes at most some seven bytes for each of these pixels.
        enough_pixels: An image of four times as many or more is reduced by a whole factor while it is decoded, and
            keeps at least so many. By default none is.

    Raises:
        InvalidImage: The bytes are no image that is known here, damaged, or too large.
    """
    if not content:
        raise InvalidImage("no bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check(image, content, max_pixels)
            width, height = image.size
            enough = enough_pixels or width * height
            factor = max(1, math.isqrt(width * height // enough))
            image.draft(None, (width // factor, height // factor))  # JPEG decodes halves, quarters and eighths
            image.load()
            turned = _orientation(image)
            if channels is None:
                channels = 1 if image.mode in _GRAY_MODES or image.mode.startswith("I;16") else 3
            factor = max(1, math.isqrt(image.width * image.height // enough))
            pixels = _upright(_pixels(image, channels, factor), turned)
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage("not an image in a format that is known here (PNG, JPEG, WebP, BMP, TIFF, GIF)") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"more than {max_pixels:,} pixels") from error
    except Exception as error:  # a damaged file can bring Pillow's parsers to raise almost anything
        raise InvalidImage("truncated or damaged image") from error
    if turned >= 5:
        width, height = height, width
    return DecodedImage(pixels=pixels, height=height, width=width)


def load_image(path: Path, *, channels: int | None = None) -> Uint8Array:
    """Reads one image file of up to 40 million pixels; see `decode_image`.

    Args:
        path: An image file.
        channels: 1 for gray, 3 for colour; by default gray where the file is, else colour.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        InvalidImage: The file can't be read or is no image; the message names the file.
    """
    try:
        return decode_image(path.read_bytes(), channels=channels).pixels
    except OSError as error:
        raise InvalidImage(f"{path}: {error.strerror}") from error
    except InvalidImage as error:
        raise InvalidImage(f"{path}: {error}") from error


def _check(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Refuses, on the word of its header, what would cost too much or can't be made gray or colour."""
    pixels = image.width * image.height
    most = max_pixels * 2 // 5 if image.format == "WEBP" else max_pixels  # its decoder takes 16 bytes a pixel
    if pixels > most:
        raise InvalidImage(f"{image.width} x {image.height} pixels are more than {most:,}")
    if image.mode not in (*_GRAY_MODES, *_COLOUR_MODES) and not image.mode.startswith("I;16"):
        raise InvalidImage("of 32 bits a pixel, or in unusual colours; save it as plain gray or colour")
    if image.format in ("JPEG", "MPO"):
        scans = content.count(b"\xff\xda")
        if scans > _MAX_SCANS or scans * pixels > 16 * max_pixels:
            raise InvalidImage(f"a JPEG of {scans} scans; save it as a plain one")


def _orientation(image: Image.Image) -> int:
    """How EXIF says that an image is to be turned, 1 to 8; TIFF's decoder has turned it already, and says 1."""
    try:
        turned = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged notes beside a sound picture
        return 1
    return turned if turned in range(1, 9) else 1


def _upright(pixels: Uint8Array, turned: int) -> Uint8Array:
    """Turns an array as EXIF's orientation asks (EXIF 2.32, tag 274)."""
    if turned >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if turned in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turned in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _pixels(image: Image.Image, channels: int, factor: int) -> Uint8Array:
    """A decoded image as uint8 `[h, w, channels]`, reduced by a whole factor, strip by strip."""
    rows = max(1, _STRIP_PIXELS // image.width // factor) * factor
    strips = []
    for top in range(0, image.height, rows):
        strip = _seen(image.crop((0, top, image.width, min(image.height, top + rows))), channels)
        strips.append(np.asarray(strip.reduce(factor) if factor > 1 else strip, dtype=np.uint8))
    pixels = np.concatenate(strips)
    return pixels.reshape(*pixels.shape[:2], channels)


def _seen(image: Image.Image, channels: int) -> Image.Image:
    """An image of 8 bits a channel, in gray or colour, as it looks on white paper."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255, not scale them
        values = np.asarray(image)
        gray = (values >> 8).astype(np.uint8)
        if isinstance(transparent := image.info.get("transparency"), int):
            gray[values == transparent] = 255
        image = Image.fromarray(gray)
    elif image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert(_MODES[channels])
