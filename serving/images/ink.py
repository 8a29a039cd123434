"""Finds ink on paper, whether it is darker or lighter, and separates it from uneven light, noise and dust."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.images.cells import cell_sums
from serving.images.lines import without_lines
from serving.images.paper import find_contrast
from serving.images.strokes import connected

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Ink differs from its paper by at least this many gray levels, and this many standard deviations of the noise.
_MIN_CONTRAST = 8.0
_MIN_DEVIATIONS = 3.0
# A pixel with less than this share of the contrast of full ink is a blurred edge, not ink.
_EDGE = 0.2
# Maximum sides of the grids for the light and for connected strokes, in cells.
_LIGHT_CELLS, _STROKE_CELLS = 24, 64
# A stroke with less than this share of the ink of the largest one is dust.
_MIN_STROKE = 0.08
# A median of more values than this is taken of a sample of about this size.
_SAMPLE = 20_000
# The standard deviation of a normal distribution is its median absolute deviation times this.
_DEVIATIONS = 1.4826


def find_ink(gray: Uint8Array) -> tuple[Uint8Array, bool]:
    """Finds ink on paper.

    Args:
        gray: uint8 `[h, w]`.

    Returns:
        uint8 `[h, w]`, 0 for paper and 255 for full ink, all zero if there is no ink; and whether the ink is darker
        than its paper.
    """
    found = find_contrast(gray, _MIN_CONTRAST)
    difference, noise, is_dark = found.values, found.noise, found.dark
    floor = max(_MIN_CONTRAST, _MIN_DEVIATIONS * noise)
    above = difference[difference > floor]
    if not above.size:
        return np.zeros_like(gray), is_dark
    full = float(np.percentile(above, 90))
    mask = difference > max(floor, _EDGE * full)
    mask &= _neighbours(mask) >= 3
    mask, _ = without_lines(mask)
    mask &= _strokes(np.where(mask, difference, 0))
    least = min(2 * noise, full / 2)
    ink = np.clip((difference - least) * (255 / (full - least)), 0, 255)
    ink[_neighbours(mask) == 0] = 0
    return np.rint(ink).astype(np.uint8), is_dark


def _strokes(ink: FloatArray) -> Mask:
    """Returns a mask of the connected ink, without dust and without the edge of the table under the paper."""
    cells = cell_sums(ink, _STROKE_CELLS)
    strokes = connected(cells > 0)
    labels, masses = strokes.labels, strokes.masses(cells)
    kept = masses >= _MIN_STROKE * masses.max()
    sides = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    along = np.max([np.bincount(side, minlength=len(masses)) / len(side) for side in sides], axis=0)
    inside = kept & (along < 0.4)
    inside[0] = kept[0] = False
    kept = inside if inside.any() else kept
    rows, columns = (np.arange(n) * cells.shape[axis] // n for axis, n in enumerate(ink.shape))
    chosen: Mask = kept[labels][np.ix_(rows, columns)]
    return chosen


def _neighbours(mask: Mask) -> Uint8Array:
    """Returns for each pixel how many of the nine pixels in its 3 x 3 square are set."""
    padded = np.pad(mask.astype(np.uint8), 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    count: Uint8Array = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return count
