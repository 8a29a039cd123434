"""Images as arrays: reading files, laying out digits the way MNIST does, drawing in a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from serving.errors import InvalidImage

Uint8Array = npt.NDArray[np.uint8]

_MODES = {1: "L", 3: "RGB"}


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
    try:
        with Image.open(path) as image:
            # The header alone tells the size: a decompression bomb is refused before it is decoded.
            if image.size != (width, height):
                raise InvalidImage(
                    f"{path}: {image.width} x {image.height} pixels, but the model takes {width} x {height}"
                )
            pixels = np.asarray(image.convert(_MODES[channels]), dtype=np.uint8)
    except UnidentifiedImageError as error:
        raise InvalidImage(f"{path}: not an image in a format that is known here") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"{path}: far more pixels than the model takes ({width} x {height})") from error
    except OSError as error:
        raise InvalidImage(f"{path}: {error.strerror or 'truncated or damaged image'}") from error
    except (ValueError, SyntaxError) as error:
        raise InvalidImage(f"{path}: damaged image") from error
    return pixels.reshape(height, width, channels)


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
