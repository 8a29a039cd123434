"""Finds ink on paper, whether it is darker or lighter, and separates it from light, noise, dust and printed lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.images.cells import cell_sums
from serving.images.lines import ruling_level, without_lines
from serving.images.paper import find_contrast
from serving.images.strokes import are_several, connected

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Ink differs from its paper by at least this many gray levels, and this many standard deviations of the noise.
_MIN_CONTRAST = 8.0
_MIN_DEVIATIONS = 3.0
# A pixel with less than this share of the contrast of full ink is a blurred edge, not ink.
_EDGE = 0.2
# Ruled lines are left out if ink has at least this many times their contrast.
_FAINTER = 1.3
# Maximum side of the grid in which connected strokes are found, in cells.
_STROKE_CELLS = 64
# A stroke with less than this share of the ink of the largest one is dust.
_MIN_STROKE = 0.08
# The edge of the table runs along this share of a side, and a digit keeps this share of the side away from the others.
_TABLE, _SPACE = 0.9, 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Ink:
    """The ink of a picture.

    Attributes:
        pixels: uint8 `[h, w]`, 0 for paper and 255 for full ink; all zero if there is no ink.
        dark: Whether it is darker than its paper.
        lines: Along how many sides printed lines were taken away.
        several: Whether it is several digits.
    """

    pixels: Uint8Array
    dark: bool
    lines: int = 0
    several: bool = False


def find_ink(gray: Uint8Array) -> Ink:
    """Finds ink on paper.

    Args:
        gray: uint8 `[h, w]`.
    """
    paper = find_contrast(gray, _MIN_CONTRAST)
    contrast, floor = paper.values, max(_MIN_CONTRAST, _MIN_DEVIATIONS * paper.noise)
    above = contrast[contrast > floor]
    if not above.size:
        return Ink(pixels=np.zeros_like(gray), dark=paper.dark)
    full = float(np.percentile(above, 90))
    mask = contrast > max(floor, _EDGE * full)
    if (faint := _FAINTER * ruling_level(mask, contrast)) < full:
        mask &= contrast > faint
    mask &= _neighbours(mask) >= 3
    mask, lines = without_lines(mask)
    mask &= _of_digit(np.where(mask, contrast, 0))
    if not mask.any():
        return Ink(pixels=np.zeros_like(gray), dark=paper.dark, lines=lines)
    if lines:  # which may be darker than the digit
        full = float(np.percentile(contrast[mask], 90))
    least = min(2 * paper.noise, full / 2)
    pixels = np.clip((contrast - least) * (255 / (full - least)), 0, 255)
    pixels[_neighbours(mask) == 0] = 0
    return Ink(pixels=np.rint(pixels).astype(np.uint8), dark=paper.dark, lines=lines, several=are_several(mask))


def _of_digit(ink: FloatArray) -> Mask:
    """Returns a mask of the connected ink, without dust and without the edge of the table under the paper."""
    cells = cell_sums(ink, _STROKE_CELLS)
    strokes = connected(cells > 0)
    masses, boxes = strokes.masses(cells)[1:], strokes.boxes()
    if not masses.size:
        return ink > 0
    tables = _are_tables(strokes.labels, boxes)
    left = ~tables & (masses >= _MIN_STROKE * masses[~tables].max(initial=0))
    if tables.any() and left.any():
        height, width = cells.shape
        top, start, *_ = boxes[left].min(axis=0)
        *_, bottom, end = boxes[left].max(axis=0)
        if min(top / height, start / width, 1 - bottom / height, 1 - end / width) < _SPACE:
            left |= tables
    kept = np.concatenate([[False], left if left.any() else masses >= _MIN_STROKE * masses.max()])
    rows, columns = (np.arange(n) * cells.shape[axis] // n for axis, n in enumerate(ink.shape))
    chosen: Mask = kept[strokes.labels][np.ix_(rows, columns)]
    return chosen


def _are_tables(labels: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64]) -> Mask:
    """Returns which strokes run along a whole side, or along parts of two that meet, as what lies under paper does."""
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    along = np.stack([np.bincount(side, minlength=len(boxes) + 1)[1:] / len(side) for side in sides])
    meeting = np.minimum(along[:2].max(axis=0), along[2:].max(axis=0)) >= 0.1
    tables: Mask = (along.max(axis=0) >= _TABLE) | ((along.max(axis=0) >= 0.4) & meeting)
    return tables


def _neighbours(mask: Mask) -> Uint8Array:
    """Returns for each pixel how many of the nine pixels in its 3 x 3 square are set."""
    padded = np.pad(mask.astype(np.uint8), 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    count: Uint8Array = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return count
