"""Images as arrays: reading files, laying out digits the way MNIST does, drawing in a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from serving.errors import InvalidImage

Uint8Array = npt.NDArray[np.uint8]

_MODES = {1: "L", 3: "RGB"}
_MAX_PIXELS = 40_000_000


def read_image(path: Path, *, height: int, width: int, channels: int) -> Uint8Array:
    """Reads one image file that already has the model's size.

    Args:
        path: An image file in any format that Pillow reads.
        height: Rows that the model expects, in pixels.
        width: Columns that the model expects, in pixels.
        channels: 1 for gray, 3 for colour.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        InvalidImage: The file can't be read, is no image, or has another size; the message names the file.
    """
    with _opened(path) as image:
        # The header alone tells the size: a decompression bomb is refused before it is decoded.
        if image.size != (width, height):
            raise InvalidImage(f"{path}: {image.width} x {image.height} pixels, but the model takes {width} x {height}")
        if image.has_transparency_data or image.mode in ("I", "F"):
            raise InvalidImage(f"{path}: transparent, or of 32 bits a pixel; save it as plain gray or colour")
        return _pixels(image, channels)


def load_image(path: Path, *, channels: int | None = None) -> Uint8Array:
    """Reads one image file of any size up to 40 million pixels: upright as its EXIF data say, transparency on white.

    Args:
        path: An image file in any format that Pillow reads.
        channels: 1 for gray, 3 for colour; by default gray where the file is, else colour.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        InvalidImage: The file can't be read or is no image; the message names the file.
    """
    with _opened(path) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise InvalidImage(f"{path}: {image.width} x {image.height} pixels are more than {_MAX_PIXELS:,}")
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            seen = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        if upright.mode in ("I", "F"):
            raise InvalidImage(f"{path}: of 32 bits a pixel; save it as plain gray or colour")
        return _pixels(upright, channels or (1 if image.mode in ("1", "L", "LA", "I;16") else 3))


def resize(image: Uint8Array, height: int, width: int) -> Uint8Array:
    """Resizes an image, with anti-aliasing; its proportions change where the new size has others.

    Args:
        image: uint8 `[h, w, c]`.
        height: New number of rows, in pixels.
        width: New number of columns, in pixels.

    Returns:
        uint8 `[height, width, c]`.
    """
    if image.shape[:2] == (height, width):
        return image
    channels = image.shape[2]
    source = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = source.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, channels)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file; whatever goes wrong with it, also while it is decoded, is an `InvalidImage`."""
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise InvalidImage(f"{path}: not an image in a format that is known here") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"{path}: far more pixels than any model takes") from error
    except OSError as error:
        raise InvalidImage(f"{path}: {error.strerror or 'truncated or damaged image'}") from error
    except (ValueError, SyntaxError) as error:
        raise InvalidImage(f"{path}: damaged image") from error


def _pixels(image: Image.Image, channels: int) -> Uint8Array:
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert(_MODES[channels]), dtype=np.uint8).reshape(image.height, image.width, channels)


def centre_by_mass(ink: Uint8Array, *, box: int = 20, size: int = 28) -> Uint8Array:
    """Lays out one digit as MNIST does: scaled into a box, placed by its centre of mass.

    The recipe is that of LeCun, Cortes and Burges, "The MNIST database of handwritten digits": the ink's bounding box
    is scaled with anti-aliasing, keeping its proportions, to fit 20 x 20, then placed in a 28 x 28 field so that its
    centre of mass lies in the middle.

    Args:
        ink: uint8 `[h, w]`, 0 for background, 255 for full ink.
        box: Side of the square that the ink's bounding box is fitted into, in pixels.
        size: Side of the result, in pixels.

    Returns:
        uint8 `[size, size]`; all zero where there is no ink.
    """
    field = np.zeros((size, size), dtype=np.uint8)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        return field
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = box / max(cropped.shape)
    height, width = (max(1, round(side * scale)) for side in cropped.shape)
    # Pillow widens the triangle filter when it shrinks, so every pixel of the original counts.
    scaled = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.BILINEAR))
    total = max(1.0, float(scaled.sum(dtype=np.float64)))
    centre_y = float(scaled.sum(axis=1, dtype=np.float64) @ (np.arange(height) + 0.5)) / total
    centre_x = float(scaled.sum(axis=0, dtype=np.float64) @ (np.arange(width) + 0.5)) / total
    top = min(max(0, round(size / 2 - centre_y)), size - height)
    left = min(max(0, round(size / 2 - centre_x)), size - width)
    field[top : top + height, left : left + width] = scaled
    return field


def terminal_picture(image: Uint8Array) -> list[str]:
    """Draws an image's bright part for a terminal that shows Unicode: a character is one column and two rows.

    Args:
        image: uint8 `[h, w, c]`; colours are averaged.

    Returns:
        Lines of equal length, as many as half the height of what is bright; none where nothing is.
    """
    bright = image.mean(axis=2) >= 96
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if rows.size == 0:
        return []
    bright = bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bright = np.pad(bright, ((0, bright.shape[0] % 2), (0, 0)))
    blocks = np.array([" ", "▄", "▀", "█"])
    return ["".join(line) for line in blocks[bright[0::2] * 2 + bright[1::2] * 1]]
