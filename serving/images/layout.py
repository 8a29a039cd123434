"""Sizes and positions: resizing an image, and laying out one digit as MNIST does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Uint8Array = npt.NDArray[np.uint8]


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
