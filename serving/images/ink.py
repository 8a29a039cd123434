"""Finds ink on paper, whether it is darker or lighter, and separates it from uneven light, noise and dust."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Ink differs from its paper by at least this many gray levels, and this many standard deviations of the noise.
_MIN_CONTRAST = 8.0
_MIN_DEVIATIONS = 3.0
# A pixel with less than this share of the contrast of full ink is a blurred edge, not ink.
_EDGE = 0.2
# Light may be uneven in images whose smaller side has at least this many pixels. Smaller ones show too little paper.
_UNEVEN_SIDE = 40
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
    values = gray.astype(np.float32)
    border = _border(values)
    level = float(np.median(border))
    # On black or white paper, half of the noise is cut off.
    quartiles = np.percentile(border, (25, 75))
    difference, noise = values - level, _DEVIATIONS * float(max(level - quartiles[0], quartiles[1] - level))
    if min(gray.shape) >= _UNEVEN_SIDE and (light := _lighting(values)) is not None:
        difference = values - light
        noise = _deviation(difference)
    floor = max(_MIN_CONTRAST, _MIN_DEVIATIONS * noise)
    lighter = float(np.maximum(difference - floor, 0).sum(dtype=np.float64))
    darker = float(np.maximum(-difference - floor, 0).sum(dtype=np.float64))
    is_dark = darker > lighter
    if is_dark:
        difference = -difference
    above = difference[difference > floor]
    if not above.size:
        return np.zeros_like(gray), is_dark
    full = float(np.percentile(above, 90))
    mask = difference > max(floor, _EDGE * full)
    mask &= _neighbours(mask) >= 3
    mask &= _strokes(np.where(mask, difference, 0))
    least = min(2 * noise, full / 2)
    ink = np.clip((difference - least) * (255 / (full - least)), 0, 255)
    ink[_neighbours(mask) == 0] = 0
    return np.rint(ink).astype(np.uint8), is_dark


def _border(values: FloatArray) -> FloatArray:
    """Returns the pixels along the edges of the image, which are mostly paper."""
    side = max(1, round(min(values.shape) * 0.04))
    return np.concatenate(
        [values[:side].ravel(), values[-side:].ravel(), values[:, :side].ravel(), values[:, -side:].ravel()]
    )


def _deviation(differences: npt.NDArray[np.floating]) -> float:
    """Returns the standard deviation of the noise, given values that are mostly noise."""
    flat = differences.ravel()
    return _DEVIATIONS * float(np.median(np.abs(flat[:: 1 + flat.size // _SAMPLE])))


def _lighting(values: FloatArray) -> FloatArray | None:
    """Fits a quadratic surface to the paper, float32 `[h, w]`; None if one gray level fits it about as well.

    The fit uses the means of a grid's cells and iterated least squares with Tukey's biweight (Beaton and Tukey, 1974),
    which ignores cells with ink, because they are outliers.
    """
    cells = _cells(values, _LIGHT_CELLS) / np.outer(
        *(np.diff(_starts(n, _LIGHT_CELLS), append=n) for n in values.shape)
    )
    y, x = _cell_centres(cells.shape)
    terms = np.stack([term.ravel() for term in np.broadcast_arrays(y**0 * x**0, y, x, y * y, x * y, x * x)], axis=1)
    target = cells.ravel()
    weights = np.ones_like(target)
    for turn in range(8):
        weighted = terms * weights[:, None]
        solved = np.linalg.lstsq(weighted.T @ weighted, weighted.T @ (target * weights), rcond=None)[0]
        rest = np.abs(target - terms @ solved)
        scale = max(1.0, _deviation(rest))
        # Start with least absolute deviations, because Tukey's weights need a good first estimate.
        weights = 1 / np.sqrt(np.maximum(rest, 1.0)) if turn < 4 else np.maximum(0, 1 - (rest / (4 * scale)) ** 2)
    if _deviation(rest) >= 0.7 * _deviation(target - np.median(target)):
        return None
    one, *others = solved.astype(np.float32)
    y, x = _cell_centres(values.shape)
    surface: FloatArray = (
        (one + others[0] * y + others[2] * y * y) + (others[1] * x + others[4] * x * x) + others[3] * x * y
    )
    return surface


def _cell_centres(shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Returns y `[h, 1]` and x `[1, w]` of the centres of a grid's cells, from -1 to 1."""
    height, width = (((2 * np.arange(n) + 1) / n - 1).astype(np.float32) for n in shape)
    return height[:, None], width[None, :]


def _strokes(ink: FloatArray) -> Mask:
    """Returns a mask of the connected ink, without dust and without the edge of the table under the paper."""
    cells = _cells(ink, _STROKE_CELLS)
    labels = _components(cells > 0)
    masses = np.bincount(labels.ravel(), cells.ravel(), minlength=labels.size + 1)
    kept = masses >= _MIN_STROKE * masses.max()
    sides = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    along = np.max([np.bincount(side, minlength=len(masses)) / len(side) for side in sides], axis=0)
    inside = kept & (along < 0.4)
    inside[0] = kept[0] = False
    kept = inside if inside.any() else kept
    rows, columns = (np.arange(n) * cells.shape[axis] // n for axis, n in enumerate(ink.shape))
    chosen: Mask = kept[labels][np.ix_(rows, columns)]
    return chosen


def _components(mask: Mask) -> npt.NDArray[np.int32]:
    """Labels connected components, including diagonal connections, with numbers above 0; 0 elsewhere."""
    framed = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.int32)
    labels = framed[1:-1, 1:-1]
    labels[...] = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape) * mask
    while True:
        rows = np.maximum(np.maximum(framed[:-2], framed[1:-1]), framed[2:])
        spread = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]) * mask
        if (spread == labels).all():
            return spread
        labels[...] = spread


def _cells(values: FloatArray, cells: int) -> FloatArray:
    """Returns the sums over the cells of a grid with at most this many cells per side."""
    for axis, side in enumerate(values.shape):
        values = np.add.reduceat(values, _starts(side, cells), axis=axis)
    return values


def _starts(side: int, cells: int) -> npt.NDArray[np.int64]:
    """Returns the first index of each cell along a side."""
    count = min(cells, side)
    return -(-np.arange(count) * side // count)


def _neighbours(mask: Mask) -> Uint8Array:
    """Returns for each pixel how many of the nine pixels in its 3 x 3 square are set."""
    padded = np.pad(mask.astype(np.uint8), 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    count: Uint8Array = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return count
