"""Connected strokes: which belong to the digit, and whether they are several digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.images.cells import cell_sums

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Maximum side of the grid in which several digits are told apart, in cells.
_CELLS = 96
# At most so many strokes are compared with each other.
_COMPARED = 32
# Two strokes are two digits if the smaller one has at least these shares of the ink and of the height of the larger.
_LEAST_MASS, _LEAST_HEIGHT = 0.2, 0.6
# Several digits make up at least this share of the ink. With more small parts, it is a drawing or a photo.
_LEAST_SHARE = 0.7
# The gap between two digits side by side, and between one over another, is at least this share of their height.
_GAP_BESIDE, _GAP_ABOVE = 0.04, 0.07
# Two digits side by side are at least this wide, and one over another at most, compared to their height.
_WIDE, _TALL = 0.5, 0.6


@dataclass(frozen=True, kw_only=True, eq=False)
class Strokes:
    """The connected components of a mask, diagonal connections included.

    Attributes:
        labels: int64 `[h, w]`: 0 outside of the mask, else the number of a component, from 1.
        count: How many components there are.
    """

    labels: Int64Array
    count: int

    def masses(self, weights: FloatArray) -> npt.NDArray[np.floating]:
        """Returns the sum of weights, float `[h, w]`, over each component; index 0 is what is outside."""
        return np.bincount(self.labels.ravel(), weights.ravel(), minlength=self.count + 1).astype(np.float64)

    def boxes(self) -> Int64Array:
        """Returns top, left, bottom and right of each component, int64 `[count, 4]`, the last two exclusive."""
        y, x = np.nonzero(self.labels)
        of = self.labels[y, x] - 1
        boxes = np.empty((self.count, 4), np.int64)
        boxes[:, :2], boxes[:, 2:] = max(self.labels.shape), 0
        for column, values in ((0, y), (1, x)):
            np.minimum.at(boxes[:, column], of, values)
            np.maximum.at(boxes[:, column + 2], of, values + 1)
        return boxes


def connected(mask: Mask) -> Strokes:
    """Finds connected components by joining the runs of neighbouring rows, in almost linear time."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    row, start, stop = rows.tolist(), starts.tolist(), stops.tolist()
    above = 0
    for run in range(len(row)):
        while row[above] < row[run] - 1 or (row[above] == row[run] - 1 and stop[above] < start[run]):
            above += 1
        touching = above
        while row[touching] == row[run] - 1 and start[touching] <= stop[run]:
            parent[root(touching)] = root(run)
            touching += 1
    numbers: dict[int, int] = {}
    of = [numbers.setdefault(root(run), len(numbers) + 1) for run in range(len(row))]
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(np.array(of, np.int64), stops - starts)
    return Strokes(labels=labels, count=len(numbers))


def are_several(ink: Mask) -> bool:
    """Returns whether ink is several digits: mostly strokes of similar height, side by side or one over another.

    Digits that touch are not told apart. Parts of one digit are: a broken zero, a four in two strokes, a five whose bar
    stands off.

    Args:
        ink: `[h, w]`, without lines and dust.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not rows.size:
        return False
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cells = cell_sums(cut.astype(np.float32), _CELLS)
    strokes = connected(cells > 0)
    if strokes.count < 2:
        return False
    scale = np.tile(np.divide(cut.shape, cells.shape), 2)
    masses = strokes.masses(cells)[1:]
    boxes = strokes.boxes() * scale
    heights, heavy = boxes[:, 2] - boxes[:, 0], masses >= _LEAST_MASS * masses.max()
    similar = heavy & (heights >= _LEAST_HEIGHT * heights[heavy].max())
    if masses[similar].sum() < _LEAST_SHARE * masses.sum():
        return False
    boxes = boxes[similar][:_COMPARED]
    return any(
        _are_two(first, second) for number, first in enumerate(boxes.tolist()) for second in boxes[:number].tolist()
    )


def _are_two(first: list[float], second: list[float]) -> bool:
    """Returns whether two strokes of similar height, with these boxes, are two digits."""
    (top, left, bottom, right), (other_top, other_left, other_bottom, other_right) = first, second
    height, width = min(bottom - top, other_bottom - other_top), min(right - left, other_right - other_left)
    above = max(top, other_top) - min(bottom, other_bottom)
    beside = max(left, other_left) - min(right, other_right)
    whole_height = max(bottom, other_bottom) - min(top, other_top)
    whole_width = max(right, other_right) - min(left, other_left)
    if -above >= 0.5 * height:
        return beside >= _GAP_BESIDE * height and whole_width >= _WIDE * whole_height
    return -beside >= 0.3 * width and above >= _GAP_ABOVE * height and whole_width <= _TALL * whole_height
