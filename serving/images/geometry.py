"""Resizes images, and centres a digit as MNIST does."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Uint8Array = npt.NDArray[np.uint8]

# Ink with smaller sides than this, in pixels, is enlarged before its edges are sharpened.
_ENLARGED = 80
# Strokes below this width are thin, and become this wide, as shares of the larger side of their box. It is done at this
# side, in pixels.
_THIN, _THICK, _THICKENED_AT = 0.06, 0.1, 100


def resize(image: Uint8Array, height: int, width: int) -> Uint8Array:
    """Resizes an image with anti-aliasing. Does not keep its aspect ratio.

    Args:
        image: uint8 `[h, w, c]`.
        height: New height, in pixels.
        width: New width, in pixels.

    Returns:
        uint8 `[height, width, c]`.
    """
    if image.shape[:2] == (height, width):
        return image
    channels = image.shape[2]
    source = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = source.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, channels)


def centre_by_mass(ink: Uint8Array, *, box: int = 20, size: int = 28) -> Uint8Array:
    """Lays out one digit as MNIST does: scaled to fit a box, and centred by its centre of mass.

    The method is from LeCun, Cortes and Burges, "The MNIST database of handwritten digits": scale the bounding box of
    the ink with anti-aliasing to fit 20 x 20, keeping its aspect ratio, then place it in a 28 x 28 field with its
    centre of mass in the middle.

    Args:
        ink: uint8 `[h, w]`, 0 for background, 255 for full ink.
        box: Side of the square that the bounding box of the ink must fit, in pixels.
        size: Side of the result, in pixels.

    Returns:
        uint8 `[size, size]`; all zero if there is no ink.
    """
    field = np.zeros((size, size), dtype=np.uint8)
    cropped = ink[bounding_box(ink)]
    if not cropped.size:
        return field
    scale = box / max(cropped.shape)
    height, width = (max(1, round(side * scale)) for side in cropped.shape)
    # When it shrinks an image, Pillow widens the triangle filter, so every source pixel counts.
    scaled = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.BILINEAR))
    y, x = centre_of_mass(scaled)
    top = min(max(0, round(size / 2 - y)), size - height)
    left = min(max(0, round(size / 2 - x)), size - width)
    field[top : top + height, left : left + width] = scaled
    return field


def sharpened(ink: Uint8Array) -> Uint8Array:
    """Cuts ink at its box, enlarges it if it is small, and makes blurred edges half as wide.

    Strokes of MNIST's digits have narrow edges. A digit of 8 x 8 pixels has wide ones after it is enlarged.

    Args:
        ink: uint8 `[h, w]`, 0 for background, 255 for full ink.

    Returns:
        uint8 `[h, w]` of another size, with some ink if there was some.
    """
    cropped = ink[bounding_box(ink)]
    if not cropped.size:
        return ink
    times = -(-_ENLARGED // max(cropped.shape))
    if times > 1:
        padded = Image.fromarray(np.pad(cropped, 1))
        cropped = np.asarray(padded.resize((padded.width * times, padded.height * times), Image.Resampling.LANCZOS))
    levels = np.clip((np.arange(256) - 127.5) * 2 + 127.5, 0, 255).astype(np.uint8)
    sharp: Uint8Array = levels[cropped]
    return sharp if sharp.any() else cropped


def thickened(ink: Uint8Array) -> Uint8Array:
    """Makes the strokes of a thin pen as thick as MNIST's thinner ones, compared to their box.

    Otherwise they are narrower than a pixel of MNIST's.

    Args:
        ink: uint8 `[h, w]`, 0 for background, 255 for full ink.

    Returns:
        uint8 `[h, w]`, of another size if strokes were thin.
    """
    box = ink[bounding_box(ink)]
    mask = box > 127
    # The length of an outline at any angle is, on average, pi / 4 of the steps from pixel to pixel along it.
    outline = int(np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1]))
    side = int(max(box.shape)) or 1
    width = 2 * float(mask.sum()) / (math.pi / 4 * max(1, outline)) / side
    if not 0 < width < _THIN:
        return ink
    scale: float = min(1.0, _THICKENED_AT / side)
    height, length = (max(1, round(side * scale)) for side in box.shape)
    small = np.asarray(Image.fromarray(box).resize((length, height), Image.Resampling.BILINEAR))
    small = (small * (255 / max(1, small.max()))).astype(np.uint8)
    reach = max(1, round((_THICK - width) * side * scale / 2))
    padded = Image.fromarray(np.pad(small, reach))
    return np.asarray(padded.filter(ImageFilter.MaxFilter(2 * reach + 1)), dtype=np.uint8)


def bounding_box(ink: Uint8Array) -> tuple[slice, slice]:
    """Returns the rows and the columns that contain ink, from the first to the last; empty slices if none do."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def centre_of_mass(ink: Uint8Array) -> tuple[float, float]:
    """Returns y and x of the centre of mass, in pixels from the top left corner; 0 if there is no ink."""
    total = max(1.0, float(ink.sum(dtype=np.float64)))
    y = float(ink.sum(axis=1, dtype=np.float64) @ (np.arange(ink.shape[0]) + 0.5)) / total
    x = float(ink.sum(axis=0, dtype=np.float64) @ (np.arange(ink.shape[1]) + 0.5)) / total
    return y, x
