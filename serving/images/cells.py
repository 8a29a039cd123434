"""Sums over the cells of a coarse grid, in which light and strokes are examined fast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def cell_sums(values: FloatArray, cells: int) -> FloatArray:
    """Returns the sums over the cells of a grid with at most this many cells per side."""
    for axis, side in enumerate(values.shape):
        values = np.add.reduceat(values, cell_starts(side, cells), axis=axis)
    return values


def cell_means(values: FloatArray, cells: int) -> FloatArray:
    """Returns the means over the cells of a grid with at most this many cells per side."""
    rows, columns = (np.diff(cell_starts(side, cells), append=side) for side in values.shape)
    means: FloatArray = (cell_sums(values, cells) / np.outer(rows, columns)).astype(np.float32)
    return means


def cell_starts(side: int, cells: int) -> npt.NDArray[np.int64]:
    """Returns the first index of each cell along a side."""
    count = min(cells, side)
    return -(-np.arange(count) * side // count)


def cell_centres(shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Returns y `[h, 1]` and x `[1, w]` of the centres of a grid's cells, from -1 to 1."""
    height, width = (((2 * np.arange(n) + 1) / n - 1).astype(np.float32) for n in shape)
    return height[:, None], width[None, :]
